"""Solvers of dz/dt = (x_hat - z) / (1 - t) from noise (t = 0) to the image (t = 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


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
