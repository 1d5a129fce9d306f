"""Latency: what is called in which order, on a clock that only the calls move; and what each column reads."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch

from ablate.inference.latency import TimedCall, peak_memory_mb, reset_peak_memory, time_calls

CPU = torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Bench:
    """Things whose calls take given milliseconds of a clock of their own, and the log of their calls."""

    def __init__(self) -> None:
        self.now_s, self.log = 0.0, ""

    def clock(self) -> float:
        return self.now_s

    def thing(self, name: str, durations_ms: Iterator[float]) -> TimedCall:
        def call() -> None:
            self.log += name
            self.now_s += next(durations_ms) / 1e3

        return TimedCall({"run_id": name, "batch": 1}, call)


def constant(value: float) -> Iterator[float]:
    while True:
        yield value


def run(
    names: str, *, rounds: int, warmup: int = 2, seed: int = 0, **options: Callable[[], None]
) -> tuple[str, list[dict[str, object]]]:
    bench = Bench()
    things = [bench.thing(name, constant(1.0)) for name in names]
    rows = time_calls(things, rounds=rounds, warmup=warmup, device=CPU, seed=seed, clock=bench.clock, **options)
    return bench.log, rows


def test_each_warms_up_and_is_then_called_once_a_round() -> None:
    log, rows = run("abc", rounds=40)
    assert log[:9] == "aaabbbccc"
    rounds = [log[i : i + 3] for i in range(9, len(log), 3)]
    assert len(rounds) == 40
    assert all(sorted(some) == ["a", "b", "c"] for some in rounds)
    assert [(row["run_id"], row["sample"], row["position"]) for row in rows] == [
        (name, sample, position) for sample, some in enumerate(rounds) for position, name in enumerate(some)
    ]


def test_no_one_always_follows_the_same_neighbour() -> None:
    log, _ = run("abc", rounds=200, warmup=0)
    rounds = [log[i : i + 3] for i in range(3, len(log), 3)]
    orders = Counter(rounds)
    assert len(orders) == 6
    assert min(orders.values()) > 200 / 6 / 2
    before = Counter(pair for some in rounds for pair in pairwise(some))
    assert len(before) == 6
    assert min(before.values()) > 400 / 6 / 2


def test_the_order_depends_on_the_seed_alone() -> None:
    assert run("abcd", rounds=9, seed=3)[0] == run("abcd", rounds=9, seed=3)[0]
    assert run("abcd", rounds=9, seed=3)[0] != run("abcd", rounds=9, seed=4)[0]


def test_times_in_milliseconds_with_the_first_call_apart_and_the_warm_up_left_out() -> None:
    bench = Bench()
    things = [bench.thing("a", iter([60.0, 30.0, 20.0, 21.0])), bench.thing("b", iter([5.0, 4.0, 2.0, 3.0]))]
    rows = time_calls(things, rounds=2, warmup=1, device=CPU, clock=bench.clock)
    found = {(row["run_id"], row["sample"]): row for row in rows}
    assert [found["a", i]["latency_ms"] for i in (0, 1)] == pytest.approx([20, 21])
    assert [found["b", i]["latency_ms"] for i in (0, 1)] == pytest.approx([2, 3])
    assert {row["run_id"]: row["first_call_ms"] for row in rows} == pytest.approx({"a": 60, "b": 5})


def test_a_cpu_tells_no_device_time_and_no_peak_of_a_call() -> None:
    _, (row,) = run("a", rounds=1)
    assert set(row) == {
        *("run_id", "batch", "sample", "position", "latency_ms", "device_ms", "peak_memory_mb", "first_call_ms")
    }
    assert row["device_ms"] is None
    assert row["peak_memory_mb"] is None


def test_every_call_is_reported_outside_the_timed_stretch() -> None:
    bench = Bench()
    calls: list[float] = []

    def on_call() -> None:
        calls.append(bench.now_s)
        bench.now_s += 7.0

    things = [bench.thing(name, constant(1.0)) for name in "ab"]
    rows = time_calls(things, rounds=3, warmup=1, device=CPU, clock=bench.clock, on_call=on_call)
    assert len(calls) == 2 * (1 + 1 + 3)
    assert [row["latency_ms"] for row in rows] == pytest.approx([1.0] * 6)


def test_the_garbage_collector_rests_during_the_rounds_and_comes_back() -> None:
    seen: list[bool] = []

    def fail() -> None:
        seen.append(gc.isenabled())
        if len(seen) == 3:
            raise RuntimeError("broken")

    time_calls([TimedCall({}, lambda: seen.append(gc.isenabled()))], rounds=2, warmup=0, device=CPU)
    assert seen == [True, False, False]
    assert gc.isenabled()
    seen.clear()
    with pytest.raises(RuntimeError, match="broken"):
        time_calls([TimedCall({}, fail)], rounds=2, warmup=0, device=CPU)
    assert gc.isenabled()


def test_the_real_clock_moves_forward() -> None:
    rows = time_calls([TimedCall({}, lambda: sum(range(1000)))], rounds=3, warmup=0, device=CPU)
    assert all(float(str(row["latency_ms"])) > 0 for row in rows)


def test_peak_memory_follows_an_allocation() -> None:
    gc.collect()  # what earlier tests left must not be freed between the two readings
    reset_peak_memory(CPU)
    before = peak_memory_mb(CPU)
    assert 50 < before < 1e6
    kept = torch.ones(64 * 2**20, dtype=torch.uint8)
    grown = peak_memory_mb(CPU)
    del kept
    slack = 2  # MB: Linux counts pages in batches per processor, so two readings of one peak may differ
    assert grown > before - slack + (60 if sys.platform == "linux" else 0)
    assert peak_memory_mb(CPU) > grown - slack


@pytest.mark.skipif(sys.platform != "linux", reason="the peak cannot be reset there")
def test_peak_memory_is_of_what_came_after_the_reset() -> None:
    kept = torch.ones(256 * 2**20, dtype=torch.uint8)
    before = peak_memory_mb(CPU)
    del kept
    reset_peak_memory(CPU)
    assert peak_memory_mb(CPU) < before - 200


@pytest.mark.gpu
@CUDA
def test_waits_for_the_gpu_and_reads_its_own_clock() -> None:
    device = torch.device("cuda")
    a = torch.randn(8192, 8192, device=device)
    held = torch.cuda.memory_allocated(device) / 1e6
    big, small = TimedCall({"run_id": "big"}, lambda: a @ a), TimedCall({"run_id": "small"}, lambda: a[:8] + 1)
    rows = time_calls([big, small], rounds=3, warmup=2, device=device)
    for row in rows:
        assert 0 < float(str(row["device_ms"])) <= float(str(row["latency_ms"])) * 1.05
    slow = [row for row in rows if row["run_id"] == "big"]
    assert min(float(str(row["latency_ms"])) for row in slow) > 1  # 1.1 TFLOP: far more than a launch takes
    assert min(float(str(row["device_ms"])) for row in slow) > 1
    # The product is 268 MB; the small call after a big one does not inherit its peak.
    assert min(float(str(row["peak_memory_mb"])) for row in slow) > held + 260
    assert max(float(str(row["peak_memory_mb"])) for row in rows if row["run_id"] == "small") < held + 260
