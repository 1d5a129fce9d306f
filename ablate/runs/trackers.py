"""Finished runs in the files of other tools, each an optional extra.

    tensorboard   <results>/tensorboard/<run_id>/   curves, headline metrics and costs, the samples
    mlflow        <results>/mlruns/                 the same, in a file store; experiment `ablate`
    wandb         <results>/wandb/offline-run-*/    the same, as offline runs; project `ablate`
    trackio       its own store                     the same without the samples; project `ablate`

A run is recorded once, after its rows are written: no training waits for a tracker. Nothing goes
over a network.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ablate.base.errors import AblateError, require
from ablate.store import tables
from ablate.store.artifacts import run_folder

LOSSES = ("loss", "loss_l2", "loss_perceptual", "grad_norm", "lr", "images_per_s")
HEADLINES = (
    *("fd", "fd_inf", "kd", "fid", "kid", "pd", "psnr_db", "lpips"),
    *("latency_step_ms", "latency_image_ms", "train_wall_s", "wall_s"),
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
        params = [self._param(name, str(value)) for name, value in _parameters(run).items()]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(tracked_id, metrics[start : start + BATCH])
        self._client.log_batch(tracked_id, params=params, tags=[self._tag("run_id", str(run["run_id"]))])
        self._client.log_dict(tracked_id, json.loads(run["config"]), "config.json")
        if samples.is_file():
            self._client.log_artifact(tracked_id, str(samples))
        self._client.set_terminated(tracked_id)


class WandB:
    """Offline runs of Weights & Biases, which `wandb sync` uploads. Nothing is sent."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder/wandb`.

        Raises:
            AblateError: The library is not installed.
        """
        require("--log wandb", "wandb")
        # W&B reads these when it is imported.
        os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}
        import wandb

        self._wandb, self.folder = wandb, folder

    def record(self, run: Row, curve: Sequence[Row], samples: Path) -> None:
        """Write one run; delete an earlier one of the same name."""
        run_id = str(run["run_id"])
        for old in (self.folder / "wandb").glob("offline-run-*"):
            if old.name.split("-", 3)[-1] == run_id:
                shutil.rmtree(old, ignore_errors=True)
        settings = self._wandb.Settings(
            mode="offline", silent=True, console="off", x_disable_meta=True, x_disable_stats=True
        )
        config = json.loads(run["config"]) | _parameters(run)
        tracked = self._wandb.init(
            project="ablate",
            name=run_id,
            id=run_id,
            dir=str(self.folder),
            config=config,
            settings=settings,
            reinit="finish_previous",
        )
        _log_by_step(tracked, run, curve)
        if samples.is_file():
            tracked.log({"samples": self._wandb.Image(str(samples))}, step=run["steps"] or 0)
        tracked.finish()


class Trackio:
    """Trackio's own local store (`TRACKIO_DIR`), for `trackio show --project ablate`."""

    def __init__(self, folder: Path) -> None:
        """Write into the store, wherever the results folder is.

        Raises:
            AblateError: The library is not installed.
        """
        require("--log trackio", "trackio")
        import trackio

        self._trackio = trackio

    def record(self, run: Row, curve: Sequence[Row], samples: Path) -> None:
        """Write one run; delete an earlier one of the same name."""
        run_id = str(run["run_id"])
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how to open its page
            with contextlib.suppress(ValueError):  # there is no such project yet
                for old in self._trackio.Api().runs("ablate"):
                    if old.name == run_id:
                        old.delete()
            config = json.loads(run["config"]) | _parameters(run)
            options = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            tracked = self._trackio.init(project="ablate", name=run_id, config=config, **options)
            _log_by_step(tracked, run, curve)
            tracked.finish()


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": Mlflow,
    "wandb": WandB,
    "trackio": Trackio,
}


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


def _parameters(run: Row) -> dict[str, Any]:
    return {name: run[name] for name in PARAMETERS if run[name] is not None}


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


def _log_by_step(tracked: Any, run: Row, curve: Sequence[Row]) -> None:
    """Log every scalar, all of a step at once, to a run of W&B or Trackio."""
    for step, values in groupby(_scalars(run, curve), key=lambda one: one[2]):
        tracked.log({name: value for name, value, _ in values}, step=step)
