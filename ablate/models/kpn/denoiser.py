"""The denoiser: backbone -> upscaler -> heads -> filter pyramid on the noisy picture, plus drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ablate.base import rng
from ablate.models.kpn.backbone import DIFFUSION_SPACES, Backbone, Upscaler
from ablate.models.kpn.drift import Drift
from ablate.models.kpn.pyramid import FilterHead, FilterPyramid, number_rows
from ablate.study.config import ModelConfig


class Colours(nn.Module):
    """The last head's numbers are the colours."""

    def forward(self, image: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """Return (B, C, S, S) float32."""
        return numbers[-1].float()


# (configuration, scales) -> the module that makes a picture of the noisy one (B, C, S, S) and the heads' numbers, coarse to fine.
OUTPUT: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "kpn": lambda model, scales: FilterPyramid(
        scales, kernel=model.kernel, upsampling=model.upsampling, skip=model.skip
    ),
    "direct": lambda model, scales: Colours(),
}


class Denoiser(nn.Module):
    """Noisy picture z (B, C, S, S) and time t (B,) in [0, 1] -> the network's output (B, C, S, S), float32, unbounded.

    (C, S) is (3, 64) in pixel space and (4, 16) in latent space.
    """

    def __init__(self, model: ModelConfig) -> None:
        """Build the parts; `initialise` gives them a seed's weights."""
        super().__init__()
        self.model, self.space = model, DIFFUSION_SPACES[model.space]
        self.backbone = Backbone(model)
        self.upscaler = Upscaler(model)
        # By scale, coarse to fine; a head keeps its name, and with it its initial weights, where others are missing.
        scales = len(self.upscaler.stages)
        heads = dict(enumerate(zip(model.upscaler_channels[:scales], model.head_channels[:scales], strict=True)))
        if model.output == "direct":  # one head, whose numbers are the colours
            heads, rows = {max(heads): heads[max(heads)]}, list(range(self.space.channels))
        else:
            rows = number_rows(model.kernel, model.upsampling, model.skip)
        self.heads = nn.ModuleDict({str(scale): FilterHead(*channels, rows) for scale, channels in heads.items()})
        self.filters = OUTPUT[model.output](model, scales)
        self.drift = Drift(model.drift_channels, channels=self.space.channels) if model.drift else None

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Return filtered picture + drift."""
        filtered, drift = self.parts(z, t)
        return filtered if drift is None else filtered + drift

    def parts(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the filtered picture (or predicted colours) and the drift (None without a drift network), each (B, C, S, S) float32."""
        features = self.upscaler(self.backbone(z, t))
        numbers = [head(f) for head, f in zip(self.heads.values(), features[-len(self.heads) :], strict=True)]
        filtered: Tensor = self.filters(z, numbers)
        return filtered, None if self.drift is None else self.drift(z).float()


def initialise(module: nn.Module, seed: int) -> None:
    """Draw every layer's weights from a generator keyed by (seed, the layer's name): layers that two variants share start alike."""
    with torch.random.fork_rng(devices=[]):
        for name, layer in module.named_modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                torch.manual_seed(rng.derive(seed, "init", name))
                reset()


def build(model: ModelConfig, seed: int, device: torch.device) -> Denoiser:
    """Return a denoiser with a seed's initial weights, convolutions in channels-last order, on a device."""
    denoiser = Denoiser(model)
    initialise(denoiser, seed)
    return denoiser.to(device).to(memory_format=torch.channels_last)
