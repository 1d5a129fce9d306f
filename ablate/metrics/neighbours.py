"""How unlike each other samples are, and how near they come to training pictures.

    diversity   mean of d(x_i, x_j) over all pairs i < j                                    0: all samples are one picture
    nearest     median over samples of  min over training pictures of d                     small beside the held-out pictures': copies
    memorised   share of samples nearer to a training picture than all but 1 % of held-out pictures are

d is a perceptual distance (`ablate.metrics.pair_distances`). A generator that has learned the distribution makes as many near copies as
held-out pictures are: a share of about 0.01. More of them than chance explains (p < 0.001) raise the flag. The test is exact for any
number of held-out pictures: of N samples like M held-out pictures, the number below the k-th smallest of these is distributed as
beta-binomial(N, k, M + 1 - k).

Reference: the test against held-out neighbours follows Meehan et al., arXiv 2004.05675, in a simpler form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from ablate.base.errors import DataError
from ablate.metrics.pair_distances import Distance
from ablate.metrics.set_distances import LEVEL, Estimate

QUANTILE = 0.01  # of the held-out pictures' distances
ALARM = 0.001  # p-value


@dataclass(frozen=True)
class Neighbours:
    """Of each query its distance to the nearest candidate, (Q,) float32, and which one that is, (Q,) int64; on the CPU."""

    distance: Tensor
    index: Tensor


@dataclass(frozen=True)
class Memorisation:
    """The share of samples that lie as near to a training picture as 1 % of held-out pictures do, with its interval, and the flag."""

    share: Estimate
    flag: bool


def to_unit(images: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Return uint8 pictures as float32 in [-1, 1] on a device."""
    pictures = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    return pictures.to(device).float() / 127.5 - 1


def embed(images: np.ndarray, distance: Distance, device: torch.device | str, batch: int = 64) -> Tensor:
    """Return the embeddings (N, E) float32, on the device, of pictures (N, 3, H, W) uint8."""
    return torch.cat([distance.embed(to_unit(images[i : i + batch], device)) for i in range(0, len(images), batch)])


def diversity(embeddings: Tensor) -> float:
    """Return the mean distance over all pairs, 2 N / (N - 1) (mean |e|^2 - |mean e|^2), without forming them.

    Args:
        embeddings: (N, E) float, N >= 2.

    Raises:
        DataError: There is one picture only.
    """
    n = len(embeddings)
    if n < 2:
        raise DataError(f"diversity: found {n} picture; a pair needs 2")
    centred = embeddings - embeddings.mean(0)
    return float(2 / (n - 1) * centred.square().sum(dtype=torch.float64))


def nearest(
    queries: Tensor,
    candidates: Iterable[np.ndarray],
    distance: Distance,
    *,
    skip: Mapping[bytes, Sequence[int]] = MappingProxyType({}),
    on_batch: Callable[[int], None] = lambda n: None,
) -> Neighbours:
    """Return the nearest candidate of each query; candidates are read once, in batches.

    Args:
        queries: (Q, E) embeddings.
        candidates: (B, 3, H, W) uint8 each.
        distance: What the embeddings are of.
        skip: A candidate's pixels -> the queries that are this picture and look for another one. A query that finds no other is at
            distance 0.
        on_batch: Called after each batch with the number of its pictures.
    """
    best = queries.new_full((len(queries),), torch.inf)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    squares, seen = queries.square().sum(1), 0
    for batch in candidates:
        e = distance.embed(to_unit(batch, queries.device))
        d = squares[:, None] + e.square().sum(1) - 2 * queries @ e.T
        for column, picture in enumerate(batch if skip else ()):
            for query in skip.get(picture.tobytes(), ()):
                d[query, column] = torch.inf
        value, at = d.min(1)
        index = torch.where(value < best, at + seen, index)
        best = torch.minimum(value, best)
        seen += len(e)
        on_batch(len(e))
    return Neighbours(best.clamp(min=0).masked_fill(best.isinf(), 0).cpu(), index.cpu())


def memorisation(samples: Tensor, held_out: Tensor) -> Memorisation:
    """Compare samples' distances to their nearest training pictures with held-out pictures'.

    Args:
        samples: (N,) distances.
        held_out: (M,) distances of real pictures that are not in the training set.

    Returns:
        The share with its exact (Clopper-Pearson) interval of level 0.95, in which the threshold's own uncertainty is not: with M held-out
        pictures the expected share is known to about 0.01 +- 0.1 / sqrt(M). The flag's test counts it in.
    """
    n, m = len(samples), len(held_out)
    near = int((samples.double() < torch.quantile(held_out.double(), QUANTILE)).sum())
    interval = scipy.stats.binomtest(near, n).proportion_ci(LEVEL, method="exact")
    k = int(QUANTILE * (m - 1)) + 1  # the order statistic at the quantile, or below it where that lies between two
    below = int((samples.double() < held_out.double().kthvalue(k).values).sum())
    flag = scipy.stats.betabinom.sf(below - 1, n, k, m + 1 - k) < ALARM
    return Memorisation(Estimate(near / n, None, float(interval.low), float(interval.high)), bool(flag))
