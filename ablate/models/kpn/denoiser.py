"""The denoiser: backbone -> upscaler -> heads -> filter pyramid on the noisy sample, plus drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ablate.base import rng
from ablate.models.kpn.backbone import DIFFUSION_SPACES, Backbone, Upscaler
from ablate.models.kpn.drift import Drift
from ablate.models.kpn.pyramid import FilterHead, FilterPyramid, baseline_rows
from ablate.study.config import ModelConfig


class DirectOutput(nn.Module):
    """Takes the output of the finest head as the sample itself, instead of filter parameters."""

    def forward(self, image: Tensor, head_outputs: Sequence[Tensor]) -> Tensor:
        return head_outputs[-1].float()


# `model.output` -> module for (configuration, scales), which maps the noisy sample (B, C, S, S) and
# the heads' outputs, coarse to fine, to a sample.
OUTPUT: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "kpn": lambda model, scales: FilterPyramid(
        scales, kernel=model.kernel, upsampling=model.upsampling, skip=model.skip
    ),
    "direct": lambda model, scales: DirectOutput(),
}


class Denoiser(nn.Module):
    """Noisy sample z (B, C, S, S) and time t (B,) in [0, 1] -> output (B, C, S, S).

    The output is float32, unbounded. (C, S) is (3, 64) in pixel and (4, 16) in latent space.
    """

    def __init__(self, model: ModelConfig) -> None:
        """Build the parts; `initialise` draws a seed's weights."""
        super().__init__()
        self.model, self.space = model, DIFFUSION_SPACES[model.space]
        self.backbone = Backbone(model)
        self.upscaler = Upscaler(model)
        # Heads are named by scale, from coarse to fine. Names key the initial weights, so a head
        # keeps its name where other heads are missing.
        scales = len(self.upscaler.stages)
        heads = dict(enumerate(zip(model.upscaler_channels[:scales], model.head_channels[:scales], strict=True)))
        if model.output == "direct":
            heads, rows = {max(heads): heads[max(heads)]}, list(range(self.space.channels))
        else:
            rows = baseline_rows(model.kernel, model.upsampling, model.skip)
        self.heads = nn.ModuleDict({str(scale): FilterHead(*channels, rows) for scale, channels in heads.items()})
        self.filters = OUTPUT[model.output](model, scales)
        self.drift = Drift(model.drift_channels, channels=self.space.channels) if model.drift else None

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Return the sum of filtered sample and drift."""
        filtered, drift = self.parts(z, t)
        return filtered if drift is None else filtered + drift

    def parts(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the filtered sample and the drift (or None), (B, C, S, S) float32 each."""
        features = self.upscaler(self.backbone(z, t))
        outputs = [head(f) for head, f in zip(self.heads.values(), features[-len(self.heads) :], strict=True)]
        filtered: Tensor = self.filters(z, outputs)
        return filtered, None if self.drift is None else self.drift(z).float()


def initialise(module: nn.Module, seed: int) -> None:
    """Draw each layer's weights from a generator keyed by (seed, `init`, the layer's name).

    So the layers that two variants have in common start with the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        for name, layer in module.named_modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                torch.default_generator.manual_seed(rng.derive(seed, "init", name))
                reset()


def build(model: ModelConfig, seed: int, device: torch.device) -> Denoiser:
    """Return a denoiser with a seed's initial weights, on a device, convolutions channels last."""
    denoiser = Denoiser(model)
    initialise(denoiser, seed)
    return denoiser.to(device).to(memory_format=torch.channels_last)
