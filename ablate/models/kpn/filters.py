"""The two per-pixel filters of a kernel-predicting network (KPN).

Down: a 5x5 kernel per pixel, shared by the channels, zero padding:
    y[c, i, j] = sum_k w_k[i, j] x[c, i + dy_k, j + dx_k]
Up: a normalised 5x5 Gaussian over the low-resolution picture, evaluated at the centre of each high-resolution pixel, with
    q(d) = kx^2 dx^2 + 2 rho kx ky dx dy + ky^2 dy^2,    w = softmax(-2 q)
    kx = 4 sigmoid(a),  ky = 4 sigmoid(b),  rho = tanh(c)
q is positive semi-definite for |rho| < 1 (Procedural Kernel Networks, arXiv 2112.09318).
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
from ablate.models.kpn.cpu_kernels import RADIUS, SIZE

TAPS = SIZE * SIZE
GAUSSIAN_PARAMETERS = 3


class Part(NamedTuple):
    """One way to do a step of the filter pyramid."""

    numbers: int  # that it needs per pixel from the head
    apply: Callable[..., Tensor]
    taps: int = TAPS  # multiply-accumulates per pixel and channel


class _Gather(torch.autograd.Function):
    """out[b, c, f, i, j] = sum_k w[b, f, k, i, j] x[b, c, i + dy_k, j + dx_k], for phases f; x is padded by 2 on each side.

    Where neither loops nor kernels serve. With its own backward: autograd would keep 25 products alive and scatter them one by one. One
    plane per instruction, so that the innermost loops run over contiguous rows.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(padded, weights)
        return _gather_forward(padded, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        padded, weights = ctx.saved_tensors
        d_padded, d_weights = _gather_backward(grad.contiguous(), padded, weights)
        return d_padded if ctx.needs_input_grad[0] else None, d_weights


def _gather_forward(padded: Tensor, weights: Tensor) -> Tensor:
    b, phases, _, height, width = weights.shape
    out = padded.new_zeros(b, padded.shape[1], phases, height, width)
    for k, window in enumerate(_windows(padded, height, width)):
        out.addcmul_(weights[:, None, :, k], window)
    return out


def _gather_backward(grad: Tensor, padded: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    height, width = weights.shape[-2:]
    d_weights, d_padded = torch.empty_like(weights), torch.zeros_like(padded)
    for k, window in enumerate(_windows(padded, height, width)):
        d_k = d_weights[:, :, k].copy_(grad[:, 0] * window[:, 0])
        for c in range(1, padded.shape[1]):
            d_k.addcmul_(grad[:, c], window[:, c])
    for k, target in enumerate(_windows(d_padded, height, width)):
        for f in range(weights.shape[1]):
            target[:, :, 0].addcmul_(weights[:, None, f, k], grad[:, :, f])
    return d_padded, d_weights


class _Filter(torch.autograd.Function):
    """`filter_pixels` by loops or by kernels."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, numbers: Tensor, squash: bool) -> Tensor:
        ctx.squash = squash
        if not by_loops(image):
            image = image.contiguous()
            ctx.save_for_backward(image, numbers)
            return _kernels(image.device).filter_forward(image, *_rows(numbers), squash)
        padded, out = F.pad(image, (RADIUS,) * 4), torch.empty_like(image, memory_format=torch.contiguous_format)
        cpu_kernels.run(cpu_kernels.filter_forward, padded, *_rows(numbers), squash, out)
        ctx.save_for_backward(padded, numbers)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        padded, numbers = ctx.saved_tensors
        if padded.device.type != "cpu":
            options = {"squash": ctx.squash, "with_image": ctx.needs_input_grad[0]}
            return *_kernels(grad.device).filter_backward(padded, *_rows(numbers), grad.contiguous(), **options), None
        d_padded, d_numbers = torch.empty_like(padded), torch.empty_like(numbers, memory_format=torch.contiguous_format)
        cpu_kernels.run(
            cpu_kernels.filter_backward, padded, *_rows(numbers), ctx.squash, grad.contiguous(), d_padded, d_numbers
        )
        return d_padded[..., RADIUS:-RADIUS, RADIUS:-RADIUS], d_numbers, None


class _Upsample(torch.autograd.Function):
    """`upsample_gaussian` of a padded picture by loops or by kernels."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, numbers: Tensor) -> Tensor:
        padded = padded.contiguous()
        ctx.save_for_backward(padded, numbers)
        if not by_loops(padded):
            return _kernels(padded.device).upsample_forward(padded, *_rows(numbers))
        out = padded.new_empty(*padded.shape[:2], *numbers.shape[2:])
        cpu_kernels.run(cpu_kernels.upsample_forward, padded, *_rows(numbers), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        padded, numbers = ctx.saved_tensors
        if padded.device.type != "cpu":
            return _kernels(grad.device).upsample_backward(padded, *_rows(numbers), grad.contiguous())
        d_padded, d_numbers = torch.empty_like(padded), torch.empty_like(numbers, memory_format=torch.contiguous_format)
        cpu_kernels.run(cpu_kernels.upsample_backward, padded, *_rows(numbers), grad.contiguous(), d_padded, d_numbers)
        return d_padded, d_numbers


def _rows(numbers: Tensor) -> tuple[Tensor, int]:
    """A head's numbers (B, n, H, W), perhaps some channels of more, as flat memory, and the way from picture to picture in it."""
    if numbers.stride()[1:] != (numbers.shape[2] * numbers.shape[3], numbers.shape[3], 1):
        numbers = numbers.contiguous()
    step = numbers.stride(0)
    length = (len(numbers) - 1) * step + numbers[0].numel() if len(numbers) else 0
    return numbers.as_strided((length,), (1,)), step


def by_loops(image: Tensor) -> bool:
    """Whether the loops of `ablate.models.kpn.cpu_kernels` serve: on a processor, and where no graph is traced."""
    return image.device.type == "cpu" and not torch.compiler.is_compiling()


def by_kernels(image: Tensor) -> bool:
    """Whether the kernels of `ablate.models.kpn.cuda_kernels` serve: on a GPU, where Triton works, and where no graph is traced."""
    if image.device.type != "cuda" or image.dtype != torch.float32 or image.shape[1] > 4:
        return False
    return not torch.compiler.is_compiling() and _kernels(image.device) is not None


@cache
def _kernels(device: torch.device) -> Any:
    """`ablate.models.kpn.cuda_kernels` where Triton is installed and works, found by trying it; else None, with a warning."""
    try:
        kernels = importlib.import_module("ablate.models.kpn.cuda_kernels")
        # Of the kind that the baseline needs, so that nothing is compiled for this alone.
        image, numbers = (torch.zeros(1, n, 64, 64, device=device) for n in (3, TAPS))
        kernels.filter_forward(image, *_rows(numbers), True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # also a missing compiler, its missing headers
        why = printable(" ".join(str(error).split()))[:200]
        warnings.warn(f"Triton does not work here ({why}): the filters are computed step by step, slower", stacklevel=2)
        return None
    return kernels


def _gather(padded: Tensor, weights: Tensor) -> Tensor:
    """The sum of `_Gather`; in an exported graph as few nodes as it takes: stacked rows, of them stacked columns, one product, one sum."""
    if not torch.compiler.is_exporting():
        out: Tensor = _Gather.apply(padded, weights)
        return out
    height, width = weights.shape[-2:]
    rows = torch.stack([padded[:, :, dy : dy + height] for dy in range(SIZE)], dim=2)
    windows = torch.stack([rows[..., dx : dx + width] for dx in range(SIZE)], dim=3).flatten(2, 3)
    return (windows[:, :, None] * weights[:, None]).sum(3)


def _windows(padded: Tensor, height: int, width: int) -> list[Tensor]:
    """The 25 shifted views of a padded picture, each (B, C, 1, height, width)."""
    return [padded[:, :, None, dy : dy + height, dx : dx + width] for dy in range(SIZE) for dx in range(SIZE)]


def filter_pixels(image: Tensor, weights: Tensor, *, squash: bool = False) -> Tensor:
    """Filter a picture with one 5x5 kernel per pixel, shared by the channels, with zero padding.

    Args:
        image: (B, C, H, W), float.
        weights: (B, 25, H, W), the dtype of image; kernel entry (dy, dx) is channel 5 (dy + 2) + dx + 2.
        squash: The weights are tanh of what is given: faster than tanh before the call.

    Returns:
        (B, C, H, W). The same operation as `torchvision.ops.deform_conv2d` with zero offsets, a kernel of ones and the weights as mask.

    Reference:
        Bako et al., "Kernel-Predicting Convolutional Networks for Denoising Monte Carlo Renderings", 2017.
    """
    if by_loops(image) or by_kernels(image):
        out: Tensor = _Filter.apply(image, weights, squash)
        return out
    weights = weights.tanh() if squash else weights
    return _gather(F.pad(image, (RADIUS,) * 4), weights[:, None].contiguous())[:, :, 0]


def filter_with(kernel: str, image: Tensor, numbers: Tensor) -> Tensor:
    """Filter a picture (B, C, H, W) by the head's numbers (B, n, H, W) for a key of `KERNEL_WEIGHTS`."""
    if kernel == "tanh":
        return filter_pixels(image, numbers, squash=True)
    return filter_pixels(image, KERNEL_WEIGHTS[kernel].apply(numbers))


def gaussian_kernel(parameters: Tensor) -> Tensor:
    """Return each pixel's 25 Gaussian kernel weights on its own grid: softmax(-2 q(d)) at whole distances d.

    Args:
        parameters: (B, 3, H, W): the unbounded a, b and c of the module's equation.

    Returns:
        (B, 25, H, W), positive, summing to 1 over dimension 1.
    """
    offsets = torch.arange(SIZE, dtype=parameters.dtype, device=parameters.device) - RADIUS
    dy, dx = (d.flatten() for d in torch.meshgrid(offsets, offsets, indexing="ij"))
    terms = -2 * torch.stack([dx * dx, dx * dy, dy * dy], dim=1)
    logits: Tensor = (terms @ _form(parameters).flatten(2)).unflatten(2, parameters.shape[-2:])
    return logits.softmax(dim=1)


def _form(parameters: Tensor) -> Tensor:
    """The coefficients (B, 3, H, W) of dx^2, dx dy and dy^2 in q(d), from the unbounded a, b and c (B, 3, H, W)."""
    kx, ky = (4 * parameters[:, :2].sigmoid()).unbind(1)
    return torch.stack([kx * kx, 2 * parameters[:, 2].tanh() * kx * ky, ky * ky], dim=1)


KERNEL_WEIGHTS: dict[str, Part] = {
    "tanh": Part(TAPS, torch.tanh),
    "softmax": Part(TAPS, lambda logits: logits.softmax(dim=1)),
    # Positive and free in sum; shifted so that zeros give the box filter, whose sum is 1.
    "sigmoid": Part(TAPS, lambda logits: (logits - math.log(TAPS - 1)).sigmoid()),
    "l1": Part(TAPS, lambda logits: F.normalize(logits.tanh(), p=1.0, dim=1)),
    "gaussian": Part(GAUSSIAN_PARAMETERS, gaussian_kernel),
}


def gaussian_weights(parameters: Tensor) -> Tensor:
    """Return the 25 weights of each high-resolution pixel's Gaussian over the low-resolution picture.

    Args:
        parameters: (B, 3, 2h, 2w): the unbounded a, b and c of the module's equation.

    Returns:
        (B, 4, 25, h, w), positive, summing to 1 over dimension 2; phase f = 2p + q holds the high-resolution pixels (2i + p, 2j + q).
    """
    return _gaussian_logits(parameters).softmax(dim=2)


def _gaussian_logits(parameters: Tensor) -> Tensor:
    """-2 q(d) of each phase and tap, (B, 4, 25, h, w); at least one tap of a pixel lies within a quarter: its logit is at least -8."""
    height, width = parameters.shape[2:]
    # (B, 3, 2h, 2w) -> (B, 12, h w): a phase's three coefficients, by pixel_unshuffle's order (coefficient, p, q).
    form = F.pixel_unshuffle(_form(parameters), 2).flatten(2)
    logits: Tensor = _distances(parameters.dtype, parameters.device) @ form
    return logits.view(-1, 4, TAPS, height // 2, width // 2)


def _distances(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (100, 12) that takes the coefficients of q in all four phases to -2 q(d) of the 25 taps in each.

    Pixel 2i + p has its centre at i + (p - 1/2) / 2 of the low-resolution grid, so the distances are constants of the phase.
    """
    offsets = torch.arange(SIZE, dtype=dtype, device=device) - RADIUS
    distance = offsets - (torch.arange(2, dtype=dtype, device=device)[:, None] - 0.5) / 2
    dy = distance[:, None, :, None].expand(2, 2, SIZE, SIZE).reshape(4, TAPS)
    dx = distance[None, :, None, :].expand(2, 2, SIZE, SIZE).reshape(4, TAPS)
    terms = -2 * torch.stack([dx * dx, dx * dy, dy * dy])
    matrix = torch.zeros(4, TAPS, 3, 4, dtype=dtype, device=device)
    for f in range(4):
        matrix[f, :, :, f] = terms[:, f].T
    return matrix.view(4 * TAPS, 12)


def upsample_gaussian(image: Tensor, parameters: Tensor) -> Tensor:
    """Upsample a picture by two with a Gaussian of its own for each new pixel, with replicated borders.

    Args:
        image: (B, C, h, w), float.
        parameters: (B, 3, 2h, 2w), the dtype of image.

    Returns:
        (B, C, 2h, 2w).

    Reference:
        "Procedural Kernel Networks", arXiv 2112.09318.
    """
    padded = F.pad(image, (RADIUS,) * 4, mode="replicate") if image.device.type == "cpu" else _replicate(image)
    if by_loops(image) or by_kernels(image):
        upsampled: Tensor = _Upsample.apply(padded, parameters)
        return upsampled
    if torch.compiler.is_exporting():  # a softmax over a middle dimension is slow there: divide the sums instead
        weights = _gaussian_logits(parameters).exp()
        out = _gather(padded, weights) / weights.sum(2)[:, None]
    else:
        out = _gather(padded, gaussian_weights(parameters))
    return F.pixel_shuffle(out.flatten(1, 2), 2)


def _replicate(image: Tensor) -> Tensor:
    """A picture with its border repeated twice; on a GPU the library's own padding has no deterministic gradient."""
    for dim in (2, 3):
        first, last = image.narrow(dim, 0, 1), image.narrow(dim, image.shape[dim] - 1, 1)
        image = torch.cat([first, first, image, last, last], dim)
    return image


def upsample_bilinear(image: Tensor, parameters: Tensor) -> Tensor:
    """Upsample a picture (B, C, h, w) by two, bilinearly, with replicated borders; the parameters (B, 0, 2h, 2w) are empty."""
    return F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)


UPSAMPLING: dict[str, Part] = {
    "gaussian": Part(GAUSSIAN_PARAMETERS, upsample_gaussian),
    "bilinear": Part(0, upsample_bilinear, taps=4),
}

# (upsampled, filtered, the head's number) -> the scale's picture.
SKIP: dict[str, Part] = {
    "lerp": Part(1, lambda up, fine, number: torch.lerp(up, fine, number.sigmoid()), taps=0),
    "none": Part(0, lambda up, fine, number: up, taps=0),
}
