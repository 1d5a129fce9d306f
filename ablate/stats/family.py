"""The evidence for each comparison of a family, corrected for all of them.

Two hypotheses may be tested per comparison: that there is no difference and, where a margin is given,
that the difference is at least as large as the margin (two one-sided tests; rejecting both is `same`).
All of them are one family: at most a share ALPHA of studies makes any false claim, of either kind.

planned: all seeds were chosen before any result was there. Joint sign flips; evidence is p.
grown: seeds were added after results were there. E-values; evidence is e.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablate.stats import joint, sequential
from ablate.stats.paired import ALPHA, MOST_SEEDS, Paired, quantile, seeds_needed

PLANNED_SEEDS = 1 + math.ceil(-math.log2(ALPHA))  # the fewest whose smallest p, 2^(1 - n), reaches ALPHA


@dataclass(frozen=True)
class Evidence:
    """The evidence for one comparison.

    Attributes:
        alone: p or e against no difference, of this comparison alone.
        difference: The same, corrected for the family.
        same: Corrected p or e against a difference as large as the margin; None without a margin.
        by_e: Whether the evidence is e (large decides) or p (small decides).
    """

    alone: float
    difference: float
    same: float | None
    by_e: bool

    @property
    def differs(self) -> bool:
        """Whether there is a difference."""
        return _decides(self.difference, self.by_e)

    @property
    def differs_alone(self) -> bool:
        """Whether there would be a difference if this were the only comparison."""
        return _decides(self.alone, self.by_e)

    @property
    def is_same(self) -> bool:
        """Whether any difference is smaller than the margin."""
        return self.same is not None and _decides(self.same, self.by_e)


@dataclass(frozen=True)
class Family:
    """Comparisons that are corrected for together.

    Attributes:
        by_e: Whether the evidence is e, or p.
        tests: Hypotheses that are tested: one per comparison and one per margin.
        evidence: One per comparison (m,).
        level: planned: the level of one comparison's t-test that is as strict as the joint test; grown: ALPHA / m.
    """

    by_e: bool
    tests: int
    evidence: tuple[Evidence, ...]
    level: float

    @property
    def least_seeds(self) -> int:
        """The fewest seeds with which a comparison can be decided, however large its difference."""
        if not self.by_e:
            return PLANNED_SEEDS
        return next((n for n in range(2, MOST_SEEDS) if math.isfinite(self.critical(n))), MOST_SEEDS)

    def critical(self, n: int) -> float:
        """Return the T that decides a comparison of n seeds; infinite: none does.

        mean +- critical(n) sd / sqrt(n) are intervals that hold together with probability 1 - ALPHA; those of a
        grown family at any time (Bonferroni over its comparisons).
        """
        if self.by_e:
            return sequential.critical(n, self.level)
        return quantile(n, self.level) if n >= PLANNED_SEEDS else math.inf

    def seeds_for_margin(self, pairs: Paired, margin: float) -> int | None:
        """Return how many seeds show that a difference is within +-margin, if mean and sd stay as they are.

        Planned: with probability `POWER`. Grown: on average. None if more than `MOST_SEEDS` are needed.
        """
        if pairs.sd is None or pairs.mean is None:
            return self.least_seeds
        room = margin - abs(pairs.mean)
        if room <= 0:
            return None
        if self.by_e:
            return sequential.seeds_for_sign(room, pairs.sd, self.level, MOST_SEEDS)
        to_margin = Paired(pairs.n, room, pairs.sd, None, None)
        return seeds_needed(to_margin, self.critical, PLANNED_SEEDS)


def planned(differences: np.ndarray, margins: Sequence[float | None]) -> Family:
    """Return the evidence of a planned study.

    A comparison with fewer than `PLANNED_SEEDS` seeds cannot be decided, so it is left out: its p is 1.

    Args:
        differences: (n, m) float64, one row per seed and one column per comparison; NaN: the comparison lacks the seed.
        margins: (m,) in the unit of each comparison's differences; None: not tested for being the same.
    """
    d = np.asarray(differences, np.float64)
    kept: list[int] = np.flatnonzero((~np.isnan(d)).sum(0) >= PLANNED_SEEDS).tolist()
    with_margin = [j for j in kept if margins[j] is not None]
    size = np.array([margins[j] for j in with_margin], np.float64)
    below, above = size - d[:, with_margin], size + d[:, with_margin]
    one_sided = [False] * len(kept) + [True] * (2 * len(with_margin))
    alone, p = joint.p_values(np.concatenate([d[:, kept], below, above], axis=1), one_sided)
    found = dict(zip(kept, zip(alone.tolist(), p.tolist(), strict=True), strict=False))
    both_sides = dict(zip(with_margin, p[len(kept) :].reshape(2, -1).max(0).tolist(), strict=True))
    evidence = []
    for j, margin in enumerate(margins):
        one, corrected = found.get(j, (1.0, 1.0))
        same = None if margin is None else both_sides.get(j, 1.0)
        evidence.append(Evidence(one, corrected, same, by_e=False))
    level = ALPHA / max(1, len(margins))
    if len(kept):
        from scipy import special

        most = int((~np.isnan(d[:, kept])).sum(0).max())
        reach = joint.simultaneous_quantile(d[:, kept], ALPHA)
        level = 2 * float(special.stdtr(most - 1, -reach))
    tests = len(kept) + len(with_margin) if len(kept) else len(margins)
    return Family(by_e=False, tests=tests, evidence=tuple(evidence), level=level)


def grown(differences: np.ndarray, margins: Sequence[float | None], least_tests: int = 0) -> Family:
    """Return the evidence of a study to which seeds were added.

    Args:
        differences: (n, m) as in `planned`, rows in the order in which the seeds came.
        margins: As in `planned`.
        least_tests: Correct for at least so many tests: those that were left out have no evidence.
    """
    d = np.asarray(differences, np.float64)
    columns = [column[~np.isnan(column)] for column in d.T]
    e = [_last(sequential.e_values(x)) for x in columns]
    with_margin = {j: margin for j, margin in enumerate(margins) if margin is not None}
    same = [
        min(_last(sequential.sign_e_values(side)) for side in (margin - columns[j], margin + columns[j]))
        for j, margin in with_margin.items()
    ]
    left_out = max(0, least_tests - len(e) - len(same))
    corrected = sequential.adjusted([*e, *same, *[0.0] * left_out])
    both_sides = dict(zip(with_margin, corrected[len(e) : len(e) + len(same)].tolist(), strict=True))
    evidence = [Evidence(e[j], float(corrected[j]), both_sides.get(j), by_e=True) for j in range(len(e))]
    tests = len(e) + len(same) + left_out
    return Family(by_e=True, tests=tests, evidence=tuple(evidence), level=ALPHA / max(1, len(e) + left_out))


def _last(values: np.ndarray) -> float:
    return float(values[-1]) if len(values) else 1.0


def _decides(value: float, by_e: bool) -> bool:
    return value * ALPHA >= 1 - 1e-12 if by_e else value <= ALPHA
