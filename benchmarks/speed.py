"""`ablate bench --ops`: parts of a run against the published formulation, in one process.

Each case of `benchmarks.operations` and its reference (float32, eager) are called in turns, so that
disturbances of the machine affect both. The ratio is that of the medians.

    floor = max(2 MACs / peak, bytes / bandwidth)

is the least time for the arithmetic or the memory traffic. Peak and bandwidth are those of a matrix
product and a copy, measured in the same process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ablate.base import machine
from ablate.base.progress import Progress
from ablate.inference.latency import BYTES_PER_MB, TimedCall, time_calls
from ablate.stats.quantiles import ratio
from benchmarks.operations import CASES, Case, Row


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of matrix products in FLOP/s, and of a copy in bytes/s."""

    fp32: float
    bf16: float
    copy: float


def ceilings(device: torch.device, precision: str) -> Ceilings:
    """Measure matrix products of size 2,048 and a copy of 64 MB; on a GPU of 8,192 and 1 GB.

    Without bfloat16 its rate is float32's. A GPU's own clock is used, where there is one.
    """

    def best_s(call: Callable[[], object], rounds: int = 7) -> float:
        rows = _times({"": call}, rounds, device)[""]
        return min(row["latency_ms"] if row["device_ms"] is None else row["device_ms"] for row in rows) / 1e3

    n, elements = (8192, 2**28) if device.type == "cuda" else (2048, 2**24)
    source = torch.empty(elements, device=device)
    rates = []
    for dtype in (torch.float32, torch.bfloat16 if precision == "bf16" else torch.float32):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        rates.append(2 * n**3 / best_s(lambda a=a, b=b: a @ b))  # type: ignore[misc]
    target = torch.empty_like(source)
    return Ceilings(rates[0], rates[1], 2 * source.nbytes / best_s(lambda: target.copy_(source)))


def measure(
    names: Sequence[str],
    device: torch.device,
    *,
    rounds: int,
    threads: int | None = None,
    progress: Progress,
) -> list[Row]:
    """Time cases against their references.

    Args:
        names: Keys of `CASES`.
        device: Where the cases compute.
        rounds: Timed calls of each, after an untimed one; fewer if a case would take over a minute.
        threads: Number of torch's threads; None: unchanged.
        progress: Progress bars.

    Returns:
        A row per case; values that do not apply are None.
        `name`, `batch`, `rounds`, `threads`, `device`;
        `reference_ms`, `ours_ms`: medians;
        `ratio`, `ratio_low`, `ratio_high`: reference / ours, 95 % interval by resampling rounds;
        `ceiling_ms`, `ceiling_share`: the floor, and floor / ours;
        `reference_peak_mb`, `ours_peak_mb`: peak memory of the tensors of one call, in 10^6 bytes,
        above what was allocated before. On a GPU the first call counts too, and with it the
        optimiser's state.
    """
    rows = []
    precision = machine.pick_precision(device)
    with machine.use_threads(threads), progress.task("speed", len(names) + 1) as bar:
        best = ceilings(device, precision)
        bar.advance()
        for name in names:
            with tempfile.TemporaryDirectory(prefix="ablate-speed-") as folder:
                case = CASES[name](device, Path(folder))
                rows.append({"name": name, **_row(case, best, device, precision, rounds)})
            bar.advance()
    return rows


def _row(case: Case, best: Ceilings, device: torch.device, precision: str, rounds: int) -> Row:
    calls = {"ours": case.ours} | ({"reference": case.reference} if case.reference is not None else {})
    start = time.perf_counter()
    peaks = {name: _peak_mb(call, device) for name, call in calls.items()}  # these calls compile and capture
    if case.batch:
        start = time.perf_counter()
        again = {name: _peak_mb(call, device) for name, call in calls.items()}
        if device.type == "cuda":  # a graph's memory is allocated at its capture, in the first call
            again = {name: max(peaks[name] or 0.0, peak or 0.0) for name, peak in again.items()}
        peaks = again
    else:
        peaks = dict.fromkeys(peaks)
    each_s = time.perf_counter() - start
    latencies = _times(calls, max(5, min(rounds, int(60 / max(each_s, 1e-3)))), device)
    times = {name: [row["latency_ms"] for row in rows] for name, rows in latencies.items()}
    against = ratio(times["reference"], times["ours"]) if "reference" in times else None
    floor_ms = 1e3 * max(case.flops / (best.bf16 if precision == "bf16" else best.fp32), case.bytes_moved / best.copy)
    ours_ms = median(times["ours"])
    return {
        "batch": case.batch or None,
        "reference_ms": median(times["reference"]) if "reference" in times else None,
        "ours_ms": ours_ms,
        "ratio": against and against.value,
        "ratio_low": against and against.low,
        "ratio_high": against and against.high,
        "ceiling_ms": floor_ms or None,
        "ceiling_share": floor_ms / ours_ms if floor_ms else None,
        "reference_peak_mb": peaks.get("reference"),
        "ours_peak_mb": peaks["ours"],
        "rounds": len(times["ours"]),
        "threads": machine.threads(),
        "device": str(device),
    }


def _times(calls: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[Row]]:
    rows = time_calls(
        [TimedCall({"name": n}, call) for n, call in calls.items()], rounds=rounds, warmup=1, device=device
    )
    return {name: [row for row in rows if row["name"] == name] for name in calls}


def _peak_mb(call: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of the tensors that a call allocates, in 10^6 bytes."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / BYTES_PER_MB
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    held, peak = 0, 0
    result: Any = profiled.profiler
    for event in result.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / BYTES_PER_MB
