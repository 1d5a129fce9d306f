"""Statistics of raw latencies: quantiles, spread, and ratios of what was timed in the same rounds.

noise = (q75 - q25) / q50        ratio = median(a) / median(b), its interval by resampling whole rounds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOISE_THRESHOLD = 0.1  # IQR / median; above it the machine was not idle
MIN_SAMPLES = {"p50": 5, "p90": 20, "p99": 200}
RESAMPLES = 2000
LEVEL = 0.95


def quantiles(samples: Sequence[float]) -> dict[str, float | None]:
    """Return `p50`, `p90` and `p99`, each None if there are too few samples for it.

    Of n samples, n (1 - q) are expected above the quantile q. At least two must be there: with one,
    a single disturbance would be the result. So p90 needs 20 samples and p99 needs 200. p50 needs 5,
    two on either side of the middle one.

    Args:
        samples: Times of single calls, all in the same unit.

    Returns:
        Name -> quantile in the same unit, interpolated linearly.
    """
    return {
        name: float(np.percentile(samples, float(name[1:]))) if len(samples) >= needed else None
        for name, needed in MIN_SAMPLES.items()
    }


def noise(samples: Sequence[float]) -> float | None:
    """Return interquartile range / median, >= 0; None if there are too few samples for a median."""
    if len(samples) < MIN_SAMPLES["p50"]:
        return None
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float((high - low) / middle)


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def ratio(samples: Sequence[float], reference: Sequence[float], *, seed: int = 0) -> Ratio | None:
    """Return median(samples) / median(reference) with a percentile bootstrap interval.

    Entry i of both was measured in round i. Whole rounds are resampled, so a round that is slow for
    both does not change the ratio. The interval holds for this session only: on a busy machine another
    session may differ by more than its width. The plain percentile interval is used because corrected
    ones rely on a jackknife, which is inconsistent for a median.

    Args:
        samples: (n,) times, by round.
        reference: (n,) times of the reference, in the same unit and rounds.
        seed: Of the resampling.

    Returns:
        The ratio, or None if there are too few rounds for a median.

    Raises:
        ValueError: The numbers of rounds differ.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
    """
    if len(samples) != len(reference):
        raise ValueError(f"{len(samples)} rounds against {len(reference)}: a ratio needs the same rounds")
    if len(samples) < MIN_SAMPLES["p50"]:
        return None
    a, b = np.asarray(samples, float), np.asarray(reference, float)
    rounds = np.random.default_rng(seed).integers(0, len(a), (RESAMPLES, len(a)))
    resampled = np.median(a[rounds], axis=1) / np.median(b[rounds], axis=1)
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Ratio(float(np.median(a) / np.median(b)), float(low), float(high))
