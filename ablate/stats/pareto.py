"""Pareto fronts: what nothing else beats in every objective, and how sure that is by resampling the seeds.

Two points are compared by their means over the seeds that both have: what a seed does to all of them is no difference between them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RESAMPLES = 1000
WORK = 2 * 10**7  # comparisons of two points that are made at most


def beaten(values: np.ndarray) -> np.ndarray:
    """Return which point beats which: over their common seeds at most as large in every mean and smaller in one.

    Args:
        values: (points, seeds, objectives), lower is better, NaN where a point lacks a seed. Points without a common seed do not beat
            each other.

    Returns:
        (points, points): [i, j]: j beats i.
    """
    return np.concatenate([*_beaten(values, np.ones((1, values.shape[1])))])


def shares(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return in which share of resamples of the seeds each point lies on the front, of those in which it has a seed.

    The seeds are drawn with replacement, the same for all points: they are paired.

    Args:
        values: As of `beaten`; each point has a seed.

    Returns:
        (points,), and how many resamples were made: fewer of many points.
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
    """Yield for each point which others beat it in each resample (resamples, points), with `weights` (resamples, seeds) of the seeds."""
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
