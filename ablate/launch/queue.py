"""The work queue: the runs of a study that this process is to make.

Several processes can work on one results folder. Each makes the runs whose lease it gets.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from ablate.base.errors import AblateError, LeaseLostError, check_lease, failed_runs, hits_every_run
from ablate.base.progress import Phase, Progress, StudyState, at_most_every
from ablate.base.signals import handled
from ablate.base.text import one_line
from ablate.launch.leases import Lease, Leases
from ablate.launch.stale import stale_note, stale_runs
from ablate.runs.rows import Data, Row
from ablate.runs.run_files import clean_up_finished
from ablate.store import tables
from ablate.store.artifacts import working_folders
from ablate.store.owners import Owner
from ablate.store.run_progress import RunProgress
from ablate.study.plan import RunSpec
from ablate.study.request import Rerun, StudyRequest

POLL_S = 2.0  # between two attempts to lease runs that other processes make
REPORT_EVERY_S = 2.0  # how far a run is, beside its lease
AS_FAILED = ("failed", "diverged")


@dataclass(frozen=True)
class QueuedRun:
    """A run that this process holds the lease of. Leaving the block gives the lease back.

    Attributes:
        run_id: The run's name.
        spec: What to run.
        quantise: True: the run has finished; measure what it lacks. False: make it.
        finished_before: The run has a finished row.
        lease: The lease.
        started_at: When this process began to make it, in seconds since 1970.
    """

    run_id: str
    spec: RunSpec
    quantise: bool
    finished_before: bool
    lease: Lease
    started_at: float = field(default_factory=time.time)

    @property
    def row(self) -> Row:
        """The columns of the run's row that are known before it is made."""
        return {"run_id": self.run_id, "variant": self.spec.variant, "seed": self.spec.seed}

    def check_lease(self) -> None:
        """Stop if another process has taken the run over, as `ablate.base.errors.check_lease`."""
        check_lease(self.run_id, self.lease.still_ours)

    def report(self, phase: Phase) -> None:
        """Write beside the lease how far the run is."""
        state = RunProgress(
            variant=self.spec.variant,
            preset=self.spec.preset,
            seed=self.spec.seed,
            config_hash=self.spec.config.hash,
            plan_id=self.spec.plan_id,
            started_at=self.started_at,
            written_at=time.time(),
            host=phase.host,
            phase=phase.name,
            done=phase.done,
            total=phase.total,
            unit_s=phase.unit_s,
            note=phase.note,
        )
        self.lease.report(state)

    def __enter__(self) -> QueuedRun:
        return self

    def __exit__(self, *exception: object) -> None:
        self.lease.give_back()


