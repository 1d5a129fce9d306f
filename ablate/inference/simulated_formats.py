"""Number formats simulated in float32 by rounding: their effect on images, not their speed.

    x  ->  s round(x / s),   s = max|x| / max of the format

Weights have a scale per output channel. Activations have one per tensor, from the largest magnitude
on calibration inputs: no image depends on the others in its batch. Rounded are the weights and
inputs of convolutions and linear layers, and the operands of the filters: the kernel parameters
(their weights) and the images (their inputs).

fp8 is E4M3 (4 bits of exponent, 3 of mantissa, largest 448), on weights and activations. int8
rounds both too, int4 the weights only, and bf16 both without a scale.

Reference: Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablate.models.guidance import PARTS
from ablate.models.kpn.pyramid import FilterPyramid

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Format:
    """A number format: `round_` maps scaled values within +-`largest` to values of the format."""

    bits: int
    largest: float
    round_: Callable[[Tensor], Tensor]
    activations: bool = True  # activations are rounded too

    @property
    def scaled(self) -> bool:
        """Whether values are scaled to the format's range before they are rounded."""
        return math.isfinite(self.largest)


def _to_fp8(x: Tensor) -> Tensor:
    return x.to(torch.float8_e4m3fn).float()


FORMATS: dict[str, Format] = {
    "bf16": Format(16, math.inf, lambda x: x.to(torch.bfloat16).float()),
    "fp8": Format(8, 448.0, _to_fp8),
    "int8": Format(8, 127.0, torch.round),
    "int4": Format(4, 7.0, torch.round, activations=False),
}


def rounded(x: Tensor, form: Format, amax: Tensor | None) -> Tensor:
    """Return x rounded to a format.

    `amax` (broadcastable) is scaled to its largest value; beyond it x is clipped.
    """
    if amax is None or not form.scaled:
        return form.round_(x)
    scale = amax.clamp(min=1e-12) / form.largest
    return form.round_((x / scale).clamp(-form.largest, form.largest)) * scale


def rounded_weight(layer: nn.Module, form: Format) -> Tensor:
    """Return a layer's weight, rounded with a scale per output channel."""
    weight = layer.get_parameter("weight").detach()
    channel = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    others = [d for d in range(weight.ndim) if d != channel]
    return rounded(weight, form, weight.abs().amax(others, keepdim=True))


def rounded_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules with a rounded input, by name: layers, and the operands of the filters."""
    modules: dict[str, nn.Module] = {n: m for n, m in network.named_modules() if isinstance(m, LAYERS)}
    for name, module in network.named_modules():
        if isinstance(module, FilterPyramid):
            modules |= {f"{name}.{n}": m for n, m in module.named_modules() if isinstance(m, nn.Identity)}
    return modules


def group_of(name: str) -> str:
    """Return the module group of a module's name, as of `denoiser.backbone.blocks.0` in `Step`.

    A guided denoiser has the name of one of its two networks before the group.
    """
    words = name.split(".")
    for outer in (("denoiser",), PARTS):
        words = words[1:] if words and words[0] in outer else words
    return (words or [""])[0] or "other"


def activation_ranges(network: nn.Module, inputs: Iterable[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Return the largest input magnitude of each of `rounded_modules` over calibration inputs."""
    largest: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen = given[0].detach().abs().amax()
            largest[name] = torch.maximum(largest[name], seen) if name in largest else seen

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in rounded_modules(network).items()]
    try:
        with torch.no_grad():
            for given in inputs:
                network(*given)
    finally:
        for handle in handles:
            handle.remove()
    return largest


def simulated(network: nn.Module, scheme: str, groups: Collection[str], amax: dict[str, Tensor]) -> nn.Module:
    """Return a copy of a network that rounds in some module groups.

    Args:
        network: float32, frozen.
        scheme: A key of `FORMATS`.
        groups: Names of module groups.
        amax: From `activation_ranges`; a format without a scale needs none.
    """
    form = FORMATS[scheme]
    network = copy.deepcopy(network)

    def read(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda module, given: (rounded(given[0], form, amax[name] if form.scaled else None), *given[1:])

    for name, module in rounded_modules(network).items():
        if group_of(name) not in groups:
            continue
        is_weight = ".filter_params." in name
        if isinstance(module, LAYERS):
            module.get_parameter("weight").data = rounded_weight(module, form)
        if form.activations or is_weight:
            module.register_forward_pre_hook(read(name))
    return network


def weight_bytes(network: nn.Module, scheme: str, groups: Collection[str]) -> int:
    """Return the bytes of a network's parameters, with the weights of some groups in a format.

    Each output channel has a 4-byte scale.
    """
    total = 4 * sum(p.numel() for p in network.parameters())
    form = FORMATS.get(scheme)
    for name, module in rounded_modules(network).items():
        if form is not None and isinstance(module, LAYERS) and group_of(name) in groups:
            weight = module.get_parameter("weight")
            channels = weight.shape[1 if isinstance(module, nn.ConvTranspose2d) else 0]
            total += weight.numel() * form.bits // 8 - 4 * weight.numel() + (4 * channels if form.scaled else 0)
    return total
