"""The joint sign-flip test against a count by hand, its level, and the shipped study's figures."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.stats import joint, sequential

STUDY = Path(__file__).parents[2] / "results/studies/quick_cats/runs.parquet"
AXES = (
    *("no_drift", "normalized", "v_pred", "latent", "sigmoid"),
    *("l1_normalized", "gaussian_kernel", "no_drift_matched", "eps_pred", "x_pred_v_loss"),
)


def by_hand(differences: np.ndarray) -> list[float]:
    """Step-down max-T by loops over every sign pattern."""

    def t(column: np.ndarray) -> float:
        x = column[~np.isnan(column)]
        return abs(float(x.mean())) / (float(x.std(ddof=1)) / len(x) ** 0.5)

    n, m = differences.shape
    seen = [t(differences[:, j]) for j in range(m)]
    order = sorted(range(m), key=lambda j: -seen[j])
    adjusted, running = [0.0] * m, 0.0
    for rank, j in enumerate(order):
        patterns = list(itertools.product([1.0, -1.0], repeat=n))
        hits = sum(
            max(t(np.asarray(signs) * differences[:, k]) for k in order[rank:]) >= seen[j] * (1 - 1e-9)
            for signs in patterns
        )
        running = max(running, hits / len(patterns))
        adjusted[j] = running
    return adjusted


@pytest.mark.parametrize(("n", "m"), [(4, 1), (6, 3), (7, 4)])
def test_every_pattern_is_counted(n: int, m: int) -> None:
    d = np.random.default_rng(n).normal(0.6, 1, (n, m))
    if m > 1:
        d[0, 1] = np.nan  # a comparison that lacks a seed
    np.testing.assert_allclose(joint.p_values(d)[1], by_hand(d))


@pytest.mark.parametrize("one_sided", [False, True])
def test_one_comparison_has_the_p_of_scipys_permutation_test(one_sided: bool) -> None:
    d = np.random.default_rng(3).normal([0.0, 0.4, 0.8], 1, (10, 3))
    alone, _ = joint.p_values(d, [one_sided] * 3)
    for x, p in zip(d.T, alone, strict=True):
        reference = stats.permutation_test(
            (x,),
            lambda x, axis: np.mean(x, axis=axis),
            permutation_type="samples",
            n_resamples=2**11,
            vectorized=True,
            alternative="greater" if one_sided else "two-sided",
        )
        assert p == pytest.approx(reference.pvalue)
        assert joint.p_values(x[:, None], [one_sided])[1][0] == pytest.approx(reference.pvalue)


def test_the_order_of_comparisons_and_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.default_rng(0).normal(0.4, 1, (10, 5))
    whole = joint.p_values(d)[1]
    np.testing.assert_array_equal(joint.p_values(d[:, ::-1])[1][::-1], whole)
    monkeypatch.setattr(joint, "CHUNK_NUMBERS", 64)
    np.testing.assert_array_equal(joint.p_values(d)[1], whole)


def test_six_seeds_decide_any_number_of_comparisons() -> None:
    d = 5 + np.random.default_rng(0).normal(0, 0.1, (6, 40))
    assert joint.p_values(d)[1].max() == 2**-5


def test_nothing_to_judge() -> None:
    assert joint.p_values(np.zeros((6, 1)))[1].tolist() == [1.0]  # no difference at all
    assert joint.p_values(np.array([[3.0]]))[1].tolist() == [1.0]  # one seed
    assert joint.p_values(np.empty((0, 2)))[1].tolist() == [1.0, 1.0]
    assert joint.p_values(np.full((5, 1), 2.0))[1].tolist() == [2**-4]  # all alike: an infinite t
    assert joint.simultaneous_quantile(np.array([[3.0]]), 0.05) == float("inf")


def test_many_seeds_use_random_patterns() -> None:
    d = np.random.default_rng(1).normal([0.0, 1.0], 1, (40, 2))
    p = joint.p_values(d)[1]
    assert p[0] > 0.05 > 0.001 > p[1] > 0
    np.testing.assert_array_equal(joint.p_values(d)[1], p)  # the same patterns each time


def test_false_claims_and_missed_intervals_in_a_family() -> None:
    random, trials = np.random.default_rng(0), 300
    false = missed = 0
    for _ in range(trials):
        runs = random.normal(size=(8, 6))
        d = runs[:, 1:] - runs[:, :1]  # five variants, one baseline
        false += joint.p_values(d)[1].min() <= 0.05
        reach = joint.simultaneous_quantile(d, 0.05) * d.std(0, ddof=1) / 8**0.5
        missed += (np.abs(d.mean(0)) > reach).any()
    assert false <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5
    assert 1 <= missed <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5


def test_the_shipped_study() -> None:
    """Ten comparisons of eight seeds: nine decided jointly, six by e-values of ten tests (>= 200 each)."""
    runs = pd.read_parquet(STUDY)
    fd = runs[runs["status"] == "done"].pivot(index="seed", columns="variant", values="fd").astype(float)
    d = fd[list(AXES)].sub(fd["baseline"], axis=0)
    p = dict(zip(AXES, joint.p_values(d.to_numpy())[1], strict=True))
    assert sorted(p.values()) == pytest.approx([1 / 128] * 8 + [3 / 128, 49 / 128])
    assert (p["no_drift_matched"], p["no_drift"]) == pytest.approx((3 / 128, 49 / 128))
    e = {name: sequential.e_values(d[name].dropna())[-1] for name in AXES}
    large = {name for name, value in e.items() if value >= 200}
    assert large == {"normalized", "v_pred", "latent", "sigmoid", "gaussian_kernel", "eps_pred"}
