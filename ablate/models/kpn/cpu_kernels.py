"""The two per-pixel filters and their gradients as CPU kernels, compiled by Numba.

`ablate.models.kpn.filters` calls them in float32 and has their equations. A kernel works on rows of
pixels, which are contiguous in memory. It keeps a row's 25 weights and sums in the L1 cache, and
computes a weight again in the backward pass instead of storing it.

Numba needs no compiler on the machine, and compiles once for all shapes (seconds, cached on disk).
Inductor needs a C++ compiler, and as long for each shape (docs/log.md).

Layout of filter parameters: flat memory in which parameter k of pixel (b, i, j) is at
b batch_stride + (k H + i) W + j. So a head's output can hold other parameters too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from numba.extending import intrinsic
from torch import Tensor

KERNEL_SIZE = 5
RADIUS = KERNEL_SIZE // 2
# Rows of pixels per task. A tap's weights of neighbouring rows are contiguous; its next tap's are a
# whole plane away.
ROWS_PER_TASK = 8


def usable_for(tensor: Tensor) -> bool:
    """Return whether CPU kernels can be called: on a CPU, and while no graph is traced."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def jit(kernel: Callable[..., None]) -> Callable[..., None]:
    """Compile a kernel at its first call; cache it on disk where a folder for it is writable."""
    options: dict[str, Any] = {"parallel": True, "nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(kernel)
    except RuntimeError:  # neither is writable
        return numba.njit(**options)(kernel)


inline: Callable[..., Any] = numba.njit(error_model="numpy", inline="always")
_call_lock = threading.Lock()  # a thread pool of Numba's aborts if two threads call it at once


@cache
def _max_threads() -> int:
    """Start Numba's threads and return their number; keeps torch's number if both share OpenMP.

    Not called before the first kernel, because a process with these threads must not fork.
    """
    before = torch.get_num_threads()
    count = numba.get_num_threads()
    numba.set_num_threads(count)
    torch.set_num_threads(before)
    return count


def run(kernel: Callable[..., None], *arguments: Tensor | int | bool) -> None:
    """Call a compiled kernel with CPU tensors, with as many threads as torch uses.

    Results do not depend on the threads: one thread computes each number, in a fixed order.
    """
    arrays = [x.detach().numpy() if isinstance(x, Tensor) else x for x in arguments]
    with _call_lock:
        numba.set_num_threads(min(torch.get_num_threads(), _max_threads()))
        try:
            kernel(*arrays)
        except OSError:  # compiled, but not cached: the disk is full
            kernel(*arrays)


def _fma_intrinsic(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once, all of one type.

    Explicit, because `fastmath` lets LLVM choose: code loaded from the cache chose otherwise than
    code just compiled.
    """
    return a(a, a, a), lambda context, builder, signature, values: builder.fma(*values)


_fma: Callable[..., Any] = intrinsic(_fma_intrinsic)


@inline
def _exp(x: Any) -> Any:
    """exp(x) as 2^n exp(r), |r| <= ln 2 / 2, with a relative error of 2e-7.

    Loops that call the library's exp are not vectorised. The polynomial is that of Cephes' expf.
    """
    y = min(max(x, np.float32(-87)), np.float32(88))
    n = np.floor(_fma(y, np.float32(1.44269504), np.float32(0.5)))
    r = _fma(n, np.float32(2.12194440e-4), _fma(n, np.float32(-0.693359375), y))
    p = np.float32(1.9875691500e-4)
    p = _fma(p, r, np.float32(1.3981999507e-3))
    p = _fma(p, r, np.float32(8.3334519073e-3))
    p = _fma(p, r, np.float32(4.1665795894e-2))
    p = _fma(p, r, np.float32(1.6666665459e-1))
    p = _fma(p, r, np.float32(5.0000001201e-1))
    p = _fma(p * r, r, r) + np.float32(1)
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * scale + (x - x)  # NaN or infinity gives NaN, so that divergence shows


@inline
def _tanh(x: Any) -> Any:
    return np.float32(1) - np.float32(2) / (_exp(np.float32(2) * x) + np.float32(1))


@inline
def _weights(params: Any, apply_tanh: bool, w: Any) -> None:
    """Set w to tanh(params) or params, all (W,)."""
    if apply_tanh:
        for j in range(len(w)):
            w[j] = _tanh(params[j])
    else:
        for j in range(len(w)):
            w[j] = params[j]


@inline
def _add_product(a: Any, b: Any, total: Any) -> None:
    """Add a b to total, all (W,)."""
    for j in range(len(total)):
        total[j] = _fma(a[j], b[j], total[j])


@inline
def _sum_shifted(total: Any, row: Any) -> None:
    """Set row (W + 4) to the sum of the rows of total (5, W), row dx shifted by dx."""
    width = total.shape[1]
    row[:] = 0
    for dx in range(KERNEL_SIZE):
        target, source = row[dx : dx + width], total[dx]
        for j in range(width):
            target[j] += source[j]


@jit
def filter_forward(padded: Any, params: Any, batch_stride: int, apply_tanh: bool, out: Any) -> None:
    """out[b, c, i, j] = sum_k w_k[b, i, j] padded[b, c, i + dy_k, j + dx_k].

    Args:
        padded: The image, padded by 2 on each side: (B, C, H + 4, W + 4).
        params: 25 parameters per pixel, laid out as the module says.
        batch_stride: From one image's parameters to the next image's.
        apply_tanh: Whether w_k is tanh of the parameter, or the parameter itself.
        out: (B, C, H, W), overwritten.
    """
    batch, channels, height, width = out.shape
    blocks = -(-height // ROWS_PER_TASK)
    for n in prange(batch * blocks):
        b, first = n // blocks, n % blocks * ROWS_PER_TASK
        count = min(ROWS_PER_TASK, height - first)
        w = np.empty(width, out.dtype)
        total = np.zeros((count, channels, width), out.dtype)
        for k in range(KERNEL_SIZE * KERNEL_SIZE):
            dy, dx = k // KERNEL_SIZE, k % KERNEL_SIZE
            for m in range(count):
                i = first + m
                at = b * batch_stride + (k * height + i) * width
                _weights(params[at : at + width], apply_tanh, w)
                for c in range(channels):
                    _add_product(w, padded[b, c, i + dy, dx : dx + width], total[m, c])
        for m in range(count):
            for c in range(channels):
                out[b, c, first + m] = total[m, c]


@jit
def filter_backward(
    padded: Any, params: Any, batch_stride: int, apply_tanh: bool, grad: Any, d_padded: Any, d_params: Any
) -> None:
    """Gradients of `filter_forward` with respect to the padded image and the parameters.

    Row r of the padded image gets contributions from the rows i = r - dy, one sum per dx. So each
    pair of row and tap is visited once, and no sum is read right after its neighbour is written.

    Args as in `filter_forward`, and: grad (B, C, H, W); d_padded (B, C, H + 4, W + 4) and d_params
    (B, 25, H, W), overwritten.
    """
    batch, channels, height, width = grad.shape
    rows, one = height + 2 * RADIUS, grad.dtype.type(1)
    blocks = -(-rows // ROWS_PER_TASK)
    for n in prange(batch * blocks):
        b, first = n // blocks, n % blocks * ROWS_PER_TASK
        count = min(ROWS_PER_TASK, rows - first)
        w, s = np.empty(width, grad.dtype), np.empty(width, grad.dtype)
        total = np.zeros((count, channels, KERNEL_SIZE, width), grad.dtype)
        for k in range(KERNEL_SIZE * KERNEL_SIZE):
            dy, dx = k // KERNEL_SIZE, k % KERNEL_SIZE
            for m in range(max(0, dy - first), min(count, height + dy - first)):
                r = first + m
                i = r - dy
                at = b * batch_stride + (k * height + i) * width
                _weights(params[at : at + width], apply_tanh, w)
                s[:] = 0
                for c in range(channels):
                    _add_product(grad[b, c, i], padded[b, c, r, dx : dx + width], s)
                    _add_product(w, grad[b, c, i], total[m, c, dx])
                d = d_params[b, k, i]
                if apply_tanh:
                    for j in range(width):
                        d[j] = s[j] * (one - w[j] * w[j])
                else:
                    d[:] = s
        for m in range(count):
            for c in range(channels):
                _sum_shifted(total[m, c], d_padded[b, c, first + m])


@inline
def _distances(p: int, q: int, k: int, like: Any) -> Any:
    """-2 (dx^2, dx dy, dy^2) for the distance from the centre of phase (p, q) to tap k."""
    half, two = like.dtype.type(0.5), like.dtype.type(2)
    dy = like.dtype.type(k // KERNEL_SIZE - RADIUS) - (like.dtype.type(p) - half) * half
    dx = like.dtype.type(k % KERNEL_SIZE - RADIUS) - (like.dtype.type(q) - half) * half
    return -two * dx * dx, -two * dx * dy, -two * dy * dy


@inline
def _gaussian(row: Any, plane: int, p: int, q: int, form: Any, e: Any, norm: Any) -> None:
    """Compute the Gaussian weights of the pixels 2j + q of one row.

    Args:
        row: Flat parameters from the row on; a, b, c of pixel x are at x, plane + x, 2 plane + x.
        plane: Pixels of an output plane.
        p: The row's phase, 0 or 1.
        q: The pixels' phase, 0 or 1.
        form: (5, w), set to kx^2, 2 rho kx ky, ky^2, kx, ky.
        e: (25, w), set to exp(-2 q(d)).
        norm: (w,), set to the sum of e over the taps.
    """
    width = len(norm)
    one, two, four = form.dtype.type(1), form.dtype.type(2), form.dtype.type(4)
    a, b, c = form[0], form[1], form[2]
    kx, ky = form[3], form[4]
    for j in range(width):
        a[j], b[j], c[j] = row[2 * j + q], row[plane + 2 * j + q], row[2 * plane + 2 * j + q]
    for j in range(width):
        kx[j] = four / (one + _exp(-a[j]))
        ky[j] = four / (one + _exp(-b[j]))
    for j in range(width):
        a[j] = kx[j] * kx[j]
        b[j] = two * _tanh(c[j]) * kx[j] * ky[j]
        c[j] = ky[j] * ky[j]
    norm[:] = 0
    for k in range(KERNEL_SIZE * KERNEL_SIZE):
        xx, xy, yy = _distances(p, q, k, form)
        weights = e[k]
        for j in range(width):
            weights[j] = _exp(_fma(xx, a[j], _fma(xy, b[j], yy * c[j])))
        for j in range(width):
            norm[j] += weights[j]


@jit
def upsample_forward(padded: Any, params: Any, batch_stride: int, out: Any) -> None:
    """Gaussian upsampling by two.

    Args:
        padded: The low-resolution image, padded by 2 on each side: (B, C, h + 4, w + 4).
        params: The unbounded a, b, c of each high-resolution pixel, laid out as the module says.
        batch_stride: From one image's parameters to the next image's.
        out: (B, C, 2h, 2w), overwritten.
    """
    batch, channels, out_height, out_width = out.shape
    width = out_width // 2
    for n in prange(batch * out_height):
        b, y = n // out_height, n % out_height
        form, e = np.empty((5, width), out.dtype), np.empty((KERNEL_SIZE * KERNEL_SIZE, width), out.dtype)
        norm, total = np.empty(width, out.dtype), np.empty(width, out.dtype)
        for q in range(2):
            _gaussian(params[b * batch_stride + y * out_width :], out_height * out_width, y % 2, q, form, e, norm)
            for c in range(channels):
                total[:] = 0
                for k in range(KERNEL_SIZE * KERNEL_SIZE):
                    dx = k % KERNEL_SIZE
                    _add_product(e[k], padded[b, c, y // 2 + k // KERNEL_SIZE, dx : dx + width], total)
                row = out[b, c, y]
                for j in range(width):
                    row[2 * j + q] = total[j] / norm[j]


@jit
def upsample_backward(padded: Any, params: Any, batch_stride: int, grad: Any, d_padded: Any, d_params: Any) -> None:
    """Gradients of `upsample_forward` with respect to the padded image and the parameters.

    d loss / d logit_k = w_k (u_k - sum_m w_m u_m),  w_k = e_k / sum e,  u_k = sum_c g_c x_{c, k}

    Args as in `upsample_forward`, and: grad (B, C, 2h, 2w); d_padded (B, C, h + 4, w + 4) and
    d_params (B, 3, 2h, 2w), overwritten.
    """
    batch, channels, out_height, out_width = grad.shape
    width, rows = out_width // 2, out_height // 2 + 2 * RADIUS
    one, two, quarter = grad.dtype.type(1), grad.dtype.type(2), grad.dtype.type(0.25)
    for b in prange(batch):
        form, d_form = np.empty((5, width), grad.dtype), np.empty((3, width), grad.dtype)
        e, u = (
            np.empty((KERNEL_SIZE * KERNEL_SIZE, width), grad.dtype),
            np.empty((KERNEL_SIZE * KERNEL_SIZE, width), grad.dtype),
        )
        norm, mean = np.empty(width, grad.dtype), np.empty(width, grad.dtype)
        g = np.empty((channels, width), grad.dtype)
        # Contributions to each row of the padded image, by dx.
        sums = np.zeros((channels, rows, KERNEL_SIZE, width), grad.dtype)
        for y in range(out_height):
            for q in range(2):
                _gaussian(params[b * batch_stride + y * out_width :], out_height * out_width, y % 2, q, form, e, norm)
                for c in range(channels):
                    row, gradient = g[c], grad[b, c, y]
                    for j in range(width):
                        row[j] = gradient[2 * j + q] / norm[j]
                u[:] = 0
                mean[:] = 0
                for k in range(KERNEL_SIZE * KERNEL_SIZE):
                    r, dx = y // 2 + k // KERNEL_SIZE, k % KERNEL_SIZE
                    for c in range(channels):
                        _add_product(g[c], padded[b, c, r, dx : dx + width], u[k])
                        _add_product(e[k], g[c], sums[c, r, dx])
                    _add_product(e[k], u[k], mean)
                for j in range(width):
                    mean[j] /= norm[j]
                d_form[:] = 0
                d_xx, d_xy, d_yy = d_form[0], d_form[1], d_form[2]
                for k in range(KERNEL_SIZE * KERNEL_SIZE):
                    xx, xy, yy = _distances(y % 2, q, k, form)
                    weights, products = e[k], u[k]
                    for j in range(width):
                        d = weights[j] * (products[j] - mean[j])
                        d_xx[j] = _fma(xx, d, d_xx[j])
                        d_xy[j] = _fma(xy, d, d_xy[j])
                        d_yy[j] = _fma(yy, d, d_yy[j])
                d_a, d_b, d_c = d_params[b, 0, y], d_params[b, 1, y], d_params[b, 2, y]
                for j in range(width):
                    kx, ky, cross = form[3, j], form[4, j], form[1, j] * d_xy[j]
                    product = two * kx * ky
                    # kx ky is 0 in float32 where the two logits add up to less than -106.
                    rho = form[1, j] / product if product > 0 else form[1, j]
                    d_a[2 * j + q] = (two * form[0, j] * d_xx[j] + cross) * (one - quarter * kx)
                    d_b[2 * j + q] = (two * form[2, j] * d_yy[j] + cross) * (one - quarter * ky)
                    d_c[2 * j + q] = product * (one - rho * rho) * d_xy[j]
        for c in range(channels):
            for r in range(rows):
                _sum_shifted(sums[c, r], d_padded[b, c, r])
