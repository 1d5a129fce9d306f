"""The diffusion: interpolation, prediction targets and samplers.

    z = t x + (1 - t) eps,  t in [0, 1], t = 1 is clean;   v = dz/dt = x - eps;   dz/dt = (x_hat - z) / (1 - t)
(rectified flow, arXiv 2209.03003; spaces as in "Back to Basics: Let Denoising Generative Models Denoise" (JiT), arXiv 2511.13720).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


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


def euler(denoise: Denoise, z: Tensor, num_steps: int) -> Tensor:
    """Integrate dz/dt = (x_hat - z) / (1 - t) from t = 0 to 1 by Euler's method.

    Args:
        denoise: (z (B, ...), t (B,)) -> x_hat (B, ...).
        z: (B, ...), standard normal noise.
        num_steps: Steps of equal length; also the number of network evaluations.

    Returns:
        (B, ...), the sample; the last step lands on x_hat itself.
    """
    for i in range(num_steps):
        t = i / num_steps
        x_hat = denoise(z, z.new_full((len(z),), t))
        z = torch.lerp(z, x_hat, 1 / num_steps / (1 - t))
    return z


def heun(denoise: Denoise, z: Tensor, num_steps: int) -> Tensor:
    """Integrate as `euler` does, by Heun's method: order 2 at two network evaluations a step, one in the last.

    The slope is singular at t = 1, so the last step is Euler's (Karras et al., arXiv 2206.00364, algorithm 1).
    """
    h = 1 / num_steps
    for i in range(num_steps):
        t = i * h
        slope = (denoise(z, z.new_full((len(z),), t)) - z) / (1 - t)
        ahead = z + h * slope
        if i + 1 < num_steps:
            next_slope = (denoise(ahead, z.new_full((len(z),), t + h)) - ahead) / (1 - t - h)
            ahead = z + h * (slope + next_slope) / 2
        z = ahead
    return z


SOLVERS: dict[str, Callable[[Denoise, Tensor, int], Tensor]] = {"euler": euler, "heun": heun}


def evaluations(solver: str, num_steps: int) -> int:
    """Return the number of network evaluations of one sample (NFE)."""
    return {"euler": num_steps, "heun": 2 * num_steps - 1}[solver]
