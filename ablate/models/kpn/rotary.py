"""The two-dimensional rotary position embedding (RoPE) of queries and keys.

    (x_i, x_{i + c/2}) <- (x_i cos a - x_{i + c/2} sin a,  x_i sin a + x_{i + c/2} cos a),   i < c/2

The angle a grows with the token's row for i < c/4, and with its column for the other pairs.

Without gradients on a CPU, one Numba kernel rotates queries and keys and sorts them by head. torch
needs several passes over memory for this. The bits are the same.

Reference: RoFormer, arXiv 2104.09864.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import prange, types
from numba.extending import overload
from torch import Tensor

from ablate.models.kpn import cpu_kernels

DTYPES = (torch.float32, torch.bfloat16)  # of the kernel's input and output


def rotary_angles(side: int, channels: int) -> Tensor:
    """Return the angles (side^2, channels / 2), float32, for side x side tokens."""
    frequencies = 100.0 ** (-torch.arange(channels // 4) / (channels // 4))
    angles = torch.arange(side)[:, None] * frequencies
    rows = angles[:, None, :].expand(side, side, -1)
    columns = angles[None, :, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, channels // 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x (..., N, c), rotated by angles with the given cosines and sines (N, c / 2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def split_and_rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries, rotated keys and values, (B, heads, N, c) each, in the dtype of qkv.

    Args:
        qkv: (B, N, 3, heads, c), contiguous.
        cos: Cosines of the angles (N, c / 2), float32.
        sin: Sines of the angles (N, c / 2), float32.
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if fits_kernel(qkv, cos):
        out = qkv.new_empty(2, *q.shape)
        cpu_kernels.run(_rotate_kernel, _as_numpy_dtype(qkv), cos, sin, _as_numpy_dtype(out))
        return out[0], out[1], v
    return rotate(q, cos, sin).to(qkv.dtype), rotate(k, cos, sin).to(qkv.dtype), v


def fits_kernel(qkv: Tensor, cos: Tensor) -> bool:
    """Return whether the Numba kernel rotates these: on a CPU, without gradients, in its dtypes."""
    cpu = cpu_kernels.usable_for(qkv)
    return cpu and not qkv.requires_grad and qkv.dtype in DTYPES and cos.dtype == torch.float32


def _as_numpy_dtype(x: Tensor) -> Tensor:
    """A view of the same memory in a dtype that numpy has: bfloat16 as uint16."""
    return x.view(torch.uint16) if x.dtype == torch.bfloat16 else x


def _store(x: Any, like: Any) -> Any:
    raise NotImplementedError  # compiled code takes the overload


@overload(_store, strict=False)
def _store_overload(x: Any, like: Any) -> Callable[[Any, Any], Any]:
    """x in the dtype of `like`: for uint16 the bits of bfloat16, rounded to even as torch does."""
    if like != types.uint16:
        return lambda x, like: x

    def bits(x: Any, like: Any) -> Any:
        u = np.float32(x).view(np.uint32)
        rounded = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.uint16(rounded) if x == x else np.uint16(0x7FC0)  # NaN

    return bits


def _load(x: Any) -> Any:
    raise NotImplementedError  # compiled code takes the overload


@overload(_load, strict=False)
def _load_overload(x: Any) -> Callable[[Any], Any]:
    """The inverse of `_store`: float32 if x is the bits of bfloat16."""
    if x != types.uint16:
        return lambda x: x
    return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@cpu_kernels.jit
def _rotate_kernel(qkv: Any, cos: Any, sin: Any, out: Any) -> None:
    """out[i, b, h, n] = rotate(qkv[b, n, i, h]) for queries (i = 0) and keys (i = 1), in float32.

    Args:
        qkv: (B, N, 3, heads, c), float32, or the bits of bfloat16 as uint16.
        cos: (N, c / 2), float32.
        sin: (N, c / 2), float32.
        out: (2, B, heads, N, c), the dtype of qkv, overwritten.
    """
    batch, tokens, _, heads, channels = qkv.shape
    half = channels // 2
    for m in prange(batch * heads):
        b, h = m // heads, m % heads
        for i in range(2):
            for n in range(tokens):
                x, y = qkv[b, n, i, h], out[i, b, h, n]
                x1, x2, y1, y2 = x[:half], x[half:], y[:half], y[half:]
                c, s = cos[n], sin[n]
                for j in range(half):
                    p, q = _load(x1[j]), _load(x2[j])
                    y1[j] = _store(p * c[j] - q * s[j], y1[j])
                    y2[j] = _store(p * s[j] + q * c[j], y2[j])
