"""Factorial studies: effects against a model that is known, and what is no complete study."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ablate.stats import factorial, paired
from ablate.stats.factorial import Cell

AXES = {"no_drift": "drift", "matched": "drift", "v": "prediction", "eps": "prediction", "no_skip": "skip"}


def cells(*levels: tuple[str, ...]) -> list[Cell]:
    return [frozenset(x for x in some if x) for some in itertools.product(*(("", *own) for own in levels))]


def test_designs_are_found_by_their_combinations() -> None:
    runs = dict.fromkeys([*cells(("no_drift", "matched"), ("v", "eps")), frozenset({"no_skip"})])
    (design,) = factorial.designs(runs, AXES)
    assert design.axes == ("drift", "prediction")
    assert design.levels == (("matched", "no_drift"), ("eps", "v"))
    assert design.missing == ()
    assert len(design.cells()) == 9
    del runs[frozenset({"matched", "v"})], runs[frozenset({"eps"})]
    (design,) = factorial.designs(runs, AXES)
    assert set(design.missing) == {frozenset({"matched", "v"}), frozenset({"eps"})}


def test_single_variants_are_no_factorial_study() -> None:
    assert factorial.designs(dict.fromkeys(map(frozenset, ([], ["no_drift"], ["v"]))), AXES) == []
    two_of_an_axis = dict.fromkeys([frozenset({"no_drift", "matched"})])
    assert factorial.designs(two_of_an_axis, AXES) == []


def test_effects_of_a_model_that_is_known() -> None:
    main = {"no_drift": 3.0, "matched": -1.0, "v": 10.0, "no_skip": 0.5}
    joint = {frozenset({"no_drift", "v"}): 4.0, frozenset({"no_drift", "v", "no_skip"}): -8.0}
    levels = (("no_drift", "matched"), ("v",), ("no_skip",))
    values = {
        cell: np.array([100.0, 50.0])
        + sum(main[part] for part in cell)
        + sum(size for both, size in joint.items() if both <= cell)
        for cell in cells(*levels)
    }
    (design,) = factorial.designs(values, AXES)
    found = {levels: contrast for levels, _, contrast in factorial.effects(design, values)}
    assert list(found)[:4] == [("matched",), ("no_drift",), ("v",), ("no_skip",)]
    expected = {
        ("matched",): -1.0,
        ("no_drift",): 3 + 4 / 2 - 8 / 4,  # a joint effect acts in the share of the backgrounds that have the rest
        ("v",): 10 + 4 / 3 - 8 / 6,
        ("no_skip",): 0.5 - 8 / 6,
        ("no_drift", "v"): 4 - 8 / 2,
        ("matched", "v"): 0.0,
        ("no_drift", "no_skip"): -8 / 2,
        ("v", "no_skip"): -8 / 3,
        ("no_drift", "v", "no_skip"): -8.0,
        ("matched", "v", "no_skip"): 0.0,
        ("matched", "no_skip"): 0.0,
    }
    assert set(found) == set(expected)
    for levels, effect in expected.items():
        np.testing.assert_allclose(found[levels], effect, atol=1e-12)


def test_intervals_of_effects_cover() -> None:
    random, trials, covered = np.random.default_rng(0), 600, 0
    for _ in range(trials):
        values = {cell: random.normal(5 * ("v" in cell), 1, 6) for cell in cells(("no_drift",), ("v",))}
        (design,) = factorial.designs(values, AXES)
        truth = {("no_drift",): 0.0, ("v",): 5.0, ("no_drift", "v"): 0.0}
        for levels, _, contrast in factorial.effects(design, values):
            pair = paired.summarise(contrast)
            covered += (pair.low or 0) <= truth[levels] <= (pair.high or 0)
    assert covered / (3 * trials) == pytest.approx(0.95, abs=0.02)
