"""Statistics: the exact test against scipy and closed forms; level, coverage and power by simulation; no verdict where n cannot decide."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ablate.stats import paired
from ablate.stats.paired import Paired, Verdict


def said(differences: object, family: int = 1, **options: bool) -> Verdict:
    """The verdict on differences whose p is the smallest of a family."""
    found = paired.summarise(np.asarray(differences, float))
    p_holm = None if found.p is None else min(1.0, family * found.p)
    return paired.compare(found, p_holm, family, **options)


def judged(differences: list[float], expect: str, **options: bool) -> str:
    found = paired.summarise(differences)
    return paired.judge(found, found.p, 1, expect, **options).word


def most(trials: int, share: float) -> float:
    """What chance passes once in a thousand."""
    return float(scipy_stats.binom.ppf(0.999, trials, share))


@pytest.mark.parametrize("n", [2, 3, 6, 9, 13, 16])
@pytest.mark.parametrize("one_sided", [False, True])
def test_sign_flip_is_scipys_permutation_test(n: int, one_sided: bool) -> None:
    x = np.random.default_rng(n).normal(0.3, 1, n)
    reference = scipy_stats.permutation_test(
        (x,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=2**17,
        vectorized=True,
        alternative="greater" if one_sided else "two-sided",
    )
    assert paired.sign_flip(x, one_sided=one_sided) == pytest.approx(reference.pvalue)


def test_sign_flip_where_it_is_known() -> None:
    for n in (2, 6, 20, 31):
        assert paired.sign_flip(1.0 + np.arange(n)) == pytest.approx(2.0 ** (1 - n))
    assert paired.sign_flip(np.ones(6)) == pytest.approx(2.0**-5)  # equal numbers: no pattern is counted twice
    assert paired.sign_flip([0.1, 0.2, -0.3]) == 1.0  # a mean of nothing but rounding
    assert paired.sign_flip(np.zeros(7)) == 1.0
    assert paired.sign_flip([]) == 1.0
    assert paired.sign_flip([3.0]) == 1.0


def test_random_patterns_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).normal(0.35, 1, 24)
    exact = paired.sign_flip(x)
    monkeypatch.setattr(paired, "EXACT", 8)
    assert paired.sign_flip(x) == pytest.approx(exact, abs=4 * np.sqrt(exact / paired.RANDOM))
    assert paired.sign_flip(x) == paired.sign_flip(x)
    tied = np.array([0.1] * 16 + [-0.1] * 8)  # sums that are equal but for rounding count
    exact = float(2 * scipy_stats.binom.cdf(8, 24, 0.5))
    assert paired.sign_flip(tied) == pytest.approx(exact, abs=4 * np.sqrt(exact / paired.RANDOM))
    assert paired.sign_flip(np.full(24, 2.0)) == pytest.approx(1 / (paired.RANDOM + 1))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.floats(1e-3, 1e3))
def test_sign_flip_knows_no_unit_and_no_direction(x: list[float], scale: float) -> None:
    p = paired.sign_flip(x)
    assert 0 < p <= 1
    assert paired.sign_flip([-value for value in x]) == p
    assert paired.sign_flip([scale * value for value in x]) == pytest.approx(p, abs=2.0 ** (1 - len(x)))


def test_holm_by_hand() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.6, 0.9]) == [1.0, 1.0]
    assert paired.holm([]) == []


def test_no_verdict_before_the_test_can_reach_its_level() -> None:
    assert [paired.min_seeds(alpha) for alpha in (0.05, 0.05 / 8, 0.05 / 14, 2.0**-5, 2.0**-6)] == [6, 9, 10, 6, 7]
    for n in range(12):
        for family in (1, 14):
            word = said(100 + np.arange(n), family).word
            assert word == ("hurts" if n >= paired.min_seeds(paired.ALPHA / family) else "undecided")
    assert said([]).why == "no seed is finished by both"
    assert said([5.0]).why == "1 seed: the test needs 6 to decide anything"
    assert "of 14 comparisons the first needs 10 seeds" in said(100 + np.arange(7), 14).why


def test_direction() -> None:
    up = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    down = [-x for x in up]
    assert (said(up).word, said(down).word) == ("hurts", "helps")
    assert (said(up, higher_is_better=True).word, said(down, higher_is_better=True).word) == ("helps", "hurts")
    assert judged(up, "worse") == "supported"
    assert judged(up, "better") == "contradicted"
    assert judged(up, "worse", higher_is_better=True) == "contradicted"
    assert judged(down, "worse", higher_is_better=True) == "supported"
    assert judged(up[:5], "worse") == "undecided"


def test_a_seed_far_from_the_others_decides_nothing_alone() -> None:
    found = said([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 40.0])
    assert found.word == "undecided"
    assert "one seed is far from the others" in found.why


def test_intervals_cover() -> None:
    random, trials = np.random.default_rng(0), 2000
    for n in (2, 3, 6, 12):
        covered = 0
        for x in random.normal(3, 2, (trials, n)):
            found = paired.summarise(x)
            covered += (found.low or 0) <= 3 <= (found.high or 0)
        assert trials - most(trials, 0.05) <= covered <= most(trials, 0.95)


@pytest.mark.parametrize("law", ["normal", "heavy"])
def test_false_verdicts_stay_at_the_level(law: str) -> None:
    random, trials = np.random.default_rng(1), 3000
    for n in (6, 8, 11):
        draws = random.normal(0, 1, (trials, n)) if law == "normal" else random.standard_t(2, (trials, n))
        wrong = sum(said(x).word != "undecided" for x in draws)
        assert wrong <= most(trials, paired.ALPHA)
        if law == "normal" and n == 11:
            assert wrong >= 0.5 * paired.ALPHA * trials  # and the test is not idle


def test_a_study_without_effects_claims_one_in_at_most_five_percent() -> None:
    """Differences to one shared baseline hang together, which Holm's correction allows."""
    random, studies, wrong = np.random.default_rng(2), 400, 0
    for _ in range(studies):
        runs = random.normal(0, 1, (9, 10))
        pairs = [paired.summarise(runs[i] - runs[0]) for i in range(1, 9)]
        corrected = paired.holm([pair.p or 1.0 for pair in pairs])
        wrong += any(paired.compare(x, p, 8).word != "undecided" for x, p in zip(pairs, corrected, strict=True))
    assert 0 < wrong <= most(studies, paired.ALPHA)


