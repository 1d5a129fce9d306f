"""The local launcher: processes share a study, and a run's status decides if it is made again."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import when

from ablate.base.errors import AblateError, DivergedError, ResultsError
from ablate.base.progress import Progress
from ablate.data.datasets import ImageSet
from ablate.launch import model_runs, queue
from ablate.launch.leases import Lease, Leases
from ablate.launch.local import launch
from ablate.launch.study_runs import study_runs
from ablate.metrics.networks import MetricNetworks
from ablate.runs import pipeline as executing
from ablate.runs.run_files import record_remote_run
from ablate.store import tables
from ablate.study.plan import RunSpec, plan
from ablate.study.request import Rerun, StudyRequest

SPECS = plan(["baseline", "no_drift"], [0, 1, 2], "smoke")
DATA = SimpleNamespace(name="set", digest="d", notes=())
IDS = [spec.run_id("set", "d") for spec in SPECS]


class Fake:
    """Stands in for the making of a run: counts, and writes the row that `ends` names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wait_s: float = 0.0) -> None:
        self.made: list[str] = []
        self.ends: dict[str, str] = {}
        self.moment = datetime.now(UTC)
        self.wait_s = wait_s
        monkeypatch.setattr(model_runs, "study_images", lambda source, specs: DATA)
        networks = SimpleNamespace(missing={})
        monkeypatch.setattr("ablate.metrics.networks.load_networks", lambda *_, **__: networks)
        monkeypatch.setattr("ablate.runs.pipeline.execute_run", self)

    def __call__(self, spec: RunSpec, data: Any, folder: Path, **_: object) -> dict[str, Any]:
        run_id = spec.run_id("set", "d")
        self.made.append(run_id)
        time.sleep(self.wait_s)
        return self.write(folder, run_id, self.ends.get(run_id, "done"))

    def write(self, folder: Path, run_id: str, status: str) -> dict[str, Any]:
        row = {"run_id": run_id, "variant": "v", "preset": "smoke", "seed": 0, "status": status}
        tables.append(folder, {"runs": [row | {"finished_at": self.moment}]})
        return row


def leases(folder: Path) -> list[str]:
    """The files of leases that were not given back."""
    return [path.name for path in (folder / ".leases").iterdir() if path.name != ".lock"]


def go(
    folder: Path,
    rerun: Rerun = Rerun.unfinished,
    *,
    steal: bool = False,
    poll_s: float = 0.02,
    specs: Sequence[RunSpec] = SPECS,
    fail_fast: bool = False,
    said: dict[str, str] | None = None,
) -> dict[str, str]:
    """Launch the study; return what was said of each run."""
    said = {} if said is None else said

    def tell(row: dict[str, Any], how: str) -> None:
        said[row["run_id"]] = how

    chosen = {"force": Rerun.all, "failed": Rerun.failed, "stale": Rerun.stale}
    options = {name: rerun is one for name, one in chosen.items()} | {"steal": steal, "fail_fast": fail_fast}
    request = StudyRequest(data="set", results=folder, device="cpu", **options)
    progress = Progress(enabled=False)
    launch(study_runs(request, specs), poll_s=poll_s, progress=progress, on_row=tell, on_missing=lambda *_: None)
    return said


def test_four_launchers_make_each_run_once_and_each_sees_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch, wait_s=0.1)
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: go(tmp_path), range(4)))
    assert sorted(fake.made) == sorted(IDS)
    assert all(set(one) == set(IDS) for one in said)
    assert sorted(run_id for one in said for run_id, how in one.items() if how == "made") == sorted(IDS)
    assert len(tables.read(tmp_path, "runs")) == len(IDS)
    assert leases(tmp_path) == []


def test_a_launcher_that_starts_late_does_not_force_what_its_study_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)
    go(tmp_path)
    before = queue.statuses(tmp_path)
    fake.moment += timedelta(seconds=1)
    go(tmp_path, Rerun.all, specs=SPECS[:4])  # another job of the study
    fake.made.clear()
    request, said = StudyRequest(data="set", results=tmp_path, device="cpu", force=True), {}
    launch(
        study_runs(request, SPECS),
        at_start=before,
        progress=Progress(enabled=False),
        on_row=lambda row, how: said.update({row["run_id"]: how}),
        on_missing=lambda *_: None,
    )
    assert fake.made == IDS[4:]
    assert [said[run_id] for run_id in IDS[:4]] == ["done meanwhile by another process"] * 4


