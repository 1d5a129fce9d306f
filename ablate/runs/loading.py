"""Finished runs, loaded from their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ablate.base.errors import ResultsError
from ablate.inference.trained_run import TrainedRun
from ablate.models.autoencoder import image_codec
from ablate.models.denoiser import load_weights, name_of
from ablate.models.guidance import construct_sampled
from ablate.models.weight_files import read_tensors
from ablate.runs.finished import find_run
from ablate.store.artifacts import run_folder
from ablate.store.weight_checks import check_weights
from ablate.study import variants
from ablate.study.config import RunConfig
from ablate.study.program import ProgramConfig
from ablate.training.autoencoder import codec_from_tensors


def load_run(folder: Path, name: str, device: torch.device, *, precision: str | None = None) -> TrainedRun:
    """Return a finished run with its model and, in latent space, its autoencoder.

    Args:
        folder: The results folder.
        name: A name as for `find_run`.
        device: Where the networks go.
        precision: `fp32` or `bf16`, in which the autoencoder decodes; None: the run's own.

    Raises:
        ResultsError: As for `find_run` and `load_trained`.
    """
    row = find_run(folder, name)
    return load_trained(row, run_folder(folder, row["run_id"]), device, precision=precision)


def load_trained(
    row: Mapping[str, Any], files: Path, device: torch.device, *, precision: str | None = None
) -> TrainedRun:
    """Return a finished run from its row and its files.

    Args:
        row: Its row of `runs`.
        files: The folder of `model.safetensors` and, in latent space, `autoencoder.safetensors`.
        device: Where the networks go.
        precision: As for `load_run`.

    Raises:
        ResultsError: A file is missing, damaged, or has another digest than the row.
        VariantError: The configuration cannot be read, as where its plug-in is not loaded.
    """
    config = variants.from_json(row["config"], row["preset"])
    refuse_program(row["run_id"], config)
    model, weights = construct_sampled(config), _read(files / "model.safetensors", row["weights_digest"])
    try:
        load_weights(model, weights)
    except RuntimeError as error:
        changed = "; its code has changed since" if config.changed_plugins() else ""
        raise ResultsError(f"run {row['run_id']}: its weights do not fit {name_of(config)}{changed}") from error
    model.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    codec = image_codec(config.shape[0])
    if config.model.space == "latent":
        tensors = _read(files / "autoencoder.safetensors", row["autoencoder_digest"])
        codec = codec_from_tensors(config, tensors, device, precision or row["precision"])
    return TrainedRun(dict(row), config, model, codec)


def refuse_program(run_id: str, config: RunConfig) -> None:
    """Refuse to load a run of a user's own program.

    Raises:
        ResultsError: It is one.
    """
    if isinstance(config, ProgramConfig):
        raise ResultsError(f"run {run_id}: of a program, whose model ablate does not know; its files are in artifacts/")


def _read(path: Path, expected: str | None) -> dict[str, torch.Tensor]:
    check_weights(path, expected)
    return read_tensors(path)[0]
