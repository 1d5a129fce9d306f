"""Differences and equalities of one family: what is decided, and how often wrongly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ablate.stats import family, joint, sequential

Judge = Callable[[np.ndarray, list[float | None]], list[family.Evidence]]
BOTH = pytest.mark.parametrize("judge", [family.planned, family.grown])


@BOTH
def test_clear_cases(judge: Judge) -> None:
    d = np.random.default_rng(0).normal([5.0, 0.0, 0.0], 0.3, (10, 3))
    d[:, 1] -= d[:, 1].mean()
    differs, same, open_ = judge(d, [1.0, 1.0, None])
    assert differs.differs
    assert not differs.is_same
    assert same.is_same
    assert not same.differs
    assert open_.same is None
    assert not open_.is_same


def test_without_margins_the_evidence_is_that_of_the_tests() -> None:
    d = np.random.default_rng(1).normal(0.7, 1, (8, 3))
    assert [one.difference for one in family.planned(d, [None] * 3)] == joint.adjusted_p(d).tolist()
    e = sequential.adjusted([sequential.e_values(d[:, j])[-1] for j in range(3)])
    assert [one.difference for one in family.grown(d, [None] * 3)] == e.tolist()


@BOTH
def test_a_missing_seed_and_a_missing_comparison(judge: Judge) -> None:
    d = np.random.default_rng(2).normal(4, 1, (8, 2))
    d[3, 0], d[:, 1] = np.nan, np.nan
    first, second = judge(d, [None, 1.0])
    assert first.differs
    assert not second.differs
    assert not second.is_same


@BOTH
def test_few_seeds_decide_nothing(judge: Judge) -> None:
    for n in (0, 1, 2):
        (one,) = judge(np.full((n, 1), 3.0), [1.0])
        assert not one.differs
        assert not one.is_same


def test_one_sided_columns_count_one_side() -> None:
    up = np.random.default_rng(3).normal(5, 1, (7, 1))
    assert joint.adjusted_p(up, [True])[0] == 2**-7
    assert joint.adjusted_p(-up, [True])[0] == 1.0
    assert joint.adjusted_p(up, [False])[0] == 2**-6


@BOTH
def test_false_claims_of_both_kinds(judge: Judge) -> None:
    """Three comparisons without a difference, three that differ by their margin exactly: any claim is false."""
    random, trials, false = np.random.default_rng(0), 300, 0
    margins: list[float | None] = [None, None, None, 1.0, 1.0, 1.0]
    for _ in range(trials):
        d = random.normal(size=(8, 6)) - random.normal(size=(8, 1)) + np.array([0, 0, 0, 1, -1, 1])
        found = judge(d, margins)
        false += any(one.differs for one in found[:3]) or any(one.is_same for one in found[3:])
    assert false <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5
