"""The two per-pixel filters of a kernel-predicting network (KPN).

Down: a 5x5 kernel per pixel, shared by the channels, with zero padding:
    y[c, i, j] = sum_k w_k[i, j] x[c, i + dy_k, j + dx_k]

Up: a normalised 5x5 Gaussian per high-resolution pixel, over the low-resolution image, with the
distance d from the pixel's centre, replicated borders, and
    w = softmax(-2 q),    q(d) = kx^2 dx^2 + 2 rho kx ky dx dy + ky^2 dy^2
    kx = 4 sigmoid(a),  ky = 4 sigmoid(b),  rho = tanh(c)
q is positive semi-definite because |rho| < 1.

Reference: Bako et al., "Kernel-Predicting Convolutional Networks for Denoising Monte Carlo
Renderings", 2017; "Procedural Kernel Networks", arXiv 2112.09318.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ablate.base.text import printable
from ablate.models.kpn import cpu_kernels
from ablate.models.kpn.cpu_kernels import KERNEL_SIZE, RADIUS, usable_for

TAPS = KERNEL_SIZE * KERNEL_SIZE
GAUSSIAN_PARAMS = 3
# Below this sum of magnitudes `l1_floored` does not amplify: the gradient of x / sum |x| grows
# without bound as the sum goes to 0.
L1_FLOOR = 1.0


class Operation(NamedTuple):
    """A choice for one of the filter pyramid's operations."""

    params: int  # filter parameters per pixel that it reads
    apply: Callable[..., Tensor]
    taps: int = TAPS  # multiply-accumulates per pixel and channel


class _WindowSum(torch.autograd.Function):
    """out[b, c, f, i, j] = sum_k w[b, f, k, i, j] x[b, c, i + dy_k, j + dx_k], for phases f.

    The form for devices and dtypes without kernels; x is padded by 2 on each side. It has its own
    backward pass because autograd would keep 25 products. Each instruction handles one tap, so the
    innermost loops run over contiguous rows.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(padded, weights)
        b, phases, _, height, width = weights.shape
        out = padded.new_zeros(b, padded.shape[1], phases, height, width)
        for k, window in enumerate(_windows(padded, height, width)):
            out.addcmul_(weights[:, None, :, k], window)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        padded, weights = ctx.saved_tensors
        grad, (height, width) = grad.contiguous(), weights.shape[-2:]
        d_weights, d_padded = torch.empty_like(weights), torch.zeros_like(padded)
        for k, window in enumerate(_windows(padded, height, width)):
            d_k = d_weights[:, :, k].copy_(grad[:, 0] * window[:, 0])
            for c in range(1, padded.shape[1]):
                d_k.addcmul_(grad[:, c], window[:, c])
        for k, target in enumerate(_windows(d_padded, height, width)):
            for f in range(weights.shape[1]):
                target[:, :, 0].addcmul_(weights[:, None, f, k], grad[:, :, f])
        return d_padded if ctx.needs_input_grad[0] else None, d_weights


class _Filter(torch.autograd.Function):
    """`filter_pixels` by CPU or CUDA kernels."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, params: Tensor, apply_tanh: bool) -> Tensor:
        ctx.apply_tanh = apply_tanh
        if not usable_for(image):
            image = image.contiguous()
            ctx.save_for_backward(image, params)
            return _cuda_kernels(image.device).filter_forward(image, *_flat(params), apply_tanh)
        padded, out = F.pad(image, (RADIUS,) * 4), torch.empty_like(image, memory_format=torch.contiguous_format)
        cpu_kernels.run(cpu_kernels.filter_forward, padded, *_flat(params), apply_tanh, out)
        ctx.save_for_backward(padded, params)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        padded, params = ctx.saved_tensors
        grad, inputs = grad.contiguous(), (padded, *_flat(params))
        if padded.device.type != "cpu":
            options = {"apply_tanh": ctx.apply_tanh, "with_image": ctx.needs_input_grad[0]}
            return *_cuda_kernels(grad.device).filter_backward(*inputs, grad, **options), None
        d_padded, d_params = torch.empty_like(padded), torch.empty_like(params, memory_format=torch.contiguous_format)
        cpu_kernels.run(cpu_kernels.filter_backward, *inputs, ctx.apply_tanh, grad, d_padded, d_params)
        return d_padded[..., RADIUS:-RADIUS, RADIUS:-RADIUS], d_params, None


