"""A trained model with the row that describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ablate.models.autoencoder import ImageCodec
from ablate.models.kpn.denoiser import Denoiser
from ablate.study.config import Config


@dataclass(frozen=True)
class Finished:
    """A finished run: its row of `runs.parquet`, and what it trained."""

    row: dict[str, Any]
    config: Config
    model: Denoiser
    codec: ImageCodec
