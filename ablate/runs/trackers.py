"""TrainedRun runs in the files of other tools: TensorBoard and MLflow, by their own libraries, each an extra that nobody needs.

    tensorboard   <results>/tensorboard/<run_id>/     curves by step, headline metrics and costs at the last step, the samples
    mlflow        <results>/mlruns/                   the same as a run of the experiment `ablate`, with its configuration; a file store

A run is recorded once, when its rows are written: nothing of a training waits for a tracker. Nothing goes over a network.
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

from ablate.base.errors import AblateError
from ablate.store import tables

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
NAMED = ("variant", "axis", "preset", "seed", "data", "budget", "status", "config_hash", "weights_digest")
BATCH = 1000  # metrics that MLflow takes at once
Row = Mapping[str, Any]


class Tracker(Protocol):
    """Takes what one finished run has to show."""

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
            AblateError: The library is not there.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self._writer, self.folder = SummaryWriter, folder / "tensorboard"

    def record(self, run: Row, curve: Sequence[Row], samples: Path) -> None:
        """Write one run's event file."""
        target = self.folder / str(run["run_id"])
        for old in target.glob("events.out.*"):  # the run was made again
            old.unlink()
        with self._writer(str(target)) as writer:
            for name, value, step in _scalars(run, curve):
                writer.add_scalar(name, value, step)
            writer.add_text("config", f"```json\n{json.dumps(json.loads(run['config']), indent=2)}\n```")
            if samples.is_file():
                with Image.open(samples) as image:
                    writer.add_image("samples", np.asarray(image.convert("RGB")), run["steps"], dataformats="HWC")


class Mlflow:
    """A file store of MLflow; no server."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder/mlruns`.

        Raises:
            AblateError: The library is not there.
        """
        # Read when the library is imported; a file store is what needs no server, and asks to be allowed.
        os.environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param, RunTag
        except ImportError:
            raise _missing("mlflow") from None
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._client = MlflowClient(tracking_uri=(folder / "mlruns").resolve().as_uri())

    def record(self, run: Row, curve: Sequence[Row], samples: Path) -> None:
        """Write one run, in place of what an earlier one of the same name left."""
        known = self._client.get_experiment_by_name("ablate")
        experiment = known.experiment_id if known else self._client.create_experiment("ablate")
        for old in self._client.search_runs([experiment], f"tags.run_id = '{run['run_id']}'"):
            self._client.delete_run(old.info.run_id)
        made = self._client.create_run(experiment, run_name=str(run["run_id"])).info.run_id
        moment = int(run["finished_at"].timestamp() * 1000)
        metrics = [self._metric(name, value, moment, step) for name, value, step in _scalars(run, curve)]
        params = [self._param(name, str(run[name])) for name in NAMED if run[name] is not None]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(made, metrics[start : start + BATCH])
        self._client.log_batch(made, params=params, tags=[self._tag("run_id", str(run["run_id"]))])
        self._client.log_dict(made, json.loads(run["config"]), "config.json")
        if samples.is_file():
            self._client.log_artifact(made, str(samples))
        self._client.set_terminated(made)


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "mlflow": Mlflow}


def open_trackers(names: Sequence[str], folder: Path) -> list[Tracker]:
    """Return the trackers of these names.

    Raises:
        AblateError: A name that is not known, or a library that is not there.
    """
    for name in names:
        if name not in TRACKERS:
            raise AblateError(f"--log {name}: unknown; allowed: {', '.join(TRACKERS)}")
    return [TRACKERS[name](folder) for name in dict.fromkeys(names)]


def record_run(trackers: Sequence[Tracker], folder: Path, run_id: str) -> None:
    """Give a finished run to trackers.

    Args:
        trackers: What takes it.
        folder: The results folder.
        run_id: The run's name.

    Raises:
        ResultsError: A table cannot be read.
    """
    if not trackers:
        return
    runs, curves = tables.read(folder, "runs"), tables.read(folder, "curves")
    found = runs[runs["run_id"] == run_id]
    run = found.astype(object).where(found.notna(), None).to_dict("records")[0]
    curve = curves[curves["run_id"] == run_id].sort_values("step").to_dict("records")
    for tracker in trackers:
        tracker.record(
            {str(k): v for k, v in run.items()},
            [{str(k): v for k, v in row.items()} for row in curve],
            folder / "artifacts" / run_id / "samples.png",
        )


def _scalars(run: Row, curve: Sequence[Row]) -> Iterator[tuple[str, float, int]]:
    """What has a number: name, value, step."""
    for row in curve:
        for name in LOSSES:
            if row[name] is not None and math.isfinite(row[name]):
                yield f"train/{name}", float(row[name]), int(row["step"])
    for name in HEADLINES:
        if run.get(name) is not None:
            yield f"final/{name}", float(run[name]), int(run["steps"])


def _missing(name: str) -> AblateError:
    return AblateError(f"--log {name}: its library is not installed; fix: pip install 'ablate-harness[{name}]'")
