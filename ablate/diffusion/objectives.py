"""Noising, what the network predicts, and the space in which its error is measured.

    z = t x + (1 - t) eps,   t in [0, 1], t = 1 is clean
    v = dz/dt = x - eps = (x - z) / (1 - t)

Reference: rectified flow, arXiv 2209.03003; the spaces x, v and eps as in "Back to Basics: Let
Denoising Generative Models Denoise" (JiT), arXiv 2511.13720.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
