"""Power of a planned study: the effect that its test detects, found by simulation.

    d_ijk = effect [j = k = 0] + (e_ijk + b_ik) / sqrt 2,    e, b standard normal

is the difference of seed i, variant j and metric k in units of its standard deviation. All variants
share the baseline b_ik, so two of them have correlation 1/2. Metrics are independent and only one
comparison has an effect: both make the test of `ablate.stats.joint` harder. Of that test the first
step is simulated, with one correction for all comparisons; the later steps only add power.
"""

from __future__ import annotations

import math

import numpy as np

from ablate.stats.joint import sign_patterns
from ablate.stats.paired import ALPHA, POWER

STUDIES = 400  # the standard error of a simulated power of 0.8 is 0.02
LARGEST_EFFECT = 16.0
HALVINGS = 10  # of the range of effects


def detectable_effect(seeds: int, variants: int, metrics: int) -> float | None:
    """Return the smallest effect that a planned study detects with probability `POWER`.

    Args:
        seeds: Of every variant. Time and memory double with each: 12 take a second, 15 a gigabyte.
        variants: Without the baseline, at least one.
        metrics: Headline metrics, at least one. The family has variants x metrics tests.

    Returns:
        True mean / standard deviation of one comparison's differences; None if so few seeds detect
        nothing: the smallest p is 2^(1 - seeds).
    """
    if 2.0 ** (1 - seeds) > ALPHA:
        return None
    random = np.random.default_rng(0)
    shared = random.standard_normal((seeds, STUDIES, metrics))
    # All sign patterns, but not their negatives: the statistics do not change when all signs flip.
    (signs,) = sign_patterns(seeds, 2 ** (seeds - 1), half=True)
    first, strongest = np.zeros(0), np.zeros((len(signs), STUDIES))
    for variant in range(variants):
        d = (random.standard_normal((seeds, STUDIES, metrics)) + shared) / math.sqrt(2)
        if variant == 0:
            first, d = d[:, :, 0], d[:, :, 1:]
        for metric in range(d.shape[2]):
            np.maximum(strongest, _strength(signs @ d[:, :, metric], d[:, :, metric]), out=strongest)
    first_sums, sign_sums = signs @ first, signs.sum(1)[:, None]

    def power(effect: float) -> float:
        drawn = _strength(first_sums + effect * sign_sums, first + effect)
        # Pattern 0 has no flip, so it is the observed one.
        at_least = (np.maximum(drawn, strongest) >= drawn[0] * (1 - 1e-9)).mean(0)
        return float((at_least <= ALPHA).mean())

    low, high = 0.0, LARGEST_EFFECT
    if power(high) < POWER:
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return high


def _strength(sums: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return a monotone function of |T| for sums (patterns, studies) of sign-flipped differences d (seeds, studies)."""
    squares: np.ndarray = sums**2 / (d**2).sum(0)
    return squares