def test_runs_of_the_same_images_under_another_name_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)
    named = {spec.run_id("earlier-s0-name", "d"): spec for spec in SPECS}
    rows = [
        {"run_id": run_id, "variant": spec.variant, "preset": spec.preset, "seed": spec.seed, "status": "done"}
        for run_id, spec in named.items()
    ]
    tables.append(tmp_path, {"runs": [row | {"data": "earlier-s0-name", "data_digest": "d"} for row in rows]})
    assert all("done before" in how for how in go(tmp_path).values())
    assert fake.made == []
    request = StudyRequest(data="set", results=tmp_path, device="cpu")
    found = study_runs(request, SPECS).forecast(tables.read(tmp_path, "runs"))
    assert {(run.run_id, run.finished) for run in found} == {(run_id, True) for run_id in named}


def test_with_force_too_each_run_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    go(tmp_path)
    fake.made.clear()
    fake.wait_s = 0.1
    # Set back by a year: only that a row changed counts, not which of two times is later.
    fake.moment = datetime(2025, 1, 1, tzinfo=UTC)
    both = threading.Barrier(2)
    monkeypatch.setattr(queue, "statuses", lambda folder, statuses=queue.statuses: (statuses(folder), start())[0])

    def start() -> None:
        """Let both look at the folder before either changes it."""
        if not fake.made and threading.current_thread() not in started:
            started.add(threading.current_thread())
            both.wait(5)

    started: set[threading.Thread] = set()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: go(tmp_path, Rerun.all), range(2)))
    assert sorted(fake.made) == sorted(IDS)


def test_a_run_that_is_finished_meanwhile_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    take = Leases.take

    def late(self: Leases, run_id: str, *more: Any) -> Any:
        if run_id == IDS[1]:
            fake.write(tmp_path, run_id, "done")
        return take(self, run_id, *more)

    monkeypatch.setattr(Leases, "take", late)
    said = go(tmp_path)
    assert fake.made == [run_id for run_id in IDS if run_id != IDS[1]]
    assert said[IDS[1]] == "done meanwhile by another process"


@pytest.mark.slow
def test_what_is_made_again_is_chosen_by_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = dict(zip(IDS, ["done", "diverged", "failed", "interrupted", "done"], strict=False))
    made = {}
    for rerun in Rerun:
        fake = Fake(monkeypatch)
        for run_id, status in ends.items():
            fake.write(tmp_path / rerun, run_id, status)
        fake.moment = datetime.now(UTC)
        said = go(tmp_path / rerun, rerun)
        made[rerun] = [IDS.index(run_id) for run_id in fake.made]
        assert set(said) == set(IDS)
    everything = [0, 1, 2, 3, 4, 5]  # these rows do not tell their code
    assert made == {
        Rerun.unfinished: [1, 2, 3, 5],
        Rerun.failed: [1, 2],
        Rerun.all: everything,
        Rerun.stale: everything,
    }


def test_an_added_baseline_is_made_once_and_never_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    specs = plan(["no_drift"], [0], "smoke", add_baseline=True)
    ids = [spec.run_id("set", "d") for spec in specs]
    go(tmp_path, specs=specs)
    assert fake.made == ids
    fake.made.clear()
    fake.moment = datetime.now(UTC)
    said = go(tmp_path, Rerun.all, specs=specs)
    assert fake.made == ids[1:]
    assert said[ids[0]] == "done before; skipped"
    past = tables.read(tmp_path, "runs").assign(environment="", wall_s=1.0, train_macs=1, config_hash="")
    forced = StudyRequest(device="cpu", force=True)
    assert [one.finished for one in study_runs(forced, specs).forecast(past)] == [True, False]


def test_failed_runs_are_made_without_waiting_for_what_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)
    fake.write(tmp_path, IDS[0], "failed")
    (tmp_path / "artifacts" / f"{IDS[1]}.part").mkdir(parents=True)
    lease = Leases(tmp_path).take(IDS[1])  # another process makes it
    said = go(tmp_path, Rerun.failed)
    assert isinstance(lease, Lease)
    lease.give_back()
    assert fake.made == [IDS[0]]
    assert said[IDS[1]] == "not run yet; --failed leaves it"


@pytest.mark.parametrize("error", [KeyboardInterrupt, DivergedError, RuntimeError])
def test_a_maker_that_was_taken_for_dead_leaves_the_finished_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """It hangs, another process takes the run over and finishes it; then the first goes on."""
    (spec,) = plan(["direct"], [0], "smoke")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 3, 64, 64), np.uint8)
    data = ImageSet("set", images[0], images[1][:4], "d", 0)
    run_id = spec.run_id("set", "d")

    def train_and_sample(job: Any) -> None:
        row = {"run_id": run_id, "variant": "direct", "preset": "smoke", "seed": 0, "status": "done", "fd": 1.0}
        tables.append(tmp_path, {"runs": [row], "curves": [{"run_id": run_id, "step": 10, "loss": 1.0}]})
        raise error("stopped")

    monkeypatch.setattr(executing, "train_and_sample", train_and_sample)
    metric_networks = MetricNetworks(torch.device("cpu"), {}, {}, {})
    with suppress(KeyboardInterrupt, RuntimeError), Progress() as progress:
        executing.execute_run(spec, data, tmp_path, networks=metric_networks, progress=progress, load_wall_s=0.0)
    assert tables.read(tmp_path, "runs")[["status", "fd"]].to_numpy().tolist() == [["done", 1.0]]
    assert len(tables.read(tmp_path, "curves")) == 1
    adopted = {"run_id": run_id, "variant": "direct", "preset": "smoke", "seed": 0, "status": "interrupted"}
    record_remote_run(tmp_path, run_id, {}, {"runs": [adopted]})
    assert tables.read(tmp_path, "runs")["status"].tolist() == ["done"]


