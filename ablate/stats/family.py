"""The evidence for each comparison of a family, corrected for all of them.

Two hypotheses may be tested per comparison: that there is no difference and, where a margin is given, that the
difference is at least as large as the margin (two one-sided tests; rejecting both is `same`). All of them are one
family: at most a share ALPHA of studies makes any false claim, of either kind.
planned: all seeds were fixed before any result was there. Joint sign flips, `ablate.stats.joint`; evidence is p.
grown: seeds were added after results were there. E-values, `ablate.stats.sequential`; evidence is e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablate.stats import joint, sequential
from ablate.stats.paired import ALPHA


@dataclass(frozen=True)
class Evidence:
    """The corrected evidence for one comparison.

    Attributes:
        difference: p or e against no difference.
        same: p or e against a difference as large as the margin; None without a margin.
        by_e: Whether the evidence is e (large decides) or p (small decides).
    """

    difference: float
    same: float | None
    by_e: bool

    @property
    def differs(self) -> bool:
        """Whether there is a difference."""
        return _decides(self.difference, self.by_e)

    @property
    def is_same(self) -> bool:
        """Whether any difference is smaller than the margin."""
        return self.same is not None and _decides(self.same, self.by_e)


def planned(differences: np.ndarray, margins: Sequence[float | None]) -> list[Evidence]:
    """Return the evidence of a planned study.

    Args:
        differences: (n, m) float64, one row per seed and one column per comparison; NaN: the comparison lacks the seed.
        margins: (m,) in the unit of each comparison's differences; None: not tested for being the same.
    """
    d = np.asarray(differences, np.float64)
    with_margin = [j for j, margin in enumerate(margins) if margin is not None]
    size = np.array([margins[j] for j in with_margin], np.float64)
    below, above = size - d[:, with_margin], size + d[:, with_margin]
    one_sided = [False] * d.shape[1] + [True] * (2 * len(with_margin))
    p = joint.adjusted_p(np.concatenate([d, below, above], axis=1), one_sided)
    same = p[d.shape[1] :].reshape(2, -1).max(0)
    return _evidence(p[: d.shape[1]], dict(zip(with_margin, same, strict=True)), by_e=False)


def grown(differences: np.ndarray, margins: Sequence[float | None]) -> list[Evidence]:
    """Return the evidence of a study to which seeds were added.

    Args:
        differences: (n, m) as in `planned`, rows in the order in which the seeds came.
        margins: As in `planned`.
    """
    d = np.asarray(differences, np.float64)
    columns = [column[~np.isnan(column)] for column in d.T]
    e = [_last(sequential.e_values(x)) for x in columns]
    with_margin = [j for j, margin in enumerate(margins) if margin is not None]
    for j in with_margin:
        sides = (margins[j] - columns[j], margins[j] + columns[j])
        e.append(min(_last(sequential.sign_e_values(side)) for side in sides))
    corrected = sequential.adjusted(e)
    same = dict(zip(with_margin, corrected[d.shape[1] :], strict=True))
    return _evidence(corrected[: d.shape[1]], same, by_e=True)


def _evidence(differences: np.ndarray, same: dict[int, float], *, by_e: bool) -> list[Evidence]:
    return [Evidence(float(value), float(same[j]) if j in same else None, by_e) for j, value in enumerate(differences)]


def _last(values: np.ndarray) -> float:
    return float(values[-1]) if len(values) else 1.0


def _decides(value: float, by_e: bool) -> bool:
    return value * ALPHA >= 1 if by_e else value <= ALPHA
