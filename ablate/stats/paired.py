"""What paired differences say, one per seed.

sign-flip test: under no effect each difference is as likely with either sign; p = share of the 2^n sign patterns whose mean is at
least as far from 0. Two-sided, p cannot fall below 2^(1 - n): with fewer than six seeds nothing is decided at 0.05.
interval: mean +- t sd / sqrt(n), Student's t.
Holm: of m tests, the k-th smallest p counts (m - k + 1)-fold; so m tests together claim a difference that is not there in at most a share
ALPHA of all studies.

A difference stands where both say so: p after Holm is at most ALPHA, and the interval leaves 0 out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

ALPHA = 0.05
POWER = 0.8
EXACT = 32  # differences up to which every sign pattern counts
RANDOM = 2**14 - 1  # random patterns beyond that
MOST_SEEDS = 1000  # more than these are never proposed


def min_seeds(alpha: float) -> int:
    """Return the smallest n whose sign-flip test can reach `alpha`."""
    return 1 + math.ceil(-math.log2(alpha) - 1e-9)


SEEDS_NEEDED = min_seeds(ALPHA)


@dataclass(frozen=True)
class Paired:
    """n differences: their mean, its 95 % interval `low` to `high` (with `sd` None for fewer than two) and the test's p (None for none)."""

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class Verdict:
    """A word and the sentence that gives its reason."""

    word: str
    why: str


def paired(differences: Sequence[float] | np.ndarray) -> Paired:
    """Summarise finite differences (n,), one per seed."""
    x = np.asarray(differences, np.float64)
    n = len(x)
    if n == 0:
        return Paired(0, None, None, None, None, None)
    mean = float(x.mean())
    if n == 1:
        return Paired(1, mean, None, None, None, 1.0)
    sd = float(x.std(ddof=1))
    half = reach(n, sd)
    return Paired(n, mean, sd, mean - half, mean + half, sign_flip(x))


