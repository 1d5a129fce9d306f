"""Anytime-valid evidence: e-processes, which stay valid whatever made the user add seeds or stop.

    e_n = (1 + g n)^(-1/2) ((1 + T^2 / v) / (1 + T^2 / (v (1 + g n))))^((v + 1) / 2)
    T^2 = n mean^2 / sd^2,   v = n - 1

is the t-test's Bayes factor with the right-Haar prior on the spread and N(0, g) on mean / spread. Under no effect it
exceeds 1 / alpha at any time with probability at most alpha (Ville's inequality; Perez-Ortiz, Lardy, de Heide and
Grunwald, "E-statistics, group invariance and anytime-valid testing", 2024). It assumes normal differences; what
heavy tails and skewness do is simulated by `tests/simulate.py`.

Several comparisons: the closed test of averages, e*_k = min over sets of comparisons that hold k of their mean e.
Averages of e-processes are e-processes, so a claim where e*_k >= 1 / alpha is false with probability at most alpha for
the family, at any time (Vovk and Wang, "E-values: calibration, combination and applications", 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

EFFECT_VARIANCE = 1.0  # g: effects of about one standard deviation are expected
SIGN_BET = 0.9
LOG_LARGEST = 300.0  # keeps e-values finite


def e_values(differences: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the e-value after each seed.

    Args:
        differences: (n,) finite, in the order in which the seeds came.

    Returns:
        (n,) float64, positive; 1 after the first seed.
    """
    x = np.asarray(differences, np.float64)
    if len(x) == 0:
        return np.ones(0)
    n = np.arange(1, len(x) + 1)
    mean = np.cumsum(x) / n
    squares = np.cumsum(x**2)
    residual = np.maximum(squares - n * mean**2, 0.0)
    v, scale = np.maximum(n - 1, 1), 1 + EFFECT_VARIANCE * n
    with np.errstate(divide="ignore", invalid="ignore"):
        # 1 + T^2 / v and 1 + T^2 / (v scale), both times the residual sum of squares
        log = (v + 1) / 2 * (np.log(squares) - np.log(residual + n * mean**2 / scale)) - np.log(scale) / 2
    log = np.where((n < 2) | (squares == 0), 0.0, log)
    return np.exp(np.minimum(log, LOG_LARGEST))


def critical(n: int, level: float) -> float:
    """Return the T of n seeds whose e-value is 1 / level; infinite: none has so large a one."""
    if n < 2:
        return math.inf
    v, scale = n - 1, 1 + EFFECT_VARIANCE * n
    ratio = (math.sqrt(scale) / level) ** (2 / (v + 1))  # of the two parentheses in e_n
    return math.sqrt(v * (ratio - 1) / (1 - ratio / scale)) if ratio < scale else math.inf


def seeds_for_sign(mean: float, sd: float, level: float, most: int) -> int | None:
    """Return how many seeds bring the sign's e-value to 1 / level on average; None: more than `most`.

    Args:
        mean: Expected difference, above 0.
        sd: Its standard deviation over seeds.
        level: As for `critical`.
        most: The largest number.
    """
    from scipy import special

    positive = float(special.ndtr(mean / sd)) if sd > 0 else 1.0
    gain = positive * math.log1p(SIGN_BET) + (1 - positive) * math.log1p(-SIGN_BET)
    needed = math.ceil(-math.log(level) / gain) if gain > 0 else math.inf
    return int(needed) if needed <= most else None


def sign_e_values(differences: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the e-value after each seed against a median of 0 or less: bets 0.9 of the capital on a positive sign.

    Args:
        differences: (n,) finite, in the order in which the seeds came.

    Returns:
        (n,) float64: the product of 1.9 for each positive difference and 0.1 for each other one.
    """
    x = np.asarray(differences, np.float64)
    return np.exp(np.cumsum(np.where(x > 0, np.log1p(SIGN_BET), np.log1p(-SIGN_BET))))


def adjusted(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return each comparison's e-value (m,) adjusted for the family: the smallest mean of a set that holds it."""
    e = np.asarray(values, np.float64)
    smallest_first = np.sort(e)
    sums = np.concatenate([[0.0], np.cumsum(smallest_first)])
    out = np.empty(len(e))
    for k, value in enumerate(e):
        below = int(np.searchsorted(smallest_first, value, side="left"))  # those smaller than this one
        sizes = np.arange(below + 1)
        out[k] = ((value + sums[: below + 1]) / (sizes + 1)).min()
    return out
