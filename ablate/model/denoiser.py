"""The denoiser: backbone -> upscaler -> heads -> filter pyramid on the noisy picture, plus drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ablate import rng
from ablate.model.backbone import Backbone, Upscaler
from ablate.model.drift import Drift
from ablate.model.pyramid import FilterHead, filter_pyramid, number_rows, pyramid_macs
from ablate.variant import ModelConfig

CHANNELS = 3
SIZE = 64
GROUPS = ("backbone", "upscaler", "heads", "filters", "drift")


# (configuration, noisy picture (B, C, S, S), the heads' numbers, coarse to fine) -> picture (B, C, S, S).
OUTPUT: dict[str, Callable[[ModelConfig, Tensor, Sequence[Tensor]], Tensor]] = {
    "kpn": lambda model, z, numbers: filter_pyramid(
        z, numbers, kernel=model.kernel, upsampling=model.upsampling, skip=model.skip
    ),
    "direct": lambda model, z, numbers: numbers[-1].float(),
}


class Denoiser(nn.Module):
    """Noisy picture z (B, 3, 64, 64) and time t (B,) in [0, 1] -> the network's output (B, 3, 64, 64), float32, unbounded."""

    def __init__(self, model: ModelConfig) -> None:
        """Build the parts; `initialise` gives them a seed's weights."""
        super().__init__()
        self.model = model
        self.backbone = Backbone(model, channels=CHANNELS, size=SIZE)
        self.upscaler = Upscaler(model)
        # By scale, coarse to fine; a head keeps its name, and with it its initial weights, where others are missing.
        heads = dict(enumerate(zip(model.upscaler_channels, model.head_channels, strict=True)))
        if model.output == "direct":  # one head, whose numbers are the colours
            heads, rows = {max(heads): heads[max(heads)]}, list(range(CHANNELS))
        else:
            rows = number_rows(model.kernel, model.upsampling, model.skip)
        self.heads = nn.ModuleDict({str(scale): FilterHead(*channels, rows) for scale, channels in heads.items()})
        self.drift = Drift(model.drift_channels, channels=CHANNELS) if model.drift else None

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Return filtered picture + drift."""
        filtered, drift = self.parts(z, t)
        return filtered if drift is None else filtered + drift

    def parts(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the filtered picture (or predicted colours) and the drift (None without a drift network), each (B, 3, 64, 64) float32."""
        features = self.upscaler(self.backbone(z, t))
        numbers = [head(f) for head, f in zip(self.heads.values(), features[-len(self.heads) :], strict=True)]
        filtered = OUTPUT[self.model.output](self.model, z, numbers)
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


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates per picture and evaluation, by module group."""

    params: dict[str, int]
    macs: dict[str, int]

    @property
    def total_params(self) -> int:
        """All parameters."""
        return sum(self.params.values())

    @property
    def total_macs(self) -> int:
        """All multiply-accumulates of one network evaluation of one picture."""
        return sum(self.macs.values())


def cost(model: ModelConfig) -> Cost:
    """Count parameters and multiply-accumulates by running one picture through an untrained network on the CPU.

    Convolutions and matrix products are counted by torch's FlopCounterMode (two operations each), the filters by their taps.
    """
    with torch.random.fork_rng(devices=[]):
        denoiser = Denoiser(model)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser(torch.zeros(1, CHANNELS, SIZE, SIZE), torch.zeros(1))
    flops = {name.split(".", 1)[1]: sum(ops.values()) for name, ops in counter.get_flop_counts().items() if "." in name}
    params = dict.fromkeys(GROUPS, 0)
    for name, parameter in denoiser.named_parameters():
        params[name.split(".")[0]] += parameter.numel()
    # The heads are a dictionary, which is never called itself: its entries are.
    called = {group: {group} for group in GROUPS} | {"heads": {f"heads.{scale}" for scale in denoiser.heads}}
    macs = {group: sum(n for name, n in flops.items() if name in called[group]) // 2 for group in GROUPS}
    if model.output == "kpn":
        parts = {"kernel": model.kernel, "upsampling": model.upsampling, "skip": model.skip}
        macs["filters"] = pyramid_macs(CHANNELS, SIZE, len(denoiser.heads), **parts)
    return Cost(params=params, macs=macs)
