"""Paired tests: what the differences between two variants say, one difference per seed.

Sign-flip test: if there is no effect, each difference has either sign with equal probability. p is
the fraction of the 2^n sign patterns whose mean is at least as far from 0 as the observed one.
Two-sided, p is at least 2^(1 - n): with fewer than six seeds nothing can be decided at 0.05.
Interval: mean +- t sd / sqrt(n), by Student's t.
Holm's correction: the k-th smallest of m p-values is multiplied by m - k + 1. Then the chance that
any of the m tests reports a difference that does not exist is at most ALPHA.

A difference is real if both agree: p after Holm's correction is at most ALPHA, and the interval
excludes 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

ALPHA = 0.05
POWER = 0.8
EXACT = 32  # up to this many differences every sign pattern is counted
RANDOM = 2**14 - 1  # random sign patterns for more differences
MOST_SEEDS = 1000  # never propose more seeds than these

VerdictWord = Literal["helps", "hurts", "undecided"]
ClaimWord = Literal["supported", "contradicted", "undecided"]


def min_seeds(alpha: float) -> int:
    """Return the smallest n whose sign-flip test can reach `alpha`."""
    return 1 + math.ceil(-math.log2(alpha) - 1e-9)


SEEDS_NEEDED = min_seeds(ALPHA)


@dataclass(frozen=True)
class Paired:
    """A summary of n differences; `low` and `high` are the 95 % interval of their mean.

    `mean` and `p` are None for no difference; `sd`, `low` and `high` are None for fewer than two.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class Verdict:
    """A verdict on a variant, and its reason in a sentence."""

    word: VerdictWord
    why: str


@dataclass(frozen=True)
class ClaimVerdict:
    """A verdict on a claim, and its reason in a sentence."""

    word: ClaimWord
    why: str


def summarise(differences: Sequence[float] | np.ndarray) -> Paired:
    """Summarise finite differences (n,), one per seed."""
    x = np.asarray(differences, np.float64)
    n = len(x)
    if n == 0:
        return Paired(0, None, None, None, None, None)
    mean = float(x.mean())
    if n == 1:
        return Paired(1, mean, None, None, None, 1.0)
    sd = float(x.std(ddof=1))
    half = half_width(n, sd)
    return Paired(n, mean, sd, mean - half, mean + half, sign_flip(x))


