"""How far a study is: over restarts, and with runs that other processes make."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ablate.base.progress import StudyState
from ablate.launch.leases import Lease, Leases
from ablate.launch.time_left import StudyClock, counted, run_left_s, study_left_s
from ablate.store import run_progress, tables
from ablate.store.run_progress import RunProgress
from ablate.study.plan import Planned
from ablate.study.run_times import COLUMNS, RunTimes

NOW = 1.8e9
NO_TIMES = RunTimes(pd.DataFrame(columns=[*COLUMNS]), "smoke", [])


@pytest.fixture(autouse=True)
def the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_progress, "time", SimpleNamespace(time=lambda: NOW))


def planned(variant: str, seed: int, finished: bool = False) -> Planned:
    spec: Any = SimpleNamespace(variant=variant, seed=seed, preset="smoke", config=SimpleNamespace(hash=variant))
    return Planned(spec, f"{variant}-{seed}", finished, None)


def row(variant: str, seed: int, wall_s: float = 100.0, **columns: object) -> dict[str, object]:
    made = {"run_id": f"{variant}-{seed}", "variant": variant, "preset": "smoke", "seed": seed, "config_hash": variant}
    made |= {"status": "done", "wall_s": wall_s, "train_wall_s": 0.8 * wall_s, "environment": "here"}
    return made | {"started_at": datetime.now(UTC), "finished_at": datetime.now(UTC)} | columns


def progress(variant: str = "a", seed: int = 0, ago_s: float = 0.0, **fields: Any) -> RunProgress:
    of_run = {"variant": variant, "preset": "smoke", "seed": seed, "config_hash": variant, "plan_id": None}
    return RunProgress(**of_run | {"started_at": NOW - ago_s, "written_at": NOW} | fields)


def times(*rows: dict[str, object]) -> RunTimes:
    return RunTimes(pd.DataFrame(list(rows)).reindex(columns=[*COLUMNS]), "smoke", ["here"])


@pytest.mark.parametrize(
    ("state", "left_s"),
    [
        (progress(ago_s=30), 70),  # begun: as long as the others of its configuration
        (progress(phase="a s0: train", done=50, total=80, unit_s=2.0, ago_s=5), 60 + 20),  # resumed: by its own pace
        (progress(phase="pd features", ago_s=95), 5),
        (progress(phase="pd features", ago_s=1), 20),  # resumed after its training
        (progress(phase="a s0: program", ago_s=500), 0),
        (progress("new", phase="sample", done=1, total=3, unit_s=4.0), 100),
    ],
)
def test_the_time_left_of_a_run(state: RunProgress, left_s: float) -> None:
    assert run_left_s(state, times(row("a", 1))) == pytest.approx(left_s)


def test_without_finished_runs_the_run_under_way_tells_the_time() -> None:
    assert run_left_s(progress(), NO_TIMES) is None
    assert study_left_s([progress()], [None], NO_TIMES) is None
    one = progress(phase="a s0: train", done=20, total=100, unit_s=1.0)
    assert study_left_s([one], [None, None], NO_TIMES) == pytest.approx(80 + 200)
    assert study_left_s([one, one], [None, None], NO_TIMES) == pytest.approx(180)  # two workers
    assert study_left_s([], [100.0, 50.0], NO_TIMES) == 150


def clock(folder: Path, runs: list[Planned], *, at_most: bool = False) -> StudyClock:
    return StudyClock(folder, lambda: runs, lambda: "here", at_most=at_most)


def test_a_study_goes_on_after_a_restart_with_runs_of_other_processes(tmp_path: Path) -> None:
    failed = row("a", 1) | {"status": "failed", "wall_s": None}
    tables.append(tmp_path, {"runs": [row("a", 0), failed, row("b", 0, 200.0, environment="elsewhere")]})
    runs = [planned("a", 0, True), planned("b", 0, True), *(planned(v, s) for s in (1, 2) for v in "ab")]
    mine = clock(tmp_path, runs)
    assert mine.state() == StudyState(6, 2, 0, 400)  # of this machine alone: `b` as long as `a`
    lease = Leases(tmp_path).take("a-1")
    assert isinstance(lease, Lease)
    lease.report(progress("a", 1, ago_s=60))
    assert mine.state() == StudyState(6, 2, 1, 340)
    other = Leases(tmp_path).take("b-1")
    assert isinstance(other, Lease)
    other.report(progress("b", 1, ago_s=90))
    assert mine.state() == StudyState(6, 2, 2, (40 + 10 + 200) / 2)
    tables.append(tmp_path, {"runs": [row("a", 1, 300.0), row("b", 1, 300.0) | {"status": "diverged"}]})
    lease.give_back()
    other.give_back()
    assert mine.state() == StudyState(6, 4, 0, 400)  # the median of `a` is 200 now
    tables.append(tmp_path, {"runs": [row("a", 2, status="interrupted")]})
    assert mine.state().ended == 4
    again = clock(tmp_path, [planned("a", 0, True), planned("a", 1, True), *runs[1:2], *runs[3:]])
    assert again.state() == StudyState(6, 3, 0, 600)  # a run that diverged is made again


def test_a_study_until_decided_says_what_it_takes_at_most(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [row("a", 0)]})
    every = [planned("a", 0, True), *(planned("a", seed) for seed in (1, 2, 3))]
    runs = counted(every, {("a", 1)}, {("a", 2)})
    assert [run.spec.seed for run in runs] == [0, 1, 2]
    assert counted(every, None, ()) == every
    assert str(clock(tmp_path, runs, at_most=True).state()) == "runs 1 of at most 3 · at most 3 min left"


def test_a_run_that_has_been_silent_for_long_does_not_count_as_under_way(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [row("a", 0)]})
    (tmp_path / ".leases").mkdir()
    progress("a", 1, ago_s=3600, written_at=NOW - 3600).write(tmp_path / ".leases/a-1.progress")
    (tmp_path / ".leases/a-2.progress").write_bytes(b'{"seed": 1e999')
    assert clock(tmp_path, [planned("a", 1), planned("a", 2)]).state() == StudyState(2, 0, 0, 200)
