"""The SLURM launcher: makes the runs of a study in jobs of a SLURM cluster, submitted by submitit.

Each job is a local launcher: it takes one run after another by its lease until none is left, so all
nodes must see the results folder. This process submits the jobs, then watches the tables and shows
the runs as they end. It computes nothing. If a job reaches its time limit or is preempted, submitit
queues it again, and its run goes on from the last checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablate.base.errors import AblateError, did_you_mean, failed_runs, require
from ablate.base.progress import Progress
from ablate.base.text import one_line
from ablate.launch import local
from ablate.launch.queue import POLL_S, sigterm_as_interrupt, statuses
from ablate.launch.study_runs import StudyRuns, is_program, study_runs
from ablate.runs.rows import Row
from ablate.store import tables
from ablate.study.plan import RunSpec
from ablate.study.request import StudyRequest

if TYPE_CHECKING:
    import submitit

Quantised = list[tuple[Row, str]]
DEFAULTS = {"name": "ablate", "timeout_min": 240}  # submitit's own limit is 5 minutes


@dataclass(frozen=True)
class Worker:
    """The work of one job, which submitit sends to the node."""

    request: StudyRequest
    specs: Sequence[RunSpec]
    part: Collection[tuple[str, int]] | None
    quantize_finished: bool
    at_start: Mapping[str, tuple[str, Any]]  # as `statuses`, before the first job

    def __call__(self) -> tuple[str | None, Quantised]:
        """Make runs until none is left; return the error that ended it, and the finished runs that were quantised."""
        from ablate.launch.study import described

        progress, quantised = Progress(enabled=False), Quantised()

        def on_row(row: Row, how: str) -> None:
            progress.say(described(row, how))
            if how == "quantised":
                quantised.append((row, how))

        try:
            local.launch(
                study_runs(self.request, self.specs),
                part=self.part,
                quantize_finished=self.quantize_finished,
                at_start=self.at_start,
                progress=progress,
                on_row=on_row,
                on_missing=lambda network, why: progress.say(f"{network}: {why}"),
            )
        except AblateError as error:
            return one_line(error), quantised
        return None, quantised

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return the work of the job that is queued again; submitit calls this at a time limit or preemption."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def launch(
    runs: StudyRuns,
    *,
    part: Collection[tuple[str, int]] | None = None,
    later: Collection[tuple[str, int]] = (),
    quantize_finished: bool = False,
    poll_s: float = POLL_S,
    progress: Progress,
    on_row: Callable[[Row, str], None],
    on_missing: Callable[[str, str], None],
) -> None:
    """Make the runs of a study in SLURM jobs; arguments as in `ablate.launch.local.launch`.

    Raises:
        AblateError: submitit or SLURM is missing, an unknown setting, data that cannot be used, or
            runs that failed or were not made when all jobs have ended.
        KeyboardInterrupt: Interrupted by SIGINT or SIGTERM. The jobs go on.
    """
    request, specs, folder = runs.request, runs.specs, runs.request.results
    anywhere = study_runs(request.model_copy(update={"device": "auto"}), specs)  # a login node may have no GPU
    planned = anywhere.forecast(tables.read(folder, "runs"))
    mine = [run for run in planned if part is None or (run.spec.variant, run.spec.seed) in part]
    waiting = {run.run_id: run.spec for run in mine if not run.finished}
    lacking = runs.lacking_metrics([run.run_id for run in mine if run.finished], progress)
    for run in mine:
        if run.finished and not quantize_finished and run.run_id not in lacking:
            row = {"run_id": run.run_id, "variant": run.spec.variant, "seed": run.spec.seed}
            on_row(row, "done before; skipped (--force makes it again)")
    wanted = len(mine) if quantize_finished else len(waiting) + len(lacking)
    if not wanted:
        return
    at_start, executor = statuses(folder), _executor(request)
    of_job = {"launcher": "local", "jobs": None, "slurm": ()}
    worker = Worker(request.model_copy(update=of_job), specs, part, quantize_finished, at_start)
    failures: list[tuple[str, str]] = []
    with sigterm_as_interrupt(), progress.study(anywhere.clock(part, later).state) as study:
        jobs = _submit(executor, worker, min(request.jobs or wanted, wanted))
        names = " ".join(job.job_id for job in jobs)
        progress.say(f"jobs {names} submitted; their logs: {executor.folder}")
        try:
            ended = False
            while not ended:
                ended = all(job.done() for job in jobs)  # asked before the tables are read for the last time
                for row in _new_rows(request, waiting, at_start):
                    run_id = str(row["run_id"])
                    del waiting[run_id]
                    on_row(row, "made")
                    if row["status"] == "failed":
                        failures.append((run_id, str(row["error"])))
                study.update()
                time.sleep(0 if ended else poll_s)
        except KeyboardInterrupt:
            progress.say(f"jobs {names} go on and record their runs; `scancel {names}` ends them")
            raise
    errors = _errors(jobs, on_row)
    if failures:
        raise failed_runs(failures)
    if waiting or (errors and (quantize_finished or lacking)):
        said = "; ".join(errors) or f"jobs {names} ended early; see {executor.folder}"
        raise AblateError(f"{len(waiting)} runs were not made: {said}; fix that, and run the same command again")
    for error in errors:
        progress.say(f"note: {error}; other jobs made its runs")


def _submit(executor: submitit.AutoExecutor, worker: Worker, jobs: int) -> Sequence[submitit.Job[Any]]:
    from submitit.core.utils import FailedJobError

    try:
        return executor.submit_array([worker] * jobs)
    except FailedJobError as error:
        raise AblateError(f"--launcher slurm: the jobs were not accepted: {one_line(error)}") from None


def _new_rows(
    request: StudyRequest, waiting: Mapping[str, RunSpec], at_start: Mapping[str, tuple[str, Any]]
) -> list[Row]:
    """Return the rows of runs that have ended since the jobs were submitted."""
    now = statuses(request.results)
    ended = [
        run_id
        for run_id in waiting
        if run_id in now and now[run_id] != at_start.get(run_id) and now[run_id][0] != "interrupted"
    ]
    if not ended:
        return []
    runs = tables.read(request.results, "runs")
    rows = tables.to_records(runs[runs["run_id"].isin(ended)])
    if is_program(list(waiting.values())):
        own = tables.to_records(tables.read(request.results, "metrics"))
        for row in rows:
            row["metrics"] = {one["metric"]: one["value"] for one in own if one["run_id"] == row["run_id"]}
    return rows


def _errors(jobs: Sequence[submitit.Job[Any]], on_row: Callable[[Row, str], None]) -> list[str]:
    """Return the errors of jobs that ended early, and show the finished runs that they quantised."""
    errors = []
    for job in jobs:
        try:
            error, quantised = job.result()
        except Exception:  # submitit's message is the whole log
            errors.append(f"job {job.job_id} ended without a result ({job.state}); its log: {job.paths.stderr}")
            continue
        for row, how in quantised:
            on_row(row, how)
        if error is not None:
            errors.append(f"job {job.job_id}: {error}")
    return errors


def _executor(request: StudyRequest) -> submitit.AutoExecutor:
    """Return the submitit executor with the settings of `--slurm`.

    Raises:
        AblateError: submitit or SLURM is missing, or a setting is not known.
    """
    require("--launcher slurm", "submitit")
    import submitit

    settings = DEFAULTS | {key: _value(text) for key, _, text in (pair.partition("=") for pair in request.slurm)}
    if request.threads is not None:
        settings.setdefault("cpus_per_task", request.threads)
    cluster = str(settings.pop("cluster", "slurm"))
    if cluster not in ("slurm", "local"):
        raise AblateError(f"--slurm cluster={cluster}: allowed: slurm, local (jobs are processes of this machine)")
    try:
        executor = submitit.AutoExecutor(request.results / "slurm", cluster=cluster)
        general = executor._valid_parameters()
        allowed = {*general, *submitit.SlurmExecutor._valid_parameters()}
        for key in settings.keys() - allowed:
            raise AblateError(
                f"--slurm {key}: unknown{did_you_mean(key, allowed)} Allowed: {', '.join(sorted(allowed))}"
            )
        executor.update_parameters(
            **{key if key in general else f"slurm_{key}": value for key, value in settings.items()}
        )
    except RuntimeError:
        raise AblateError(
            "--launcher slurm: no sbatch here; run it on a machine of the cluster, "
            "or try it with --slurm cluster=local: jobs are then processes of this machine"
        ) from None
    except (ValueError, AssertionError) as error:
        raise AblateError(f"--slurm: {one_line(str(error).splitlines()[0])}") from None
    return executor


def _value(text: str) -> Any:
    """Return a number, a list or another JSON value, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
