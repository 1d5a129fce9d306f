"""Pareto fronts: what nothing else beats in every objective, and how sure that is by resampling the seeds."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000
WORK = 2 * 10**7  # comparisons of two points that are made at most


def beaten(points: np.ndarray) -> np.ndarray:
    """Return which point beats which: at most as large everywhere and smaller somewhere.

    Args:
        points: (..., points, objectives), lower is better; one with a NaN neither beats nor is beaten.

    Returns:
        (..., points, points): [i, j]: j beats i.
    """
    shape = (*points.shape[:-1], points.shape[-2])
    never, somewhere = np.zeros(shape, bool), np.zeros(shape, bool)
    for k in range(points.shape[-1]):
        mine, others = points[..., :, None, k], points[..., None, :, k]
        never |= ~(others <= mine)
        somewhere |= others < mine
    return somewhere & ~never


def shares(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return in which share of resamples of the seeds each point's mean lies on the front.

    The seeds are drawn with replacement, the same for all points: they are paired.

    Args:
        values: (points, seeds, objectives), lower is better, NaN where a point lacks a seed.

    Returns:
        (points,), and how many resamples were made: fewer of many points.
    """
    count, seeds, objectives = values.shape
    resamples = int(max(20, min(RESAMPLES, WORK // max(1, count * count * objectives))))
    weights = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(np.float64)
    known = ~np.isnan(values)
    flat = np.where(known, values, 0.0).transpose(1, 0, 2).reshape(seeds, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ flat) / (weights @ known.transpose(1, 0, 2).reshape(seeds, -1).astype(np.float64))
    means = means.reshape(resamples, count, objectives)
    on_front = np.zeros(count)
    at_once = max(1, 10**6 // (count * count * objectives))
    for start in range(0, resamples, at_once):
        some = means[start : start + at_once]
        on_front += np.sum(~beaten(some).any(axis=2) & ~np.isnan(some).any(axis=2), axis=0)
    return on_front / resamples, resamples
