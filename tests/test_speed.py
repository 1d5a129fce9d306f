"""`ablate bench --ops`: a case and its reference do the same work, and the table is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ablate import cli
from ablate.base.errors import AblateError
from ablate.base.progress import Progress
from benchmarks import operations, speed, verdict
from benchmarks import speed_table as pages

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["filter op, forward", "filter op", "upsampling", "rotary embedding"])
def test_an_operation_equals_its_reference(name: str) -> None:
    torch.manual_seed(0)
    case = operations.CASES[name](CPU, Path())
    assert case.reference is not None
    torch.testing.assert_close(case.ours(), case.reference(), rtol=1e-3, atol=1e-3)


def test_the_published_step_trains_the_same() -> None:
    """Both have the same losses for some steps in float32."""
    config = operations._baseline("smoke", 4)
    images = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8)
    batches, model = operations.Batches(images, config.train, 0), operations.build(config, 0, CPU)
    state = operations.TrainingState(model, operations.build(config, 0, CPU), config.train, 4)
    draw_inputs, terms = operations.objective(config, model, batches, 0, perceptual=None, precision="fp32")
    losses = []
    step = operations.published_step(config, batches, None, CPU, on_loss=losses.append)
    for _ in range(3):
        loss = terms(*draw_inputs(state.step))[0]
        loss.backward()
        step()
        assert losses[-1] == pytest.approx(float(loss.detach()), rel=1e-3)
        state.update(config.train.lr, config.train.grad_clip, config.train.ema)


@pytest.mark.slow
def test_rows_are_complete_and_strict_json() -> None:
    with Progress() as progress:
        rows = speed.measure(["upsampling"], CPU, rounds=5, threads=1, progress=progress)
    (row,) = json.loads(json.dumps(rows, allow_nan=False))
    assert row["name"] == "upsampling"
    assert row["ratio"] == pytest.approx(row["reference_ms"] / row["ours_ms"])
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert 0 < row["ceiling_share"] < 1
    assert row["ceiling_share"] == pytest.approx(row["ceiling_ms"] / row["ours_ms"])
    assert 0 < row["ours_peak_mb"] < row["reference_peak_mb"]
    assert row["threads"] == 1


def test_peak_memory_counts_the_tensors_alive_together() -> None:
    def call() -> torch.Tensor:
        a = torch.empty(10**6)  # 4 MB
        a = a + 1  # two of them
        return a.sum()

    assert speed._peak_mb(call, CPU) == pytest.approx(8, rel=0.01)


def test_cases_are_chosen_by_a_prefix_of_their_names() -> None:
    assert operations.choose([]) == list(operations.CASES)
    assert operations.choose(["upsampling", "filter"]) == ["filter op, forward", "filter op", "upsampling"]
    with pytest.raises(AblateError, match="unknown case 'upsamplin g'; did you mean upsampling"):
        operations.choose(["upsamplin g"])


def test_the_invented_study_can_be_read_and_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "RUNS", 20)
    operations.CASES["append a run to 10,000"](CPU, tmp_path).ours()
    assert len(operations.tables.read(tmp_path, "runs")) == 21
    assert len(operations.tables.read(tmp_path, "curves")) == 21 * 150


def test_bench_without_runs_names_the_option() -> None:
    done = CliRunner().invoke(cli.app, ["bench"])
    assert done.exit_code == 2
    assert "--ops" in done.output


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    row = {"name": "training step, quick, perceptual", "batch": 16, "reference_ms": 1234.5, "ours_ms": 567.8}
    row |= {"ratio": 12.3, "ratio_low": 10.1, "ratio_high": 13.9, "ceiling_ms": 1.0, "ceiling_share": 0.5}
    row |= {"reference_peak_mb": 1234.0, "ours_peak_mb": 567.0, "rounds": 5, "threads": 2, "device": "cpu"}
    console = Console(width=80, record=True)
    console.print(pages.render([row]))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("1,234", "568", "12.3x", "10.1-13.9", "50 %"):
        assert word in text


@pytest.mark.slow
def test_the_time_to_a_verdict_counts_the_runs_until_each_variant_is_decided() -> None:
    """`no_drift` stays undecided in the stored study; the others are decided by six seeds."""
    runs = verdict.runs_until_decided(verdict.ROOT / "results" / "studies" / "quick_cats")
    assert runs == {"baseline": 8, "normalized": 6, "no_drift": 8, "v_pred": 6, "latent": 6}
    parts = dict.fromkeys(verdict.PARTS, 1.0)
    slower = parts | {"autoencoder": 11.0}
    assert verdict.study_seconds({"baseline": parts, "latent": slower}, runs) == 1 + 6 * 34 + 10 * 6
