"""Solvers of dz/dt = (x_hat - z) / (1 - t), from noise (t = 0) to the image (t = 1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ablate.study import plugins
from ablate.study.config import SampleConfig

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


def solver_of(name: str) -> Callable[[Denoise, Tensor, int], Tensor]:
    """Return the solver of a name, the package's or a plug-in's.

    Raises:
        PluginError: There is none.
    """
    solver: Callable[[Denoise, Tensor, int], Tensor] = SOLVERS.get(name) or plugins.find("solver", name).target
    return solver


@cache
def evaluations(solver: str, num_steps: int) -> int:
    """Return the number of network evaluations per sample (NFE)."""
    if solver in SOLVERS:
        return {"euler": num_steps, "heun": 2 * num_steps - 1}[solver]
    calls = 0

    def counted(z: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(z)

    solver_of(solver)(counted, torch.zeros(1, 1, 8, 8), num_steps)
    return calls


def network_evaluations(sample: SampleConfig, num_steps: int | None = None) -> int:
    """Return the network evaluations per sampled image (NFE): two for each of the solver's, if guided.

    Args:
        sample: The solver, its steps and the guidance.
        num_steps: Other steps.
    """
    return sample.networks * evaluations(sample.solver, num_steps or sample.num_steps)


def steps_within(solver: str, nfe: int) -> int:
    """Return the most steps, at least one, that take no more than so many network evaluations."""
    if solver in SOLVERS:
        return {"euler": nfe, "heun": (nfe + 1) // 2}[solver]
    return max(1, *(steps for steps in range(1, nfe + 1) if evaluations(solver, steps) <= nfe), 0)
