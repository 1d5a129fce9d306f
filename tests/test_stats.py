"""Verdicts: the exact test against its closed form, its level by simulation, and no verdict where n cannot decide."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ablate import stats


def brute(differences: list[float]) -> float:
    """All sign patterns, one by one."""
    seen = abs(np.mean(differences))
    means = [abs(np.mean(np.multiply(differences, s))) for s in itertools.product((1, -1), repeat=len(differences))]
    return float(np.mean([m >= seen - 1e-12 for m in means]))


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_sign_flip_counts_all_patterns(n: int) -> None:
    x = np.random.default_rng(n).normal(0.3, 1, n).tolist()
    assert stats.sign_flip(x) == pytest.approx(brute(x))
    assert stats.sign_flip([1.0 + i for i in range(n)]) == pytest.approx(2.0 ** (1 - n))


def test_no_verdict_before_the_test_can_reach_its_level() -> None:
    assert stats.SEEDS_NEEDED == 6
    assert stats.judge([5.0, 5.1, 5.2, 5.3, 5.4], "worse").verdict == "undecided"
    assert stats.judge([], "worse").why.startswith("0 seeds")
    assert stats.judge([5.0, 5.1, 5.2, 5.3, 5.4, 5.5], "worse").verdict == "supported"


def test_direction() -> None:
    up = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    assert stats.judge(up, "worse").verdict == "supported"
    assert stats.judge(up, "better").verdict == "contradicted"
    assert stats.judge(up, "worse", higher_is_better=True).verdict == "contradicted"
    assert stats.judge([-x for x in up], "worse", higher_is_better=True).verdict == "supported"
    assert stats.judge(up, "same").verdict == "undecided"


def test_false_verdicts_stay_at_the_level_and_intervals_cover() -> None:
    random, wrong, covered, trials = np.random.default_rng(0), 0, 0, 400
    for _ in range(trials):
        said = stats.judge(random.normal(0, 1, 7).tolist(), "worse")
        wrong += said.verdict != "undecided"
        assert said.low is not None
        assert said.high is not None
        covered += said.low <= 0 <= said.high
    # Bounds that chance passes once in a thousand.
    assert wrong <= scipy_stats.binom.ppf(0.999, trials, stats.ALPHA)
    assert covered >= scipy_stats.binom.ppf(0.001, trials, 0.95)
