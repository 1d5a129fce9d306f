"""Noising, what the network predicts, and the space in which its error is measured.

    z = t x + (1 - t) eps,   t in [0, 1], t = 1 is clean
    v = dz/dt = x - eps = (x - z) / (1 - t)

Reference: rectified flow, arXiv 2209.03003; the spaces x, v and eps as in "Back to Basics: Let
Denoising Generative Models Denoise" (JiT), arXiv 2511.13720.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ablate.study import plugins
from ablate.study.config import OBJECTIVES, DiffusionConfig


def append_dims(t: Tensor, like: Tensor) -> Tensor:
    """Return t (B,) with dimensions of size one appended, to broadcast with `like` (B, ...)."""
    return t.view(-1, *([1] * (like.ndim - 1)))


def interpolate(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return z = t x + (1 - t) eps for x, eps (B, ...) and t (B,)."""
    return torch.lerp(eps, x, append_dims(t, x))


def divide_by_time(numerator: Tensor, t: Tensor, clip: float) -> Tensor:
    """Return numerator / max(t, clip) for numerator (B, ...), t (B,); `clip` bounds the result."""
    return numerator / append_dims(t, numerator).clamp(min=clip)


# Prediction type -> x_hat from (output, z, t, clip).
PREDICTION: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "x": lambda output, z, t, clip: output,
    "v": lambda output, z, t, clip: z + (1 - append_dims(t, z)) * output,
    "eps": lambda output, z, t, clip: divide_by_time(z - (1 - append_dims(t, z)) * output, t, clip),
}

# Loss space -> the value that is compared, from (true or predicted x, z, t, clip).
LOSS_SPACE: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "x": lambda x, z, t, clip: x,
    "v": lambda x, z, t, clip: divide_by_time(x - z, 1 - t, clip),
    "eps": lambda x, z, t, clip: divide_by_time(z - append_dims(t, z) * x, 1 - t, clip),
}


class Objective(Protocol):
    """How a clean sample is noised, what is minimised, and how an output becomes x_hat."""

    def draw(self, x: Tensor, eps: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noisy sample z (B, ...) and its time t (B,) in [0, 1], of uniform u (B,)."""

    def loss(self, output: Tensor, x: Tensor, eps: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the loss, a scalar, of the network's output (B, ...) at z and t."""

    def denoise(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return x_hat (B, ...)."""


@dataclass(frozen=True)
class Flow:
    """The rectified flow of this module, with its prediction and loss space."""

    config: DiffusionConfig

    def draw(self, x: Tensor, eps: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return z at the times u."""
        return interpolate(x, eps, u), u

    def loss(self, output: Tensor, x: Tensor, eps: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the mean squared error in the loss space."""
        return self.error(self.denoise(output, z, t), x, z, t)

    def error(self, x_hat: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the mean squared error of x_hat in the loss space."""
        space, clip = LOSS_SPACE[self.config.loss], self.config.clip
        return (space(x_hat, z, t, clip) - space(x, z, t, clip)).square().mean()

    def denoise(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return x_hat."""
        return PREDICTION[self.config.prediction](output, z, t, self.config.clip)


def objective_of(config: DiffusionConfig) -> Objective:
    """Return the objective of a configuration, the package's or a plug-in's.

    Raises:
        PluginError: There is no such objective.
    """
    if config.objective == OBJECTIVES[0]:
        return Flow(config)
    made: Objective = plugins.find("objective", config.objective).target()
    return made
