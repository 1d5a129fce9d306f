"""`ablate bench`: who is compared, what is saved, and figures from a clock that only the networks move."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from kpn_networks import build
from rich.console import Console
from torch import Tensor

from ablate.base.errors import AblateError
from ablate.base.progress import Progress
from ablate.diffusion.sampling import denoise
from ablate.inference.latency import time_calls
from ablate.inference.onnx import ImageGenerator
from ablate.inference.trained_run import TrainedRun
from ablate.models.weight_files import digest, save_tensors
from ablate.report.render.bench import render
from ablate.runs import side_by_side
from ablate.runs.finished import find_runs
from ablate.runs.loading import load_run
from ablate.store import tables
from ablate.study import variants

CPU = torch.device("cpu")
FP32 = [("fp32", "torch")]


def make(folder: Path, name: str, seed: int = 0, **values: object) -> str:
    """Leave what a finished smoke run leaves, with untrained weights."""
    config, run_id = variants.resolve(variants.load(name), "smoke"), f"{name}-smoke-cats-s{seed}-0"
    weights = dict(build(config.model, seed, CPU).named_parameters())
    save_tensors(folder / "artifacts" / run_id / "model.safetensors", weights, {})
    row = {"run_id": run_id, "variant": name, "preset": "smoke", "seed": seed, "status": "done", "precision": "fp32"}
    row |= {"config": config.to_json(), "weights_digest": digest(weights)}
    tables.append(folder, {"runs": [row | values]})
    return run_id


def start(folder: Path, *names: str, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "batches": [1, 2],
        "rounds": 20,
        "schemes": FP32,
        "scope": "step",
        "threads": None,
        "seed": 0,
    }
    return side_by_side.time_runs(folder, names, device=CPU, progress=Progress(enabled=False), **(options | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path, "baseline")
    make(tmp_path, "no_drift")
    return tmp_path


class Fake:
    """A clock, and networks that take given milliseconds of it a image and evaluation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **ms: float) -> None:
        """`ms` by scheme; without a drift network half of it."""
        self.now_s, self.calls = 0.0, 0
        monkeypatch.setattr(side_by_side, "energy_counter", lambda device: "no counter in this test")
        monkeypatch.setattr(side_by_side, "time_calls", partial(time_calls, clock=lambda: self.now_s))
        monkeypatch.setattr(
            side_by_side, "NETWORKS", {(name, "fake"): partial(self._open, value) for name, value in ms.items()}
        )

    def _open(self, ms: float, finished: side_by_side.FinishedRun) -> side_by_side.Opened:
        run = finished.load()

        def call(z: Tensor, t: Tensor) -> Tensor:
            self.calls += 1
            self.now_s += ms * len(z) * (1 if run.config.model.drift else 0.5) / 1e3
            return z

        return run, ImageGenerator(call, run.codec.decode)


def test_figures_of_a_session(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch, fp32=10.0, int8=4.0)
    found = start(folder, "baseline", "no_drift", schemes=side_by_side.parse_schemes("fp32,int8"), batches=[1, 8])
    one, eight = (group["rows"] for group in found["groups"])
    assert [row["run_id"].partition("-")[0] + row["scheme"] for row in one] == [
        *("baselinefp32", "baselineint8", "no_driftfp32", "no_driftint8")
    ]
    assert [row["p50_ms"] for row in one] == pytest.approx([10, 4, 5, 2])
    assert [row["p50_ms"] for row in eight] == pytest.approx([80, 32, 40, 16])
    for rows in (one, eight):
        assert [row["ratio"] for row in rows] == pytest.approx([1, 0.4, 0.5, 0.2])
        assert [row["ratio_low"] for row in rows] == pytest.approx([1, 0.4, 0.5, 0.2])
        assert [row["images_per_s"] for row in rows] == pytest.approx([100, 250, 200, 500])
    assert {row["n"] for row in one} == {20}
    assert all(row["p90_ms"] == pytest.approx(row["p50_ms"]) and row["p99_ms"] is None for row in one)
    assert not any(row["noisy"] for row in one)
    assert found["reference"] == {"run_id": "baseline-smoke-cats-s0-0", "scheme": "fp32", "engine": "fake"}
    assert found["agreement"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_energy_is_told_where_the_machine_has_a_counter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch, fp32=1.0)
    found = start(folder, "baseline", schemes=[("fp32", "fake")], batches=[2])
    assert found["groups"][0]["rows"][0]["joules_per_image"] is None
    assert "energy: not measured, no counter in this test." in lines(found)
    counter = SimpleNamespace(source="a meter", joules_of=lambda call: 3.0)
    monkeypatch.setattr(side_by_side, "energy_counter", lambda device: counter)
    found = start(folder, "baseline", schemes=[("fp32", "fake")], batches=[2])
    assert found["groups"][0]["rows"][0]["joules_per_image"] == pytest.approx(1.5)
    assert {"joules per image: baseline fp32/fake 1.50", "energy: a meter."} <= set(lines(found))
    table = tables.read(folder, "latency").groupby("session")["joules_per_image"]
    assert table.agg(lambda values: values.isna().sum()).tolist() == [20, 0]


