"""Latency: what is called in which order, and that the clock reads the time a step takes."""

from __future__ import annotations

import time

import pytest
import torch

from ablate.measure.latency import measure_latency, peak_memory_mb

CPU = torch.device("cpu")


def test_batches_warm_up_then_take_turns() -> None:
    calls: list[int] = []
    rows = measure_latency(calls.append, batches=(1, 8), samples=3, warmup=2, device=CPU, scheme="bf16")
    assert calls == [1, 1, 1, 8, 8, 8] + [1, 8] * 3
    assert [(row["batch"], row["sample"]) for row in rows] == [(b, i) for i in range(3) for b in (1, 8)]
    assert {(row["scheme"], row["engine"]) for row in rows} == {("bf16", "torch")}


def test_measures_milliseconds_and_keeps_the_first_call_apart() -> None:
    waits = iter([0.06, 0.0, 0.02, 0.02])
    rows = measure_latency(lambda _: time.sleep(next(waits)), batches=(4,), samples=2, warmup=1, device=CPU)
    # A sleep never ends early, but on a busy machine it may end late.
    first, latency = ([float(str(row[name])) for row in rows] for name in ("first_call_ms", "latency_ms"))
    assert first[0] == first[1]
    assert 60 <= first[0] < 1000
    assert all(20 <= value < 1000 for value in latency)


def test_peak_memory_follows_an_allocation() -> None:
    before = peak_memory_mb(CPU)
    assert 50 < before < 1e6
    kept = torch.ones(64 * 2**20, dtype=torch.uint8)
    grown = peak_memory_mb(CPU)
    del kept
    assert peak_memory_mb(CPU) >= grown >= before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_waits_for_the_gpu() -> None:
    device = torch.device("cuda")
    a = torch.randn(8192, 8192, device=device)
    rows = measure_latency(lambda _: a @ a, batches=(1,), samples=3, warmup=2, device=device)
    assert min(float(str(row["latency_ms"])) for row in rows) > 1  # 1.1 TFLOP: far more than a launch takes
    assert peak_memory_mb(device) > 268
