"""Time and memory of several calls, measured side by side, as raw samples.

1. Each call is made once and timed separately: it includes lazy initialisation and the choice of
   kernels.
2. It is warmed up.
3. Rounds: each call is made once per round, in an order shuffled for every round. A disturbance of
   the machine affects all of them, and none always runs in the cache that the same other call left.

`ablate.stats.quantiles` summarises the samples.
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
    """A call to time, and the columns that name it in the latency table."""

    columns: Mapping[str, object]
    call: Callable[[], object]


def time_calls(
    calls: Sequence[TimedCall],
    *,
    rounds: int,
    warmup: int,
    device: torch.device,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    on_call: Callable[[], None] = lambda: None,
) -> list[dict[str, object]]:
    """Time several calls side by side.

    The very first call also loads what the process had not loaded yet. The garbage collector is off
    during the rounds, as in `timeit`: a collection would add its time to one call.

    Args:
        calls: The calls to compare.
        rounds: Timed repetitions of each, after the first.
        warmup: Repetitions of each between the first and the rounds, not timed.
        device: Where they compute. A CUDA device is synchronised before and after each repetition.
        seed: Of the order within the rounds.
        clock: A clock in seconds.
        on_call: Called after every repetition, outside the timed section: (1 + warmup + rounds)
            times per call.

    Returns:
        One row per timed repetition, in the order of measurement: the call's columns; `sample` (the
        round, from 0); `position` in the round, from 0; `latency_ms`, wall time; `device_ms`,
        between two CUDA events (None on a CPU); `peak_memory_mb`, the peak of tensor memory in 10^6
        bytes during this repetition or the first one, in which a CUDA graph allocates its memory
        (None on a CPU); and `first_call_ms`, wall time.
    """
    first: list[_Reading] = []
    for timed in calls:
        first.append(_measure(timed.call, device, clock))
        on_call()
        for _ in range(warmup):
            timed.call()
            on_call()
    rows: list[dict[str, object]] = []
    order, shuffler = list(range(len(calls))), random.Random(seed)
    with _no_garbage_collection():
        for sample in range(rounds):
            shuffler.shuffle(order)
            for position, i in enumerate(order):
                reading = _measure(calls[i].call, device, clock)
                place = {"sample": sample, "position": position}
                # A CUDA graph allocates its memory in the first call.
                peak = reading.peak_memory_mb and max(reading.peak_memory_mb, first[i].peak_memory_mb or 0.0)
                own = {"peak_memory_mb": peak, "first_call_ms": first[i].latency_ms}
                rows.append({**calls[i].columns, **place, **asdict(reading), **own})
                on_call()
    return rows


def reset_peak_memory(device: torch.device) -> None:
    """Reset what `peak_memory_mb` reports, where the system can (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes the current resident size


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak of memory since `reset_peak_memory`, in megabytes (10^6 bytes).

    On a CPU it is the resident memory of the process, with memory kept from earlier work. It is NaN
    on Windows, and counts from the start of the process on macOS, where it cannot be reset. On a
    CUDA device it is the peak of tensor memory; `time_calls` resets it too.
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
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
