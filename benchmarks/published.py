"""The denoiser as the post computes it: the reference of benchmarks and tests.

Tokens are pixels of an 8x8 feature map and their layers 1x1 convolutions. Attention is an explicit
softmax, a filter unfolds all 25 shifted images, and the upsampling calls `grid_sample` 25 times;
eager, channels first. The formulas are those of `ablate.models.kpn`, so a `Denoiser` with the same
weights gives the same results.

Reference: A. Schreiner, "Generating Cats with KPN Filtering", 2025.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.models.kpn.backbone import Backbone, Block, UpscalerStage
from ablate.models.kpn.cpu_kernels import KERNEL_SIZE, RADIUS
from ablate.models.kpn.denoiser import Denoiser
from ablate.models.kpn.filters import TAPS
from ablate.models.kpn.rotary import rotate


def denoise(model: Denoiser, z: Tensor, t: Tensor) -> Tensor:
    """Return the output (B, C, S, S) of a denoiser with the baseline's filter operations.

    Args:
        model: The denoiser whose weights are used.
        z: Noisy samples (B, C, S, S).
        t: Times (B,) in [0, 1].
    """
    x, features = _backbone(model.backbone, z, t), []
    for stage in model.upscaler.stages:
        assert isinstance(stage, UpscalerStage)
        x = F.conv_transpose2d(x + stage.residual(x), stage.up.weight, stage.up.bias, stride=2)
        features.append(x)
    params = [head(f) for head, f in zip(model.heads.values(), features, strict=True)]
    image, filtered = z, []
    for p in reversed(params):
        filtered.append(filter_pixels(image, p[:, :TAPS].tanh()))
        image = F.avg_pool2d(filtered[-1], 2)
    for p, fine in zip(params, reversed(filtered), strict=True):
        image = torch.lerp(upsample_gaussian(image, p[:, TAPS:-1]), fine, p[:, -1:].sigmoid())
    return image if model.drift is None else image + model.drift(z)


def filter_pixels(image: Tensor, weights: Tensor) -> Tensor:
    """Filter an image (B, C, H, W) with one 5x5 kernel per pixel (B, 25, H, W)."""
    patches = (
        F.unfold(image, KERNEL_SIZE, padding=RADIUS).unflatten(1, (image.shape[1], TAPS)).unflatten(3, image.shape[2:])
    )
    return (patches * weights[:, None]).sum(2)


def upsample_gaussian(image: Tensor, params: Tensor) -> Tensor:
    """Upsample an image (B, C, h, w) by two with Gaussians of parameters (B, 3, 2h, 2w)."""
    b, _, h, w = image.shape
    kx, ky, rho = 4 * params[:, 0].sigmoid(), 4 * params[:, 1].sigmoid(), params[:, 2].tanh()
    # The centre of each new pixel on the low-resolution grid, and the pixel that contains it.
    steps = [torch.arange(2 * n, dtype=image.dtype, device=image.device) for n in (h, w)]
    y, x = ((step + 0.5) / 2 - 0.5 for step in steps)
    near_y, near_x = (step.div(2, rounding_mode="floor") for step in steps)
    total, norm = torch.zeros_like(params[:, :1]), torch.zeros_like(params[:, :1])
    for i in range(-RADIUS, RADIUS + 1):
        for j in range(-RADIUS, RADIUS + 1):
            dy, dx = (near_y + i - y)[:, None], (near_x + j - x)[None, :]
            weight = torch.exp(-2 * (kx**2 * dx**2 + 2 * rho * kx * ky * dx * dy + ky**2 * dy**2))[:, None]
            at = torch.broadcast_tensors((2 * (near_x + j) + 1) / w - 1, ((2 * (near_y + i) + 1) / h - 1)[:, None])
            grid = torch.stack(at, dim=-1).expand(b, -1, -1, -1)
            values = F.grid_sample(image, grid, mode="nearest", padding_mode="border", align_corners=False)
            total, norm = total + weight * values, norm + weight
    return total / norm


def _backbone(net: Backbone, z: Tensor, t: Tensor) -> Tensor:
    x = net.embed(z) + net.positions.weight.T.unflatten(1, (net.side, net.side))
    time = net.time(t)
    for block in net.blocks:
        assert isinstance(block, Block)
        x = _block(block, x, time, net.cos, net.sin)
    return _normalise(x)


def _block(block: Block, x: Tensor, time: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    def layer(name: str, h: Tensor) -> Tensor:
        linear = getattr(block, name)
        return F.conv2d(h, linear.weight[:, :, None, None], linear.bias)

    width, side = x.shape[1], x.shape[2]
    shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(time)[:, :, None, None].chunk(6, dim=1)
    qkv = layer("qkv", _normalise(x) * (1 + scale1) + shift1)
    q, k, v = qkv.view(len(x), 3, block.heads, width // block.heads, side * side).transpose(3, 4).unbind(1)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
    mixed = (weights @ v).transpose(2, 3).reshape(x.shape)
    x = x + gate1 * layer("project", mixed)
    gate, up = layer("gate_up", _normalise(x) * (1 + scale2) + shift2).chunk(2, dim=1)
    return x + gate2 * layer("down", F.silu(gate) * up)


def _normalise(x: Tensor) -> Tensor:
    """Normalise the channels of each pixel."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
