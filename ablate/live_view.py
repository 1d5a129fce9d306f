"""A results folder as it changes: what `ablate watch` shows, from its tables and leases alone.

It writes nothing, and works for every launcher, from every machine that sees the folder. Tables are
read when they have changed, and verdicts are computed anew at most in a twentieth of the time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from ablate.base.errors import ResultsError
from ablate.base.progress import StudyState
from ablate.base.text import printable
from ablate.launch.leases import Leases
from ablate.launch.run_list import parts_of
from ablate.launch.time_left import run_left_s, study_left_s
from ablate.report.builder import TABLES, build, read
from ablate.report.findings import Findings
from ablate.report.selection import Choice
from ablate.report.watched_study import WatchedRun, WatchedStudy
from ablate.store import tables
from ablate.store.owners import Owner
from ablate.store.plans import Plan, recorded_plans
from ablate.store.run_progress import RunProgress
from ablate.studies import comparable_findings, standings_of
from ablate.study.run_times import COLUMNS, RunTimes
from ablate.study.variants import BASELINE

PROBE_S = 10.0  # between two looks whether the owners of leases live
SHARE = 0.05  # of the time that computing verdicts may take
ENDED = ("done", "failed", "diverged")

Key = tuple[str, str, int]  # variant, hash of its configuration, seed


@dataclass(frozen=True)
class _Past:
    """What the tables say of some plans: their runs, the status of those that ended, and how long runs take."""

    planned: set[Key]
    ended: dict[Key, str]
    times: RunTimes


class LiveView:
    """A results folder that is looked at again and again."""

    def __init__(self, folder: Path) -> None:
        """Look at a results folder.

        Raises:
            ResultsError: There is no such folder.
        """
        self._folder, self._leases = folder, Leases(folder)
        self._owners: dict[str, Owner] = {}
        self._names: list[str] = []
        self._probed_s = self._judge_after_s = -PROBE_S
        self._runs_stamp: object = ()
        self._judged_of: object = ()
        self._findings: Findings | None = None
        self._problem = ""
        self._runs, self._plans = pd.DataFrame(), dict[str, Plan]()
        self._past: tuple[object, _Past] | None = None
        tables.check_exists(folder)

    def now(self) -> WatchedStudy | None:
        """Return the study as it is now; None: the folder holds no run and no plan, and none is being made.

        Raises:
            ResultsError: A table cannot be read.
        """
        self._read_tables()
        owners, states = self._look_at_leases(), self._leases.progress()
        states = {run_id: states[run_id] for run_id in owners if run_id in states}
        if not len(self._runs) and not self._plans and not owners:
            return None
        plans = self._current_plans(states.values())
        self._judge(plans)
        return self._study(plans, owners, states)

    def _read_tables(self) -> None:
        stamp = tuple(tables.stamp(self._folder, table) for table in ("runs", "plans"))
        if stamp != self._runs_stamp:
            names = ("run_id", "variant", "seed", "data", "data_digest", "plan_id", "finished_at", *COLUMNS)
            self._runs = tables.read(self._folder, "runs", names)
            self._plans = recorded_plans(self._folder)
            self._runs_stamp = stamp

    def _look_at_leases(self) -> dict[str, Owner]:
        """Return the owners of runs that are being made. Locks are tried when leases came or went, or now and then."""
        names = self._leases.names()
        if names != self._names or time.monotonic() - self._probed_s >= PROBE_S:
            self._owners, self._names, self._probed_s = self._leases.held(), names, time.monotonic()
        return self._owners

    def _current_plans(self, states: Collection[RunProgress]) -> list[Plan]:
        """Return the plans of the runs that are being made; where there are none, the newest plan."""
        named = {state.plan_id for state in states}
        return [plan for name, plan in self._plans.items() if name in named] or list(self._plans.values())[-1:]

    def _judge(self, plans: list[Plan]) -> None:
        """Compute the verdicts if a table has changed, and the time since the last ones was long enough."""
        stamp = (plans, *(tables.stamp(self._folder, table) for table in TABLES))
        if stamp == self._judged_of or time.monotonic() < self._judge_after_s:
            return
        start, self._judged_of, self._problem = time.monotonic(), stamp, ""
        try:
            if plans:
                plan = plans[-1]
                variants = {pair for one in plans for pair in one.variants}
                of_plan = (plan.preset, plan.data_digest, plan.budget)
                self._findings = comparable_findings(self._folder, *of_plan, variants)
            else:
                self._findings = build(read(self._folder), Choice(claims=False))
        except ResultsError as error:
            self._findings, self._problem = None, printable(error)
        end = time.monotonic()
        self._judge_after_s = end + (end - start) / SHARE

    def _study(self, plans: list[Plan], owners: Mapping[str, Owner], states: Mapping[str, RunProgress]) -> WatchedStudy:
        past = self._past_of(plans)
        ended, planned, times = past.ended, past.planned, past.times
        at_work = {run_id: self._key(run_id, states.get(run_id), planned) for run_id in owners}
        made_now = set(at_work.values())
        waiting = planned - ended.keys() - made_now
        at_most = any(plan.max_seeds is not None for plan in plans)
        if at_most:
            configs = {name: config for name, config, _ in planned}
            undecided = {one.variant for one in standings_of(self._findings, configs) if not one.decided}
            waiting = {key for key in waiting if key[0] in ({BASELINE} | undecided if undecided else ())}
        of_ended = [status for key, status in ended.items() if key not in made_now]
        left_s = None
        if waiting or owners:
            # An owner that does not say how far it is may have just begun.
            begin = [*waiting, *(key for run_id, key in at_work.items() if run_id not in states)]
            left_s = study_left_s(list(states.values()), [times.wall_s(config) for _, config, _ in begin], times)
        total = len(of_ended) + len(at_work) + len(waiting)
        state = StudyState(total, len(of_ended), len(at_work), left_s, at_most and bool(waiting))
        counts = Counter(status for status in of_ended if status != "done")
        return WatchedStudy(
            folder=printable(self._folder),
            about=_about(plans, self._runs),
            progress=str(state),
            statuses=dict(sorted(counts.items())),
            running=[
                _running(run_id, at_work[run_id], owner, states.get(run_id), times) for run_id, owner in owners.items()
            ],
            findings=self._findings,
            planned_test=bool(plans) and not at_most and bool(waiting or owners),
            problem=self._problem,
        )

    def _past_of(self, plans: list[Plan]) -> _Past:
        """Return what the tables say of some plans; without a plan, of all runs."""
        of = (self._runs_stamp, plans)
        if self._past is None or self._past[0] != of:
            planned = {key for plan in plans for key in _keys(plan)}
            # The machines that have made runs of a plan.
            done = self._runs[(self._runs["status"] == "done") & self._runs["plan_id"].isin(self._plans)]
            preset = plans[-1].preset if plans else str(self._runs["preset"].iloc[-1]) if len(self._runs) else ""
            times = RunTimes(self._runs, preset, set(done["environment"].dropna()))
            self._past = (of, _Past(planned, self._ended(plans, planned), times))
        return self._past[1]

    def _ended(self, plans: list[Plan], planned: Collection[Key]) -> dict[Key, str]:
        runs = self._runs[self._runs["status"].isin(ENDED)]
        if plans:
            alike = [(runs["preset"] == plan.preset) & (runs["data_digest"] == plan.data_digest) for plan in plans]
            runs = runs[pd.concat(alike, axis=1).any(axis=1)]
        keys = zip(runs["variant"], runs["config_hash"], runs["seed"], strict=True)
        found = dict(zip(keys, runs["status"], strict=True))
        return {key: status for key, status in found.items() if not plans or key in planned}

    def _key(self, run_id: str, state: RunProgress | None, planned: Collection[Key]) -> Key:
        """Return variant, configuration and seed of a run that is being made."""
        if state is not None:
            return (state.variant, state.config_hash, state.seed)
        names = [(name, plan.preset, plan.data) for plan in self._plans.values() for name, _ in plan.variants]
        parts = parts_of(run_id, names)
        variant, seed = str(parts["variant"] or run_id), int(parts["seed"] or 0)
        return next((key for key in planned if (key[0], key[2]) == (variant, seed)), (variant, "", seed))


def _running(run_id: str, key: Key, owner: Owner, state: RunProgress | None, times: RunTimes) -> WatchedRun:
    lease_s = None
    with suppress(ValueError, TypeError):  # a time without a zone: nothing of ablate's
        lease_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(owner.since)).total_seconds())
    name = run_id if key[0] == run_id else f"{key[0]} s{key[2]}"
    return WatchedRun(name, owner, lease_s, state, None if state is None else run_left_s(state, times))


def _keys(plan: Plan) -> set[Key]:
    return {(name, config, seed) for name, config in plan.variants for seed in plan.seeds}


def _about(plans: list[Plan], runs: pd.DataFrame) -> str:
    if not plans:
        return f"{runs['variant'].nunique()} variants, no plan"
    plan = plans[-1]
    seeds = len({seed for one in plans for seed in one.seeds})
    variants = len({name for one in plans for name, _ in one.variants})
    text = f"preset {plan.preset}, data {plan.data}, {variants} variants x {seeds} seeds"
    return printable(text + (" at most" if plan.max_seeds is not None else ""))
