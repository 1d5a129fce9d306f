"""Ways through memory that torch takes in several passes, in one, with the same bits; what is stored may be bfloat16.

Of a filter head's numbers, channels last, to the planes of float32 that the filters read, and back; and of a transformer block's
queries and keys, turned by their positions, from tokens to heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numba import prange, types
from numba.extending import overload
from torch import Tensor
from torch.autograd.function import once_differentiable

from ablate.models.kpn import cpu_kernels
from ablate.models.kpn.filters import by_loops

DTYPES = (torch.float32, torch.bfloat16)  # that the loops read and write
BLOCK = 64  # pixels whose channels are joined at a time


def _stored(x: Any, like: Any) -> Any:
    raise NotImplementedError


@overload(_stored, strict=False)
def _stored_of(x: Any, like: Any) -> Callable[[Any, Any], Any]:
    """x as an array of elements `like` keeps it: as it is, or as bfloat16's bits where these are uint16, ties to even as in torch."""
    if like != types.uint16:
        return lambda x, like: x

    def bits(x: Any, like: Any) -> Any:
        u = np.float32(x).view(np.uint32)
        rounded = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.uint16(rounded) if x == x else np.uint16(0x7FC0)  # NaN

    return bits


def _loaded(x: Any) -> Any:
    raise NotImplementedError


@overload(_loaded, strict=False)
def _loaded_of(x: Any) -> Callable[[Any], Any]:
    """The number that `_stored` keeps as x, in float32 where x is bfloat16's bits."""
    if x != types.uint16:
        return lambda x: x
    return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@cpu_kernels.inline
def _put(planes: Any, b: int, first: int, pixels: int, at: int, step: int, block: Any) -> None:
    """Put some pixels of planes (B, n, pixels) beside each other: channel c of the i-th into block[i step + at + c]."""
    for c in range(planes.shape[1]):
        row, target = planes[b, c, first : first + pixels], block[at + c :]
        for i in range(pixels):
            target[i * step] = row[i]


@cpu_kernels.jit
def interleave(one: Any, two: Any, three: Any, out: Any) -> None:
    """Join the channels of three sets of planes, pixel by pixel: channels first to channels last.

    By blocks that stay in the nearest cache: each array is read or written once, in its own order.

    Args:
        one: (B, n_1, pixels) float32.
        two: (B, n_2, pixels) float32.
        three: (B, n_3, pixels) float32.
        out: (B, pixels (n_1 + n_2 + n_3)), float32 or bfloat16's bits as uint16, overwritten.
    """
    batch, pixels = one.shape[0], one.shape[2]
    step = one.shape[1] + two.shape[1] + three.shape[1]
    blocks = -(-pixels // BLOCK)
    for m in prange(batch * blocks):
        b, first = m // blocks, m % blocks * BLOCK
        count = min(BLOCK, pixels - first)
        block = np.empty(BLOCK * step, one.dtype)
        _put(one, b, first, count, 0, step, block)
        _put(two, b, first, count, one.shape[1], step, block)
        _put(three, b, first, count, one.shape[1] + two.shape[1], step, block)
        target = out[b, first * step : (first + count) * step]
        for i in range(len(target)):
            target[i] = _stored(block[i], target[i])


@cpu_kernels.jit
def turn(qkv: Any, cos: Any, sin: Any, out: Any) -> None:
    """out[i, b, h, n] = `backbone.rotate` of qkv[b, n, i, h] for queries (i = 0) and keys (1), in float32.

    Args:
        qkv: (B, N, 3, heads, c), float32 or bfloat16's bits as uint16.
        cos: (N, c / 2) float32.
        sin: (N, c / 2) float32.
        out: (2, B, heads, N, c), the dtype of qkv, overwritten.
    """
    batch, tokens, _, heads, channels = qkv.shape
    half = channels // 2
    for m in prange(batch * heads):
        b, h = m // heads, m % heads
        for i in range(2):
            for n in range(tokens):
                x, y = qkv[b, n, i, h], out[i, b, h, n]
                first, second, turned_first, turned_second = x[:half], x[half:], y[:half], y[half:]
                c, s = cos[n], sin[n]
                for j in range(half):
                    p, q = _loaded(first[j]), _loaded(second[j])
                    turned_first[j] = _stored(p * c[j] - q * s[j], turned_first[j])
                    turned_second[j] = _stored(p * s[j] + q * c[j], turned_second[j])


def turn_heads(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """Turn queries and keys by their positions, without gradients, on a processor; None where this way does not serve.

    Args:
        qkv: (B, N, 3, heads, c), contiguous.
        cos: (N, c / 2) float32.
        sin: (N, c / 2) float32.

    Returns:
        Queries and keys (2, B, heads, N, c), the dtype of qkv: `backbone.rotate` of each in float32.
    """
    if qkv.requires_grad or not by_loops(qkv) or qkv.dtype not in DTYPES or cos.dtype != torch.float32:
        return None
    b, tokens, _, heads, channels = qkv.shape
    out = qkv.new_empty(2, b, heads, tokens, channels)
    cpu_kernels.run(turn, _bits(qkv), cos, sin, _bits(out))
    return out


def _bits(x: Tensor) -> Tensor:
    """The same memory in a dtype that the loops know."""
    return x.view(torch.uint16) if x.dtype == torch.bfloat16 else x


class _Planes(torch.autograd.Function):
    """`split_numbers` on a processor: backward, one pass joins the gradients, rounds them and lays them channels last."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, *counts: int) -> tuple[Tensor, ...]:
        ctx.dtype, ctx.counts = numbers.dtype, counts
        return _split(numbers, torch.float32, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        b, _, height, width = grads[0].shape
        out = grads[0].new_empty(b, height * width * sum(ctx.counts), dtype=ctx.dtype)
        cpu_kernels.run(interleave, *(grad.contiguous().flatten(2) for grad in grads), _bits(out))
        return out.view(b, height, width, -1).permute(0, 3, 1, 2), *(None for _ in ctx.counts)


def _split(numbers: Tensor, dtype: torch.dtype, counts: Sequence[int]) -> tuple[Tensor, ...]:
    return numbers.to(dtype, memory_format=torch.contiguous_format).split(list(counts), dim=1)


def split_numbers(numbers: Tensor, dtype: torch.dtype, counts: Sequence[int]) -> tuple[Tensor, ...]:
    """Take a head's numbers apart, channels first.

    Args:
        numbers: (B, n, H, W), in any dtype and layout.
        dtype: Of the parts.
        counts: Channels of each of the three parts, which sum to n; 0 is allowed.

    Returns:
        (B, count, H, W) each; the planes of one picture are contiguous.
    """
    if by_loops(numbers) and dtype == torch.float32 and numbers.dtype in DTYPES:
        parts: tuple[Tensor, ...] = _Planes.apply(numbers, *counts)
        return parts
    return _split(numbers, dtype, counts)