def test_an_image_is_all_evaluations_of_the_sampler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch, fp32=10.0)
    found = start(folder, "baseline", schemes=[("fp32", "fake")], batches=[2], rounds=5, scope="image")
    steps = variants.resolve(variants.load("baseline"), "smoke").sample.num_steps
    (row,) = found["groups"][0]["rows"]
    assert row["p50_ms"] == pytest.approx(2 * 10 * steps)
    assert fake.calls == (1 + side_by_side.WARMUP + 5) * steps
    assert row["images_per_s"] == pytest.approx(100 / steps)


def test_rows_are_added_and_sessions_stay_apart(folder: Path) -> None:
    earlier = {"run_id": "baseline-smoke-cats-s0-0", "batch": 1, "scope": "step", "scheme": "fp32", "engine": "torch"}
    tables.append(folder, {"latency": [earlier | {"sample": 0, "latency_ms": 1.0}]})
    first, second = start(folder, "all", rounds=5), start(folder, "all", rounds=6)
    table = tables.read(folder, "latency")
    assert table["session"].isna().sum() == 1
    sessions = table.groupby("session")
    assert sessions.size().to_dict() == {first["session"]: 2 * 2 * 5, second["session"]: 2 * 2 * 6}
    assert table.groupby(["session", "batch", "sample"])["position"].agg(sorted).map(tuple).unique().tolist() == [
        (0, 1)
    ]
    assert table.dropna(subset="session")[["device", "processor", "threads"]].notna().all().all()
    assert pd.read_parquet(folder / "latency.parquet")["latency_ms"].gt(0).all()


def test_an_interrupted_session_keeps_the_batch_sizes_that_were_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake(monkeypatch, fp32=10.0)

    def step(run: TrainedRun, network: ImageGenerator, z: Tensor) -> Callable[[], object]:
        if len(z) == 4:
            raise KeyboardInterrupt
        return lambda: network.denoise(z, z[:, 0, 0, 0])

    monkeypatch.setitem(side_by_side.SCOPES, "step", step)
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        start(folder, "all", schemes=[("fp32", "fake")], batches=[1, 4], threads=threads + 1)
    assert tables.read(folder, "latency")["batch"].tolist() == [1] * 2 * 20
    assert torch.get_num_threads() == threads


def test_threads_are_set_for_the_session_and_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch, fp32=1.0)
    before = torch.get_num_threads()
    found = start(folder, "baseline", schemes=[("fp32", "fake")], batches=[1], threads=before + 1)
    assert found["threads"] == before + 1
    assert tables.read(folder, "latency")["threads"].unique().tolist() == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_scheme_is_what_samples_are_drawn_in(folder: Path, precision: str) -> None:
    run = load_run(folder, "baseline", CPU)
    z, t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.8])
    _, network = side_by_side.NETWORKS[precision, "torch"](side_by_side.FinishedRun(folder, run.row["run_id"], CPU))
    assert torch.equal(network.denoise(z, t), denoise(run.model, run.config, z, t, precision))
    other = "bf16" if precision == "fp32" else "fp32"
    assert not torch.equal(network.denoise(z, t), denoise(run.model, run.config, z, t, other))


def test_runs_are_named_once_each_and_the_first_is_the_reference(folder: Path) -> None:
    make(folder, "baseline", 1)
    make(folder, "direct", status="diverged", error="loss nan")
    names = ["no_drift-smoke-cats-s0-0", "baseline-smoke-cats-s0-0", "baseline-smoke-cats-s1-0"]
    assert [row["run_id"] for row in find_runs(folder, ["no_drift", "all", "no_drift"])] == names
    for wrong, message in {"baseline": "2 finished runs begin with this", "direct": "diverged", "x": "not in"}.items():
        with pytest.raises(AblateError, match=message):
            find_runs(folder, ["no_drift", wrong])
    make(folder, "no_drift_matched")
    assert [row["run_id"] for row in find_runs(folder, ["no_drift"])] == names[:1]
    with pytest.raises(AblateError, match="2 finished runs begin with this"):
        find_runs(folder, ["no_dr"])
    tables.append(folder / "new", {"runs": []})
    with pytest.raises(AblateError, match="no finished runs"):
        find_runs(folder / "new", ["all"])


