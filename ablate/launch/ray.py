"""Run a study on a Ray cluster: every run is a task with its share of processors and GPUs.

The launcher alone deals out runs, under claims as any `ablate run` on the same results folder. Pictures and weights are put into the
cluster once and reach each machine once. A run whose machine is lost is given to another one, up to `RETRIES` times, and goes on from
its last checkpoint: from the results folder where the machines see it, else from what the run sent to the launcher.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch

from ablate.base.errors import AblateError
from ablate.base.host import THREAD_VARIABLES
from ablate.base.progress import Progress, Study, Task
from ablate.base.text import printable
from ablate.data.datasets import ImageSet, load
from ablate.launch.queue import POLL_S, Again, Share, Turn, terminate_as_interrupt
from ablate.launch.ray_cluster import check_installed, connected, first_sentence, marked, quiet
from ablate.launch.ray_messages import Board, News
from ablate.launch.ray_worker import MODELS, Networks, Order, Outcome, Parcel, unfinished, work
from ablate.metrics.suite import assemble, files_of
from ablate.runs.job import Row
from ablate.runs.pipeline import adopt, working_folder
from ablate.store import tables
from ablate.study.metric_names import Metric
from ablate.study.plan import RunSpec
from ablate.training.checkpoint import SAVE_EVERY_S

RETRIES = 5  # of a run whose machine was lost
LOOK_S = 0.3  # between two looks at the cluster
GRACE_S = 60.0  # for interrupted runs to save


@dataclass(frozen=True)
class Shares:
    """What each run gets, and how many run at once."""

    threads: int = 1
    gpus: float | None = None  # None: one where there are any, and cuda is not declined
    jobs: int | None = None  # None: as many as the cluster has shares

    @property
    def local_cpus(self) -> int:
        """The processors of a cluster of this machine: what the jobs need, or as many whole shares as there are."""
        return (self.jobs or max(1, (os.cpu_count() or 1) // self.threads)) * self.threads


@dataclass
class _Running:
    """A run under way."""

    turn: Turn
    order: Order
    ends: ExitStack  # gives the claim back and takes the bar away
    bar: Task | None = None
    losses: int = 0


def launch(
    specs: Sequence[RunSpec],
    source: str,
    folder: Path,
    *,
    address: str | None = None,
    device: str = "auto",
    shares: Shares = Shares(),
    metrics: Collection[Metric] = (),
    weights: Path | None = None,
    again: Again = Again.unfinished,
    quantize_finished: bool = False,
    save_every_s: float = SAVE_EVERY_S,
    compile: str = "auto",
    poll_s: float = POLL_S,
    apart: bool = False,
    on_row: Callable[[Row, str], None],
    on_missing: Callable[[str, str], None],
) -> None:
    """Make the runs of a study on a Ray cluster, sharing them with other processes that work in the same folder.

    A run that fails does not end the others; the error comes when all are made.

    Args:
        specs: The study.
        source: `cats`, or a folder, zip or `.npz` of pictures, here.
        folder: The results folder, here.
        address: Of the cluster; None: one of this machine's processors, for the time of the study.
        device: `auto` (CUDA where the cluster has GPUs), `cpu` or `cuda`.
        shares: What each run gets.
        metrics: Metrics asked for by name: the weights of their networks may be downloaded, here.
        weights: A folder of weights, here; None: `ABLATE_WEIGHTS`.
        again: Which runs are made, by how they ended before.
        quantize_finished: Measure finished ones in the schemes and scopes that they lack.
        save_every_s: Seconds between checkpoints.
        compile: As in `machine.pick_compile`.
        poll_s: Seconds between two looks at what other processes make.
        apart: Let no machine work in the results folder, even where it sees it.
        on_row: As in `ablate.launch.local.launch`.
        on_missing: As there.

    Raises:
        AblateError: Ray is not installed or not to be reached; the device or the data cannot be used; a run failed.
        KeyboardInterrupt: Interrupted by SIGINT or SIGTERM, after the runs under way have saved.
    """
    check_installed()
    if device not in ("auto", "cpu", "cuda"):
        raise AblateError(
            f"--device {device}: with --launcher ray the cluster chooses the GPU. Allowed: auto, cpu, cuda"
        )
    start = time.monotonic()
    data = load(source)
    load_wall_s = time.monotonic() - start
    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        # ray.init takes SIGTERM for itself: the outer of the two gives it back in the end.
        stack.enter_context(terminate_as_interrupt())
        share = Share(
            specs, data, folder, again=again, quantize_finished=quantize_finished, on_row=on_row, say=progress.say
        )
        turns = share.turns()
        first = next(turns, turns)
        if first is turns:  # there is nothing to do
            return
        if isinstance(first, Turn):
            stack.callback(first.claim.close)
        suite = assemble(metrics, weights, torch.device("cpu"))
        for network, reason in suite.missing.items():
            on_missing(network, reason)
        contents = {path.name: path.read_bytes() for path in files_of(suite, weights)}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        asked = tuple(metric for metric in metrics if metric.network not in suite.missing)
        stack.enter_context(connected(address, shares.local_cpus))
        stack.enter_context(terminate_as_interrupt())
        stack.enter_context(quiet(progress))
        mark = stack.enter_context(marked(folder, apart))
        study = stack.enter_context(progress.study(share.total))
        launcher = _Launcher(folder, data, contents, shares, device, address is not None, on_row, progress, study)
        order = partial(
            Order,
            folder=folder.resolve(),
            mark=mark,
            session=share.session,
            device=launcher.device,
            threads=shares.threads,
            networks=Networks(asked, tuple(suite.extractors), tuple(suite.distances), digests),
            load_wall_s=load_wall_s,
            save_every_s=save_every_s,
            compile=compile,
        )
        launcher.make_all(share, chain(cast("list[Turn | None]", [first]), turns), order, poll_s)


class _Launcher:
    """Starts tasks, and follows them to their end."""

    def __init__(
        self,
        folder: Path,
        data: ImageSet,
        weights: dict[str, bytes],
        shares: Shares,
        device: str,
        may_grow: bool,
        on_row: Callable[[Row, str], None],
        progress: Progress,
        study: Study,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._folder, self._data = ray, folder, data
        self._shares, self._may_grow = shares, may_grow
        self._on_row, self._progress, self._study = on_row, progress, study
        gpus = shares.gpus
        if gpus is None:
            gpus = 1.0 if device != "cpu" and ray.cluster_resources().get("GPU", 0) else 0.0
        if device == "cuda" and not gpus:
            raise AblateError("--device cuda: the cluster has no GPUs; use --device cpu or auto")
        self._gpus, self.device = gpus, "cuda" if gpus and device != "cpu" else "cpu"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        threads = dict.fromkeys(THREAD_VARIABLES, str(shares.threads))
        # Lost machines are counted and told here, so that a run gets the newest checkpoint when it starts again.
        options = {"num_cpus": shares.threads, "num_gpus": gpus, "max_retries": 0, "runtime_env": {"env_vars": threads}}
        self._work, self._options = ray.remote(work), options
        self._pictures, self._weights = ray.put(data), [ray.put(weights)] if weights else []
        self._running: dict[Any, _Running] = {}
        self._failures: list[str] = []

    def make_all(self, share: Share, turns: Iterator[Turn | None], order: Callable[..., Order], poll_s: float) -> None:
        """Make the runs, and raise the first failure when all are made; `order` gives a run what all have in common."""
        self._check_room()
        all_dealt, next_s = False, 0.0
        try:
            while self._running or not all_dealt:
                while not all_dealt and len(self._running) < self._slots() and time.monotonic() >= next_s:
                    turn = next(turns, turns)
                    if turn is None:  # others make what is left
                        next_s = time.monotonic() + poll_s
                    elif isinstance(turn, Turn):
                        made = order(turn.run_id, turn.spec, turn.quantise, turn.finished_before)
                        self._start(_Running(turn, made, turn.claim))
                    else:
                        all_dealt = True
                self._study.left_to(share.settled, len(self._running))
                self._look(LOOK_S)
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            for one in self._running.values():
                one.ends.close()
        if self._failures:
            more = f" (and {len(self._failures) - 1} more failed)" if len(self._failures) > 1 else ""
            raise AblateError(f"{self._failures[0]}{more}; mend that, and run the same command again")

    def _slots(self) -> int:
        """How many runs may be under way: a cluster may grow and shrink."""
        if self._shares.jobs is not None:
            return self._shares.jobs
        there = self._ray.cluster_resources()
        shares = [there.get("CPU", 0) // self._shares.threads]
        if self._gpus:
            shares.append(there.get("GPU", 0) // self._gpus)
        return max(1, int(min(shares)))

    def _check_room(self) -> None:
        """Say that no machine has what a run is given; one of this machine's own processors alone will never have more."""
        needed = {"CPU": float(self._shares.threads), "GPU": self._gpus}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= least for kind, least in needed.items()) for node in nodes):
            wanted = " and ".join(f"{least:g} {kind}" for kind, least in needed.items() if least)
            if not self._may_grow:
                raise AblateError(f"--launcher ray: this machine does not have {wanted} for a run (--threads, --gpus)")
            self._progress.say(
                f"note: no machine of the cluster has {wanted} for a run (--threads, --gpus); waiting for one"
            )

    def _start(self, one: _Running) -> None:
        parcel = _kept(self._folder, one.turn)
        kept = [] if parcel is None else [self._ray.put(parcel)]
        task = self._work.options(**self._options, name=one.turn.run_id)
        self._running[task.remote(one.order, self._pictures, self._weights, kept, self._board)] = one

    def _look(self, timeout_s: float) -> None:
        """Show what came from the runs, and settle those that have ended."""
        done: list[Any] = []
        if self._running:
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        else:
            time.sleep(timeout_s)
        self._show(self._news())
        for ref in done:
            self._settle(ref)

    def _news(self) -> News:
        try:
            news: News = self._ray.get(self._board.take.remote())
        except self._ray.exceptions.ActorUnavailableError:  # for a moment: the next look brings all
            return News({}, [], {})
        return news

    def _show(self, news: News) -> None:
        running = {one.turn.run_id: one for one in self._running.values()}
        for text in news.said:
            self._progress.say(text)
        for run_id, state in news.states.items():
            if (one := running.get(run_id)) is not None:
                if one.bar is None:
                    one.bar = one.ends.enter_context(self._progress.task(state.name, state.total))
                one.bar.show(state.name, state.total, state.done, f"{state.place} {state.note}".strip())
        for (run_id, name), content in news.files.items():
            if run_id in running:
                adopt(self._folder, run_id, {name: content}, {})

    def _settle(self, ref: Any, *, stopping: bool = False) -> None:
        """Record how a task ended, or start it again where its machine was lost."""
        # It stays among the running ones until all is recorded: what an interruption cuts short here is done again.
        errors, one = self._ray.exceptions, self._running[ref]
        lost = (errors.NodeDiedError, errors.WorkerCrashedError, errors.OutOfMemoryError, errors.ObjectLostError)
        why = "its process was stopped by a signal"
        try:
            outcome: Outcome = self._ray.get(ref)
        except errors.TaskCancelledError:
            outcome = Outcome("interrupted")
        except lost as error:
            outcome, why = Outcome("interrupted"), first_sentence(error)
        except errors.RayTaskError as error:
            cause = error.cause if error.cause is not None else error
            outcome = self._given_up(one, printable(f"{type(cause).__name__}: {' '.join(str(cause).split())}"))
        except errors.RayError as error:
            outcome = self._given_up(one, first_sentence(error))
        if outcome.how == "interrupted" and not stopping:
            one.losses += 1
            if one.losses <= RETRIES:
                self._record(one.turn, outcome)
                self._progress.say(f"{one.turn.run_id}: {why}; the run goes on elsewhere")
                del self._running[ref]
                self._start(one)
                return
            outcome = self._given_up(one, why)
        self._record(one.turn, outcome)
        one.ends.close()
        del self._running[ref]
        self._study.made_one(len(self._running))

    def _record(self, turn: Turn, outcome: Outcome) -> None:
        parcel = outcome.parcel or Parcel()
        if outcome.how == "quantised":
            new = {table: rows for table, rows in parcel.rows.items() if rows}
            if new:
                tables.append(self._folder, new, replace=False)
        elif outcome.parcel is not None:
            adopt(self._folder, turn.run_id, parcel.files, parcel.rows)
        if outcome.how == "failed":
            self._failures.append(f"{turn.run_id}: {outcome.error}")
            if not turn.quantise:  # that run is finished, and stays so
                self._on_row(turn.row | {"status": "failed", "error": outcome.error}, "made")
        elif outcome.how != "interrupted":
            self._on_row(turn.row | outcome.row, outcome.how)

    def _given_up(self, one: _Running, error: str) -> Outcome:
        """A failed row for a run that no machine could say a word about."""
        spec, data = one.turn.spec, self._data
        row: Row = one.turn.row | {"axis": spec.axis, "preset": spec.preset, "budget": spec.budget}
        row |= {"config": spec.config.to_json(), "config_hash": spec.config.hash, "status": "failed", "error": error}
        row |= {"data": data.name, "data_digest": data.digest}
        rows = {} if one.turn.finished_before else {"runs": [row]}
        return Outcome("failed", error=error, parcel=Parcel({}, rows))

    def _stop(self) -> None:
        """Interrupt what is under way, and wait until it has saved."""
        self._progress.say(f"interrupting {len(self._running)} runs; they save first")
        for ref in list(self._running):
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(ref, force=False)
        end_s = time.monotonic() + GRACE_S
        while self._running and time.monotonic() < end_s:
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=LOOK_S)
            self._show(self._news())
            for ref in done:
                self._settle(ref, stopping=True)


def _kept(folder: Path, turn: Turn) -> Parcel | None:
    """What the results folder has of a run: the models and rows of a finished one, what one that is not goes on from."""
    models = [folder / "artifacts" / turn.run_id / name for name in MODELS]
    files = {}
    for path in models if turn.quantise else unfinished(working_folder(folder, turn.run_id)):
        with suppress(FileNotFoundError):
            files[path.name] = path.read_bytes()
    rows: dict[str, list[Row]] = {}
    if turn.quantise:
        for table in ("runs", "quantized"):
            rows[table] = [row for row in tables.records(tables.read(folder, table)) if row["run_id"] == turn.run_id]
    return Parcel(files, rows) if files or rows else None
