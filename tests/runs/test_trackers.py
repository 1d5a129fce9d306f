"""Other tools' files: what stands in them is what stands in the tables, and without their library there is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pages
import pytest
from typer.testing import CliRunner

from ablate import cli
from ablate.base.errors import AblateError
from ablate.runs import trackers
from ablate.store import tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pages.make(tmp_path / "results", {"baseline": 0.0}, [0])


def test_tensorboard_gets_curves_headlines_and_samples(folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run_id,) = tables.read(folder, "runs")["run_id"]
    opened = trackers.open_trackers(["tensorboard"], folder)
    for _ in range(2):  # made again, it replaces what was there
        trackers.record_run(opened, folder, run_id)
    found = EventAccumulator(str(folder / "tensorboard" / run_id))
    found.Reload()
    curves = tables.read(folder, "curves")
    assert [event.step for event in found.Scalars("train/loss")] == curves["step"].tolist()
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(curves["loss"].tolist(), rel=1e-6)
    (fd,) = found.Scalars("final/fd")
    assert fd.value == pytest.approx(tables.read(folder, "runs")["fd"][0])
    assert fd.step == 1500
    assert [image.width for image in found.Images("samples")] == [1024]
    assert "train/grad_norm" not in found.Tags()["scalars"]  # null in the table: no number


def test_mlflow_gets_the_same(folder: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    (run_id,) = tables.read(folder, "runs")["run_id"]
    opened = trackers.open_trackers(["mlflow"], folder)
    for _ in range(2):
        trackers.record_run(opened, folder, run_id)
    client = mlflow.MlflowClient(tracking_uri=(folder / "mlruns").resolve().as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("ablate").experiment_id])
    assert found.info.run_name == run_id
    assert found.data.params["variant"] == "baseline"
    curves = tables.read(folder, "curves")
    history = sorted(client.get_metric_history(found.info.run_id, "train/loss"), key=lambda one: one.step)
    assert [one.value for one in history] == curves["loss"].tolist()
    assert {one.path for one in client.list_artifacts(found.info.run_id)} == {"config.json", "samples.png"}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_without_the_library_there_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        AblateError, match=rf"^--log {name}: {name} is not installed; fix: pip install 'ablate-harness\[{name}\]'$"
    ):
        trackers.open_trackers([name], folder)


def test_an_unknown_name_says_what_is_allowed(folder: Path) -> None:
    with pytest.raises(AblateError, match="--log wandb: unknown; allowed: tensorboard, mlflow"):
        trackers.open_trackers(["wandb"], folder)
    made = CliRunner().invoke(cli.app, ["run", "--preset", "smoke", "--log", "wandb", "--results", str(folder / "new")])
    assert "--log wandb" in str(made.exception)
    assert not (folder / "new").exists()
    trackers.record_run([], folder, "nothing")  # no trackers: nothing is read
