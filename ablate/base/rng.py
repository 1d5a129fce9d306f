"""Keyed random numbers: (seed, stream, index) -> generator.

A generator is keyed by the run's seed, the name of its use (the stream) and an index (an image, an
epoch, a parameter's name). The variant, the batch size and the device are never part of the key. So
two variants of one seed get the same noise, and image i is the same in any batch.

Streams of a training: `init`, `order`, `time`, `noise`, `flip`, `posterior`.
Later streams: `sample`, `denoise`, `latency`, `calibrate`, `bootstrap`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def derive(seed: int, stream: str, index: int | str = 0) -> int:
    """Return a 63-bit integer for (seed, stream, index): the start of a BLAKE2b digest."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, stream: str, index: int | str = 0) -> torch.Generator:
    """Return a CPU generator for (seed, stream, index)."""
    return torch.Generator().manual_seed(derive(seed, stream, index))


def normal(seed: int, stream: str, indices: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Return standard normal noise (N, *shape), float32 on the CPU; indices[i] keys row i."""
    return torch.stack([torch.randn(shape, generator=generator(seed, stream, i)) for i in indices])


def uniform(seed: int, stream: str, indices: Iterable[int]) -> Tensor:
    """Return uniform numbers (N,) in [0, 1), float32 on the CPU; entry i is keyed by indices[i]."""
    values = torch.tensor([derive(seed, stream, i) for i in indices], dtype=torch.float64)
    return values.div_(2.0**63).float().clamp_(max=1 - 2**-24)  # rounding to float32 could reach 1


def permutation(seed: int, stream: str, epoch: int, size: int) -> Tensor:
    """Return a permutation of range(size), int64 on the CPU, keyed by the epoch."""
    return torch.randperm(size, generator=generator(seed, stream, epoch))
