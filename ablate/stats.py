"""Verdicts on paired differences, one per seed.

sign-flip test: under no effect each difference is as likely with either sign; p = share of the 2^n sign patterns whose mean is at
least as far from 0. Two-sided, p cannot fall below 2^(1 - n): with fewer than six seeds nothing is decided at 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

ALPHA = 0.05
EXACT = 2**16  # sign patterns that are counted one by one
SEEDS_NEEDED = 1 + math.ceil(-math.log2(ALPHA))  # the smallest n whose p can reach ALPHA


@dataclass(frozen=True)
class Verdict:
    """What paired differences say of a claim: `low` and `high` bound their mean (95 %, Student's t), None for fewer than two."""

    verdict: str  # supported, contradicted or undecided
    why: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the sign-flip test: exact up to 16 differences, else of 65,536 random patterns."""
    found = scipy.stats.permutation_test(
        (np.asarray(differences, np.float64),),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=EXACT,
        vectorized=True,
        rng=0,
    )
    return float(found.pvalue)


def judge(differences: Sequence[float], expect: str, *, higher_is_better: bool = False) -> Verdict:
    """Judge a claim on a variant by its differences to the baseline, seed by seed.

    Args:
        differences: variant - baseline.
        expect: `better` or `worse`; a claim of `same` is never decided by this test.
        higher_is_better: Of the metric.
    """
    n = len(differences)
    mean = math.fsum(differences) / n if n else None
    low = high = None
    if n > 1:
        error = float(np.std(differences, ddof=1)) / math.sqrt(n)
        reach = float(scipy.stats.t.ppf(1 - ALPHA / 2, n - 1)) * error
        low, high = (mean or 0.0) - reach, (mean or 0.0) + reach
    if n < SEEDS_NEEDED:
        p = sign_flip(differences) if n > 1 else None
        why = f"{n} seed{'' if n == 1 else 's'}: the test needs {SEEDS_NEEDED} to decide"
        return Verdict("undecided", why, n, mean, low, high, p)
    p = sign_flip(differences)
    found = "better" if ((mean or 0.0) > 0) == higher_is_better else "worse"
    if p > ALPHA or expect == "same":
        return Verdict("undecided", f"p = {p:.3f} over {n} seeds", n, mean, low, high, p)
    word = "supported" if found == expect else "contradicted"
    return Verdict(word, f"{found}, p = {p:.3f} over {n} seeds", n, mean, low, high, p)
