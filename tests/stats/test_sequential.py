"""E-values against the integral that they are, the closed test by hand, and the level at any time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import simulate
from scipy import integrate, stats

from ablate.stats import sequential


@pytest.mark.parametrize("seed", range(4))
def test_an_e_value_is_the_ratio_of_marginal_likelihoods(seed: int) -> None:
    x = np.random.default_rng(seed).normal(0.7, 2, 6)
    n, t = len(x), float(np.sqrt(6) * x.mean() / x.std(ddof=1))
    prior = stats.norm(0, sequential.EFFECT_VARIANCE**0.5).pdf

    def mixed(effect: float) -> float:
        return float(prior(effect) * stats.nct(n - 1, effect * n**0.5).pdf(t))

    expected = integrate.quad(mixed, -8, 8)[0] / stats.t(n - 1).pdf(t)
    assert sequential.e_values(x)[-1] == pytest.approx(expected, rel=1e-6)


def test_units_and_direction_do_not_matter() -> None:
    x = np.random.default_rng(0).normal(0.5, 1, 10)
    np.testing.assert_allclose(sequential.e_values(-1e6 * x), sequential.e_values(x))
    assert sequential.e_values(x)[0] == 1.0


def test_edges_are_finite() -> None:
    assert sequential.e_values([]).tolist() == []
    assert sequential.e_values([0.0, 0.0, 0.0]).tolist() == [1.0, 1.0, 1.0]
    assert np.isfinite(sequential.e_values(np.full(400, 3.0))).all()


def test_the_closed_test_by_hand() -> None:
    for seed in range(10):
        e = np.random.default_rng(seed).lognormal(1, 2, 5)
        for k, found in enumerate(sequential.adjusted(e)):
            others = [i for i in range(5) if i != k]
            sets = itertools.chain.from_iterable(itertools.combinations(others, size) for size in range(5))
            assert found == pytest.approx(min(np.mean([e[k], *(e[i] for i in rest)]) for rest in sets))


def test_false_claims_at_any_time_in_a_family() -> None:
    random, trials, false = np.random.default_rng(0), 300, 0
    for _ in range(trials):
        runs = random.normal(size=(24, 5))
        e = np.stack([sequential.e_values(runs[:, j] - runs[:, 0]) for j in range(1, 5)], axis=1)
        false += any(sequential.adjusted(now).max() >= 20 for now in e)  # looked at after every seed
    assert false <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5


def test_the_simulation_of_many_studies_computes_the_same_evidence() -> None:
    d = simulate.differences(np.random.default_rng(0), "t3", 20, 5, 3)
    e = simulate.e_values(d)
    for study, found in zip(d, e, strict=True):
        np.testing.assert_allclose(found, np.stack([sequential.e_values(x) for x in study.T], axis=1))
        np.testing.assert_allclose(simulate.largest_adjusted(found), [sequential.adjusted(now).max() for now in found])


@pytest.mark.parametrize("n", [2, 5, 8, 30])
def test_the_critical_t_has_the_critical_e(n: int) -> None:
    x = np.random.default_rng(n).normal(1, 1, n)
    e = sequential.e_values(x)[-1]
    t = abs(x.mean()) / (x.std(ddof=1) / n**0.5)
    assert sequential.critical(n, 1 / e) == pytest.approx(t)
    assert np.isinf(sequential.critical(1, 0.05))
    assert np.isinf(sequential.critical(4, 0.05))  # 11.2 is the largest e of four seeds


def test_a_clear_difference_is_decided_within_a_few_seeds() -> None:
    x = 3 + np.random.default_rng(0).normal(size=12)
    assert 3 <= int(np.argmax(sequential.e_values(x) >= 20)) + 1 <= 7
