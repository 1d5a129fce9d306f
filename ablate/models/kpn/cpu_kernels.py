"""The two per-pixel filters and their gradients as loops that Numba compiles for the processor; `ablate.models.kpn.filters` calls them.

Each works on rows of pixels, which lie side by side in memory, keeps a row's 25 weights and sums in the processor's nearest cache, and
computes a weight again in the backward pass instead of keeping it. Numba needs no compiler on the machine and one compilation for
all shapes (seconds, kept on the disk); Inductor needs a C++ compiler and as long for each shape (docs/log.md).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import prange, types
from numba.extending import intrinsic, overload
from torch import Tensor

SIZE = 5
RADIUS = SIZE // 2
ROWS = 8  # that are filtered together: a tap's numbers of neighbouring rows lie side by side, those of its next tap a plane away


def jit(loop: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop when it is first called, and keep the outcome beside this file or in the user's cache, where one can be written."""
    options: dict[str, Any] = {"parallel": True, "nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # neither can be written
        return numba.njit(**options)(loop)


inline: Callable[..., Any] = numba.njit(error_model="numpy", inline="always")
_turn = threading.Lock()  # one of Numba's pools of threads aborts the process where two threads call it at once


@cache
def _most_threads() -> int:
    """Start Numba's threads, and return how many there are; where they are OpenMP's, that also sets how many torch takes.

    Not before the first call of a loop: a process with such threads may not fork.
    """
    before = torch.get_num_threads()
    most = numba.get_num_threads()
    numba.set_num_threads(most)
    torch.set_num_threads(before)
    return most


def run(loop: Callable[..., None], *values: Tensor | int | bool) -> None:
    """Call a compiled loop with tensors on the processor, in as many threads as torch computes with.

    The outcome does not depend on the threads: each number is computed by one of them, in one order.
    """
    arrays = [value.detach().numpy() if isinstance(value, Tensor) else value for value in values]
    with _turn:
        numba.set_num_threads(min(torch.get_num_threads(), _most_threads()))
        try:
            loop(*arrays)
        except OSError:  # compiled, but the disk is full: it is not kept
            loop(*arrays)


def _fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once, all of one type.

    Said here and not left to LLVM (`fastmath`): code that is loaded from the disk was seen to choose otherwise than where it was compiled.
    """
    return a(a, a, a), lambda context, builder, signature, values: builder.fma(*values)


_fma: Callable[..., Any] = intrinsic(_fused)


def _exp(x: Any) -> Any:
    raise NotImplementedError  # compiled code takes the overload


@overload(_exp, strict=False)
def _exp_of(x: Any) -> Callable[[Any], Any]:
    """exp(x); in float32 2^n exp(r) with |r| <= ln 2 / 2, within 2e-7, because the library's exp keeps a loop from being vectorised.

    The polynomial is Cephes' (S. Moshier, expf).
    """
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp(x: Any) -> Any:
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
        return p * scale + (x - x)  # NaN and infinity stay NaN: a diverged network must show

    return exp


def _tanh(x: Any) -> Any:
    raise NotImplementedError


@overload(_tanh, strict=False)
def _tanh_of(x: Any) -> Callable[[Any], Any]:
    if x != types.float32:
        return lambda x: math.tanh(x)
    return lambda x: np.float32(1) - np.float32(2) / (_exp(np.float32(2) * x) + np.float32(1))


@inline
def _weights(numbers: Any, squash: bool, w: Any) -> None:
    """w = tanh(numbers) or numbers, all (W,)."""
    if squash:
        for j in range(len(w)):
            w[j] = _tanh(numbers[j])
    else:
        for j in range(len(w)):
            w[j] = numbers[j]


@inline
def _add_product(a: Any, b: Any, total: Any) -> None:
    """total += a b, all (W,)."""
    for j in range(len(total)):
        total[j] = _fma(a[j], b[j], total[j])


@inline
def _join(total: Any, row: Any) -> None:
    """row (W + 4) = the sum of the five rows of `total` (5, W), the one of dx moved by dx."""
    width = total.shape[1]
    row[:] = 0
    for dx in range(SIZE):
        target, source = row[dx : dx + width], total[dx]
        for j in range(width):
            target[j] += source[j]


@jit
def filter_forward(padded: Any, numbers: Any, step: int, squash: bool, out: Any) -> None:
    """out[b, c, i, j] = sum_k w_k[b, i, j] padded[b, c, i + dy_k, j + dx_k], with w = tanh(number) where `squash` is set, else the number.

    Args:
        padded: (B, C, H + 4, W + 4).
        numbers: Flat; number k of pixel (b, i, j) is at b step + (k H + i) W + j.
        step: See above.
        squash: Whether the weights are tanh of the numbers.
        out: (B, C, H, W), overwritten.
    """
    batch, channels, height, width = out.shape
    blocks = -(-height // ROWS)
    for n in prange(batch * blocks):
        b, first = n // blocks, n % blocks * ROWS
        count = min(ROWS, height - first)
        w = np.empty(width, out.dtype)
        total = np.zeros((count, channels, width), out.dtype)
        for k in range(SIZE * SIZE):
            dy, dx = k // SIZE, k % SIZE
            for m in range(count):
                i = first + m
                at = b * step + (k * height + i) * width
                _weights(numbers[at : at + width], squash, w)
                for c in range(channels):
                    _add_product(w, padded[b, c, i + dy, dx : dx + width], total[m, c])
        for m in range(count):
            for c in range(channels):
                out[b, c, first + m] = total[m, c]


@jit
def filter_backward(
    padded: Any, numbers: Any, step: int, squash: bool, grad: Any, d_padded: Any, d_numbers: Any
) -> None:
    """The gradients of `filter_forward`: of the padded picture and of the numbers.

    Row r of the padded picture gets what the rows i = r - dy give to it, one sum for each dx: so each (row, tap) is met once, and no
    sum is read where its neighbour was just written.

    Args:
        padded: (B, C, H + 4, W + 4).
        numbers: As in `filter_forward`.
        step: As in `filter_forward`.
        squash: As in `filter_forward`.
        grad: (B, C, H, W).
        d_padded: (B, C, H + 4, W + 4), overwritten.
        d_numbers: (B, 25, H, W), overwritten.
    """
    batch, channels, height, width = grad.shape
    rows, one = height + 2 * RADIUS, grad.dtype.type(1)
    blocks = -(-rows // ROWS)
    for n in prange(batch * blocks):
        b, first = n // blocks, n % blocks * ROWS
        count = min(ROWS, rows - first)
        w, s = np.empty(width, grad.dtype), np.empty(width, grad.dtype)
        total = np.zeros((count, channels, SIZE, width), grad.dtype)
        for k in range(SIZE * SIZE):
            dy, dx = k // SIZE, k % SIZE
            for m in range(max(0, dy - first), min(count, height + dy - first)):
                r = first + m
                i = r - dy
                at = b * step + (k * height + i) * width
                _weights(numbers[at : at + width], squash, w)
                s[:] = 0
                for c in range(channels):
                    _add_product(grad[b, c, i], padded[b, c, r, dx : dx + width], s)
                    _add_product(w, grad[b, c, i], total[m, c, dx])
                d = d_numbers[b, k, i]
                if squash:
                    for j in range(width):
                        d[j] = s[j] * (one - w[j] * w[j])
                else:
                    d[:] = s
        for m in range(count):
            for c in range(channels):
                _join(total[m, c], d_padded[b, c, first + m])


@inline
def _distances(p: int, q: int, k: int, like: Any) -> Any:
    """-2 (dx^2, dx dy, dy^2) from the centre of phase (p, q) to tap k."""
    half, two = like.dtype.type(0.5), like.dtype.type(2)
    dy = like.dtype.type(k // SIZE - RADIUS) - (like.dtype.type(p) - half) * half
    dx = like.dtype.type(k % SIZE - RADIUS) - (like.dtype.type(q) - half) * half
    return -two * dx * dx, -two * dx * dy, -two * dy * dy


@inline
def _gaussian(row: Any, plane: int, p: int, q: int, form: Any, e: Any, norm: Any) -> None:
    """The weights of the pixels 2j + q of one row.

    Args:
        row: Flat numbers from the row's first on: a, b and c of pixel x are at x, plane + x and 2 plane + x.
        plane: See above.
        p: Of the row's phase, 0 or 1.
        q: Of the pixels' phase, 0 or 1.
        form: (5, w), gets kx^2, 2 rho kx ky, ky^2, kx, ky.
        e: (25, w), gets exp(-2 q(d)).
        norm: (w,), gets its sum over the taps.
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
    for k in range(SIZE * SIZE):
        xx, xy, yy = _distances(p, q, k, form)
        weights = e[k]
        for j in range(width):
            weights[j] = _exp(_fma(xx, a[j], _fma(xy, b[j], yy * c[j])))
        for j in range(width):
            norm[j] += weights[j]


@jit
def upsample_forward(padded: Any, numbers: Any, step: int, out: Any) -> None:
    """The Gaussian upsampling of `ablate.models.kpn.filters`.

    Args:
        padded: The low-resolution picture (B, C, h + 4, w + 4).
        numbers: Flat; number n = 0, 1, 2 (the unbounded a, b, c) of pixel (b, y, x) is at b step + (n 2h + y) 2w + x.
        step: See above.
        out: (B, C, 2h, 2w), overwritten.
    """
    batch, channels, tall, wide = out.shape
    width = wide // 2
    for n in prange(batch * tall):
        b, y = n // tall, n % tall
        form, e = np.empty((5, width), out.dtype), np.empty((SIZE * SIZE, width), out.dtype)
        norm, total = np.empty(width, out.dtype), np.empty(width, out.dtype)
        for q in range(2):
            _gaussian(numbers[b * step + y * wide :], tall * wide, y % 2, q, form, e, norm)
            for c in range(channels):
                total[:] = 0
                for k in range(SIZE * SIZE):
                    dx = k % SIZE
                    _add_product(e[k], padded[b, c, y // 2 + k // SIZE, dx : dx + width], total)
                row = out[b, c, y]
                for j in range(width):
                    row[2 * j + q] = total[j] / norm[j]


@jit
def upsample_backward(padded: Any, numbers: Any, step: int, grad: Any, d_padded: Any, d_numbers: Any) -> None:
    """The gradients of `upsample_forward`: of the padded picture and of the three numbers.

    With weights w_k = e_k / sum e and u_k = sum_c g_c x_{c, k}: d loss / d logit_k = w_k (u_k - sum_m w_m u_m).

    Args:
        padded: (B, C, h + 4, w + 4).
        numbers: As in `upsample_forward`.
        step: As in `upsample_forward`.
        grad: (B, C, 2h, 2w).
        d_padded: (B, C, h + 4, w + 4), overwritten.
        d_numbers: (B, 3, 2h, 2w), overwritten.
    """
    batch, channels, tall, wide = grad.shape
    width, rows = wide // 2, tall // 2 + 2 * RADIUS
    one, two, quarter = grad.dtype.type(1), grad.dtype.type(2), grad.dtype.type(0.25)
    for b in prange(batch):
        form, d_form = np.empty((5, width), grad.dtype), np.empty((3, width), grad.dtype)
        e, u = np.empty((SIZE * SIZE, width), grad.dtype), np.empty((SIZE * SIZE, width), grad.dtype)
        norm, mean, g = (
            np.empty(width, grad.dtype),
            np.empty(width, grad.dtype),
            np.empty((channels, width), grad.dtype),
        )
        sums = np.zeros((channels, rows, SIZE, width), grad.dtype)  # what each row of the padded picture gets, by dx
        for y in range(tall):
            for q in range(2):
                _gaussian(numbers[b * step + y * wide :], tall * wide, y % 2, q, form, e, norm)
                for c in range(channels):
                    row, gradient = g[c], grad[b, c, y]
                    for j in range(width):
                        row[j] = gradient[2 * j + q] / norm[j]
                u[:] = 0
                mean[:] = 0
                for k in range(SIZE * SIZE):
                    r, dx = y // 2 + k // SIZE, k % SIZE
                    for c in range(channels):
                        _add_product(g[c], padded[b, c, r, dx : dx + width], u[k])
                        _add_product(e[k], g[c], sums[c, r, dx])
                    _add_product(e[k], u[k], mean)
                for j in range(width):
                    mean[j] /= norm[j]
                d_form[:] = 0
                d_xx, d_xy, d_yy = d_form[0], d_form[1], d_form[2]
                for k in range(SIZE * SIZE):
                    xx, xy, yy = _distances(y % 2, q, k, form)
                    weights, products = e[k], u[k]
                    for j in range(width):
                        d = weights[j] * (products[j] - mean[j])
                        d_xx[j] = _fma(xx, d, d_xx[j])
                        d_xy[j] = _fma(xy, d, d_xy[j])
                        d_yy[j] = _fma(yy, d, d_yy[j])
                d_a, d_b, d_c = d_numbers[b, 0, y], d_numbers[b, 1, y], d_numbers[b, 2, y]
                for j in range(width):
                    kx, ky, cross = form[3, j], form[4, j], form[1, j] * d_xy[j]
                    rho = form[1, j] / (two * kx * ky)
                    d_a[2 * j + q] = (two * form[0, j] * d_xx[j] + cross) * (one - quarter * kx)
                    d_b[2 * j + q] = (two * form[2, j] * d_yy[j] + cross) * (one - quarter * ky)
                    d_c[2 * j + q] = two * kx * ky * (one - rho * rho) * d_xy[j]
        for c in range(channels):
            for r in range(rows):
                _join(sums[c, r], d_padded[b, c, r])
