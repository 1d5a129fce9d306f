"""Joint sign-flip test of many comparisons that share seeds, with step-down max-T.

    T_j(s) = |mean_i s_i d_ij| / (sd_j(s) / sqrt n_j),    s in {-1, +1}^n, one sign per seed for all comparisons

Under no effect, one seed's differences are as likely with all signs flipped (joint symmetry), so the observed T
is one draw from T(s) over all 2^n patterns s. The p-value of the comparison with the k-th largest T counts the
patterns whose largest T among that comparison and all weaker ones reaches the observed T. This controls the
probability of any false claim in the family (Westfall and Young, "Resampling-Based Multiple Testing", 1993,
algorithm 2.8). Correlated comparisons cost little: variants share a baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

EXACT_SEEDS = 20  # up to 2^20 sign patterns are all counted
RANDOM_PATTERNS = 2**14  # beyond that, from a fixed seed
CHUNK_NUMBERS = 2**22  # numbers held at once


def p_values(differences: np.ndarray, one_sided: Sequence[bool] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the p-value of each comparison: of its own, and adjusted for the whole family.

    Args:
        differences: (n, m) float64, one row per seed and one column per comparison. NaN: this comparison lacks this
            seed. A column needs two seeds for a p-value below 1.
        one_sided: (m,) columns for which only a mean *above* 0 is evidence (T without the absolute value); None: none.

    Returns:
        Two arrays (m,) in (0, 1]. With all seeds in a column its smallest possible p is 2^(1 - n), one-sided 2^(-n).
    """
    d = np.asarray(differences, np.float64)
    upper = np.zeros(d.shape[1], bool) if one_sided is None else np.asarray(one_sided, bool)
    if d.size == 0:
        return np.ones(d.shape[1]), np.ones(d.shape[1])
    present = ~np.isnan(d)
    counts, d = present.sum(0), np.where(present, d, 0.0)
    observed = _statistics(d.sum(0)[None], d, counts, upper)[0]
    order = np.argsort(-observed, kind="stable")
    d, counts, observed, upper = d[:, order], counts[order], observed[order], upper[order]
    alone, at_least, patterns = np.zeros(len(order)), np.zeros(len(order)), 0
    least = observed - 1e-9 * np.where(np.isfinite(observed), np.abs(observed), 0.0)
    # Two-sided statistics do not change when all signs flip: half of the patterns are enough.
    for signs in sign_patterns(len(d), max(1, CHUNK_NUMBERS // d.shape[1]), half=not upper.any()):
        drawn = _statistics(signs @ d, d, counts, upper)
        # The largest T among each comparison and all weaker ones.
        largest = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]
        alone += (drawn >= least).sum(0)
        at_least += (largest >= least).sum(0)
        patterns += len(signs)
    estimated = int(len(d) > EXACT_SEEDS)  # count the observed pattern too
    p = np.empty((2, len(order)))
    p[0, order] = (alone + estimated) / (patterns + estimated)
    p[1, order] = np.maximum.accumulate((at_least + estimated) / (patterns + estimated))
    return p[0], p[1]


def simultaneous_quantile(differences: np.ndarray, alpha: float) -> float:
    """Return c so that the intervals mean_j +- c sd_j / sqrt n_j hold all true means at once.

    c is the 1 - alpha quantile of the largest T over sign patterns of the residuals d_ij - mean_j, bounded by Student's
    t for one comparison from below and for m comparisons (Bonferroni) from above: few patterns make a rough quantile.
    Coverage is simulated by `tests/simulate.py`.

    Args:
        differences: (n, m) as in `p_values`; columns with fewer than two seeds are ignored.
        alpha: Share of studies in which any interval may miss.

    Returns:
        c, or infinity where no column has two seeds.
    """
    d = np.asarray(differences, np.float64)
    d = d[:, (~np.isnan(d)).sum(0) >= 2]
    if d.size == 0:
        return math.inf
    from scipy import special

    counts = (~np.isnan(d)).sum(0)
    residuals = np.nan_to_num(d - np.nanmean(d, axis=0))
    largest = np.concatenate(
        [
            _statistics(signs @ residuals, residuals, counts, np.zeros(d.shape[1], bool)).max(1)
            for signs in sign_patterns(len(d), max(1, CHUNK_NUMBERS // d.shape[1]), half=True)
        ]
    )
    least, most = (float(special.stdtrit(counts.min() - 1, 1 - alpha / 2 / m)) for m in (1, d.shape[1]))
    return min(max(float(np.quantile(largest, 1 - alpha, method="higher")), least), most)


def _statistics(sums: np.ndarray, d: np.ndarray, counts: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """T (k, m) for sums (k, m) of sign-flipped differences d (n, m): flips keep the sum of squares."""
    squares = (d**2).sum(0)
    n = np.maximum(counts, 1)
    spread = np.maximum(squares - sums**2 / n, 0.0)
    sizes = np.where(upper, sums, np.abs(sums))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = sizes / np.sqrt(spread * n / np.maximum(n - 1, 1))
    # All differences alike: infinite, where rounding leaves a spread too.
    t = np.where(spread <= 1e-12 * squares, np.where(sizes == 0, 0.0, np.copysign(np.inf, sizes)), t)
    return np.where(counts >= 2, t, 0.0)


@lru_cache(maxsize=1)
def _random_signs(n: int) -> np.ndarray:
    """Return random signs (RANDOM_PATTERNS, n) int8, the same in every call."""
    return 2 * np.random.default_rng(0).integers(0, 2, (RANDOM_PATTERNS, n), np.int8) - 1


def sign_patterns(n: int, chunk: int, *, half: bool) -> Iterator[np.ndarray]:
    """Yield sign patterns (k, n) float64: all 2^n, or the half whose last sign is +; random ones for many seeds."""
    if n > EXACT_SEEDS:
        signs = _random_signs(n)
        for start in range(0, RANDOM_PATTERNS, chunk):
            yield signs[start : start + chunk].astype(np.float64)
        return
    bits, total = np.arange(n), 2 ** (n - 1 if half else n)
    for start in range(0, total, chunk):
        numbers = np.arange(start, min(start + chunk, total))[:, None]
        yield 1.0 - 2.0 * ((numbers >> bits) & 1)
