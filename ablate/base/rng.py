"""Keyed randomness: (seed, stream, index) -> generator.

Every random number of a run is drawn from a generator keyed by the run's seed, the name of its use (the stream) and an index (a picture,
an epoch, a parameter's name). A key never holds the variant, the batch size or the device, so two variants of one seed meet the same
noise, and picture i is the same picture whatever batch it stands in. Streams of a training: `init`, `order`, `time`, `noise`, `flip`,
`posterior`; of what comes after it: `sample`, `denoise`, `latency`, `calibrate`, `bootstrap`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def derive(seed: int, stream: str, index: int | str = 0) -> int:
    """Return a 63-bit integer that depends on (seed, stream, index) alone: the head of a BLAKE2b digest."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, stream: str, index: int | str = 0) -> torch.Generator:
    """Return a CPU generator for (seed, stream, index)."""
    return torch.Generator().manual_seed(derive(seed, stream, index))


def normal(seed: int, stream: str, indices: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Return standard normal noise (len(indices), *shape), float32 on the CPU; row i depends on (seed, stream, indices[i]) alone."""
    return torch.stack([torch.randn(shape, generator=generator(seed, stream, i)) for i in indices])


def uniform(seed: int, stream: str, indices: Iterable[int]) -> Tensor:
    """Return uniform numbers in [0, 1), float32 on the CPU, (len(indices),); entry i depends on (seed, stream, indices[i]) alone."""
    numbers = torch.tensor([derive(seed, stream, i) for i in indices], dtype=torch.float64)
    return numbers.div_(2.0**63).float().clamp_(max=1 - 2**-24)  # rounding to float32 could reach 1


def permutation(seed: int, stream: str, epoch: int, size: int) -> Tensor:
    """Return a permutation of range(size), int64, for one epoch."""
    return torch.randperm(size, generator=generator(seed, stream, epoch))