def sign_flip(differences: Sequence[float] | np.ndarray, *, one_sided: bool = False) -> float:
    """Return the p-value of the sign-flip test.

    It is exact for up to `EXACT` differences. For more it is estimated from random patterns.

    Args:
        differences: (n,), finite.
        one_sided: Count only means as far *above* 0 as evidence.
    """
    x = np.asarray(differences, np.float64)
    size = float(np.abs(x).sum())
    seen = float(x.sum()) if one_sided else abs(float(x.sum()))
    least = seen - 1e-12 * size  # the same numbers summed in another order may differ by rounding
    if size == 0 or (not one_sided and least <= 0):
        return 1.0
    if len(x) > EXACT:
        sums = _random_signs(len(x)) @ x.astype(np.float32)
        extreme = int(np.count_nonzero((sums if one_sided else np.abs(sums)) >= seen - 1e-5 * size))
        return (extreme + 1) / (RANDOM + 1)
    # The sum of a pattern is a sum over the first half plus one over the second half of the differences.
    # So 2^(n/2) sums of each half are enough to count all 2^n patterns.
    first, second = _sums(x[: len(x) // 2]), np.sort(_sums(x[len(x) // 2 :]))
    above = float(np.sum(len(second) - np.searchsorted(second, least - first, side="left")))
    return min(1.0, (above if one_sided else 2 * above) / 2.0 ** len(x))


def _sums(x: np.ndarray) -> np.ndarray:
    """Return all 2^n sums of +-x, x of shape (n,)."""
    sums = np.zeros(1)
    for value in x:
        sums = np.concatenate([sums + value, sums - value])
    return sums


@lru_cache(maxsize=1)
def _random_signs(n: int) -> np.ndarray:
    """Return random signs (RANDOM, n) float32, the same in every call."""
    bits = np.random.default_rng(0).integers(0, 2, (RANDOM, n), np.int8)
    return (2 * bits - 1).astype(np.float32)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values (m,) after Holm's correction over all of them."""
    corrected = [0.0] * len(ps)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


@lru_cache(maxsize=4096)
def _quantile(n: int, alpha: float) -> float:
    """Return the value that |t| with n - 1 degrees of freedom exceeds with probability alpha."""
    from scipy import special

    return float(special.stdtrit(n - 1, 1 - alpha / 2))


def half_width(n: int, sd: float, alpha: float = ALPHA) -> float:
    """Return half the width of the two-sided 1 - alpha interval of the mean of n >= 2 differences."""
    return _quantile(n, alpha) * sd / math.sqrt(n)


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """Return the probability that the sign-flip test detects a true difference.

    At the smallest level, 2^(1 - n), the test needs n equal signs, and the result is exact. At
    higher levels it is approximated by Student's t. The tests check both by simulation.

    Args:
        effect: True mean / true standard deviation of normal differences.
        n: Seeds.
        alpha: Level, two-sided.
    """
    patterns = math.floor(alpha * 2.0 ** (n - 1) + 1e-9) if n < 60 else 2**59
    if n < 2 or patterns < 1:
        return 0.0
    from scipy import special

    effect = min(abs(effect), 8.0)
    reached = patterns / 2.0 ** (n - 1) if n < 60 else alpha
    same_sign = float(special.ndtr(effect)) ** n + float(special.ndtr(-effect)) ** n
    lost = max(0.0, _t_power(effect, n, 2.0 ** (1 - n)) - same_sign) / patterns if patterns < 1000 else 0.0
    return max(same_sign, _t_power(effect, n, reached) - lost)


def _t_power(effect: float, n: int, alpha: float) -> float:
    from scipy import special

    shift, far = effect * math.sqrt(n), _quantile(n, alpha)
    upper = 1 - float(special.nctdtr(n - 1, shift, far))
    if n > 100 or shift > 30 or math.isnan(upper):  # scipy computes the noncentral t badly here
        return float(special.ndtr(shift - far) + special.ndtr(-shift - far))
    # scipy returns NaN for the other tail where it is negligible.
    return upper + (float(special.nctdtr(n - 1, shift, -far)) if shift < 1 else 0.0)


@lru_cache(maxsize=4096)
def _effect(n: int, alpha: float) -> float | None:
    if n < 2 or n < min_seeds(alpha):
        return None
    low, high = 0.0, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, n, alpha) < POWER else (low, middle)
    return high


def detectable(sd: float | None, n: int, alpha: float = ALPHA) -> float | None:
    """Return the smallest true difference that n seeds detect with probability `POWER`.

    None if n seeds can detect no difference at this level, or `sd` is unknown.
    """
    effect = _effect(n, alpha)
    return None if effect is None or sd is None else effect * sd


def seeds_needed(pairs: Paired, alpha: float = ALPHA) -> int | None:
    """Return how many seeds detect the observed difference with probability `POWER`.

    The observed mean and standard deviation are taken to be the true ones.

    Returns:
        Seeds in all, never fewer than the test needs for `alpha`; None for more than `MOST_SEEDS`.
    """
    least = min_seeds(alpha)
    if pairs.sd is None or pairs.mean is None:
        return least
    if pairs.sd == 0:
        return least if pairs.mean else None
    effect = abs(pairs.mean) / pairs.sd
    if power(effect, MOST_SEEDS, alpha) < POWER:
        return None
    low, high = least - 1, MOST_SEEDS  # low is too few, high enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, alpha) >= POWER else (middle, high)
    return high


def seeds_for_margin(pairs: Paired, margin: float) -> int | None:
    """Return how many seeds put the interval within +-margin if mean and sd stay as they are.

    None if more than `MOST_SEEDS` are needed.
    """
    if pairs.sd is None or pairs.mean is None:
        return SEEDS_NEEDED
    room = margin - abs(pairs.mean)
    return next((n for n in range(SEEDS_NEEDED, MOST_SEEDS + 1) if half_width(n, pairs.sd) < room), None)


def is_real(pairs: Paired, p_holm: float | None) -> bool:
    """Return whether test and interval both say that there is a difference."""
    if pairs.low is None or pairs.high is None or p_holm is None:
        return False
    return p_holm <= ALPHA and (pairs.low > 0 or pairs.high < 0)


def compare(pairs: Paired, p_holm: float | None, family: int, *, higher_is_better: bool = False) -> Verdict:
    """Return whether a variant helps or hurts, or that this is undecided.

    Args:
        pairs: Its differences (variant - baseline).
        p_holm: Their p after Holm's correction.
        family: Number of tests that the correction covers.
        higher_is_better: Whether higher values of the metric are better.
    """
    if is_real(pairs, p_holm):
        if ((pairs.mean or 0.0) > 0) == higher_is_better:
            return Verdict("helps", f"better, {_tested(pairs, p_holm)}")
        return Verdict("hurts", f"worse, {_tested(pairs, p_holm)}")
    return Verdict("undecided", _undecided(pairs, p_holm, family))


def judge(
    pairs: Paired,
    p_holm: float | None,
    family: int,
    expect: str,
    *,
    higher_is_better: bool = False,
    margin: float | None = None,
    p_same: float | None = None,
) -> ClaimVerdict:
    """Return whether a claim on a variant is supported, contradicted or undecided.

    Args:
        pairs: Its differences (variant - baseline).
        p_holm: Their p after Holm's correction.
        family: Number of tests that the correction covers.
        expect: `better`, `worse` or `same`.
        higher_is_better: Whether higher values of the metric are better.
        margin: For `same`: differences up to this size count as none. Without one it stays undecided.
        p_same: For `same`: the result of `equivalence` after Holm's correction.
    """
    if expect != "same":
        verdict = compare(pairs, p_holm, family, higher_is_better=higher_is_better)
        if verdict.word == "undecided":
            return ClaimVerdict("undecided", verdict.why)
        as_claimed = verdict.word == {"better": "helps", "worse": "hurts"}[expect]
        return ClaimVerdict("supported" if as_claimed else "contradicted", verdict.why)
    if margin is None:
        why = "the claim states no margin: not seeing a difference does not show that there is none"
        return ClaimVerdict("undecided", why)
    if pairs.low is None or pairs.high is None or pairs.n < SEEDS_NEEDED:
        return ClaimVerdict("undecided", _few(pairs.n))
    if is_real(pairs, p_holm) and (pairs.low > margin or pairs.high < -margin):
        why = f"the interval lies outside the margin of {margin:.3g}, {_tested(pairs, p_holm)}"
        return ClaimVerdict("contradicted", why)
    if p_same is not None and p_same <= ALPHA and -margin < pairs.low and pairs.high < margin:
        why = f"the interval lies within the margin of {margin:.3g}, p = {p_same:.2g} over {pairs.n} seeds"
        return ClaimVerdict("supported", why)
    why = f"{pairs.n} seeds place the difference neither within the margin of {margin:.3g} nor outside it"
    return ClaimVerdict("undecided", why)


def equivalence(differences: Sequence[float] | np.ndarray, margin: float) -> float:
    """Return the p-value against a true difference of `margin` or more in either direction.

    It is the larger p of two one-sided sign-flip tests.
    """
    x = np.asarray(differences, np.float64)
    return max(sign_flip(margin - x, one_sided=True), sign_flip(margin + x, one_sided=True)) if len(x) else 1.0


def _few(n: int) -> str:
    if not n:
        return "no seed is finished by both"
    return f"{n} seed{'' if n == 1 else 's'}: the test needs {SEEDS_NEEDED} to decide anything"


def _tested(pairs: Paired, p_holm: float | None) -> str:
    corrected = "" if p_holm == pairs.p else f", {p_holm:.2g} after Holm's correction"
    return f"p = {pairs.p:.2g} over {pairs.n} seeds{corrected}"


def _undecided(pairs: Paired, p_holm: float | None, family: int) -> str:
    if pairs.n < SEEDS_NEEDED or pairs.p is None or p_holm is None or pairs.low is None or pairs.high is None:
        return _few(pairs.n)
    if p_holm <= ALPHA:
        return f"{_tested(pairs, p_holm)}, but the interval includes 0: one seed is far from the others"
    if pairs.p > ALPHA:
        return f"p = {pairs.p:.2g} over {pairs.n} seeds"
    needed = min_seeds(ALPHA / family)
    if pairs.n < needed:
        return f"{_tested(pairs, p_holm)}: of {family} comparisons the first needs {needed} seeds"
    return f"{_tested(pairs, p_holm)} over {family} comparisons"