def test_lists_of_batch_sizes_and_schemes() -> None:
    assert side_by_side.parse_batches("8, 1,8") == [8, 1]
    assert side_by_side.parse_schemes("bf16,fp32/torch,bf16") == [("bf16", "torch"), ("fp32", "torch")]
    for text in ("", "1,,2", "0", "-1", "1.5", "x", "4097", "٣"):
        with pytest.raises(AblateError, match="--batch"):
            side_by_side.parse_batches(text)
    for text in ("", "fp32,", "torch", "fp32/onnx9"):
        with pytest.raises(AblateError, match=r"--schemes .*Allowed: all, fp32"):
            side_by_side.parse_schemes(text)


def test_an_engine_that_is_not_installed_is_left_out_and_named_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    engines = {engine for _, engine in side_by_side.parse_schemes("all")}
    assert "torch" in engines
    assert "openvino" not in engines
    fix = re.escape("--schemes fp32/openvino: openvino is not installed; fix: pip install 'ablate-harness[openvino]'")
    with pytest.raises(AblateError, match=fix):
        side_by_side.parse_schemes("fp32/openvino")


def test_a_scheme_without_its_engine_is_the_first_of_that_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch, fp32=1.0)
    monkeypatch.setitem(side_by_side.NETWORKS, ("fp32", "other"), side_by_side.NETWORKS["fp32", "fake"])
    assert side_by_side.parse_schemes("fp32,fp32/other") == [("fp32", "fake"), ("fp32", "other")]


@pytest.mark.slow
def test_two_sessions_are_compared_where_they_are_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch, fp32=10.0, int8=4.0)
    both = {"schemes": side_by_side.parse_schemes("fp32,int8")}
    first = start(folder, "baseline", **both)
    start(folder, "baseline", scope="image", **both)
    assert start(folder, "baseline", threads=torch.get_num_threads() + 1, **both)["agreement"] is None
    Fake(monkeypatch, fp32=10.0, int8=5.0)
    agreement = start(folder, "baseline", "no_drift", batches=[2], **both)["agreement"]
    assert agreement["session"] == first["session"]
    assert agreement["compared"] == 1  # int8 of the baseline at batch 2; fp32 is the reference
    assert agreement["largest_change"] == pytest.approx(0.25)
    assert agreement["furthest"]["scheme"] == "int8"


def uneven(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A session in which one scheme's calls take 1 to 3 ms."""
    fake = Fake(monkeypatch, fp32=1.0, int8=1.0)
    steady = side_by_side.NETWORKS["int8", "fake"]

    def restless(finished: side_by_side.FinishedRun) -> side_by_side.Opened:
        (run, network), count = steady(finished), iter(range(1000))

        def call(z: Tensor, t: Tensor) -> Tensor:
            fake.now_s += next(count) % 3 / 1e3
            return network.denoise(z, t)

        return run, ImageGenerator(call, network.decode)

    monkeypatch.setitem(side_by_side.NETWORKS, ("int8", "fake"), restless)
    return start(folder, "all", schemes=side_by_side.parse_schemes("fp32,int8"), batches=[1], rounds=30)


def test_noise_is_marked_and_warned_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = uneven(folder, monkeypatch)
    rows = found["groups"][0]["rows"]
    assert [row["noisy"] for row in rows] == [False, True, False, True]
    assert rows[1]["noise"] == pytest.approx(1)  # quartiles 1, 2, 3 ms
    assert rows[1]["ratio_low"] < rows[1]["ratio_high"]
    shown = lines(found)
    assert "! batch 1: noise above 0.1 in 2 of 4 (up to 1.33): measure on an idle machine" in shown
    Fake(monkeypatch, fp32=1.0)
    calm = lines(start(folder, "all", schemes=[("fp32", "fake")]))
    assert not any(line.startswith("!") for line in calm)


def lines(found: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(render(found))
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.slow
def test_the_page_fits_80_columns_and_tells_runs_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder, "no_drift_matched", 1)
    make(folder, "baseline", 1)
    Fake(monkeypatch, fp32=1234.0)
    start(folder, "all", schemes=[("fp32", "fake")])
    shown = lines(start(folder, "baseline-smoke-cats-s1", "all", schemes=[("fp32", "fake")], rounds=5))
    assert max(map(len, shown)) <= 80
    starts = [line[:24].split("fp32")[0].strip() for line in shown if " fp32 " in line]
    assert starts[:4] == ["baseline s1", "baseline s0", "no_drift s0", "no_drift_matched s1"]
    row = next(line for line in shown if line.startswith("baseline s1 ")).split()
    assert row[2:] == ["fp32", "fake", "1,234", "-", "0.00", "1.000", "1.000-1.000", "0.810"]
    assert any(line.startswith("earlier session bench-") for line in shown)
    assert lines(start(folder, "no_drift-", schemes=[("fp32", "fake")]))[4].startswith("run      scheme")