class _Upsample(torch.autograd.Function):
    """`upsample_gaussian` of a padded image by CPU or CUDA kernels."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, params: Tensor) -> Tensor:
        padded = padded.contiguous()
        ctx.save_for_backward(padded, params)
        if not usable_for(padded):
            return _cuda_kernels(padded.device).upsample_forward(padded, *_flat(params))
        out = padded.new_empty(*padded.shape[:2], *params.shape[2:])
        cpu_kernels.run(cpu_kernels.upsample_forward, padded, *_flat(params), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        padded, params = ctx.saved_tensors
        grad, inputs = grad.contiguous(), (padded, *_flat(params))
        if padded.device.type != "cpu":
            return _cuda_kernels(grad.device).upsample_backward(*inputs, grad)
        d_padded, d_params = torch.empty_like(padded), torch.empty_like(params, memory_format=torch.contiguous_format)
        cpu_kernels.run(cpu_kernels.upsample_backward, *inputs, grad, d_padded, d_params)
        return d_padded, d_params


def _flat(params: Tensor) -> tuple[Tensor, int]:
    """Filter parameters (B, n, H, W) as flat memory and its stride from image to image.

    They may be some channels of a larger tensor, and are copied only if a plane is not contiguous.
    """
    if params.stride()[1:] != (params.shape[2] * params.shape[3], params.shape[3], 1):
        params = params.contiguous()
    batch_stride = params.stride(0)
    length = (len(params) - 1) * batch_stride + params[0].numel() if len(params) else 0
    return params.as_strided((length,), (1,)), batch_stride


def use_kernels(image: Tensor) -> bool:
    """Return whether CPU or CUDA kernels filter an image; otherwise torch operations do.

    Kernels need float32. CUDA kernels also need at most four channels and a Triton that works. No
    kernels are used while a graph is traced.
    """
    if image.dtype != torch.float32:
        return False
    if image.device.type != "cuda":
        return usable_for(image)
    if image.shape[1] > 4 or torch.compiler.is_compiling():
        return False
    return _cuda_kernels(image.device) is not None


@cache
def _cuda_kernels(device: torch.device) -> Any:
    """The module `cuda_kernels` of this folder, or None with a warning if Triton does not work."""
    try:
        kernels = importlib.import_module("ablate.models.kpn.cuda_kernels")
        # The trial has the baseline's arguments, so that nothing is compiled for the trial alone.
        image, params = (torch.zeros(1, n, 64, 64, device=device) for n in (3, TAPS))
        kernels.filter_forward(image, *_flat(params), True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton, a compiler or its headers are missing
        why = printable(" ".join(str(error).split()))[:200]
        warnings.warn(f"Triton does not work here ({why}): the filters use slower torch operations", stacklevel=2)
        return None
    return kernels


def _sum_windows(padded: Tensor, weights: Tensor) -> Tensor:
    """The sum of `_WindowSum`; while a graph is exported, in as few nodes as possible."""
    if not torch.compiler.is_exporting():
        out: Tensor = _WindowSum.apply(padded, weights)
        return out
    height, width = weights.shape[-2:]
    rows = torch.stack([padded[:, :, dy : dy + height] for dy in range(KERNEL_SIZE)], dim=2)
    windows = torch.stack([rows[..., dx : dx + width] for dx in range(KERNEL_SIZE)], dim=3).flatten(2, 3)
    return (windows[:, :, None] * weights[:, None]).sum(3)


def _windows(padded: Tensor, height: int, width: int) -> list[Tensor]:
    """The 25 shifted views of a padded image, (B, C, 1, height, width) each."""
    offsets = range(KERNEL_SIZE)
    return [padded[:, :, None, dy : dy + height, dx : dx + width] for dy in offsets for dx in offsets]


def filter_pixels(image: Tensor, weights: Tensor, *, apply_tanh: bool = False) -> Tensor:
    """Filter an image with one 5x5 kernel per pixel, shared by the channels, with zero padding.

    Equals `torchvision.ops.deform_conv2d` with zero offsets, a kernel of ones and the weights as
    mask.

    Args:
        image: (B, C, H, W), floating point.
        weights: (B, 25, H, W), the dtype of image; channel 5 (dy + 2) + dx + 2 is tap (dy, dx).
        apply_tanh: Use tanh(weights); faster than calling tanh before.

    Returns:
        (B, C, H, W).
    """
    if use_kernels(image):
        out: Tensor = _Filter.apply(image, weights, apply_tanh)
        return out
    weights = weights.tanh() if apply_tanh else weights
    return _sum_windows(F.pad(image, (RADIUS,) * 4), weights[:, None].contiguous())[:, :, 0]


def filter_with(kernel: str, image: Tensor, params: Tensor) -> Tensor:
    """Filter an image (B, C, H, W) with parameters (B, n, H, W) and a key of `KERNEL_WEIGHTS`."""
    if kernel == "tanh":
        return filter_pixels(image, params, apply_tanh=True)
    return filter_pixels(image, KERNEL_WEIGHTS[kernel].apply(params))


def gaussian_kernel(params: Tensor) -> Tensor:
    """Return 25 Gaussian kernel weights per pixel, softmax(-2 q(d)) at whole distances d.

    Args:
        params: The unbounded a, b and c, (B, 3, H, W).

    Returns:
        (B, 25, H, W), positive, with sum 1 over dimension 1.
    """
    offsets = torch.arange(KERNEL_SIZE, dtype=params.dtype, device=params.device) - RADIUS
    dy, dx = (d.flatten() for d in torch.meshgrid(offsets, offsets, indexing="ij"))
    terms = -2 * torch.stack([dx * dx, dx * dy, dy * dy], dim=1)
    logits: Tensor = (terms @ _coefficients(params).flatten(2)).unflatten(2, params.shape[-2:])
    return logits.softmax(dim=1)


def softmax_with_gain(params: Tensor) -> Tensor:
    """Return convex kernel weights times a gain 1 + g that is predicted too, without a bound.

    Args:
        params: 25 logits and g, (B, 26, H, W).

    Returns:
        (B, 25, H, W), of one sign, with sum 1 + g over dimension 1.
    """
    return params[:, :TAPS].softmax(dim=1) * (1 + params[:, TAPS:])


def _coefficients(params: Tensor) -> Tensor:
    """Coefficients (B, 3, H, W) of dx^2, dx dy and dy^2 in q(d) for a, b and c (B, 3, H, W)."""
    kx, ky = (4 * params[:, :2].sigmoid()).unbind(1)
    return torch.stack([kx * kx, 2 * params[:, 2].tanh() * kx * ky, ky * ky], dim=1)


# `model.kernel` -> kernel weights (B, 25, H, W) from the filter parameters.
KERNEL_WEIGHTS: dict[str, Operation] = {
    "tanh": Operation(TAPS, torch.tanh),
    "linear": Operation(TAPS, lambda weights: weights),
    "softmax": Operation(TAPS, lambda logits: logits.softmax(dim=1)),
    "softmax_gain": Operation(TAPS + 1, softmax_with_gain),
    # Positive with any sum; the shift makes zeros a box filter with sum 1.
    "sigmoid": Operation(TAPS, lambda logits: (logits - math.log(TAPS - 1)).sigmoid()),
    "l1": Operation(TAPS, lambda logits: F.normalize(logits.tanh(), p=1.0, dim=1)),
    "l1_floored": Operation(TAPS, lambda logits: F.normalize(logits.tanh(), p=1.0, dim=1, eps=L1_FLOOR)),
    "gaussian": Operation(GAUSSIAN_PARAMS, gaussian_kernel),
}


def gaussian_weights(params: Tensor) -> Tensor:
    """Return the 25 weights of each high-resolution pixel's Gaussian over the low-resolution image.

    Args:
        params: The unbounded a, b and c, (B, 3, 2h, 2w).

    Returns:
        (B, 4, 25, h, w), positive, with sum 1 over dimension 2. Phase f = 2p + q holds the
        high-resolution pixels (2i + p, 2j + q).
    """
    return _gaussian_logits(params).softmax(dim=2)


def _gaussian_logits(params: Tensor) -> Tensor:
    """-2 q(d) per phase and tap, (B, 4, 25, h, w).

    One tap of each pixel lies within a quarter of a pixel, so the largest logit is at least -8.
    """
    height, width = params.shape[2:]
    # (B, 3, 2h, 2w) -> (B, 12, h w): by coefficient and phase, in the order of pixel_unshuffle.
    coefficients = F.pixel_unshuffle(_coefficients(params), 2).flatten(2)
    logits: Tensor = _distances(params.dtype, params.device) @ coefficients
    return logits.view(-1, 4, TAPS, height // 2, width // 2)


def _distances(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (100, 12) that maps the coefficients of four phases to -2 q(d) of their 25 taps.

    The centre of pixel 2i + p is at i + (p - 1/2) / 2 on the low-resolution grid, so the distances
    depend on the phase alone.
    """
    offsets = torch.arange(KERNEL_SIZE, dtype=dtype, device=device) - RADIUS
    distance = offsets - (torch.arange(2, dtype=dtype, device=device)[:, None] - 0.5) / 2
    dy = distance[:, None, :, None].expand(2, 2, KERNEL_SIZE, KERNEL_SIZE).reshape(4, TAPS)
    dx = distance[None, :, None, :].expand(2, 2, KERNEL_SIZE, KERNEL_SIZE).reshape(4, TAPS)
    terms = -2 * torch.stack([dx * dx, dx * dy, dy * dy])
    matrix = torch.zeros(4, TAPS, 3, 4, dtype=dtype, device=device)
    for f in range(4):
        matrix[f, :, :, f] = terms[:, f].T
    return matrix.view(4 * TAPS, 12)


