"""The Ray launcher: makes the runs of a study on a cluster, each as a task with its CPUs and GPUs.

Only the launcher takes runs from the work queue and holds their leases. Images and weights are put
into the cluster once and reach each machine once. If a run's machine is lost, another machine takes
the run, up to `RETRIES` times. It goes on from the last checkpoint: from the results folder if the
machine sees it, otherwise from what the run sent to the launcher.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, cast

from ablate.base.errors import AblateError, LeaseLostError, failed_runs, require
from ablate.base.host import THREAD_VARIABLES
from ablate.base.progress import Phase, Progress, Study, Task, at_most_every
from ablate.base.source_code import code_version
from ablate.base.text import printable
from ablate.launch.queue import POLL_S, REPORT_EVERY_S, QueuedRun, WorkQueue, sigterm_as_interrupt
from ablate.launch.ray_cluster import (
    check_alive,
    connected,
    first_sentence,
    folder_marker,
    ray_output_redirected,
)
from ablate.launch.ray_messages import ProgressActor, Updates
from ablate.launch.ray_worker import Networks, Payload, RunResult, RunTask, earlier_work, run_task
from ablate.launch.study_runs import StudyRuns
from ablate.metrics.networks import weight_paths
from ablate.runs.rows import Row, columns_of
from ablate.runs.run_files import record_remote_run
from ablate.store import tables
from ablate.store.plans import record

RETRIES = 5  # of a run whose machine was lost
WAIT_S = 0.3  # for a task to end, before updates are shown
GRACE_S = 60.0  # for interrupted runs to save


def local_cpus(jobs: int | None, threads: int) -> int:
    """Return the CPUs of a cluster on this machine: those of `jobs` runs, or of as many as fit."""
    return (jobs or max(1, (os.cpu_count() or 1) // threads)) * threads


@dataclass
class _Running:
    """A run that is being made."""

    run: QueuedRun
    task: RunTask
    at_end: ExitStack  # gives the lease back and removes the bar
    report: Callable[[Phase], None]  # writes beside the lease how far the run is
    bar: Task | None = None
    losses: int = 0


def launch(
    runs: StudyRuns,
    *,
    part: Collection[tuple[str, int]] | None = None,
    later: Collection[tuple[str, int]] = (),
    quantize_finished: bool = False,
    poll_s: float = POLL_S,
    isolated: bool = False,
    progress: Progress,
    on_row: Callable[[Row, str], None],
    on_missing: Callable[[str, str], None],
) -> None:
    """Make the runs of a study on a Ray cluster.

    Other processes that use the same folder share the runs. A run that fails does not end the
    others. Its error is raised when all have ended.

    Args:
        isolated: Let no machine work in the results folder, even if it sees the folder.
        Others: As in `ablate.launch.local.launch`. Paths are on this machine.

    Raises:
        AblateError: Ray is not installed or does not answer; the device or the data cannot be used;
            a run failed.
        KeyboardInterrupt: Interrupted by SIGINT or SIGTERM, after the unfinished runs have saved.
    """
    require("--launcher ray", "ray")
    request = runs.request
    threads = request.threads or 1
    if request.device not in ("auto", "cpu", "cuda"):
        raise AblateError(
            f"--device {request.device}: with --launcher ray the cluster chooses the GPU. Allowed: auto, cpu, cuda"
        )
    data = runs.data
    with ExitStack() as stack:
        # ray.init installs its own handler for SIGTERM: hence the second one below.
        stack.enter_context(sigterm_as_interrupt())
        clock = runs.clock(part, later)
        plan, specs = runs.plan(part)
        code = runs.code(specs)
        queue = WorkQueue(
            specs, data, request, quantize_finished=quantize_finished, code=code, on_row=on_row, say=progress.say
        )
        queued = queue.runs()
        first = next(queued, queued)
        if first is queued:  # nothing to do: start no cluster
            return
        if isinstance(first, QueuedRun):
            stack.callback(first.lease.give_back)
        networks = runs.load_networks("cpu", progress, on_missing)
        if plan is not None:
            record(request.results, plan, next(iter(code.values())) if code else code_version())
        contents = {path.name: path.read_bytes() for path in weight_paths(networks, request.weights)}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        stack.enter_context(connected(request.cluster, local_cpus(request.jobs, threads)))
        stack.enter_context(sigterm_as_interrupt())
        stack.enter_context(ray_output_redirected(progress))
        marker = stack.enter_context(folder_marker(request.results, isolated))
        study = stack.enter_context(progress.study(clock.state))
        launcher = _Launcher(runs, contents, on_row, progress, study)
        of_task = {"results": request.results.resolve(), "device": launcher.device, "threads": threads}
        task = partial(
            RunTask,
            request=request.model_copy(update=of_task),
            marker=marker,
            session=queue.session,
            networks=Networks(networks.loaded, digests),
            load_wall_s=runs.load_wall_s,
        )
        launcher.make_all(queue, chain(cast("list[QueuedRun | None]", [first]), queued), task, poll_s)


class _Launcher:
    """Starts a task for each run, shows its progress, and records its result."""

    def __init__(
        self,
        runs: StudyRuns,
        weights: dict[str, bytes],
        on_row: Callable[[Row, str], None],
        progress: Progress,
        study: Study,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._folder, self._data = ray, runs.request.results, runs.data
        request = runs.request
        self._threads, self._jobs, self._may_grow = request.threads or 1, request.jobs, bool(request.cluster)
        self._on_row, self._progress, self._study = on_row, progress, study
        device, gpus = request.device, request.gpus
        if gpus is None:
            gpus = 1.0 if device != "cpu" and ray.cluster_resources().get("GPU", 0) else 0.0
        if device == "cuda" and not gpus:
            raise AblateError("--device cuda: the cluster has no GPUs; use --device cpu or auto")
        self._gpus, self.device = gpus, "cuda" if gpus and device != "cpu" else "cpu"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Ray starts it again if it is killed: what it held is sent again, or was only for show.
        self._actor = ray.remote(ProgressActor).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1).remote()
        threads = dict.fromkeys(THREAD_VARIABLES, str(self._threads))
        # No retries by ray: the launcher restarts a lost run itself, with the newest checkpoint.
        self._remote = ray.remote(run_task)
        self._options = {
            "num_cpus": self._threads,
            "num_gpus": gpus,
            "max_retries": 0,
            "runtime_env": {"env_vars": threads},
        }
        self._images, self._weights = ray.put(runs.data), [ray.put(weights)] if weights else []
        self._running: dict[Any, _Running] = {}
        self._failures: list[tuple[str, str]] = []

    def make_all(
        self, queue: WorkQueue, runs: Iterator[QueuedRun | None], task: Callable[..., RunTask], poll_s: float
    ) -> None:
        """Make the runs, then raise their failures. `task` takes the fields that differ."""
        self._check_room()
        queue_empty, next_s = False, 0.0
        try:
            while self._running or not queue_empty:
                while not queue_empty and len(self._running) < self._slots() and time.monotonic() >= next_s:
                    run = next(runs, runs)
                    if run is None:  # other processes make all that is left
                        next_s = time.monotonic() + poll_s
                    elif isinstance(run, QueuedRun):
                        own = task(run.run_id, run.spec, run.quantise, run.finished_before, run.lease.still_ours)
                        at_end = ExitStack()
                        at_end.callback(run.lease.give_back)
                        report = at_most_every(REPORT_EVERY_S, run.report)
                        report(Phase("", 0))
                        self._start(_Running(run, own, at_end, report))
                    else:
                        queue_empty = True
                self._study.update()
                self._poll(WAIT_S)
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            for one in self._running.values():
                one.at_end.close()
        if self._failures:
            raise failed_runs(self._failures)

    def _slots(self) -> int:
        """Return how many runs fit the cluster now. It may grow and shrink."""
        if self._jobs is not None:
            return self._jobs
        cluster = self._ray.cluster_resources()
        fits = [cluster.get("CPU", 0) // self._threads]
        if self._gpus:
            fits.append(cluster.get("GPU", 0) // self._gpus)
        return max(1, int(min(fits)))

    def _check_room(self) -> None:
        """Warn if no machine has the resources of a run; raise if this machine is alone."""
        needed = {"CPU": float(self._threads), "GPU": self._gpus}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= least for kind, least in needed.items()) for node in nodes):
            wanted = " and ".join(f"{least:g} {kind}" for kind, least in needed.items() if least)
            if not self._may_grow:
                raise AblateError(f"--launcher ray: this machine does not have {wanted} for a run (--threads, --gpus)")
            self._progress.say(
                f"note: no machine of the cluster has {wanted} for a run (--threads, --gpus); waiting for one"
            )

    def _start(self, one: _Running) -> None:
        payload = earlier_work(self._folder, one.run)
        earlier = [] if payload is None else [self._ray.put(payload)]
        remote = self._remote.options(**self._options, name=one.run.run_id)
        self._running[remote.remote(one.task, self._images, self._weights, earlier, self._actor)] = one

    def _poll(self, timeout_s: float) -> None:
        """Show the updates of the runs, and finish those that have ended."""
        ended: list[Any] = []
        check_alive()
        if self._running:
            ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        else:
            time.sleep(timeout_s)
        self._show(self._updates())
        for ref in ended:
            self._finish(ref)

    def _updates(self) -> Updates:
        try:
            updates: Updates = self._ray.get(self._actor.take.remote())
        except self._ray.exceptions.RayActorError:  # for a moment
            return Updates({}, [], {})
        return updates

    def _show(self, updates: Updates) -> None:
        running = {one.run.run_id: one for one in self._running.values()}
        for text in updates.messages:
            self._progress.say(text)
        for run_id, phase in updates.progress.items():
            if (one := running.get(run_id)) is not None:
                if one.bar is None:  # it waited for a machine until now
                    one.run = replace(one.run, started_at=time.time())
                    one.report = at_most_every(REPORT_EVERY_S, one.run.report)
                    one.bar = one.at_end.enter_context(self._progress.task(phase.name, phase.total))
                one.report(phase)
                one.bar.show(phase.name, phase.total, phase.done, f"{phase.host} {phase.note}".strip())
        for (run_id, name), content in updates.files.items():
            if (one := running.get(run_id)) is not None:
                with suppress(LeaseLostError):  # the run's result is refused at its end
                    record_remote_run(self._folder, run_id, {name: content}, {}, one.run.lease.still_ours)

    def _finish(self, ref: Any, *, stopping: bool = False) -> None:
        """Record the result of a task, or start it again if its machine was lost."""
        # The run stays in `_running` until all is recorded, so an interruption here loses nothing.
        errors, one = self._ray.exceptions, self._running[ref]
        lost = (errors.NodeDiedError, errors.WorkerCrashedError, errors.OutOfMemoryError, errors.ObjectLostError)
        why = "its process was stopped by a signal"
        try:
            result: RunResult = self._ray.get(ref)
        except errors.TaskCancelledError:
            result = RunResult("interrupted")
        except lost as error:
            result, why = RunResult("interrupted"), first_sentence(error)
        except errors.RayTaskError as error:
            cause = error.cause if error.cause is not None else error
            result = self._give_up(one, printable(f"{type(cause).__name__}: {' '.join(str(cause).split())}"))
        except errors.RayError as error:
            result = self._give_up(one, first_sentence(error))
        if result.how == "interrupted" and not stopping:
            one.losses += 1
            if one.losses <= RETRIES:
                self._record(one.run, result)
                self._progress.say(f"{one.run.run_id}: {why}; the run goes on elsewhere")
                del self._running[ref]
                self._start(one)
                return
            result = self._give_up(one, why)
        self._record(one.run, result)
        one.at_end.close()
        del self._running[ref]
        self._study.update(now=True)

    def _record(self, run: QueuedRun, result: RunResult) -> None:
        payload = result.payload
        try:
            with tables.append_only_if(run.check_lease):
                if payload is not None and result.how == "quantised":
                    if new := {table: rows for table, rows in payload.rows.items() if rows}:
                        tables.append(self._folder, new, replace=False)
                elif payload is not None:
                    still_ours = run.lease.still_ours
                    record_remote_run(self._folder, run.run_id, payload.files, payload.rows, still_ours)
        except LeaseLostError as error:
            result = RunResult("failed", error=str(error))
        if result.how == "failed":
            self._failures.append((run.run_id, str(result.error)))
            if not run.quantise:  # that run is finished, and stays so
                self._on_row(run.row | {"status": "failed", "error": result.error}, "made")
        elif result.how != "interrupted":
            self._on_row(run.row | result.row, result.how)

    def _give_up(self, one: _Running, error: str) -> RunResult:
        """Return a failed row for a run whose machine returned nothing."""
        spec, data = one.run.spec, self._data
        row: Row = columns_of(spec, data, one.run.run_id) | {"status": "failed", "error": error}
        rows = {} if one.run.finished_before else {"runs": [row]}
        return RunResult("failed", error=error, payload=Payload({}, rows))

    def _stop(self) -> None:
        """Interrupt all runs, and wait until they have saved."""
        self._progress.say(f"interrupting {len(self._running)} runs; they save first")
        for ref in list(self._running):
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(ref, force=False)
        end_s = time.monotonic() + GRACE_S
        while self._running and time.monotonic() < end_s:
            ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=WAIT_S)
            self._show(self._updates())
            for ref in ended:
                self._finish(ref, stopping=True)
