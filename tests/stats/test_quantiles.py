"""Quantiles only where the samples support them, the noise of a machine, and the coverage of the ratio's interval."""

import numpy as np
import pytest

from ablate.stats.quantiles import MIN_SAMPLES, NOISE_THRESHOLD, noise, quantiles, ratio


@pytest.mark.parametrize(
    ("n", "supported"),
    [
        (0, []),
        (4, []),
        (5, ["p50"]),
        (19, ["p50"]),
        (20, ["p50", "p90"]),
        (199, ["p50", "p90"]),
        (200, ["p50", "p90", "p99"]),
    ],
)
def test_a_quantile_needs_samples_above_it(n: int, supported: list[str]) -> None:
    found = quantiles([float(i) for i in range(n)])
    assert list(found) == list(MIN_SAMPLES)
    assert [name for name, value in found.items() if value is not None] == supported


def test_quantiles_are_interpolated() -> None:
    assert quantiles(list(range(201))) == {"p50": 100, "p90": 180, "p99": 198}


def test_one_disturbance_does_not_become_p90_or_p99() -> None:
    for n in (20, 200):
        calm = [1.0 + i / 1000 for i in range(n)]
        for name, value in quantiles([*calm[:-1], 1000.0]).items():
            if value is not None:
                assert value < 2, name


def test_noise_is_the_interquartile_range_over_the_median() -> None:
    assert noise([8, 9, 10, 11, 12]) == pytest.approx(0.2)
    assert noise([80, 90, 100, 110, 120]) == pytest.approx(0.2)
    assert noise([10.0] * 5) == 0
    assert noise([1.0] * 4) is None
    steady = noise([10.0, 10.1, 10.2, 10.3, 10.4, 500.0])  # one disturbance is no noise
    assert steady is not None
    assert steady < NOISE_THRESHOLD


def test_the_ratio_is_of_medians_and_needs_the_same_rounds() -> None:
    a, b = [3.0, 6.0, 9.0, 6.0, 6.0], [1.0, 2.0, 3.0, 2.0, 2.0]
    found = ratio(a, b)
    assert found is not None
    assert found.value == pytest.approx(3)
    assert (found.low, found.high) == pytest.approx((3, 3))  # round by round it is 3, however the rounds are drawn
    assert ratio(a, b, seed=1) == ratio(a, b, seed=1)
    assert ratio(a[:4], b[:4]) is None
    with pytest.raises(ValueError, match="5 rounds against 4"):
        ratio(a, b[:4])


@pytest.mark.slow
def test_the_interval_covers_a_known_ratio_and_rounds_are_resampled_together() -> None:
    generator, covered, widths, loose = np.random.default_rng(0), 0, [], []
    for trial in range(200):
        slow = np.exp(0.3 * generator.standard_normal(40))  # of a round: common to both
        b = slow * np.exp(0.02 * generator.standard_normal(40))
        a = 1.25 * slow * np.exp(0.02 * generator.standard_normal(40))
        found = ratio(list(a), list(b), seed=trial)
        apart = ratio(list(a), list(generator.permutation(b)), seed=trial)
        assert found is not None
        assert apart is not None
        covered += found.low <= 1.25 <= found.high
        widths.append(found.high - found.low)
        loose.append(apart.high - apart.low)
    assert 180 <= covered <= 200  # 95 % of 200 is 190, binomial sd 3
    assert np.median(widths) < 0.4 * np.median(loose)
