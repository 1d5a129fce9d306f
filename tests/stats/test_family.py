"""Differences and equalities of one family: what is decided, and how often wrongly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ablate.stats import family, joint, paired, sequential

Judge = Callable[[np.ndarray, list[float | None]], family.Family]
BOTH = pytest.mark.parametrize("judge", [family.planned, family.grown])


@BOTH
def test_clear_cases(judge: Judge) -> None:
    d = np.random.default_rng(0).normal([5.0, 0.0, 0.0], 0.3, (10, 3))
    d[:, 1] -= d[:, 1].mean()
    differs, same, open_ = judge(d, [1.0, 1.0, None]).evidence
    assert differs.differs
    assert not differs.is_same
    assert same.is_same
    assert not same.differs
    assert open_.same is None
    assert not open_.is_same


def test_without_margins_the_evidence_is_that_of_the_tests() -> None:
    d = np.random.default_rng(1).normal(0.7, 1, (8, 3))
    assert [one.difference for one in family.planned(d, [None] * 3).evidence] == joint.p_values(d)[1].tolist()
    e = sequential.adjusted([sequential.e_values(d[:, j])[-1] for j in range(3)])
    assert [one.difference for one in family.grown(d, [None] * 3).evidence] == e.tolist()


@BOTH
def test_a_missing_seed_and_a_missing_comparison(judge: Judge) -> None:
    d = np.random.default_rng(2).normal(4, 1, (8, 2))
    d[3, 0], d[:, 1] = np.nan, np.nan
    first, second = judge(d, [None, 1.0]).evidence
    assert first.differs
    assert not second.differs
    assert not second.is_same


@BOTH
def test_few_seeds_decide_nothing(judge: Judge) -> None:
    for n in (0, 1, 2):
        (one,) = judge(np.full((n, 1), 3.0), [1.0]).evidence
        assert not one.differs
        assert not one.is_same


def test_one_sided_columns_count_one_side() -> None:
    up = np.random.default_rng(3).normal(5, 1, (7, 1))
    assert joint.p_values(up, [True])[1][0] == 2**-7
    assert joint.p_values(-up, [True])[1][0] == 1.0
    assert joint.p_values(up, [False])[1][0] == 2**-6


@BOTH
def test_false_claims_of_both_kinds(judge: Judge) -> None:
    """Three comparisons without a difference, three that differ by their margin exactly: any claim is false."""
    random, trials, false = np.random.default_rng(0), 300, 0
    margins: list[float | None] = [None, None, None, 1.0, 1.0, 1.0]
    for _ in range(trials):
        d = random.normal(size=(8, 6)) - random.normal(size=(8, 1)) + np.array([0, 0, 0, 1, -1, 1])
        found = judge(d, margins).evidence
        false += any(one.differs for one in found[:3]) or any(one.is_same for one in found[3:])
    assert false <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5


def test_a_comparison_with_too_few_seeds_takes_nothing_from_the_others() -> None:
    d = np.random.default_rng(4).normal(3, 1, (8, 3))
    d[5:, 1:] = np.nan
    found = family.planned(d, [None, None, 1.0])
    assert found.evidence[0] == family.planned(d[:, :1], [None]).evidence[0]
    assert [one.difference for one in found.evidence[1:]] == [1.0, 1.0]
    assert (found.tests, found.evidence[2].same) == (1, 1.0)


def test_the_fewest_seeds() -> None:
    for m in (1, 4, 28):
        assert family.planned(np.random.default_rng(0).normal(size=(8, m)), [None] * m).least_seeds == 6
    small, large = (family.grown(np.ones((3, m)), [None] * m) for m in (1, 28))
    assert (small.least_seeds, large.least_seeds) == (5, 8)
    assert np.isinf(large.critical(7))
    clear = 5 + 1e-6 * np.random.default_rng(0).normal(size=(8, 1))
    assert sequential.e_values(clear[:7, 0])[-1] < 28 * 20 <= sequential.e_values(clear[:, 0])[-1]


@BOTH
@pytest.mark.parametrize(("n", "m"), [(8, 1), (8, 6), (14, 6)])
@pytest.mark.slow
def test_a_detectable_difference_is_found_about_as_often_as_predicted(judge: Judge, n: int, m: int) -> None:
    """One of m differs. It needs no more than predicted: the correction of a step-down test is milder."""
    random, trials = np.random.default_rng(n), 250
    found = []
    for _ in range(trials):
        d = random.normal(size=(n, m)) - random.normal(size=(n, 1))
        tests = judge(d, [None] * m)
        effect = paired.detectable(2**0.5, n, tests.critical(n)) or 0.0
        d[:, 0] += effect
        found.append(judge(d, [None] * m).evidence[0].differs)
    assert 0.7 <= np.mean(found) <= 0.95


@BOTH
def test_intervals_for_all_hold_together(judge: Judge) -> None:
    random, trials, missed = np.random.default_rng(5), 300, 0
    for _ in range(trials):
        d = random.normal(size=(8, 6)) - random.normal(size=(8, 1))
        reach = judge(d, [None] * 6).critical(8) * d.std(0, ddof=1) / 8**0.5
        missed += (np.abs(d.mean(0)) > reach).any()
    assert missed <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5


@BOTH
@pytest.mark.slow
def test_seeds_for_a_margin(judge: Judge) -> None:
    tests = judge(np.random.default_rng(0).normal(size=(8, 2)), [None, None])
    near = paired.Paired(8, 0.2, 1.0, None, None)
    margin = 1.5 if tests.by_e else 1.0
    needed = tests.seeds_for_margin(near, margin)
    assert needed is not None
    assert needed > 6
    assert (tests.seeds_for_margin(near, 3.0) or 999) <= needed
    assert tests.seeds_for_margin(near, 0.1) is None
    random, found = np.random.default_rng(1), 0
    for _ in range(100):
        d = random.normal(0.2, 1, (needed, 2))
        d[:, 1] = random.normal(0, 1, needed)
        found += judge(d, [margin, None]).evidence[0].is_same
    assert found >= 40  # half of the studies, or more
