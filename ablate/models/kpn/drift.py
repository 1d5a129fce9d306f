"""The drift network: a small network on the noisy sample, whose output is added to the filtered one.

A filter that is shared by the channels can only mix the colours of its neighbourhood. The drift
adds what it cannot make. It starts at zero.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

BOTTLENECK_SIZE, BOTTLENECK_CHANNELS = 8, 16


class ZeroInit(nn.Module):
    """Mixin for layers that start at zero."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class ZeroConv2d(ZeroInit, nn.Conv2d):
    """A convolution whose weight and bias start at zero."""


def drift_macs(hidden: int, channels: int, size: int) -> int:
    """Return the multiply-accumulates of `Drift` on one sample (channels, size, size)."""
    full, half, quarter = (9 * (size >> i) ** 2 for i in range(3))
    return full * (2 * channels * hidden + hidden**2) + half * 2 * hidden**2 + quarter * hidden**2


class Drift(nn.Module):
    """Noisy sample (B, C, S, S) -> offset (B, C, S, S); three scales, skips by addition."""

    def __init__(self, hidden: int, *, channels: int = 3) -> None:
        """Build the U-Net with `hidden` channels at every scale."""
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(c, hidden, 3, padding=1) for c in (channels, hidden, hidden))
        self.up = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, padding=1) for _ in range(2))
        self.out = ZeroConv2d(hidden, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        full = F.leaky_relu(self.down[0](z), 0.2)
        half = F.leaky_relu(self.down[1](F.avg_pool2d(full, 2)), 0.2)
        quarter = F.leaky_relu(self.down[2](F.avg_pool2d(half, 2)), 0.2)
        half = half + F.leaky_relu(self.up[0](F.interpolate(quarter, scale_factor=2.0)), 0.2)
        full = full + F.leaky_relu(self.up[1](F.interpolate(half, scale_factor=2.0)), 0.2)
        out: Tensor = self.out(full)
        return out


class BottleneckDrift(nn.Module):
    """Noisy sample (B, C, S, S) -> offset (B, C, S, S), by way of 8 x 8 x 16 numbers and without skips.

    It can add colours to regions, but passes no noise from pixel to pixel.

    Reference: the drift network of "Generating Cats with KPN Filtering" (2025).
    """

    def __init__(self, hidden: int, *, channels: int = 3, size: int = 64) -> None:
        """Build strided convolutions down to 8 x 8, and convolutions after nearest upsampling back."""
        super().__init__()
        stages = (size // BOTTLENECK_SIZE).bit_length() - 1
        widths = [channels, *[hidden] * (stages - 1), BOTTLENECK_CHANNELS]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        back = [BOTTLENECK_CHANNELS, *[hidden] * stages]
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(back))
        self.out = ZeroConv2d(hidden, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        for layer in self.down:
            z = F.leaky_relu(layer(z), 0.2)
        for layer in self.up:
            z = F.leaky_relu(layer(F.interpolate(z, scale_factor=2.0)), 0.2)
        out: Tensor = self.out(z)
        return out
