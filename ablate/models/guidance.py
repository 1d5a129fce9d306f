"""Autoguidance: a trained network, pushed away from an early average of its own training.

    output = weak + scale (strong - weak)

Every x_hat is affine in the network's output, so this also holds for x_hat, whatever is predicted.

Reference:
    Karras et al., "Guiding a Diffusion Model with a Bad Version of Itself", arXiv 2406.02507.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ablate.models.denoiser import construct, groups_of, load_weights
from ablate.study.config import Config

PARTS = ("strong_network", "weak_network")  # names that hardly any module of a user's has


class Guided(nn.Module):
    """A trained network and an early average of it, as one network that takes two evaluations."""

    def __init__(self, strong: nn.Module, weak: nn.Module, scale: float) -> None:
        """Guide `strong` by `weak`, networks (z (B, C, S, S), t (B,)) -> output (B, C, S, S)."""
        super().__init__()
        self.strong_network, self.weak_network, self.scale = strong, weak, scale

    @property
    def groups(self) -> list[str]:
        """The names of the module groups, which both networks have."""
        return groups_of(self.strong_network)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Return the guided output (B, C, S, S), float32."""
        weak = self.weak_network(z, t).float()
        return torch.lerp(weak, self.strong_network(z, t).float(), self.scale)


def construct_sampled(config: Config) -> nn.Module:
    """Return the untrained network that images are sampled from, on the CPU: guided, if the run is.

    Raises:
        PluginError: As `construct`.
    """
    if not config.sample.guided:
        return construct(config)
    return Guided(construct(config), construct(config), config.sample.guidance)


def guided(strong: nn.Module, weak_weights: Mapping[str, Tensor], config: Config) -> nn.Module:
    """Return a trained network guided by the weights of an earlier average, frozen, on its device."""
    weak = construct(config)
    load_weights(weak, weak_weights)
    device = next(strong.parameters()).device
    weak.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    return Guided(strong, weak, config.sample.guidance).eval()


def unguided(network: nn.Module) -> nn.Module:
    """Return the trained network alone."""
    return network.strong_network if isinstance(network, Guided) else network
