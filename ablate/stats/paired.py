"""Paired differences, one per seed: their mean, its interval, and the power of a test of them.

    interval = mean +- t sd / sqrt(n)                     Student's t, n - 1 degrees of freedom
    T        = |mean| / (sd / sqrt(n))                    a test decides where T is at least `critical`
    power    = P(T >= critical), T noncentral t with noncentrality effect sqrt(n), effect = mean / sd

`ablate.stats.family` says which T decides.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000  # never propose more seeds than these
LARGEST_EFFECT = 50.0  # mean / sd


@dataclass(frozen=True)
class Paired:
    """A summary of n differences; `low` and `high` are the 95 % interval of their mean.

    `mean` is None for no difference; `sd`, `low` and `high` are None for fewer than two.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


def summarise(differences: Sequence[float] | np.ndarray) -> Paired:
    """Summarise finite differences (n,), one per seed."""
    x = np.asarray(differences, np.float64)
    n = len(x)
    if n == 0:
        return Paired(0, None, None, None, None)
    mean = float(x.mean())
    if n == 1:
        return Paired(1, mean, None, None, None)
    sd = float(x.std(ddof=1))
    half = half_width(n, sd)
    return Paired(n, mean, sd, mean - half, mean + half)


@lru_cache(maxsize=4096)
def quantile(n: int, alpha: float) -> float:
    """Return the value that |t| with n - 1 degrees of freedom exceeds with probability alpha."""
    from scipy import special

    return float(special.stdtrit(n - 1, 1 - alpha / 2))


def half_width(n: int, sd: float, alpha: float = ALPHA) -> float:
    """Return half the width of the two-sided 1 - alpha interval of the mean of n >= 2 differences."""
    return quantile(n, alpha) * sd / math.sqrt(n)


def power(effect: float, n: int, critical: float) -> float:
    """Return the probability that n normal differences reach a critical T.

    Args:
        effect: True mean / true standard deviation.
        n: Seeds.
        critical: The T that decides; infinite: none does.
    """
    if n < 2 or not math.isfinite(critical):
        return 0.0
    from scipy import special

    shift = min(abs(effect), LARGEST_EFFECT) * math.sqrt(n)
    upper = 1 - float(special.nctdtr(n - 1, shift, critical))
    if n > 100 or shift > 30 or math.isnan(upper):  # scipy computes the noncentral t badly here
        # T is about normal, the wider the smaller n: Johnson and Welch (1940), eq. 11.
        width = math.sqrt(1 + critical**2 / (2 * (n - 1)))
        middle = critical * (1 - 1 / (4 * (n - 1)))
        return float(special.ndtr((shift - middle) / width) + special.ndtr((-shift - middle) / width))
    # scipy returns NaN for the other tail where it is negligible.
    return upper + (float(special.nctdtr(n - 1, shift, -critical)) if shift < 1 else 0.0)


@lru_cache(maxsize=4096)
def _effect(n: int, critical: float) -> float | None:
    if power(LARGEST_EFFECT, n, critical) < POWER:
        return None
    low, high = 0.0, LARGEST_EFFECT
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, n, critical) < POWER else (low, middle)
    return high


def detectable(sd: float | None, n: int, critical: float) -> float | None:
    """Return the smallest true difference that n seeds detect with probability `POWER`.

    None if n seeds can detect no difference, or `sd` is unknown.
    """
    effect = None if sd is None else _effect(n, critical)
    return None if effect is None or sd is None else effect * sd


def seeds_needed(pairs: Paired, critical: Callable[[int], float], least: int) -> int | None:
    """Return how many seeds detect the observed difference with probability `POWER`.

    The observed mean and standard deviation are taken to be the true ones.

    Args:
        pairs: The differences so far.
        critical: n -> the T that decides at n seeds.
        least: The fewest seeds that can decide anything.

    Returns:
        Seeds in all, at least `least`; None for more than `MOST_SEEDS`.
    """
    if pairs.sd is None or pairs.mean is None:
        return least
    if pairs.sd == 0:
        return least if pairs.mean else None
    effect = abs(pairs.mean) / pairs.sd
    seeds = range(MOST_SEEDS + 1)
    n = bisect.bisect_left(seeds, True, lo=least, key=lambda n: power(effect, n, critical(n)) >= POWER)
    return n if n in seeds else None
