"""What raw latencies say: quantiles that their number supports, their spread, and the ratio of two things timed in the same rounds.

noise = (q75 - q25) / q50        ratio = median(a) / median(b), resampled with common rounds
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
    """Return `p50`, `p90` and `p99`, each None where the samples are too few to support it.

    Of n samples n (1 - q) are expected above the quantile q, and at least two must be: with fewer, the largest sample, so one
    disturbance, would be the answer. That asks for 20 samples for p90 and 200 for p99; p50 asks for 5, two on either side of one.

    Args:
        samples: Times of single calls, in any one unit.

    Returns:
        Name -> quantile in the same unit, interpolated linearly.
    """
    return {
        name: float(np.percentile(samples, float(name[1:]))) if len(samples) >= needed else None
        for name, needed in MIN_SAMPLES.items()
    }


def noise(samples: Sequence[float]) -> float | None:
    """Return the interquartile range over the median, >= 0; None with fewer samples than a median needs."""
    if len(samples) < MIN_SAMPLES["p50"]:
        return None
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float((high - low) / middle)


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its bootstrap interval of level 0.95."""

    value: float
    low: float
    high: float


def ratio(samples: Sequence[float], reference: Sequence[float], *, seed: int = 0) -> Ratio | None:
    """Return median(samples) / median(reference) with a percentile bootstrap interval.

    Entry i of both was measured in round i, so whole rounds are resampled: a slow round is slow for both, and drops out of the ratio.
    It speaks of this session alone: on a busy machine another session may differ by more than the interval's width.
    The percentile interval is taken because the corrections of others lean on a jackknife, which is inconsistent for a median.

    Args:
        samples: (n,) times, by round.
        reference: (n,) times of the other, in the same unit, by the same rounds.
        seed: Chooses the resamples.

    Returns:
        The ratio, or None with fewer rounds than a median needs.

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
