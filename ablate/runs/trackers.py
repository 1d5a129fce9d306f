"""Finished runs in the files of other tools: TensorBoard and MLflow, each an optional extra.

    tensorboard   <results>/tensorboard/<run_id>/   curves, headline metrics and costs, the samples
    mlflow        <results>/mlruns/                 the same, in a file store; experiment `ablate`

A run is recorded once, after its rows are written: no training waits for a tracker. Nothing goes
over a network.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ablate.base.errors import AblateError, require
from ablate.store import tables
from ablate.store.artifacts import run_folder

LOSSES = ("loss", "loss_l2", "loss_perceptual", "grad_norm", "lr", "images_per_s")
HEADLINES = (
    "fd",
    "fd_inf",
    "kd",
    "fid",
    "kid",
    "pd",
    "psnr_db",
    "lpips",
    "latency_step_ms",
    "latency_image_ms",
    "train_wall_s",
    "wall_s",
)
PARAMETERS = ("variant", "axis", "preset", "seed", "data", "budget", "status", "config_hash", "weights_digest")
OWN = "own metrics"  # key of a run's row: those that it recorded itself
BATCH = 1000  # MLflow's limit of metrics in one call
Row = Mapping[str, Any]


class Tracker(Protocol):
    """Records finished runs."""

    def record(self, run: Row, curve: Sequence[Row], samples: Path) -> None:
        """Write one run.

        Args:
            run: Its row of `runs`.
            curve: Its rows of `curves`, by step.
            samples: Its grid of samples; the file may be missing.
        """


class TensorBoard:
    """Event files, one folder per run."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder/tensorboard`.

        Raises:
            AblateError: The library is not installed.
        """
        require("--log tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer, self.folder = SummaryWriter, folder / "tensorboard"

    def record(self, run: Row, curve: Sequence[Row], samples: Path) -> None:
        """Write one run's event file."""
        target = self.folder / str(run["run_id"])
        for old in target.glob("events.out.*"):  # of an earlier run of this name
            old.unlink()
        with self._writer(str(target)) as writer:
            for name, value, step in _scalars(run, curve):
                writer.add_scalar(name, value, step)
            writer.add_text("config", f"```json\n{json.dumps(json.loads(run['config']), indent=2)}\n```")
            if samples.is_file():
                with Image.open(samples) as image:
                    writer.add_image("samples", np.asarray(image.convert("RGB")), run["steps"] or 0, dataformats="HWC")


class Mlflow:
    """A file store of MLflow; no server."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder/mlruns`.

        Raises:
            AblateError: The library is not installed.
        """
        # MLflow reads these when it is imported. A file store needs no server, and must be allowed.
        os.environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        require("--log mlflow", "mlflow")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._client = MlflowClient(tracking_uri=(folder / "mlruns").resolve().as_uri())

    def record(self, run: Row, curve: Sequence[Row], samples: Path) -> None:
        """Write one run; delete an earlier one of the same name."""
        known = self._client.get_experiment_by_name("ablate")
        experiment = known.experiment_id if known else self._client.create_experiment("ablate")
        for old in self._client.search_runs([experiment], f"tags.run_id = '{run['run_id']}'"):
            self._client.delete_run(old.info.run_id)
        tracked_id = self._client.create_run(experiment, run_name=str(run["run_id"])).info.run_id
        moment = int(run["finished_at"].timestamp() * 1000)
        metrics = [self._metric(name, value, moment, step) for name, value, step in _scalars(run, curve)]
        params = [self._param(name, str(run[name])) for name in PARAMETERS if run[name] is not None]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(tracked_id, metrics[start : start + BATCH])
        self._client.log_batch(tracked_id, params=params, tags=[self._tag("run_id", str(run["run_id"]))])
        self._client.log_dict(tracked_id, json.loads(run["config"]), "config.json")
        if samples.is_file():
            self._client.log_artifact(tracked_id, str(samples))
        self._client.set_terminated(tracked_id)


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "mlflow": Mlflow}


def open_trackers(names: Sequence[str], folder: Path) -> list[Tracker]:
    """Return the trackers of these names, once each.

    Raises:
        AblateError: A name is unknown, or its library is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise AblateError(f"--log {name}: unknown; allowed: {', '.join(TRACKERS)}")
    return [TRACKERS[name](folder) for name in dict.fromkeys(names)]


def record_run(trackers: Sequence[Tracker], folder: Path, run_id: str) -> None:
    """Record a finished run in every tracker.

    Args:
        trackers: The trackers.
        folder: The results folder.
        run_id: The run's name.

    Raises:
        ResultsError: A table cannot be read.
    """
    if not trackers:
        return
    runs, curves = tables.read(folder, "runs"), tables.read(folder, "curves")
    (run,) = tables.to_records(runs[runs["run_id"] == run_id])
    own = tables.to_records(tables.read(folder, "metrics"))
    run |= {OWN: {row["metric"]: row["value"] for row in own if row["run_id"] == run_id}}
    curve = tables.to_records(curves[curves["run_id"] == run_id].sort_values("step"))
    for tracker in trackers:
        tracker.record(run, curve, run_folder(folder, run_id) / "samples.png")


def _scalars(run: Row, curve: Sequence[Row]) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of every scalar."""
    for row in curve:
        for name in LOSSES:
            if row[name] is not None and math.isfinite(row[name]):
                yield f"train/{name}", float(row[name]), int(row["step"])
    values = {name: run.get(name) for name in HEADLINES} | run[OWN]
    for name, value in values.items():
        if value is not None:
            yield f"final/{name}", float(value), int(run["steps"] or 0)
