"""A trained model with its configuration and its row of `runs.parquet`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ablate.models.autoencoder import ImageCodec
from ablate.study.config import Config


@dataclass(frozen=True)
class TrainedRun:
    """A run after its training: its row (complete once it is finished), its frozen networks."""

    row: dict[str, Any]
    config: Config
    model: nn.Module
    codec: ImageCodec
