"""A run that has finished, found by its name and loaded from its artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ablate.base.errors import ResultsError, did_you_mean
from ablate.inference.trained_run import TrainedRun
from ablate.models.autoencoder import PIXEL_CODEC
from ablate.models.kpn.denoiser import Denoiser
from ablate.models.weight_files import digest
from ablate.store import tables
from ablate.store.tables import to_records
from ablate.study import variants
from ablate.training.autoencoder import codec_from_tensors

ALL = "all"  # instead of a name: every finished run


def find_run(folder: Path, name: str) -> dict[str, Any]:
    """Return the row of a finished run.

    Args:
        folder: The results folder.
        name: A run's name, or a beginning of it that no other finished run shares, as `tables.match_run_ids` reads it.

    Raises:
        ResultsError: There is no such run, several, or it has not finished.
    """
    rows = _rows(folder)
    named = tables.match_run_ids([row["run_id"] for row in rows], name)
    fitting = [row for row in rows if row["run_id"] in named]
    done = [row for row in fitting if row["status"] == "done"]
    if len(done) == 1:
        return done[0]
    if done:
        listed = ", ".join(row["run_id"] for row in done[:5]) + (", ..." if len(done) > 5 else "")
        raise ResultsError(f"run {name!r}: {len(done)} finished runs begin so: {listed}; give more of the name")
    if fitting:
        row = fitting[0]
        raise ResultsError(f"run {row['run_id']}: {row['status']} ({row['error']}); only a finished run has a model")
    known = [row["run_id"] for row in rows if row["status"] == "done"]
    raise ResultsError(
        f"run {name!r}: not in {folder}{did_you_mean(name, known)} TrainedRun runs: {', '.join(known[:5]) or 'none'}"
        f"{', ...' if len(known) > 5 else ''}"
    )


def find_runs(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of finished runs in the order of their names, once each.

    Args:
        folder: The results folder.
        names: Of each as `find_run` takes it, or `all` for every finished run of the folder.

    Raises:
        ResultsError: As `find_run` does; or `all` finds none.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        rows = [row for row in _rows(folder) if row["status"] == "done"] if name == ALL else [find_run(folder, name)]
        if not rows:
            raise ResultsError(f"{folder}: no finished runs; make one first: ablate run")
        found |= {row["run_id"]: row for row in rows if row["run_id"] not in found}
    return list(found.values())


def load_run(folder: Path, name: str, device: torch.device, *, precision: str | None = None) -> TrainedRun:
    """Return a finished run with its model, and with its autoencoder where it has one.

    Args:
        folder: The results folder.
        name: The run's, as `find_run` takes it.
        device: Where its networks go.
        precision: `fp32` or `bf16`, what the autoencoder decodes in; None: the run's own.

    Raises:
        ResultsError: As `find_run` does; or its files are missing, damaged or not those that the row names.
    """
    row = find_run(folder, name)
    artifacts = folder / "artifacts" / row["run_id"]
    config = variants.from_json(row["config"], row["preset"])
    model = Denoiser(config.model)
    weights = _read(artifacts / "model.safetensors", row["weights_digest"])
    model.load_state_dict(weights)
    model.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    codec = PIXEL_CODEC
    if config.model.space == "latent":
        tensors = _read(artifacts / "autoencoder.safetensors", row["autoencoder_digest"])
        codec = codec_from_tensors(config, tensors, device, precision or row["precision"])
    return TrainedRun(row, config, model, codec)


def _rows(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        raise ResultsError(f"--results {folder}: no such folder; make a run first: ablate run")
    return to_records(tables.read(folder, "runs"))


def _read(path: Path, expected: str) -> dict[str, torch.Tensor]:
    mend = "restore it from a copy, or make the run again with --force"
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        if path.exists():  # safetensors says so of a file that may not be read
            raise ResultsError(f"{path}: may not be read; give yourself the right to") from error
        raise ResultsError(f"{path}: missing; {mend}") from error
    except (OSError, SafetensorError) as error:
        raise ResultsError(f"{path}: damaged ({' '.join(str(error).split())}); {mend}") from error
    if digest(tensors) != expected:
        raise ResultsError(f"{path}: not the weights that the run's row names (digest {expected[:12]}...); {mend}")
    return tensors
