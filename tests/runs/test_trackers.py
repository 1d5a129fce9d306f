"""Other tools' files: what stands in them is what stands in the tables, and without their library there is one line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

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


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run's file: blocks of 32 KiB with chunks (CRC, length, type), as in LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole, records = path.read_bytes(), 7, b"", []  # after the file's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or its last chunk
            records.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return records


def test_wandb_gets_the_same_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    (run_id,) = tables.read(folder, "runs")["run_id"]
    opened = trackers.open_trackers(["wandb"], folder)
    for _ in range(2):
        trackers.record_run(opened, folder, run_id)
    (made,) = (folder / "wandb").glob("offline-run-*")
    (file,) = made.glob("*.wandb")
    deadline = time.monotonic() + 60  # the library's own process writes on after it has said that it is done
    while True:
        records = wandb_records(file)
        if records[-1].WhichOneof("record_type") == "exit" or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.project) == (run_id, "ablate")
    assert json.loads(next(one.value_json for one in run.config.update if one.key == "variant")) == "baseline"
    history = [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    curves = tables.read(folder, "curves")
    assert [row["train/loss"] for row in history if "train/loss" in row] == curves["loss"].tolist()
    assert history[-1]["final/fd"] == pytest.approx(tables.read(folder, "runs")["fd"][0])
    assert list(made.rglob("media/images/*.png"))


def test_trackio_gets_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    (run_id,) = tables.read(folder, "runs")["run_id"]
    opened = trackers.open_trackers(["trackio"], folder)
    for _ in range(2):
        trackers.record_run(opened, folder, run_id)
    assert SQLiteStorage.get_runs("ablate") == [run_id]
    rows = SQLiteStorage.get_logs("ablate", run_id)
    assert [row["train/loss"] for row in rows if "train/loss" in row] == tables.read(folder, "curves")["loss"].tolist()
    assert rows[-1]["final/fd"] == pytest.approx(tables.read(folder, "runs")["fd"][0])


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb", "trackio"])
def test_without_the_library_there_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        AblateError, match=rf"^--log {name}: {name} is not installed; fix: pip install 'ablate-harness\[{name}\]'$"
    ):
        trackers.open_trackers([name], folder)


def test_an_unknown_name_says_what_is_allowed(folder: Path) -> None:
    with pytest.raises(AblateError, match="--log comet: unknown; allowed: tensorboard, mlflow, wandb, trackio"):
        trackers.open_trackers(["comet"], folder)
    made = CliRunner().invoke(cli.app, ["run", "--preset", "smoke", "--log", "comet", "--results", str(folder / "new")])
    assert "--log comet" in str(made.exception)
    assert not (folder / "new").exists()
    trackers.record_run([], folder, "nothing")  # no trackers: nothing is read
