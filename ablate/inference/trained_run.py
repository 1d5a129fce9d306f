"""A trained model with its configuration and its row of `runs.parquet`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ablate.base.errors import AblateError
from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.models.autoencoder import ImageCodec
from ablate.study.config import Config


@dataclass(frozen=True)
class TrainedRun:
    """A run after its training.

    Attributes:
        row: Its row of `runs`, column -> value; complete once the run is finished.
        config: Its configuration, as in `config.train.steps`.
        model: The trained network, frozen, in eval mode.
        codec: Decodes samples of the diffusion space to images.
    """

    row: dict[str, Any]
    config: Config
    model: nn.Module
    codec: ImageCodec

    def sample(self, n: int = 16, seed: int | None = None) -> np.ndarray:
        """Draw images: the same bits as `ablate sample` of the run.

        Image i depends only on the seed and on i.

        Args:
            n: How many images.
            seed: The seed of the noise; None: the run's own, which gives the run's own samples.

        Returns:
            (n, S, S, C) uint8, C = 3 (red, green, blue) or 1 (grey).

        Raises:
            AblateError: `n` is less than 1.
        """
        if n < 1:
            raise AblateError(f"sample(n={n}): it must be at least 1")
        return to_uint8(self.draw(n, seed)).transpose(0, 2, 3, 1)

    def draw(self, n: int, seed: int | None, on_batch: Callable[[int], None] = lambda n: None) -> Tensor:
        """Return images (n, C, S, S) float32 on the CPU, as `sample_images` does.

        Args:
            n: How many images.
            seed: As for `sample`.
            on_batch: Called after each batch with its number of images.
        """
        noise = self.row["seed"] if seed is None else seed
        options = {"precision": self.row["precision"], "codec": self.codec, "on_batch": on_batch}
        return sample_images(self.model, self.config, noise, range(n), **options)
