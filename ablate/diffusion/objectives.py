"""Interpolation, what the network predicts, and the space in which its error is measured.

    z = t x + (1 - t) eps,  t in [0, 1], t = 1 is clean;   v = dz/dt = x - eps;   dz/dt = (x_hat - z) / (1 - t)
(rectified flow, arXiv 2209.03003; spaces as in "Back to Basics: Let Denoising Generative Models Denoise" (JiT), arXiv 2511.13720).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def expand(t: Tensor, like: Tensor) -> Tensor:
    """Return t (B,) with as many trailing dimensions of one as `like` has."""
    return t.view(-1, *([1] * (like.ndim - 1)))


def interpolate(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return z = t x + (1 - t) eps for x, eps (B, ...) and t (B,)."""
    return torch.lerp(eps, x, expand(t, x))


def divide(numerator: Tensor, t: Tensor, clip: float) -> Tensor:
    """Return numerator (B, ...) / max(t, clip) for t (B,): the one place where a time that divides (t or 1 - t) is bounded."""
    return numerator / expand(t, numerator).clamp(min=clip)


# (output, z, t, clip) -> x_hat: what the network's output means.
PREDICTION: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "x": lambda output, z, t, clip: output,
    "v": lambda output, z, t, clip: z + (1 - expand(t, z)) * output,
    "eps": lambda output, z, t, clip: divide(z - (1 - expand(t, z)) * output, t, clip),
}

# (x, predicted or true, z, t, clip) -> the space in which the error is measured.
LOSS_SPACE: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "x": lambda x, z, t, clip: x,
    "v": lambda x, z, t, clip: divide(x - z, 1 - t, clip),
    "eps": lambda x, z, t, clip: divide(z - expand(t, z) * x, 1 - t, clip),
}