def test_a_dead_launchers_run_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    held = Leases(tmp_path).take(IDS[0])
    assert isinstance(held, Lease)
    # Given back as the system does when a process dies.
    with when(lambda: len(fake.made) == len(IDS) - 1, held.give_back):
        go(tmp_path)
    assert fake.made == [*IDS[1:], IDS[0]]


def test_a_held_run_is_stolen_when_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(monkeypatch)
    held = Leases(tmp_path).take(IDS[0])
    go(tmp_path, steal=True)
    assert fake.made == [*IDS[1:], IDS[0]]
    assert f"{IDS[0]}: taken from process {os.getpid()} on " in capsys.readouterr().err
    assert isinstance(held, Lease)
    assert not held.still_ours()
    held.give_back()


def test_thieves_do_not_steal_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch, wait_s=0.1)
    held = Leases(tmp_path).take(IDS[0])
    both = threading.Barrier(2)
    monkeypatch.setattr(
        Leases, "held", lambda self, held=Leases.held: (held(self), both.wait(5))[0]
    )  # each has looked before either steals
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: go(tmp_path, steal=True), range(2)))
    assert sorted(fake.made) == sorted(IDS)
    assert isinstance(held, Lease)
    assert not held.still_ours()


def test_a_failure_gives_the_lease_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch)

    def fail(*_: object, **__: object) -> None:
        raise ResultsError("full")

    monkeypatch.setattr("ablate.runs.pipeline.execute_run", fail)
    with pytest.raises(ResultsError, match="full"):
        go(tmp_path, fail_fast=True)
    assert leases(tmp_path) == []


def test_after_a_failed_run_the_others_are_made_and_all_failures_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)

    def fail_two(spec: RunSpec, *given: Any, **options: Any) -> dict[str, Any]:
        if spec.run_id("set", "d") in IDS[1:3]:
            raise RuntimeError("a shape\nis wrong")
        return fake(spec, *given, **options)

    monkeypatch.setattr("ablate.runs.pipeline.execute_run", fail_two)
    said: dict[str, str] = {}
    with pytest.raises(AblateError) as caught:
        go(tmp_path, said=said)
    assert str(caught.value) == (
        f"2 runs failed: {IDS[1]}, {IDS[2]}: RuntimeError: a shape is wrong; fix that, and run the same command again"
    )
    assert fake.made == [IDS[0], *IDS[3:]]
    assert set(said) == set(IDS)
    assert leases(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_stops_the_study_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    Fake(monkeypatch)
    tried: list[str] = []

    def fail(spec: RunSpec, *_: object, **__: object) -> None:
        tried.append(spec.variant)
        raise ResultsError("cannot be written") from OSError(number, os.strerror(number))

    monkeypatch.setattr("ablate.runs.pipeline.execute_run", fail)
    with pytest.raises(ResultsError, match="cannot be written"):
        go(tmp_path)
    assert len(tried) == 1


def test_sigterm_interrupts_and_gives_the_lease_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch)
    before = signal.getsignal(signal.SIGTERM)

    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    monkeypatch.setattr("ablate.runs.pipeline.execute_run", terminated)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path)
    assert leases(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_times_are_forecast_from_this_machine_where_it_has_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runs, "study_images", lambda source, specs: DATA)
    here = study_runs(StudyRequest(device="cpu"), SPECS).environment
    row = {"preset": "smoke", "config_hash": SPECS[0].config.hash, "train_macs": 1, "seed": 9, "status": "done"}
    row |= {"variant": "baseline", "data_digest": "other", "load_wall_s": 0.0}
    rows = [
        row | {"run_id": f"{i}", "environment": e, "wall_s": s} for i, (e, s) in enumerate([("{}", 90.0), (here, 10.0)])
    ]
    for past, expected in ((rows, 10.0), (rows[:1], 90.0)):
        found = study_runs(StudyRequest(device="cpu"), SPECS[:1]).forecast(pd.DataFrame(past))
        assert [one.wall_s for one in found] == [expected]
