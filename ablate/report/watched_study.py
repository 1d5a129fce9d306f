"""What `ablate watch` shows of a study: its runs now, and the verdicts so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablate.report.findings import Comparison, Findings
from ablate.store.owners import Owner
from ablate.store.run_progress import RunProgress


@dataclass(frozen=True)
class WatchedRun:
    """A run that is being made.

    Attributes:
        name: Variant and seed, or the run's name if they are not known.
        owner: The process that holds its lease.
        lease_s: Seconds since then; None: unknown.
        state: How far it is; None: unknown.
        left_s: Estimated seconds until it ends; None: unknown.
    """

    name: str
    owner: Owner
    lease_s: float | None
    state: RunProgress | None
    left_s: float | None


@dataclass(frozen=True)
class WatchedStudy:
    """A study at one moment.

    Attributes:
        folder: The results folder.
        about: The preset and the data, in a few words.
        progress: How many runs have ended and how long the others take, in a few words.
        statuses: Status -> number of runs that ended so, such as `failed`; without finished runs.
        running: The runs that are being made.
        findings: What a report finds; None: nothing can be compared yet.
        planned_test: Whether the study will be judged by the test of a plan once all its runs have ended.
        problem: Why there are no findings, in one line; empty: none.
    """

    folder: str
    about: str
    progress: str
    statuses: dict[str, int]
    running: Sequence[WatchedRun]
    findings: Findings | None = None
    planned_test: bool = False
    problem: str = ""

    @property
    def judged(self) -> list[Comparison]:
        """The comparisons that the study is judged by, each variant's together."""
        comparisons = () if self.findings is None else self.findings.comparisons
        own = [one for one in comparisons if not one.exploratory and one.adjusted is not None]
        labels = list(dict.fromkeys(one.label for one in own))
        return sorted(own, key=lambda one: labels.index(one.label))

    @property
    def undecided(self) -> list[Comparison]:
        """Those of them that are undecided, the strongest evidence first."""
        found = [one for one in self.judged if one.verdict == "undecided"]
        grown = self.findings is not None and self.findings.compared.design == "grown"
        return sorted(found, key=lambda one: one.adjusted or 0.0, reverse=grown)
