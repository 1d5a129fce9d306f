"""Pareto fronts against brute force, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.stats import pareto


def brute(points: np.ndarray) -> list[bool]:
    return [not any(all(b <= a) and any(b < a) for j, b in enumerate(points) if j != i) for i, a in enumerate(points)]


@pytest.mark.parametrize("seed", range(5))
def test_fronts_by_brute_force(seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 5, (30, 3)).astype(float)
    assert (~pareto.beaten(points[:, None]).any(axis=1)).tolist() == brute(points)


def test_equal_points_do_not_beat_each_other() -> None:
    assert not pareto.beaten(np.ones((3, 1, 2))).any()


def test_shares_are_sure_where_points_lie_apart_and_even_where_they_do_not() -> None:
    random = np.random.default_rng(0)
    values = np.full((4, 40, 2), 1.0)
    values[0, :, 0] = random.normal(0, 1, 40)
    values[1, :, 0] = random.permutation(values[0, :, 0])  # the same mean
    values[2, :, 0] = 50 + random.normal(0, 1, 40)
    values[3, :, 0], values[3, :, 1] = 90, 0.5  # the worst in one, the best in the other
    share, made = pareto.front_frequencies(values)
    assert made == pareto.RESAMPLES
    assert share[2] == 0
    assert share[3] == 1
    assert share[0] + share[1] == pytest.approx(1, abs=0.01)
    assert 0.3 < share[0] < 0.7


def test_seeds_are_drawn_for_all_points_together() -> None:
    """What all seeds have in common moves no point past another."""
    common = 100 * np.random.default_rng(1).normal(0, 1, 12)
    values = np.stack([common, common + 0.1])[:, :, None]
    assert pareto.front_frequencies(values)[0].tolist() == [1.0, 0.0]


def test_points_are_compared_over_the_seeds_that_both_have() -> None:
    """By its own seeds' mean the second point would be the better one."""
    values = np.array([[[1.0], [20.0]], [[1.5], [np.nan]]])
    assert pareto.beaten(values).tolist() == [[False, False], [True, False]]
    apart = np.array([[[1.0], [np.nan]], [[np.nan], [2.0]]])
    assert not pareto.beaten(apart).any()


def test_a_point_that_lacks_a_seed_is_judged_by_the_resamples_in_which_it_has_one() -> None:
    values = np.array([[[1.0], [2.0]], [[0.5], [np.nan]]])
    share, made = pareto.front_frequencies(values)
    assert share == pytest.approx([0.25, 1.0], abs=0.05)  # beaten wherever the other has a seed, in three of four
    assert share[1] == 1
    assert made == pareto.RESAMPLES


def test_many_points_take_fewer_resamples() -> None:
    assert pareto.front_frequencies(np.random.default_rng(0).normal(0, 1, (400, 3, 3)))[1] < 50
