"""Pareto fronts: points that no other point beats, and how certain that is by resampling the seeds.

Two points are compared by their means over the seeds that both have, so an effect that a seed has
on all points does not count as a difference between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

RESAMPLES = 1000
WORK = 2 * 10**7  # at most this many comparisons of two points


def beaten(values: np.ndarray) -> np.ndarray:
    """Return which points beat which others.

    A point beats another if, over their common seeds, no mean is larger and at least one is smaller.
    Points without a common seed do not beat each other.

    Args:
        values: (points, seeds, objectives), lower is better, NaN where a point lacks a seed.

    Returns:
        (points, points): [i, j]: j beats i.
    """
    out = np.zeros((len(values), len(values)), bool)
    for i, better in _compare(values, np.ones((1, values.shape[1]))):
        out[i] = better[:, 0]
    return out


def front_frequencies(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the fraction of resamples of the seeds in which each point lies on the front.

    Seeds are drawn with replacement, the same for all points, because they are paired. Resamples in
    which a point has no seed do not count for it.

    Args:
        values: As for `beaten`; each point has at least one seed.

    Returns:
        The fractions (points,), and the number of resamples, which is smaller for many points.
    """
    count, seeds, objectives = values.shape
    resamples = int(max(20, min(RESAMPLES, WORK // max(1, count * count * objectives))))
    weights = _resamples(seeds, resamples)
    has_seed = weights @ _known(values).T.astype(np.float64) > 0  # (resamples, points)
    on_front = np.empty_like(has_seed)
    for i, better in _compare(values, weights):
        on_front[:, i] = ~better.any(axis=0)
    return np.sum(on_front & has_seed, axis=0) / np.maximum(1, has_seed.sum(axis=0)), resamples


@lru_cache(maxsize=1)
def _resamples(seeds: int, resamples: int) -> np.ndarray:
    """Return how often each resample contains each seed (resamples, seeds), the same in every call."""
    return np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(np.float64)


def _known(values: np.ndarray) -> np.ndarray:
    return ~np.isnan(values).any(axis=2)


def _compare(values: np.ndarray, weights: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each point, and which others beat it in each resample (points, resamples).

    Points that have the same seeds share a matrix product: over the same seeds sums order as means do.

    Args:
        values: As for `beaten`.
        weights: (resamples, seeds): how often each resample contains each seed.
    """
    known = _known(values)
    x = np.where(known[:, :, None], values, 0.0).transpose(2, 0, 1) + 0.0  # (objectives, points, seeds), no -0.0
    patterns, pattern_of = np.unique(known, axis=0, return_inverse=True)
    pattern_of = pattern_of.ravel()  # of one shape in every version of numpy
    for k, pattern in enumerate(patterns):
        own = np.flatnonzero(pattern_of == k)
        # Each over the seeds that both points have.
        shared = np.where(patterns, x[:, own, None], 0.0), np.where(pattern, x, 0.0)
        ours, theirs = _sums(shared, weights)
        for i, point in enumerate(own.tolist()):
            mine = ours[:, i, pattern_of]
            yield point, np.logical_and(np.all(theirs <= mine, axis=0), np.any(theirs < mine, axis=0))


def _sums(values: Sequence[np.ndarray], weights: np.ndarray) -> list[np.ndarray]:
    """Return the sums over the seeds of arrays (..., seeds) in each resample: (..., resamples).

    Each distinct column is summed once, because a matrix product may round equal columns differently.
    """
    rows = np.concatenate([some.reshape(-1, some.shape[-1]) for some in values])
    place: dict[bytes, int] = {}
    places = [place.setdefault(row.tobytes(), len(place)) for row in rows]
    sums = (np.frombuffer(b"".join(place)).reshape(len(place), -1) @ weights.T)[places]
    parts = np.split(sums, np.cumsum([some[..., 0].size for some in values])[:-1])
    return [part.reshape(*some.shape[:-1], -1) for part, some in zip(parts, values, strict=True)]
