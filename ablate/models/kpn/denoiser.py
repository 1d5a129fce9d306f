"""The denoiser: backbone -> upscaler -> heads -> filter pyramid on the noisy sample, plus drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ablate.base import rng
from ablate.models.kpn.backbone import DIFFUSION_SPACES, Backbone, DiffusionSpace, Upscaler
from ablate.models.kpn.drift import BottleneckDrift, Drift
from ablate.models.kpn.pyramid import FilterHead, FilterPyramid, baseline_rows, pyramid_macs
from ablate.models.kpn.settings import KpnSettings


class DirectOutput(nn.Module):
    """Takes the output of the finest head as the sample itself, instead of filter parameters."""

    def forward(self, image: Tensor, head_outputs: Sequence[Tensor]) -> Tensor:
        return head_outputs[-1].float()


# `model.output` -> module for (configuration, scales), which maps the noisy sample (B, C, S, S) and
# the heads' outputs, coarse to fine, to a sample.
OUTPUT: dict[str, Callable[[KpnSettings, int], nn.Module]] = {
    "kpn": lambda model, scales: FilterPyramid(
        scales, kernel=model.kernel, upsampling=model.upsampling, skip=model.skip
    ),
    "direct": lambda model, scales: DirectOutput(),
}

# `model.drift_kind` -> the drift network for (hidden channels, space).
DRIFT: dict[str, Callable[[int, DiffusionSpace], nn.Module]] = {
    "unet": lambda hidden, space: Drift(hidden, channels=space.channels),
    "bottleneck": lambda hidden, space: BottleneckDrift(hidden, channels=space.channels, size=space.size),
}


class Denoiser(nn.Module):
    """Noisy sample z (B, C, S, S) and time t (B,) in [0, 1] -> output (B, C, S, S).

    The output is float32, unbounded. (C, S) is (3, 64) in pixel and (4, 16) in latent space.
    """

    def __init__(self, model: KpnSettings) -> None:
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
        self.drift = DRIFT[model.drift_kind](model.drift_channels, self.space) if model.drift else None

    @property
    def groups(self) -> list[str]:
        """The module groups that the model has."""
        there = {"filters": self.model.output == "kpn", "drift": self.model.drift}
        return [group for group in self.model.all_groups if there.get(group, True)]

    def initialise(self, seed: int) -> None:
        """Draw a seed's weights."""
        initialise(self, seed)

    def uncounted_macs(self) -> dict[str, int]:
        """Return the multiply-accumulates of the filters, which are no convolutions to torch."""
        if self.model.output != "kpn":
            return {}
        operations = {"kernel": self.model.kernel, "upsampling": self.model.upsampling, "skip": self.model.skip}
        return {"filters": pyramid_macs(self.space.channels, self.space.size, len(self.heads), **operations)}

    def compile_parts(self) -> None:
        """Compile the transformer blocks."""
        self.backbone.compile_blocks()

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
