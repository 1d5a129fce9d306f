"""The effect that a planned study detects: against a closed form, and against the test itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from ablate.stats.joint import p_values
from ablate.stats.planned_power import detectable_effect


def test_one_test_of_six_seeds_needs_six_equal_signs() -> None:
    exact = special.ndtri(0.8 ** (1 / 6))  # P(all six differences have the sign of the effect) = 0.8
    assert detectable_effect(6, 1, 1) == pytest.approx(exact, rel=0.08)


@pytest.mark.parametrize("seeds", [1, 2, 4, 5])
def test_too_few_seeds_detect_nothing(seeds: int) -> None:
    assert detectable_effect(seeds, 1, 1) is None


def test_more_seeds_detect_less_and_more_tests_need_more() -> None:
    by_seeds = [detectable_effect(n, 4, 2) or np.inf for n in (6, 8, 12)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    by_tests = [detectable_effect(8, variants, 2) or np.inf for variants in (1, 4, 14)]
    assert by_tests == sorted(by_tests)


@pytest.mark.parametrize(("seeds", "variants", "metrics"), [(6, 4, 2), (8, 1, 1), (8, 14, 2)])
def test_the_test_detects_that_effect_in_four_of_five_studies(seeds: int, variants: int, metrics: int) -> None:
    effect = detectable_effect(seeds, variants, metrics)
    assert effect is not None
    random = np.random.default_rng(1)
    detected = 0
    for _ in range(300):
        d = random.standard_normal((seeds, variants, metrics)) + random.standard_normal((seeds, 1, metrics))
        d = (d / np.sqrt(2)).reshape(seeds, -1)
        d[:, 0] += effect
        detected += p_values(d)[1][0] <= 0.05
    assert 0.8 - 0.1 < detected / 300 < 0.8 + 0.1  # two standard errors of both simulations: 0.06
