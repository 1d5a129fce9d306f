"""The local launcher: makes the runs of a study in this process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from ablate.base.progress import Progress
from ablate.base.source_code import code_version
from ablate.launch.queue import POLL_S, QueuedRun, WorkQueue, make_runs, sigterm_as_interrupt
from ablate.launch.study_runs import StudyRuns
from ablate.runs.rows import Row
from ablate.store.plans import record


def launch(
    runs: StudyRuns,
    *,
    part: Collection[tuple[str, int]] | None = None,
    later: Collection[tuple[str, int]] = (),
    quantize_finished: bool = False,
    poll_s: float = POLL_S,
    at_start: Mapping[str, tuple[str, Any]] | None = None,
    progress: Progress,
    on_row: Callable[[Row, str], None],
    on_missing: Callable[[str, str], None],
) -> None:
    """Make the runs of a study, sharing them with other processes that use the same folder.

    A run that another process makes is left to it. At the end this process waits for such runs,
    and makes those whose process has died.

    Args:
        runs: The study.
        part: Variant and seed of the runs to make now; None: all.
        later: Those of runs that may be made after these. They count in the time left.
        quantize_finished: Measure finished runs in the number formats and scopes they lack.
        poll_s: Seconds between two attempts to lease runs of other processes.
        at_start: How the runs ended when the study started; None: it starts now.
        progress: Shows what is under way.
        on_row: Called after each run with its row and how it went: `made`, `quantised` (`rows` is
            the number of rows added), or the reason for skipping it (the row is name and seed).
        on_missing: Called once for each network whose weights are missing, with its name and why.

    Raises:
        AblateError: The device or the data cannot be used, or a run cannot go on.
            Another process took over the run that this one was making.
            With `fail_fast` the first error of a run, else at the end one that names all failed runs.
            An error of the disk or its permissions, which each next run would meet, stops at once.
        KeyboardInterrupt: Interrupted by SIGINT or SIGTERM, after saving.
    """
    request, data = runs.request, runs.data
    runs.prepare(part, progress)
    networks = cache(lambda: runs.load_networks(request.device, progress, on_missing))
    with runs.threads(), sigterm_as_interrupt():
        clock = runs.clock(part, later)
        plan, specs = runs.plan(part)
        code = runs.code(specs)
        lacking = runs.lacking_metrics([spec.run_id(data.name, data.digest) for spec in specs], progress)
        queue = WorkQueue(
            specs,
            data,
            request,
            quantize_finished=quantize_finished,
            lacking=lacking,
            at_start=at_start,
            code=code,
            on_row=on_row,
            say=progress.say,
        )
        session = queue.session if quantize_finished else None

        def make(run: QueuedRun) -> None:
            run_id, spec = run.run_id, run.spec
            if run.quantise:
                added = runs.measure_more(spec, run_id, networks, progress, lacking=run_id in lacking, session=session)
                on_row(run.row | {"rows": added}, "quantised")
                return
            if runs.always_measured:  # before the plan is written: wrong --weights leave nothing behind
                networks()
            if plan is not None:
                record(request.results, plan, code[run_id] if code else code_version())
            of_run = {"finished_before": run.finished_before, "still_ours": run.lease.still_ours}
            row = runs.make(spec, networks, progress, **of_run)
            on_row(row, "made")
            if row["status"] == "done":
                runs.add_curves(spec, run_id, networks, progress)

        options: dict[str, Any] = {"fail_fast": request.fail_fast, "poll_s": poll_s, "on_row": on_row}
        make_runs(queue, make, progress=progress, state=clock.state, **options)