def upsample_gaussian(image: Tensor, params: Tensor) -> Tensor:
    """Upsample an image by two with one Gaussian per new pixel and replicated borders.

    Args:
        image: (B, C, h, w), floating point.
        params: The unbounded a, b and c, (B, 3, 2h, 2w), the dtype of image.

    Returns:
        (B, C, 2h, 2w).
    """
    padded = F.pad(image, (RADIUS,) * 4, mode="replicate") if image.device.type == "cpu" else _replicate(image)
    if use_kernels(image):
        upsampled: Tensor = _Upsample.apply(padded, params)
        return upsampled
    if torch.compiler.is_exporting():  # engines are slow at a softmax over a middle dimension
        weights = _gaussian_logits(params).exp()
        out = _sum_windows(padded, weights) / weights.sum(2)[:, None]
    else:
        out = _sum_windows(padded, gaussian_weights(params))
    return F.pixel_shuffle(out.flatten(1, 2), 2)


def _replicate(image: Tensor) -> Tensor:
    """An image padded by 2 with its border; the gradient of torch's padding varies on a GPU."""
    for dim in (2, 3):
        first, last = image.narrow(dim, 0, 1), image.narrow(dim, image.shape[dim] - 1, 1)
        image = torch.cat([first, first, image, last, last], dim)
    return image


def upsample_bilinear(image: Tensor, params: Tensor) -> Tensor:
    """Upsample an image (B, C, h, w) by two, bilinearly; params (B, 0, 2h, 2w) is empty."""
    return F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)


# `model.upsampling` -> image (B, C, 2h, 2w) from (image (B, C, h, w), filter parameters).
UPSAMPLING: dict[str, Operation] = {
    "gaussian": Operation(GAUSSIAN_PARAMS, upsample_gaussian),
    "bilinear": Operation(0, upsample_bilinear, taps=4),
}

# `model.skip` -> image of a scale from (upsampled image, filtered image, filter parameter).
SKIP: dict[str, Operation] = {
    "lerp": Operation(1, lambda up, fine, param: torch.lerp(up, fine, param.sigmoid()), taps=0),
    "none": Operation(0, lambda up, fine, param: up, taps=0),
}
