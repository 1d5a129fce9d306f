"""The backbone: patches -> tokens -> transformer -> upscaling stack.

Each block, with (shift, scale, gate) from the time embedding (adaLN-Zero, Peebles and Xie, arXiv 2212.09748):
    h <- h + gate_1 Attention(modulate(LayerNorm(h)));   h <- h + gate_2 SwiGLU(modulate(LayerNorm(h)))
q and k carry a two-dimensional rotary embedding (RoPE, arXiv 2104.09864): half of a head's channels turn with the row,
half with the column.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.models.kpn.drift import drift_macs
from ablate.models.kpn.fused_cpu_kernels import turn_heads
from ablate.study.config import ModelConfig

TIME_SCALE = 1000.0
TIME_CHANNELS = 128


class DiffusionSpace(NamedTuple):
    """What is diffused: (channels, size, size), cut into patches of `patch` pixels; 64 tokens in every space."""

    channels: int
    size: int
    patch: int


DIFFUSION_SPACES: dict[str, DiffusionSpace] = {"pixel": DiffusionSpace(3, 64, 8), "latent": DiffusionSpace(4, 16, 2)}


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Positions(nn.Module):
    """One learned vector per token: what RoPE, being relative, cannot tell when the picture is pure noise."""

    def __init__(self, tokens: int, width: int) -> None:
        """Make room for `tokens` vectors of `width` channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw small normal numbers."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the positions to tokens (B, N, width)."""
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


def rotary_table(side: int, channels: int) -> Tensor:
    """Return the angles of the two-dimensional RoPE, (side^2, channels / 2), float32: rows turn the first half, columns the second."""
    frequencies = 100.0 ** (-torch.arange(channels // 4) / (channels // 4))
    angles = torch.arange(side)[:, None] * frequencies
    rows = angles[:, None, :].expand(side, side, -1)
    columns = angles[None, :, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, channels // 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + c/2}) by its angle; norms stay as they are.

    Args:
        x: (..., N, c).
        cos: (N, c / 2).
        sin: (N, c / 2).
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention over tokens, (B, heads, N, c) each: the faster of two equal forms for the device.

    With 64 tokens `scaled_dot_product_attention` is several times slower than the explicit form on a CPU (docs/log.md).
    """
    if q.device.type == "cpu":
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Block(nn.Module):
    """One transformer block on tokens (B, N, width), conditioned on the time embedding (B, width)."""

    def __init__(self, width: int, heads: int, extra: int = 0) -> None:
        """Build a block; the hidden layer of its SwiGLU has 8/3 of the width, rounded up to a multiple of 32, plus `extra`."""
        super().__init__()
        self.heads = heads
        hidden = -(-8 * width // 3 // 32) * 32 + extra
        self.modulation = ZeroLinear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, time: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        b, n, width = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(time)[:, None].chunk(6, dim=-1)
        h = F.layer_norm(x, (width,)) * (1 + scale1) + shift1
        qkv = self.qkv(h).view(b, n, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        turned = turn_heads(qkv, cos, sin)
        q, k = (rotate(x, cos, sin).to(v.dtype) for x in (q, k)) if turned is None else turned
        h = attend(q, k, v)
        x = x + gate1 * self.project(h.transpose(1, 2).reshape(b, n, width))
        h = F.layer_norm(x, (width,)) * (1 + scale2) + shift2
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        return x + gate2 * self.down(F.silu(gate) * up)


class Backbone(nn.Module):
    """Noisy picture (B, C, S, S) and time (B,) -> features (B, width, 8, 8)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: ModelConfig) -> None:
        """Build the transformer for the pictures of the configuration's space."""
        super().__init__()
        channels, size, patch = DIFFUSION_SPACES[model.space]
        self.side = size // patch
        self.embed = nn.Conv2d(channels, model.width, patch, stride=patch)
        self.positions = Positions(self.side**2, model.width)
        self.time = TimeEmbedding(model.width)
        given = drift_macs(model.drift_channels, channels, size) if model.drift_macs_to_backbone else 0
        # A hidden channel costs three products of the width per token; the channels are dealt to the blocks in turn.
        extra = round(given / (3 * model.width * self.side**2))
        self.blocks = nn.ModuleList(
            Block(model.width, model.attention_heads, extra // model.depth + (i < extra % model.depth))
            for i in range(model.depth)
        )
        angles = rotary_table(self.side, model.width // model.attention_heads)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def compile_blocks(self) -> None:
        """Let Inductor compile the blocks, which have the same shapes and so share one graph; the numbers change in their last bits.

        They gain most: the other modules are convolutions, which Inductor leaves to the library, and loops of our own (docs/log.md).
        """
        for block in self.blocks:
            block.compile(dynamic=False)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Return the features."""
        tokens = self.positions(self.embed(z).flatten(2).transpose(1, 2))
        time = self.time(t)
        for block in self.blocks:
            tokens = block(tokens, time, self.cos, self.sin)
        return F.layer_norm(tokens, tokens.shape[-1:]).transpose(1, 2).unflatten(2, (self.side, self.side))


class Doubling(nn.ConvTranspose2d):
    """A 2x2 transposed convolution of stride 2: (B, C_in, H, W) -> (B, C_out, 2H, 2W).

    Pixel (2i + p, 2j + q) of the outcome reads pixel (i, j) alone. So on a processor it is one product over channels, twice as fast as
    the library's transposed convolution, and the same numbers.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        """Build it with a bias."""
        super().__init__(channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the features at twice the resolution, channels last on a processor."""
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
    """A residual convolution block, then a 2x2 transposed convolution: (B, C_in, S, S) -> (B, C_out, 2S, 2S)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        """Build 3x3 -> 1x1 (twice as wide) -> LeakyReLU -> 1x1, and the upscaling."""
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, channels, 1),
        )
        self.up = Doubling(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features at twice the resolution."""
        out: Tensor = self.up(x + self.residual(x))
        return out


class Upscaler(nn.Module):
    """Features (B, width, 8, 8) -> a list of features at 16, 32 and 64 pixels, up to the size of the space's pictures."""

    def __init__(self, model: ModelConfig) -> None:
        """Build a stage for each doubling."""
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
