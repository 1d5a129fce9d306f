"""The backbone: patches -> tokens -> transformer, and the upscaler that follows it.

A block, with (shift, scale, gate) from the time embedding (adaLN-Zero):
    h <- h + gate_1 Attention(modulate(LayerNorm(h)))
    h <- h + gate_2 SwiGLU(modulate(LayerNorm(h)))

Queries and keys carry a two-dimensional rotary embedding (`ablate.models.kpn.rotary`).

Reference: Peebles and Xie, Scalable Diffusion Models with Transformers, arXiv 2212.09748.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.models.kpn.drift import ZeroInit, drift_macs
from ablate.models.kpn.rotary import rotary_angles, split_and_rotate
from ablate.models.kpn.settings import KpnSettings

TIME_SCALE = 1000.0
TIME_CHANNELS = 128


class DiffusionSpace(NamedTuple):
    """The space of diffusion: samples (channels, size, size), cut into 64 square patches."""

    channels: int
    size: int  # pixels
    patch: int  # pixels


# `model.space` -> its shape.
DIFFUSION_SPACES: dict[str, DiffusionSpace] = {"pixel": DiffusionSpace(3, 64, 8), "latent": DiffusionSpace(4, 16, 2)}


class ZeroLinear(ZeroInit, nn.Linear):
    """A linear layer whose weight and bias start at zero."""


class Positions(nn.Module):
    """A learned vector per token.

    RoPE is relative: it does not say where a token of pure noise is.
    """

    def __init__(self, tokens: int, width: int) -> None:
        """Create `tokens` vectors of `width` channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 0.02^2)."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, N, width) with the vectors added."""
        return tokens + self.weight


class TimeEmbedding(nn.Module):
    """t in [0, 1] -> sines and cosines of 1000 t -> a vector of `width` channels."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        """Build the two-layer perceptron."""
        super().__init__()
        frequencies = torch.exp(-math.log(10_000) * torch.arange(TIME_CHANNELS // 2) / (TIME_CHANNELS // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        """Map t (B,) to (B, width)."""
        angles = TIME_SCALE * t[:, None] * self.frequencies
        out: Tensor = self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax attention over tokens, (B, heads, N, c), of q, k and v (B, heads, N, c).

    With 64 tokens on a CPU, torch's `scaled_dot_product_attention` is several times slower than the
    explicit form (docs/log.md).
    """
    if q.device.type == "cpu":
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Block(nn.Module):
    """A transformer block on tokens (B, N, width), conditioned on the time embedding (B, width)."""

    def __init__(self, width: int, heads: int, extra: int = 0) -> None:
        """Build a block.

        Args:
            width: Channels of a token.
            heads: Attention heads.
            extra: Hidden channels of the SwiGLU beyond 8/3 of the width, rounded up to 32.
        """
        super().__init__()
        self.heads = heads
        hidden = -(-8 * width // 3 // 32) * 32 + extra
        self.modulation = ZeroLinear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, time: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return tokens of the same shape; cos and sin (N, c / 2) are of the rotary angles."""
        b, n, width = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(time)[:, None].chunk(6, dim=-1)
        h = F.layer_norm(x, (width,)) * (1 + scale1) + shift1
        qkv = self.qkv(h).view(b, n, 3, self.heads, width // self.heads)
        h = attend(*split_and_rotate(qkv, cos, sin))
        x = x + gate1 * self.project(h.transpose(1, 2).reshape(b, n, width))
        h = F.layer_norm(x, (width,)) * (1 + scale2) + shift2
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        return x + gate2 * self.down(F.silu(gate) * up)


class Backbone(nn.Module):
    """Noisy sample z (B, C, S, S) and time t (B,) -> features (B, width, 8, 8)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: KpnSettings) -> None:
        """Build the transformer for the configuration's diffusion space."""
        super().__init__()
        channels, size, patch = DIFFUSION_SPACES[model.space]
        self.side = size // patch
        self.embed = nn.Conv2d(channels, model.width, patch, stride=patch)
        self.positions = Positions(self.side**2, model.width)
        self.time = TimeEmbedding(model.width)
        macs = drift_macs(model.drift_channels, channels, size) if model.drift_macs_to_backbone else 0
        # A hidden channel of a SwiGLU costs 3 width MACs per token. The blocks share them evenly.
        extra = round(macs / (3 * model.width * self.side**2))
        self.blocks = nn.ModuleList(
            Block(model.width, model.attention_heads, extra // model.depth + (i < extra % model.depth))
            for i in range(model.depth)
        )
        angles = rotary_angles(self.side, model.width // model.attention_heads)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def compile_blocks(self) -> None:
        """Compile the blocks with Inductor; results change in their last bits.

        The blocks have equal shapes, so they share one compiled graph. The other modules would gain
        little: Inductor calls the library's convolutions, and the filters are compiled already
        (docs/log.md).
        """
        for block in self.blocks:
            block.compile(dynamic=False)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        tokens = self.positions(self.embed(z).flatten(2).transpose(1, 2))
        time = self.time(t)
        for block in self.blocks:
            tokens = block(tokens, time, self.cos, self.sin)
        return F.layer_norm(tokens, tokens.shape[-1:]).transpose(1, 2).unflatten(2, (self.side, self.side))


class Upsample2x(nn.ConvTranspose2d):
    """A 2x2 transposed convolution of stride 2: (B, C_in, H, W) -> (B, C_out, 2H, 2W).

    Output pixel (2i + p, 2j + q) reads input pixel (i, j) alone. On a CPU this is one matrix
    product over the channels, twice as fast as torch's transposed convolution.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the features at twice the resolution, channels last on a CPU."""
        if x.device.type != "cpu" or torch.compiler.is_exporting():
            return super().forward(x, output_size)
        b, _, h, w = x.shape
        assert self.bias is not None
        # (C_in, C_out, p, q) -> (p q C_out, C_in)
        weight = self.weight.permute(2, 3, 1, 0).reshape(-1, self.in_channels)
        out = F.linear(x.permute(0, 2, 3, 1), weight, self.bias.repeat(4))
        out = out.view(b, h, w, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)
        return out.permute(0, 3, 1, 2)


class UpscalerStage(nn.Module):
    """A residual convolution block, then upsampling: (B, C_in, S, S) -> (B, C_out, 2S, 2S)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        """Build 3x3 -> 1x1 (twice as wide) -> LeakyReLU -> 1x1, and the upsampling."""
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, channels, 1),
        )
        self.up = Upsample2x(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(x + self.residual(x))
        return out


class Upscaler(nn.Module):
    """Features (B, width, 8, 8) -> features at 16, 32 and 64 pixels, up to the space's size."""

    def __init__(self, model: KpnSettings) -> None:
        """Build a stage per doubling of the resolution."""
        super().__init__()
        doublings = DIFFUSION_SPACES[model.space].patch.bit_length() - 1
        channels = (model.width, *model.upscaler_channels[:doublings])
        self.stages = nn.ModuleList(UpscalerStage(a, b) for a, b in pairwise(channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of every stage, coarse to fine."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
