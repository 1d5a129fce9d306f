"""Paired differences: intervals that cover, power and the seeds needed against simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ablate.stats import paired
from ablate.stats.paired import ALPHA, POWER, Paired


def most(trials: int, share: float) -> float:
    """What chance passes once in a thousand."""
    return float(scipy_stats.binom.ppf(0.999, trials, share))


def by_t(n: int) -> float:
    """The T of an ordinary t-test."""
    return paired.quantile(n, ALPHA)


def test_a_summary_is_that_of_scipys_t_test() -> None:
    x = np.random.default_rng(0).normal(3, 2, 9)
    found = paired.summarise(x)
    low, high = scipy_stats.ttest_1samp(x, 0).confidence_interval()
    assert (found.n, found.mean, found.sd) == (9, pytest.approx(x.mean()), pytest.approx(x.std(ddof=1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert paired.summarise([]) == Paired(0, None, None, None, None)
    assert paired.summarise([2.0]) == Paired(1, 2.0, None, None, None)


def test_intervals_cover() -> None:
    random, trials = np.random.default_rng(0), 2000
    for n in (2, 3, 6, 12):
        covered = 0
        for x in random.normal(3, 2, (trials, n)):
            found = paired.summarise(x)
            covered += (found.low or 0) <= 3 <= (found.high or 0)
        assert trials - most(trials, 0.05) <= covered <= most(trials, 0.95)


@pytest.mark.parametrize("critical", [2.3, 4.0, 12.0, 40.0])
@pytest.mark.parametrize("n", [3, 6, 12, 40, 150])
def test_power_is_what_simulation_finds(n: int, critical: float) -> None:
    random = np.random.default_rng(n)
    for effect in (0.0, 0.5 * critical / n**0.5, critical / n**0.5, 1.5 * critical / n**0.5):
        x = random.normal(effect, 1, (8000, n))
        t = np.abs(x.mean(1)) / (x.std(1, ddof=1) / n**0.5)
        # Where scipy's noncentral t fails, the approximation is off by up to 0.02.
        assert paired.power(effect, n, critical) == pytest.approx(float((t >= critical).mean()), abs=0.035)


def test_power_grows_with_effect_and_is_a_probability() -> None:
    for critical in (2.0, 5.0, 20.0):
        for n in (*range(2, 70, 3), 101, 400, 1000):
            powers = [paired.power(effect, n, critical) for effect in np.linspace(0, 8, 60)]
            assert all(0 <= p <= 1 for p in powers)
            assert all(b >= a - 0.02 for a, b in itertools.pairwise(powers))
    assert paired.power(3.0, 1, 2.0) == 0.0
    assert paired.power(3.0, 8, float("inf")) == 0.0


def test_a_detectable_difference_has_the_power_asked_for() -> None:
    for n in (6, 8, 20):
        effect = paired.detectable(1.0, n, by_t(n))
        assert effect is not None
        assert paired.power(effect, n, by_t(n)) == pytest.approx(POWER, abs=0.001)
        assert paired.detectable(2.0, n, by_t(n)) == pytest.approx(2 * effect)
    assert paired.detectable(None, 8, 2.0) is None
    assert paired.detectable(1.0, 8, float("inf")) is None


def test_seeds_needed_are_the_fewest_that_find_it() -> None:
    for effect in (0.2, 0.5, 0.9, 1.6, 30.0):
        needed = paired.seeds_needed(Paired(6, effect, 1.0, None, None), by_t, 6)
        assert needed is not None
        assert needed >= 6
        assert paired.power(effect, needed, by_t(needed)) >= POWER
        assert needed == 6 or paired.power(effect, needed - 1, by_t(needed - 1)) < POWER
    assert paired.seeds_needed(Paired(6, 0.001, 1.0, None, None), by_t, 6) is None
    assert paired.seeds_needed(paired.summarise([2.0]), by_t, 6) == 6
    assert paired.seeds_needed(paired.summarise([2.0, 2.0]), by_t, 6) == 6
    assert paired.seeds_needed(paired.summarise([0.0, 0.0]), by_t, 6) is None