class WorkQueue:
    """Gives out the runs of a study one by one, each with its lease.

    Attributes:
        session: The name under which the latencies of finished runs are recorded.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        data: Data,
        request: StudyRequest,
        *,
        quantize_finished: bool,
        lacking: Collection[str] = (),
        at_start: Mapping[str, tuple[str, Any]] | None = None,
        code: Mapping[str, str] | None = None,
        on_row: Callable[[Row, str], None],
        say: Callable[[str], None],
    ) -> None:
        """Read how the runs ended so far.

        Args:
            specs: The study.
            data: What it is compared on.
            request: Names the results folder, which runs are made, and whether runs that other
                processes are making now are taken, after all other runs.
            quantize_finished: Measure finished runs in the number formats they lack.
            lacking: Finished runs that lack other metrics, to be measured too.
            at_start: How the runs ended when the study started, as `statuses` returns it; None: it
                starts now.
            code: Name of a run -> the code that would run it now; None: ablate's own.
            on_row: Called for each skipped run with its name and seed, and the reason.
            say: Called with a line for the user.
        """
        self._folder, self._rerun = request.results, request.rerun
        self._quantize_finished, self._lacking = quantize_finished, frozenset(lacking)
        self._on_row, self._say = on_row, say
        self._leases = Leases(self._folder)
        self._at_start = statuses(self._folder) if at_start is None else at_start
        # Two thieves that start together must not steal from each other: only these owners count.
        self._steal_from = self._leases.held() if request.steal else {}
        self._waiting = {spec.run_id(data.name, data.digest): spec for spec in specs}
        stale = stale_runs(tables.read(self._folder, "runs"), code)
        self._stale = {run_id: stale[run_id] for run_id in self._waiting if run_id in stale}
        if self._rerun is not Rerun.failed:
            skipped = [versions for run_id, versions in self._stale.items() if self._is_kept(run_id)]
            if skipped:
                say(stale_note(skipped))
        self.session = f"quantize-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"

    def runs(self) -> Iterator[QueuedRun | None]:
        """Yield the runs that this process is to make, until none is left.

        Yields None when other processes make all the runs that are left. Wait, then go on.
        """
        announced: set[str] = set()
        steal = False
        while self._waiting:
            got_one, unfinished = False, working_folders(self._folder)
            for run_id, spec in list(self._waiting.items()):
                reason = self._reason_to_skip(run_id, spec)
                leave_alone = self._rerun is Rerun.failed or run_id not in unfinished
                measure_more = self._quantize_finished or run_id in self._lacking
                if reason is not None and not measure_more and leave_alone:
                    self._skip(run_id, reason)
                    continue
                owner = self._steal_from.get(run_id) if steal else None
                lease = self._leases.take(run_id, owner)
                if isinstance(lease, Owner):
                    if run_id not in announced:
                        self._say(
                            f"{run_id}: {lease.describe()} is making it (--steal takes it, if that process hangs)"
                        )
                        announced.add(run_id)
                    continue
                try:
                    # Another process may have finished it since the first look.
                    reason = self._reason_to_skip(run_id, spec)
                    skip = reason is not None and not (
                        clean_up_finished(self._folder, run_id, lease.still_ours) and measure_more
                    )
                except BaseException:
                    lease.give_back()
                    raise
                got_one = True
                if skip:
                    lease.give_back()
                    self._skip(run_id, str(reason))
                    continue
                if owner is not None:
                    self._say(f"{run_id}: taken from {owner.describe()}")
                del self._waiting[run_id]
                finished = self._at_start.get(run_id, ("",))[0] == "done"
                yield QueuedRun(run_id, spec, reason is not None, finished, lease)
            if self._waiting and not got_one:
                if self._steal_from and not steal:
                    steal = True
                else:
                    yield None

    def _skip(self, run_id: str, reason: str) -> None:
        spec = self._waiting.pop(run_id)
        self._on_row({"run_id": run_id, "variant": spec.variant, "seed": spec.seed}, reason)

    def _reason_to_skip(self, run_id: str, spec: RunSpec) -> str | None:
        """Return why the table says that a run is not to be made; None where it is to be made."""
        now, before = statuses(self._folder).get(run_id), self._at_start.get(run_id)
        # Compare times for equality, not order: a clock may have been set back in between.
        if now is not None and now != before and now[0] != "interrupted":
            return f"{now[0]} meanwhile by another process"
        if self._rerun is Rerun.failed and (before is None or before[0] not in AS_FAILED):
            return f"{'not run yet' if before is None else before[0]}; --failed leaves it"
        if self._is_kept(run_id):
            return "done before; skipped" + (" (--force makes it again)" if not spec.added else "")
        return None

    def _is_kept(self, run_id: str) -> bool:
        """Return whether a run was finished at the start and is not to be made again."""
        if self._at_start.get(run_id, ("",))[0] != "done":
            return False
        if self._rerun is Rerun.stale:
            return run_id not in self._stale
        return self._rerun is Rerun.unfinished or self._waiting[run_id].added


def make_runs(
    queue: WorkQueue,
    make: Callable[[QueuedRun], None],
    *,
    progress: Progress,
    state: Callable[[], StudyState],
    fail_fast: bool,
    poll_s: float,
    on_row: Callable[[Row, str], None],
) -> None:
    """Make the runs of a queue here, one after another.

    Args:
        queue: The runs.
        make: Makes one; an error that it raises does not end the others.
        progress: Tells what the run does, which is written beside its lease.
        state: Returns how far the study is.
        fail_fast: Stop at the first error.
        poll_s: Seconds between two attempts to lease runs of other processes.
        on_row: Called for each run that failed.

    Raises:
        AblateError: At the end, one that names all failed runs. At once: with `fail_fast`, where
            another process has taken a run over, and for an error of the disk or its permissions,
            which each next run would meet.
    """
    failures: list[tuple[str, str]] = []
    with progress.study(state) as study:
        for run in queue.runs():
            if run is None:
                time.sleep(poll_s)
                study.update()
                continue
            report = at_most_every(REPORT_EVERY_S, run.report)
            report(Phase("", 0))
            study.update(now=True)
            with run, progress.reporting(report), tables.append_only_if(run.check_lease):
                try:
                    make(run)
                except Exception as error:
                    if fail_fast or isinstance(error, LeaseLostError) or hits_every_run(error):
                        raise
                    kind = "" if isinstance(error, AblateError) else f"{type(error).__name__}: "
                    failures.append((run.run_id, f"{kind}{one_line(error)}"))
                    if not run.quantise:  # that run is finished, and stays so
                        on_row(run.row | {"status": "failed", "error": failures[-1][1]}, "made")
            study.update(now=True)
    if failures:
        raise failed_runs(failures)


def statuses(folder: Path) -> dict[str, tuple[str, Any]]:
    """Return the status of each run of a results folder, and when the run ended."""
    names = ("run_id", "status", "finished_at")
    runs = tables.read(folder, "runs", names)
    columns = (runs[name] for name in names)
    return {run_id: (status, moment) for run_id, status, moment in zip(*columns, strict=True)}


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that an unfinished run is saved and recorded."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled(interrupt, signal.SIGTERM):
        yield
