"""A run that has finished, found by its name and loaded from its artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ablate import results, variant
from ablate.checkpoint import digest
from ablate.errors import ResultsError, did_you_mean
from ablate.latents import restore
from ablate.model.autoencoder import PIXELS, Codec
from ablate.model.denoiser import Denoiser
from ablate.variant import Config


@dataclass(frozen=True)
class Finished:
    """A finished run: its row of `runs.parquet`, and what it trained."""

    row: dict[str, Any]
    config: Config
    model: Denoiser
    codec: Codec


def find(folder: Path, name: str) -> dict[str, Any]:
    """Return the row of a finished run.

    Args:
        folder: The results folder.
        name: A run's name, or a beginning of it that no other finished run shares.

    Raises:
        ResultsError: There is no such run, several, or it has not finished.
    """
    if not folder.is_dir():
        raise ResultsError(f"--results {folder}: no such folder; make a run first: ablate run")
    runs = results.read(folder, "runs")
    rows: list[dict[Any, Any]] = runs.astype(object).where(runs.notna(), None).to_dict("records")
    fitting = [row for row in rows if row["run_id"] == name] or [row for row in rows if row["run_id"].startswith(name)]
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
        f"run {name!r}: not in {folder}{did_you_mean(name, known)} Finished runs: {', '.join(known[:5]) or 'none'}"
        f"{', ...' if len(known) > 5 else ''}"
    )


def load(folder: Path, name: str, device: torch.device) -> Finished:
    """Return a finished run with its model, and with its autoencoder where it has one.

    Raises:
        ResultsError: As `find` does; or its files are missing, damaged or not those that the row names.
    """
    row = find(folder, name)
    artifacts = folder / "artifacts" / row["run_id"]
    config = variant.from_json(row["config"], row["preset"])
    model = Denoiser(config.model)
    weights = _read(artifacts / "model.safetensors", row["weights_digest"])
    model.load_state_dict(weights)
    model.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    codec = PIXELS
    if config.model.space == "latent":
        tensors = _read(artifacts / "autoencoder.safetensors", row["autoencoder_digest"])
        codec = restore(config, tensors, device, row["precision"])
    return Finished(row, config, model, codec)


def _read(path: Path, expected: str) -> dict[str, torch.Tensor]:
    mend = "restore it from a copy, or make the run again with --force"
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: missing; {mend}") from error
    except (OSError, SafetensorError) as error:
        raise ResultsError(f"{path}: damaged ({' '.join(str(error).split())}); {mend}") from error
    if digest(tensors) != expected:
        raise ResultsError(f"{path}: not the weights that the run's row names (digest {expected[:12]}...); {mend}")
    return tensors
