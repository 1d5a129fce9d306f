"""Pareto fronts: points that no other point beats, and how certain that is by resampling the seeds.

Two points are compared by their means over the seeds that both have, so an effect that a seed has
on all points does not count as a difference between them.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    return np.concatenate([*_beaten(values, np.ones((1, values.shape[1])))])


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
    weights = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(np.float64)
    there = weights @ _known(values).T.astype(np.float64) > 0  # (resamples, points)
    on_front = np.stack([~some.any(axis=1) for some in _beaten(values, weights)], axis=1)
    return np.sum(on_front & there, axis=0) / np.maximum(1, there.sum(axis=0)), resamples


def _known(values: np.ndarray) -> np.ndarray:
    return ~np.isnan(values).any(axis=2)


def _beaten(values: np.ndarray, weights: np.ndarray) -> Iterator[np.ndarray]:
    """Yield, for each point, which others beat it in each resample (resamples, points).

    `weights` (resamples, seeds) says how often each resample contains each seed.
    """
    known = _known(values)
    x = np.where(known[:, :, None], values, 0.0).transpose(1, 0, 2)  # (seeds, points, objectives)
    seeds, count, objectives = x.shape
    for i in range(count):
        shared = (known & known[i]).T.astype(np.float64)  # (seeds, points)
        n = (weights @ shared)[:, :, None]
        both = np.stack([x[:, i, None] * shared[:, :, None], x * shared[:, :, None]])
        with np.errstate(invalid="ignore", divide="ignore"):
            mine, others = ((weights @ some.reshape(seeds, -1)).reshape(-1, count, objectives) / n for some in both)
        yield (others <= mine).all(axis=2) & (others < mine).any(axis=2)
