"""The exported modules: one step of a sampler, and the decoder, of operations with int8 kernels.

A 2x2 transposed convolution of stride 2 equals a 1x1 convolution to four times the channels and a
pixel shuffle. ONNX Runtime computes that convolution in int8. `ablate.models.kpn.filters` writes
its filters in fewer nodes while a graph is exported.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.diffusion.objectives import objective_of
from ablate.models.autoencoder import Decoder
from ablate.study.config import Config


class ShuffledConv2d(nn.Module):
    """A 2x2 transposed convolution of stride 2 as a 1x1 convolution and a pixel shuffle.

    (B, C_in, S, S) -> (B, C_out, 2S, 2S)
    """

    def __init__(self, transposed: nn.ConvTranspose2d) -> None:
        """Use the weights of a transposed convolution.

        Raises:
            ValueError: It has another kernel, stride or padding, or no bias.
        """
        super().__init__()
        if not _is_shuffled(transposed):
            form = (transposed.kernel_size, transposed.stride, transposed.padding, transposed.groups)
            raise ValueError(
                f"kernel, stride, padding, groups: found {form}, expected (2, 2), (2, 2), (0, 0), 1 and a bias"
            )
        channels, out_channels = transposed.weight.shape[:2]
        self.conv = nn.Conv2d(channels, 4 * out_channels, 1)
        with torch.no_grad():  # (C_in, C_out, p, q) -> (C_out p q, C_in), the order of pixel_shuffle
            self.conv.weight.copy_(transposed.weight.permute(1, 2, 3, 0).reshape(4 * out_channels, channels, 1, 1))
            self.conv.bias.copy_(transposed.bias.repeat_interleave(4))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Return the features at twice the resolution."""
        return F.pixel_shuffle(self.conv(x), 2)


def _is_shuffled(layer: nn.ConvTranspose2d) -> bool:
    """Return whether a transposed convolution equals a 1x1 convolution and a pixel shuffle."""
    form = (layer.kernel_size, layer.stride, layer.padding, layer.groups)
    return form == ((2, 2), (2, 2), (0, 0), 1) and layer.bias is not None


def without_transposed(module: nn.Module) -> nn.Module:
    """Return a frozen float32 copy on the CPU with `ShuffledConv2d` for transposed convolutions of that form.

    The names of the modules stay.
    """
    replaced = (
        copy.deepcopy(module).cpu().float().to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    )
    for parent in list(replaced.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ConvTranspose2d) and _is_shuffled(child):
                setattr(parent, name, ShuffledConv2d(child).eval().requires_grad_(False))
    return replaced


class Step(nn.Module):
    """One network evaluation of a sampler: z (B, C, S, S), t (B,) -> x_hat (B, C, S, S)."""

    def __init__(self, denoiser: nn.Module, config: Config) -> None:
        """Wrap a copy of the denoiser.

        The denoiser's module groups are the copy's children.
        """
        super().__init__()
        self.denoiser = without_transposed(denoiser)
        self.objective = objective_of(config.diffusion)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Return x_hat."""
        return self.objective.denoise(self.denoiser(z, t).float(), z, t)


class Decode(nn.Module):
    """Decode normalised latents z (B, 4, 16, 16) to images (B, 3, 64, 64), unbounded."""

    shift: Tensor
    scale: Tensor

    def __init__(self, decoder: Decoder, shift: Tensor, scale: Tensor) -> None:
        """Wrap a copy of the decoder, with each channel's shift (4, 1, 1) and scale (4, 1, 1)."""
        super().__init__()
        self.decoder = without_transposed(decoder)
        self.register_buffer("shift", shift.detach().cpu().float())
        self.register_buffer("scale", scale.detach().cpu().float())

    def forward(self, z: Tensor) -> Tensor:
        """Return the images."""
        out: Tensor = self.decoder(z * self.scale + self.shift)
        return out