@pytest.mark.parametrize(("n", "family"), [(6, 1), (7, 1), (8, 1), (12, 1), (20, 1), (9, 8), (10, 8), (12, 8), (16, 8)])
def test_a_detectable_difference_is_found_as_often_as_predicted(n: int, family: int) -> None:
    random, trials = np.random.default_rng(n), 1500
    effect = paired.detectable(1.0, n, paired.ALPHA / family)
    assert effect is not None
    hits = sum(said(x, family).word == "hurts" for x in random.normal(effect, 1, (trials, n)))
    assert hits / trials == pytest.approx(paired.POWER, abs=0.055)  # 0.03 of chance; the interval must agree too


def test_what_no_seeds_can_find_is_not_detectable() -> None:
    assert paired.detectable(1.0, 5) is None
    assert paired.detectable(1.0, 8, paired.ALPHA / 8) is None
    assert paired.detectable(None, 8) is None
    assert paired.detectable(2.0, 8) == pytest.approx(2 * (paired.detectable(1.0, 8) or 0))


def test_power_grows_with_effect_and_seeds_and_is_a_probability() -> None:
    for alpha in (0.05, 0.05 / 30, 0.05 / 2000):
        for n in (*range(2, 70, 3), 101, 400, 1000):
            powers = [paired.power(effect, n, alpha) for effect in np.linspace(0, 8, 60)]
            assert all(0 <= p <= 1 for p in powers)
            assert all(b >= a - 0.005 for a, b in itertools.pairwise(powers))
        for effect in (0.1, 0.9, 3.0):
            powers = [paired.power(effect, n, alpha) for n in range(paired.min_seeds(alpha), 300)]
            assert all(b >= a - 0.02 for a, b in itertools.pairwise(powers))


@pytest.mark.parametrize("family", [1, 14])
def test_seeds_needed_are_the_fewest_that_find_it(family: int) -> None:
    alpha = paired.ALPHA / family
    for effect in (0.2, 0.5, 0.9, 1.6, 30.0):
        needed = paired.seeds_needed(Paired(6, effect, 1.0, None, None, 0.5), alpha)
        assert needed is not None
        assert needed >= paired.min_seeds(alpha)
        assert paired.power(effect, needed, alpha) >= paired.POWER
        assert needed == paired.min_seeds(alpha) or paired.power(effect, needed - 1, alpha) < paired.POWER
    assert paired.seeds_needed(Paired(6, 0.001, 1.0, None, None, 0.9), alpha) is None
    assert paired.seeds_needed(paired.summarise([2.0]), alpha) == paired.min_seeds(alpha)
    assert paired.seeds_needed(paired.summarise([2.0, 2.0]), alpha) == paired.min_seeds(alpha)
    assert paired.seeds_needed(paired.summarise([0.0, 0.0]), alpha) is None


def same(differences: np.ndarray, margin: float | None) -> str:
    found = paired.summarise(differences)
    p_same = None if margin is None else paired.equivalence(differences, margin)
    return paired.judge(found, found.p, 1, "same", margin=margin, p_same=p_same).word


def test_sameness_needs_a_margin() -> None:
    near = np.array([0.1, -0.1, 0.05, -0.05, 0.02, 0.0])
    assert same(near, None) == "undecided"
    assert same(near, 1.0) == "supported"
    assert same(near[:5], 1.0) == "undecided"
    assert same(near, 0.06) == "undecided"
    assert same(near + 5, 1.0) == "contradicted"
    assert same(near + 5, None) == "undecided"


def test_sameness_needs_the_interval_within_the_margin_too() -> None:
    x = 0.7 + 0.479 * np.array([1, -1] * 6)  # 90 % of it lies below 1, 95 % does not
    assert paired.equivalence(x, 1.0) < paired.ALPHA
    assert same(x, 1.0) == "undecided"
    assert same(x - 0.1, 1.0) == "supported"


def test_sameness_is_claimed_at_the_margin_in_at_most_five_percent() -> None:
    random, trials = np.random.default_rng(3), 2000
    wrong = sum(same(x, 1.0) == "supported" for x in random.normal(1.0, 0.5, (trials, 8)))
    assert wrong <= most(trials, paired.ALPHA)
    right = sum(same(x, 1.0) == "supported" for x in random.normal(0.0, 0.5, (500, 8)))
    assert right > 400


def test_seeds_for_a_margin() -> None:
    found = Paired(6, 0.2, 1.0, -0.8, 1.2, 0.5)
    needed = paired.seeds_for_margin(found, 1.0)
    assert needed is not None
    assert paired.half_width(needed, 1.0) < 0.8 <= paired.half_width(needed - 1, 1.0)
    assert paired.seeds_for_margin(found, 0.1) is None
