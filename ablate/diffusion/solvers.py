"""Solvers of dz/dt = (x_hat - z) / (1 - t), from noise (t = 0) to the image (t = 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]  # (z (B, ...), t (B,)) -> x_hat (B, ...)


def euler(denoise: Denoise, z: Tensor, num_steps: int) -> Tensor:
    """Integrate from t = 0 to 1 by Euler's method: order 1, one network evaluation per step.

    Args:
        denoise: (z (B, ...), t (B,)) -> x_hat (B, ...).
        z: (B, ...), standard normal noise.
        num_steps: Number of steps, of equal length.

    Returns:
        (B, ...), the sample, which is the last x_hat.
    """
    for i in range(num_steps):
        t = i / num_steps
        x_hat = denoise(z, z.new_full((len(z),), t))
        z = torch.lerp(z, x_hat, 1 / num_steps / (1 - t))
    return z


def heun(denoise: Denoise, z: Tensor, num_steps: int) -> Tensor:
    """Integrate as `euler` does, by Heun's method: order 2, two network evaluations per step.

    The slope is singular at t = 1, so the last step is Euler's, with one evaluation.

    Reference:
        Karras et al., arXiv 2206.00364, algorithm 1.
    """
    h = 1 / num_steps
    for i in range(num_steps):
        t = i * h
        slope = (denoise(z, z.new_full((len(z),), t)) - z) / (1 - t)
        z_next = z + h * slope
        if i + 1 < num_steps:
            slope_next = (denoise(z_next, z.new_full((len(z),), t + h)) - z_next) / (1 - t - h)
            z_next = z + h * (slope + slope_next) / 2
        z = z_next
    return z


SOLVERS: dict[str, Callable[[Denoise, Tensor, int], Tensor]] = {"euler": euler, "heun": heun}


def evaluations(solver: str, num_steps: int) -> int:
    """Return the number of network evaluations per sample (NFE)."""
    return {"euler": num_steps, "heun": 2 * num_steps - 1}[solver]


def steps_within(solver: str, nfe: int) -> int:
    """Return the most steps, at least one, that take no more than so many network evaluations."""
    return {"euler": nfe, "heun": (nfe + 1) // 2}[solver]
