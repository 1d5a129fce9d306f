"""How far a study is and how long it will take, over restarts and with all processes that make its runs.

    time left = max(longest run under way, (sum of runs under way + sum of runs not begun) / workers)

workers are the runs that are under way, whichever process makes them. A run takes as long as
finished runs of its configuration (`ablate.study.run_times`), else as those under way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from ablate.base.progress import StudyState
from ablate.launch.leases import Leases
from ablate.store import tables
from ablate.store.run_progress import RunProgress
from ablate.study.plan import Planned
from ablate.study.run_times import COLUMNS, RunTimes

LIVES_S = 600.0  # since the last sign of a run that counts as being under way
BEFORE_TRAINING = ("", "autoencoder", "train", "program")  # phases


def phase_of(state: RunProgress) -> str:
    """Return the phase of a run without the run's name: `train`."""
    return state.phase.rpartition(": ")[2]


def run_left_s(state: RunProgress, times: RunTimes) -> float | None:
    """Return the estimated seconds left of a run that is under way; None: unknown."""
    after, phase = times.after_training_s(state.config_hash), phase_of(state)
    if phase == "train" and state.phase_left_s is not None:  # also right for a run that was resumed
        return state.phase_left_s + (after or 0.0)
    wall_s = times.wall_s(state.config_hash)
    rest = None if wall_s is None else max(0.0, wall_s - state.elapsed_s)
    if phase in BEFORE_TRAINING:
        return rest
    if rest is None or after is None:
        return state.phase_left_s if rest is None else rest
    return min(rest, after)


def study_left_s(running: Sequence[RunProgress], waiting: Iterable[float | None], times: RunTimes) -> float | None:
    """Return the estimated seconds until all runs have ended; None: unknown.

    Args:
        running: The runs that are under way.
        waiting: Estimated seconds of each run that has not begun; None: as one that is under way.
        times: Of finished runs.
    """
    lefts = [run_left_s(state, times) for state in running]
    like = [_whole_s(state, left) for state, left in zip(running, lefts, strict=True)]
    known = [seconds for seconds in like if seconds is not None]
    one = sum(known) / len(known) if known else None
    parts = [left if left is not None else one for left in lefts]
    rest = [seconds if seconds is not None else one for seconds in waiting]
    if None in parts or None in rest:
        return None
    total = sum(s for s in (*parts, *rest) if s is not None)
    longest = max((s for s in parts if s is not None), default=0.0)
    return max(longest, total / max(1, len(running)))


def _whole_s(state: RunProgress, left_s: float | None) -> float | None:
    """Return how many seconds a run that is under way takes in all."""
    if phase_of(state) == "train" and state.unit_s is not None:
        return state.unit_s * state.total
    return None if left_s is None else state.elapsed_s + left_s


class StudyClock:
    """Counts the runs of a study that have ended, and estimates the time of the others.

    Runs that had finished before count, and runs that other processes make.
    """

    def __init__(
        self, folder: Path, planned: Callable[[], Sequence[Planned]], environment: Callable[[], str], *, at_most: bool
    ) -> None:
        """Count from now on.

        Args:
            folder: The results folder.
            planned: Returns the runs of the study, as they are planned now. Called once, when the
                state is asked for the first time.
            environment: Returns the machine that makes runs, as the column `environment` has it.
            at_most: Whether some of the runs may turn out not to be needed.
        """
        self._folder, self._planned, self._environment, self._at_most = folder, planned, environment, at_most
        self._runs: list[Planned] = []
        self._start: dict[str, tuple[str, object]] | None = None
        self._now: dict[str, tuple[str, object]] = {}
        self._stamp: object = ()
        self._times: RunTimes | None = None

    def state(self) -> StudyState:
        """Return how far the study is. It is cheap unless the table of runs has changed."""
        self._read()
        assert self._start is not None
        ended = {run.run_id for run in self._runs if run.finished or self._has_ended(run.run_id)}
        under_way = {
            run_id: state
            for run_id, state in Leases(self._folder).progress().items()
            if state.silent_s < LIVES_S and run_id not in ended
        }
        left = [run for run in self._runs if run.run_id not in ended]
        running = [under_way[run.run_id] for run in left if run.run_id in under_way]
        left_s = None
        if self._times is not None:
            waiting = [run for run in left if run.run_id not in under_way]
            estimates = [self._times.wall_s(run.spec.config.hash, run.train_macs) for run in waiting]
            left_s = study_left_s(running, estimates, self._times)
        at_most = self._at_most and bool(left)
        return StudyState(len(self._runs), len(ended), len(running), left_s, at_most)

    def _read(self) -> None:
        stamp = tables.stamp(self._folder, "runs")
        if self._start is not None and stamp == self._stamp:
            return
        self._stamp = stamp
        runs = tables.read(self._folder, "runs", ("run_id", "finished_at", *COLUMNS))
        columns = (runs[name] for name in ("run_id", "status", "finished_at"))
        self._now = {run_id: (status, moment) for run_id, status, moment in zip(*columns, strict=True)}
        if self._start is None:
            self._start, self._runs = self._now, list(self._planned())
        if self._runs:
            self._times = RunTimes(runs, self._runs[0].spec.preset, [self._environment()])

    def _has_ended(self, run_id: str) -> bool:
        """Return whether a run has ended since the start."""
        assert self._start is not None
        now = self._now.get(run_id)
        return now is not None and now != self._start.get(run_id) and now[0] != "interrupted"


def counted(
    runs: Iterable[Planned], part: Collection[tuple[str, int]] | None, later: Collection[tuple[str, int]]
) -> list[Planned]:
    """Return the runs of a study that its progress counts.

    Args:
        runs: All of them.
        part: Variant and seed of the runs that are made now; None: all.
        later: Those of runs that may be made after these.
    """
    if part is None:
        return list(runs)
    wanted = {*part, *later}
    return [run for run in runs if run.finished or (run.spec.variant, run.spec.seed) in wanted]
