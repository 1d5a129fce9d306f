"""The two per-pixel filters and their gradients as GPU kernels, compiled by Triton.

`ablate.models.kpn.filters` calls them and has their equations. A program computes a block of pixels
of one image with all its channels, so a weight is computed once for all channels. The backward pass
computes weights again instead of storing them, and gathers gradients instead of scattering them: no
sum depends on the order of the programs.

Layout of filter parameters: flat memory in which parameter k of pixel (b, i, j) is at
b batch_stride + (k H + i) W + j.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 128, 4  # pixels and warps of a program: one pixel per thread, so that reads coalesce
# Compiled once for all values of these. Triton does use it if `plane` is a multiple of 16.
NOT_SPECIALIZED = ("height", "width")


@triton.jit
def _sigmoid(x):
    # rsqrt and exp2 are one instruction each; a division and e^x are five.
    r = tl.rsqrt(1 + tl.exp2(-1.4426950408889634 * x))
    return r * r


@triton.jit
def _tanh(x):
    return 2 * _sigmoid(2 * x) - 1


@triton.jit
def _load(at, away, plane, mask, C: tl.constexpr):
    """Load up to four channels. The constant `away`, added last, is part of the instruction."""
    a = tl.load(at + away, mask=mask, other=0.0)
    b, c, d = a, a, a
    if C > 1:
        b = tl.load(at + plane + away, mask=mask, other=0.0)
    if C > 2:
        c = tl.load(at + 2 * plane + away, mask=mask, other=0.0)
    if C > 3:
        d = tl.load(at + 3 * plane + away, mask=mask, other=0.0)
    return a, b, c, d


@triton.jit
def _store(at, plane, mask, a, b, c, d, C: tl.constexpr):
    tl.store(at, a, mask=mask)
    if C > 1:
        tl.store(at + plane, b, mask=mask)
    if C > 2:
        tl.store(at + 2 * plane, c, mask=mask)
    if C > 3:
        tl.store(at + 3 * plane, d, mask=mask)


@triton.jit
def _dot(a, b, c, d, a2, b2, c2, d2, C: tl.constexpr):
    total = a * a2
    if C > 1:
        total += b * b2
    if C > 2:
        total += c * c2
    if C > 3:
        total += d * d2
    return total


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _filter_forward(
    image,
    params,
    out,
    batch_stride,
    plane,
    height,
    width,
    C: tl.constexpr,
    APPLY_TANH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column, inside = pixel // width, pixel % width, pixel < plane
    image, params, out = image + n * C * plane, params + n * batch_stride, out + n * C * plane
    zero = tl.zeros((BLOCK,), tl.float32)
    a, b, c, d = zero, zero, zero, zero
    for i in range(5):
        y = row + i - 2
        rows_inside = inside & (y >= 0) & (y < height)
        at, weights = image + (y * width + column), params + (5 * i * plane + pixel)
        for j in tl.static_range(5):
            x = column + (j - 2)
            w = tl.load(weights, mask=inside, other=0.0)
            weights += plane
            if APPLY_TANH:
                w = _tanh(w)
            p, q, r, s = _load(at, j - 2, plane, rows_inside & (x >= 0) & (x < width), C)
            a += w * p
            b += w * q
            c += w * r
            d += w * s
    _store(out + pixel, plane, inside, a, b, c, d, C)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _filter_backward(
    image, params, grad, d_image, d_params, batch_stride, plane, height, width,
    C: tl.constexpr, APPLY_TANH: tl.constexpr, IMAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column, inside = pixel // width, pixel % width, pixel < plane
    image, grad, d_image = image + n * C * plane, grad + n * C * plane, d_image + n * C * plane
    params, d_params = params + n * batch_stride, d_params + n * 25 * plane
    g, h, u, v = _load(grad + pixel, 0, plane, inside, C)
    zero = tl.zeros((BLOCK,), tl.float32)
    a, b, c, d = zero, zero, zero, zero
    for i in range(5):
        y, z = row + i - 2, row + 2 - i
        rows_inside, rows_inside_there = inside & (y >= 0) & (y < height), inside & (z >= 0) & (z < height)
        at, at_there = image + (y * width + column), grad + (z * width + column)
        d_weights = d_params + (5 * i * plane + pixel)
        weights, weights_there = params + (5 * i * plane + pixel), params + (5 * i * plane + z * width + column)
        # Parameters are loaded first and gradients stored last: a load cannot overtake a store.
        own, others, products = (), (), ()  # type: tuple[object, ...], tuple[object, ...], tuple[object, ...]
        for j in tl.static_range(5):
            if APPLY_TANH:
                own += (tl.load(weights, mask=inside, other=0.0),)
            if IMAGE:
                x = column + (2 - j)
                there = rows_inside_there & (x >= 0) & (x < width)
                others += (tl.load(weights_there + (2 - j), mask=there, other=0.0),)
            weights += plane
            weights_there += plane
        for j in tl.static_range(5):  # products with this pixel's weights
            x = column + (j - 2)
            p, q, r, s = _load(at, j - 2, plane, rows_inside & (x >= 0) & (x < width), C)
            product = _dot(g, h, u, v, p, q, r, s, C)
            if APPLY_TANH:
                w = _tanh(own[j])
                product *= 1 - w * w
            products += (product,)
        if IMAGE:
            for j in tl.static_range(5):  # weights of others that multiply this pixel
                x = column + (2 - j)
                p, q, r, s = _load(at_there, 2 - j, plane, rows_inside_there & (x >= 0) & (x < width), C)
                w = others[j]
                if APPLY_TANH:
                    w = _tanh(w)
                a += w * p
                b += w * q
                c += w * r
                d += w * s
        for j in tl.static_range(5):
            tl.store(d_weights, products[j], mask=inside)
            d_weights += plane
    if IMAGE:
        _store(d_image + pixel, plane, inside, a, b, c, d, C)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _upsample(
    padded, params, grad, out, form, d_params, batch_stride, plane, height, width,
    C: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Forward: `out`. Backward: `d_params` and `form`.

    `form` (B, 4, 2h, 2w) is three coefficients of -2 q / ln 2, and 1 / sum of the weights.
    """
    n = tl.program_id(0).to(tl.int64)
    small, wide = (height + 4) * (width + 4), 2 * width
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column, inside = pixel // wide, pixel % wide, pixel < plane
    padded, params = padded + n * C * small, params + n * batch_stride
    kx = 4 * _sigmoid(tl.load(params + pixel, mask=inside, other=0.0))
    ky = 4 * _sigmoid(tl.load(params + plane + pixel, mask=inside, other=0.0))
    rho = _tanh(tl.load(params + 2 * plane + pixel, mask=inside, other=0.0))
    scale = -2 * 1.4426950408889634
    a_xx, a_xy, a_yy = scale * kx * kx, 2 * scale * rho * kx * ky, scale * ky * ky
    off_y, off_x = (row % 2).to(tl.float32) * 0.5 - 0.25, (column % 2).to(tl.float32) * 0.5 - 0.25
    zero = tl.zeros((BLOCK,), tl.float32)
    norm, a, b, c, d = zero, zero, zero, zero, zero
    if BACKWARD:
        g, h, u, v = _load(grad + n * C * plane + pixel, 0, plane, inside, C)
        # Sums over the taps of e, and of e u, times dx^2, dx dy, dy^2 and 1.
        e_xx, e_xy, e_yy, u_xx, u_xy, u_yy, u_1 = zero, zero, zero, zero, zero, zero, zero
    for i in range(5):
        dy = i - 2 - off_y
        at = padded + (row // 2 + i) * (width + 4) + column // 2
        for j in tl.static_range(5):
            dx = (j - 2) - off_x
            xx, xy, yy = dx * dx, dx * dy, dy * dy
            e = tl.exp2(a_xx * xx + a_xy * xy + a_yy * yy)
            norm += e
            p, q, r, s = _load(at, j, small, inside, C)
            if BACKWARD:
                product = e * _dot(g, h, u, v, p, q, r, s, C)
                e_xx += e * xx
                e_xy += e * xy
                e_yy += e * yy
                u_1 += product
                u_xx += product * xx
                u_xy += product * xy
                u_yy += product * yy
            else:
                a += e * p
                b += e * q
                c += e * r
                d += e * s
    norm = 1 / norm
    if BACKWARD:
        mean = u_1 * norm
        # d loss / d (kx^2, 2 rho kx ky, ky^2), with q's factor -2.
        d_xx = -2 * (u_xx - mean * e_xx) * norm
        d_xy = -2 * (u_xy - mean * e_xy) * norm
        d_yy = -2 * (u_yy - mean * e_yy) * norm
        cross = 2 * rho * kx * ky * d_xy
        at = d_params + n * 3 * plane + pixel
        tl.store(at, (2 * kx * kx * d_xx + cross) * (1 - 0.25 * kx), mask=inside)
        tl.store(at + plane, (2 * ky * ky * d_yy + cross) * (1 - 0.25 * ky), mask=inside)
        tl.store(at + 2 * plane, 2 * kx * ky * (1 - rho * rho) * d_xy, mask=inside)
        _store(form + n * 4 * plane + pixel, plane, inside, a_xx, a_xy, a_yy, norm, 4)
    else:
        _store(out + n * C * plane + pixel, plane, inside, a * norm, b * norm, c * norm, d * norm, C)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _upsample_image(form, grad, d_padded, plane, height, width, C: tl.constexpr, BLOCK: tl.constexpr):
    """The gradient of the padded image, from `form` of `_upsample`."""
    n = tl.program_id(0).to(tl.int64)
    small, wide = (height + 4) * (width + 4), 2 * width
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column, inside = pixel // (width + 4), pixel % (width + 4), pixel < small
    form, grad = form + n * 4 * plane, grad + n * C * plane
    zero = tl.zeros((BLOCK,), tl.float32)
    a, b, c, d = zero, zero, zero, zero
    # Over the high-resolution pixels (2 y + phase, 2 x + phase) that have this pixel as a tap.
    for i in range(10):
        y = row - i // 2
        dy = i // 2 - 2 + 0.25 - 0.5 * (i % 2)
        rows_inside = inside & (y >= 0) & (y < height)
        first = (2 * y + i % 2) * wide + 2 * column
        forms, grads = form + first, grad + first
        for j in tl.static_range(10):
            x = column - j // 2
            dx = (j // 2 - 2) + 0.25 - 0.5 * (j % 2)
            there, away = rows_inside & (x >= 0) & (x < width), j % 2 - j // 2 * 2
            a_xx, a_xy, a_yy, w = _load(forms, away, plane, there, 4)
            w *= tl.exp2(a_xx * dx * dx + a_xy * dx * dy + a_yy * dy * dy)
            p, q, r, s = _load(grads, away, plane, there, C)
            a += w * p
            b += w * q
            c += w * r
            d += w * s
    _store(d_padded + n * C * small + pixel, small, inside, a, b, c, d, C)


def filter_forward(image: Tensor, params: Tensor, batch_stride: int, apply_tanh: bool) -> Tensor:
    """Return the image (B, C, H, W) filtered by one 5x5 kernel per pixel, with zero padding.

    Args:
        image: (B, C, H, W) float32, contiguous, C at most 4.
        params: 25 parameters per pixel, laid out as the module says.
        batch_stride: From one image's parameters to the next image's.
        apply_tanh: Whether a weight is tanh of the parameter, or the parameter itself.
    """
    (b, c, height, width), out = image.shape, torch.empty_like(image)
    plane = height * width
    with torch.cuda.device_of(image):
        grid = b, triton.cdiv(plane, BLOCK)
        _filter_forward[grid](
            image, params, out, batch_stride, plane, height, width, c, apply_tanh, BLOCK, num_warps=WARPS
        )
    return out


def filter_backward(
    image: Tensor, params: Tensor, batch_stride: int, grad: Tensor, *, apply_tanh: bool, with_image: bool
) -> tuple[Tensor | None, Tensor]:
    """Return the gradients of the image (B, C, H, W) and of the parameters (B, 25, H, W).

    Args as in `filter_forward`, and: grad, that of the output (B, C, H, W), contiguous; with_image,
    whether the image's gradient is computed, which is None otherwise.
    """
    (b, c, height, width), d_image = image.shape, torch.empty_like(image) if with_image else None
    d_params, plane = image.new_empty(b, 25, height, width), height * width
    arguments = image, params, grad, image if d_image is None else d_image, d_params, batch_stride, plane, height, width
    with torch.cuda.device_of(image):
        grid = b, triton.cdiv(plane, 2 * BLOCK)  # larger blocks share their neighbours' parameters
        _filter_backward[grid](*arguments, c, apply_tanh, with_image, 2 * BLOCK, num_warps=2 * WARPS)
    return d_image, d_params


def upsample_forward(padded: Tensor, params: Tensor, batch_stride: int) -> Tensor:
    """Return the image (B, C, 2h, 2w), upsampled by one Gaussian per pixel.

    Args:
        padded: The low-resolution image, padded by 2 on each side: (B, C, h + 4, w + 4) float32,
            contiguous, C at most 4.
        params: The unbounded a, b, c of each high-resolution pixel, laid out as the module says.
        batch_stride: From one image's parameters to the next image's.
    """
    b, c, height, width = _unpadded_shape(padded)
    out, plane = padded.new_empty(b, c, 2 * height, 2 * width), 4 * height * width
    arguments = padded, params, out, out, out, out, batch_stride, plane, height, width
    with torch.cuda.device_of(padded):
        _upsample[b, triton.cdiv(plane, BLOCK)](*arguments, c, False, BLOCK, num_warps=WARPS)
    return out


def upsample_backward(padded: Tensor, params: Tensor, batch_stride: int, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the padded image and of the parameters (B, 3, 2h, 2w).

    Args as in `upsample_forward`, and: grad, that of the output (B, C, 2h, 2w), contiguous.
    """
    b, c, height, width = _unpadded_shape(padded)
    form, d_params = (padded.new_empty(b, n, 2 * height, 2 * width) for n in (4, 3))
    d_padded, plane = torch.empty_like(padded), 4 * height * width
    arguments = padded, params, grad, grad, form, d_params, batch_stride, plane, height, width
    with torch.cuda.device_of(padded):
        _upsample[b, triton.cdiv(plane, BLOCK)](*arguments, c, True, BLOCK, num_warps=WARPS)
        grid = b, triton.cdiv((height + 4) * (width + 4), BLOCK)
        _upsample_image[grid](form, grad, d_padded, plane, height, width, c, BLOCK, num_warps=WARPS)
    return d_padded, d_params


def _unpadded_shape(padded: Tensor) -> tuple[int, int, int, int]:
    b, c, height, width = padded.shape
    return b, c, height - 4, width - 4