def sign_flip(differences: Sequence[float] | np.ndarray, *, one_sided: bool = False) -> float:
    """Return the p-value of the sign-flip test: exact up to `EXACT` differences, else of random patterns.

    Args:
        differences: (n,), finite.
        one_sided: Only means as far *above* 0 count as evidence.
    """
    x = np.asarray(differences, np.float64)
    size = float(np.abs(x).sum())
    seen = float(x.sum()) if one_sided else abs(float(x.sum()))
    least = seen - 1e-12 * size  # sums of the same numbers in another order are the same
    if size == 0 or (not one_sided and least <= 0):
        return 1.0
    if len(x) > EXACT:
        sums = _random_signs(len(x)) @ x.astype(np.float32)
        found = int(np.count_nonzero((sums if one_sided else np.abs(sums)) >= seen - 1e-5 * size))
        return (found + 1) / (RANDOM + 1)
    # Every pattern's sum is one of the first half plus one of the second: 2^(n/2) of each are enough to count all 2^n.
    first, second = _sums(x[: len(x) // 2]), np.sort(_sums(x[len(x) // 2 :]))
    above = float(np.sum(len(second) - np.searchsorted(second, least - first, side="left")))
    return min(1.0, (above if one_sided else 2 * above) / 2.0 ** len(x))


def _sums(x: np.ndarray) -> np.ndarray:
    """All 2^n sums of +-x (n,)."""
    sums = np.zeros(1)
    for value in x:
        sums = np.concatenate([sums + value, sums - value])
    return sums


@lru_cache(maxsize=1)
def _random_signs(n: int) -> np.ndarray:
    """Random signs (RANDOM, n) float32, the same ones each time."""
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
    """The quantile of Student's t with n - 1 degrees of freedom that |t| exceeds with probability alpha."""
    from scipy import special

    return float(special.stdtrit(n - 1, 1 - alpha / 2))


def reach(n: int, sd: float, alpha: float = ALPHA) -> float:
    """Return half of the width of the two-sided 1 - alpha interval of a mean of n >= 2 differences."""
    return _quantile(n, alpha) * sd / math.sqrt(n)


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """Return the probability that the sign-flip test finds a difference; simulated in the tests.

    At its smallest level 2^(1 - n) the test asks for n equal signs, which is exact; at more patterns it comes near to Student's t
    at the level that the patterns reach.

    Args:
        effect: True mean over true standard deviation of normal differences.
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
    if n > 100 or shift > 30 or math.isnan(upper):  # the noncentral t is not computed well out there
        return float(special.ndtr(shift - far) + special.ndtr(-shift - far))
    # The other tail is computed as NaN where it is nothing.
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
    """Return the smallest true difference that n seeds find with probability `POWER`; None where no difference could be found."""
    effect = _effect(n, alpha)
    return None if effect is None or sd is None else effect * sd


def seeds_needed(found: Paired, alpha: float = ALPHA) -> int | None:
    """Return how many seeds find the difference seen, if it and its spread are the true ones, with probability `POWER`.

    Returns:
        In all, never fewer than the test needs for `alpha`; None where more than `MOST_SEEDS` are needed.
    """
    least = min_seeds(alpha)
    if found.sd is None or found.mean is None:
        return least
    if found.sd == 0:
        return least if found.mean else None
    effect = abs(found.mean) / found.sd
    if power(effect, MOST_SEEDS, alpha) < POWER:
        return None
    low, high = least - 1, MOST_SEEDS  # low is too few, high enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, alpha) >= POWER else (middle, high)
    return high


def seeds_for_margin(found: Paired, margin: float) -> int | None:
    """Return how many seeds put the interval within +-margin, if mean and spread stay; None where no number up to `MOST_SEEDS` does."""
    if found.sd is None or found.mean is None:
        return SEEDS_NEEDED
    room = margin - abs(found.mean)
    return next((n for n in range(SEEDS_NEEDED, MOST_SEEDS + 1) if reach(n, found.sd) < room), None)


def stands(found: Paired, p_holm: float | None) -> bool:
    """Whether the difference is real by test and interval."""
    if found.low is None or found.high is None or p_holm is None:
        return False
    return p_holm <= ALPHA and (found.low > 0 or found.high < 0)


def compare(found: Paired, p_holm: float | None, family: int, *, higher_is_better: bool = False) -> Verdict:
    """Say whether a variant helps or hurts by its differences (variant - baseline), or that this is undecided.

    Args:
        found: The differences.
        p_holm: Their p after Holm's correction.
        family: How many tests that covers.
        higher_is_better: Of the metric.
    """
    if stands(found, p_holm):
        better = ((found.mean or 0.0) > 0) == higher_is_better
        return Verdict("helps" if better else "hurts", f"{'better' if better else 'worse'}, {_tested(found, p_holm)}")
    return Verdict("undecided", _undecided(found, p_holm, family))


def judge(
    found: Paired,
    p_holm: float | None,
    family: int,
    expect: str,
    *,
    higher_is_better: bool = False,
    margin: float | None = None,
    p_same: float | None = None,
) -> Verdict:
    """Judge a claim on a variant by its differences (variant - baseline): supported, contradicted or undecided.

    Args:
        found: The differences.
        p_holm: Their p after Holm's correction.
        family: How many tests that covers.
        expect: `better`, `worse` or `same`.
        higher_is_better: Of the metric.
        margin: Of `same`: differences up to this size count as none. Without one `same` is never decided.
        p_same: Of `same`: `equivalence`, after Holm's correction.
    """
    if expect != "same":
        said = compare(found, p_holm, family, higher_is_better=higher_is_better)
        if said.word == "undecided":
            return said
        as_claimed = said.word == {"better": "helps", "worse": "hurts"}[expect]
        return Verdict("supported" if as_claimed else "contradicted", said.why)
    if margin is None:
        return Verdict(
            "undecided", "the claim states no margin: that no difference is seen does not show that there is none"
        )
    if found.low is None or found.high is None or found.n < SEEDS_NEEDED:
        return Verdict("undecided", _few(found.n))
    if stands(found, p_holm) and (found.low > margin or found.high < -margin):
        return Verdict(
            "contradicted", f"the interval lies outside the margin of {margin:.3g}, {_tested(found, p_holm)}"
        )
    if p_same is not None and p_same <= ALPHA and -margin < found.low and found.high < margin:
        return Verdict(
            "supported", f"the interval lies within the margin of {margin:.3g}, p = {p_same:.2g} over {found.n} seeds"
        )
    return Verdict(
        "undecided", f"{found.n} seeds place the difference neither within the margin of {margin:.3g} nor outside it"
    )


def equivalence(differences: Sequence[float] | np.ndarray, margin: float) -> float:
    """Return the p-value against a true difference of `margin` or more either way: the larger of two one-sided sign-flip tests."""
    x = np.asarray(differences, np.float64)
    return max(sign_flip(margin - x, one_sided=True), sign_flip(margin + x, one_sided=True)) if len(x) else 1.0


def _few(n: int) -> str:
    return (
        f"{n} seed{'' if n == 1 else 's'}: the test needs {SEEDS_NEEDED} to decide anything"
        if n
        else "no seed is finished by both"
    )


def _tested(found: Paired, p_holm: float | None) -> str:
    corrected = "" if p_holm == found.p else f", {p_holm:.2g} after Holm's correction"
    return f"p = {found.p:.2g} over {found.n} seeds{corrected}"


def _undecided(found: Paired, p_holm: float | None, family: int) -> str:
    if found.n < SEEDS_NEEDED or found.p is None or p_holm is None or found.low is None or found.high is None:
        return _few(found.n)
    if p_holm <= ALPHA:
        return f"{_tested(found, p_holm)}, but the interval includes 0: one seed is far from the others"
    if found.p > ALPHA:
        return f"p = {found.p:.2g} over {found.n} seeds"
    needed = min_seeds(ALPHA / family)
    few = (
        f": of {family} comparisons the first needs {needed} seeds"
        if found.n < needed
        else f" over {family} comparisons"
    )
    return f"{_tested(found, p_holm)}{few}"
