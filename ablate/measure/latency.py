"""Time and memory of a network evaluation, as raw samples: quantiles are left to the reader of the table.

Each batch size is called once for its first call (lazy initialisation, memory, choice of kernels), then `warmup` times.
Then the batch sizes take turns, one call each a round, so that a disturbance of the machine meets all of them, not one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence

import torch

BYTES_PER_MB = 10**6


def measure_latency(
    step: Callable[[int], object],
    *,
    batches: Sequence[int] = (1, 8),
    samples: int,
    warmup: int,
    device: torch.device,
    scheme: str = "fp32",
) -> list[dict[str, object]]:
    """Return the wall time of every single call of `step`.

    Args:
        step: Runs one network evaluation at a batch size.
        batches: Batch sizes, each >= 1.
        samples: Timed calls for each batch size.
        warmup: Calls for each batch size that are not timed, beside the first.
        device: Where `step` computes; a CUDA device is synchronised before and after each call.
        scheme: The number format to write into the rows.

    Returns:
        One row a call in the order of measurement: `batch`, `scheme`, `engine` (`torch`), `sample` (from 0),
        `latency_ms`, and `first_call_ms`, the time of the very first call at that batch size.
    """

    def call_ms(batch: int) -> float:
        _synchronize(device)
        start_s = time.perf_counter()
        step(batch)
        _synchronize(device)
        return 1e3 * (time.perf_counter() - start_s)

    first_call_ms = {}
    for batch in batches:
        first_call_ms[batch] = call_ms(batch)
        for _ in range(warmup):
            step(batch)
    return [
        {
            "batch": batch,
            "scheme": scheme,
            "engine": "torch",
            "sample": sample,
            "latency_ms": call_ms(batch),
            "first_call_ms": first_call_ms[batch],
        }
        for sample in range(samples)
        for batch in batches
    ]


def peak_memory_mb(device: torch.device) -> float:
    """Return the highest memory use so far, in megabytes (10^6 bytes).

    On a CPU it is the resident memory of the process, which never falls, and NaN where the system does not tell
    (Windows). On a CUDA device it is what tensors took at most.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / BYTES_PER_MB
    if sys.platform == "win32":
        return math.nan
    import resource  # Not on Windows.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / BYTES_PER_MB


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
