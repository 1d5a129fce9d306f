"""Time and memory of calls that are compared, side by side, as raw samples; `ablate.stats.quantiles` summarises them.

1. Every call is made once, timed apart: lazy initialisation, memory, the choice of kernels.
2. It is warmed up.
3. Rounds: each is called once a round, in an order that is shuffled for every round. A disturbance of the machine meets all of them, and
   none always runs in the cache that the same neighbour left.
"""

from __future__ import annotations

import gc
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

BYTES_PER_MB = 10**6


@dataclass(frozen=True)
class TimedCall:
    """One of the things that are compared: the columns that name it in the latency table, and what is called."""

    columns: Mapping[str, object]
    call: Callable[[], object]


def time_calls(
    things: Sequence[TimedCall],
    *,
    rounds: int,
    warmup: int,
    device: torch.device,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    on_call: Callable[[], None] = lambda: None,
) -> list[dict[str, object]]:
    """Time several things side by side.

    The first call of the first thing also pays for what the process had not loaded yet. The garbage collector rests during
    the rounds, as in `timeit`: it would charge one call with the rubbish of all.

    Args:
        things: What is compared.
        rounds: TimedCall calls of each, beside the first.
        warmup: Calls of each between the first and the rounds, not timed.
        device: Where they compute. A CUDA device is synchronised before and after each call.
        seed: Of the order within the rounds.
        clock: Seconds since any moment.
        on_call: Called after every call outside the timed stretch, (1 + warmup + rounds) times a thing.

    Returns:
        One row a timed call in the order of measurement, which holds the thing's columns, `sample` (the round, from 0),
        `position` (in the round, from 0), `latency_ms` (wall time), `device_ms` (between two CUDA events; None on a CPU),
        `peak_memory_mb` (what tensors took at most during the call or the thing's first one, in which a GPU takes the memory of
        what it replays, 10^6 bytes; None on a CPU, where it cannot be told) and `first_call_ms` (wall time).
    """
    first: list[_Reading] = []
    for thing in things:
        first.append(_measure(thing.call, device, clock))
        on_call()
        for _ in range(warmup):
            thing.call()
            on_call()
    rows: list[dict[str, object]] = []
    order, shuffler = list(range(len(things))), random.Random(seed)
    with _no_collection():
        for sample in range(rounds):
            shuffler.shuffle(order)
            for position, i in enumerate(order):
                found = _measure(things[i].call, device, clock)
                place = {"sample": sample, "position": position}
                # What a GPU replays takes its memory in the first call.
                peak = found.peak_memory_mb and max(found.peak_memory_mb, first[i].peak_memory_mb or 0.0)
                own = {"peak_memory_mb": peak, "first_call_ms": first[i].latency_ms}
                rows.append({**things[i].columns, **place, **asdict(found), **own})
                on_call()
    return rows


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` speak of what comes from here on, where the system can (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what is resident now


def peak_memory_mb(device: torch.device) -> float:
    """Return the highest memory use since `reset_peak_memory`, in megabytes (10^6 bytes).

    On a CPU it is the resident memory of the process, what earlier work left included; NaN where the system does not tell (Windows),
    and since the process's start where it cannot be reset (macOS). On a CUDA device it is what tensors took at most, since the last
    call of `time_calls` where there was one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / BYTES_PER_MB
    if sys.platform == "win32":
        return math.nan
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / BYTES_PER_MB
    import resource  # Not on Windows.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / BYTES_PER_MB


@dataclass(frozen=True)
class _Reading:
    latency_ms: float
    device_ms: float | None = None
    peak_memory_mb: float | None = None


def _measure(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> _Reading:
    if device.type != "cuda":
        start_s = clock()
        call()
        return _Reading(1e3 * (clock() - start_s))
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
        start_s = clock()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        latency_ms = 1e3 * (clock() - start_s)
        return _Reading(latency_ms, begin.elapsed_time(end), peak_memory_mb(device))


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
