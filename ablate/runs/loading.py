"""Finished runs, found by name and loaded from their artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import printable
from ablate.inference.trained_run import TrainedRun
from ablate.models.autoencoder import image_codec
from ablate.models.denoiser import load_weights, name_of
from ablate.models.guidance import construct_sampled
from ablate.models.weight_files import digest, read_tensors
from ablate.store import tables
from ablate.store.artifacts import run_folder
from ablate.study import variants
from ablate.study.config import RunConfig
from ablate.study.program import ProgramConfig
from ablate.training.autoencoder import codec_from_tensors

ALL = "all"  # instead of a name: every finished run


def find_run(folder: Path, name: str) -> dict[str, Any]:
    """Return the row of a finished run.

    Args:
        folder: The results folder.
        name: A run's name, or the beginning of one finished run's name, as in
            `tables.match_run_ids`.

    Raises:
        ResultsError: No run matches, several do, or the run has not finished.
    """
    rows = _rows(folder)
    run_ids = tables.match_run_ids([row["run_id"] for row in rows], name)
    matching = [row for row in rows if row["run_id"] in run_ids]
    done = [row for row in matching if row["status"] == "done"]
    if len(done) == 1:
        return done[0]
    if done:
        listed = ", ".join(row["run_id"] for row in done[:5]) + (", ..." if len(done) > 5 else "")
        raise ResultsError(f"run {name!r}: {len(done)} finished runs begin so: {listed}; give more of the name")
    if matching:
        row = matching[0]
        raise ResultsError(f"run {row['run_id']}: {row['status']} ({row['error']}); only a finished run has a model")
    known = [row["run_id"] for row in rows if row["status"] == "done"]
    raise ResultsError(
        f"run {name!r}: not in {folder}{did_you_mean(name, known)} Finished runs: {', '.join(known[:5]) or 'none'}"
        f"{', ...' if len(known) > 5 else ''}"
    )


def find_runs(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of finished runs, in the order of their names and without repetitions.

    Args:
        folder: The results folder.
        names: Names as for `find_run`, or `all` for every finished run of the folder.

    Raises:
        ResultsError: As for `find_run`, or `all` matches no run.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for name in names:
        rows = [row for row in _rows(folder) if row["status"] == "done"] if name == ALL else [find_run(folder, name)]
        if not rows:
            raise ResultsError(f"{folder}: no finished runs; make one first: ablate run")
        by_id |= {row["run_id"]: row for row in rows if row["run_id"] not in by_id}
    return list(by_id.values())


def load_run(folder: Path, name: str, device: torch.device, *, precision: str | None = None) -> TrainedRun:
    """Return a finished run with its model and, in latent space, its autoencoder.

    Args:
        folder: The results folder.
        name: A name as for `find_run`.
        device: Where the networks go.
        precision: `fp32` or `bf16`, in which the autoencoder decodes; None: the run's own.

    Raises:
        ResultsError: As for `find_run`, or a file is missing, damaged, or has another digest than
            the row.
    """
    row = find_run(folder, name)
    artifacts = run_folder(folder, row["run_id"])
    config = variants.from_json(row["config"], row["preset"])
    refuse_program(row["run_id"], config)
    model, weights = construct_sampled(config), _read(artifacts / "model.safetensors", row["weights_digest"])
    try:
        load_weights(model, weights)
    except RuntimeError as error:
        changed = "; its code has changed since" if config.changed_plugins() else ""
        raise ResultsError(f"run {row['run_id']}: its weights do not fit {name_of(config)}{changed}") from error
    model.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    codec = image_codec(config.shape[0])
    if config.model.space == "latent":
        tensors = _read(artifacts / "autoencoder.safetensors", row["autoencoder_digest"])
        codec = codec_from_tensors(config, tensors, device, precision or row["precision"])
    return TrainedRun(row, config, model, codec)


def refuse_program(run_id: str, config: RunConfig) -> None:
    """Refuse to load a run of a user's own program.

    Raises:
        ResultsError: It is one.
    """
    if isinstance(config, ProgramConfig):
        raise ResultsError(f"run {run_id}: of a program, whose model ablate does not know; its files are in artifacts/")


def _rows(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        raise ResultsError(f"--results {folder}: no such folder; make a run first: ablate run")
    return tables.to_records(tables.read(folder, "runs"))


def _read(path: Path, expected: str | None) -> dict[str, torch.Tensor]:
    fix = "restore it from a copy, or make the run again with --force"
    try:
        tensors, _ = read_tensors(path)
    except FileNotFoundError as error:
        if path.exists():  # safetensors reports a file without read permission as missing
            raise ResultsError(f"{path}: may not be read; give yourself the right to") from error
        raise ResultsError(f"{path}: missing; {fix}") from error
    except (OSError, SafetensorError) as error:
        raise ResultsError(f"{path}: damaged ({printable(' '.join(str(error).split()))}); {fix}") from error
    if expected is None:
        raise ResultsError(f"{path}: the run's row has no digest of it, so it may be any weights; {fix}")
    if digest(tensors) != expected:
        raise ResultsError(f"{path}: not the weights that the run's row names (digest {expected[:12]}...); {fix}")
    return tensors
