"""One run as a task on a machine of a Ray cluster.

If the machine sees the launcher's results folder, the run works in it, as a local process would.
Otherwise it works in a folder of its own: it sends each checkpoint to the launcher as it is saved,
and returns its files and rows at the end.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ablate import __version__
from ablate.base.errors import AblateError, check_lease
from ablate.base.machine import device_bytes, pick_device, use_threads
from ablate.base.progress import Progress
from ablate.data.datasets import ImageSet, fingerprint
from ablate.launch.queue import QueuedRun
from ablate.launch.ray_messages import RemoteProgress
from ablate.launch.study_runs import StudyRuns, is_program, study_runs
from ablate.metrics.networks import MetricNetworks, load_networks
from ablate.models import memory
from ablate.runs.rows import Data, Row
from ablate.runs.run_files import open_working_folder
from ablate.store import tables
from ablate.store.artifacts import run_folder, working_folders
from ablate.store.atomic_files import is_temporary, replacing
from ablate.store.cache import cache_folder
from ablate.store.schema import RUN_TABLES
from ablate.study.plan import RunSpec
from ablate.study.request import StudyRequest

SEND_EVERY_S = 0.5  # between two looks for a new checkpoint
MODELS = ("model.safetensors", "autoencoder.safetensors")

_checked: set[str] = set()  # digests of the data sets that this process has received
_suites: dict[tuple[str, ...], MetricNetworks] = {}  # by what they were assembled from


@dataclass(frozen=True)
class Payload:
    """Content of a run that travels between machines: files by name, and rows by table."""

    files: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Networks:
    """The networks that the launcher measures with, besides the embedded ones.

    Attributes:
        names: Their names.
        files: Their weights: name -> SHA-256.
    """

    names: tuple[str, ...]
    files: dict[str, str]


@dataclass(frozen=True)
class RunTask:
    """What a worker needs to make a run, without images, weights and earlier checkpoints.

    Attributes:
        run_id: The run's name.
        spec: What to run.
        quantise: True: the run has finished; measure the number formats it lacks. False: make it.
        finished_before: The run has a finished row. An interruption leaves it in place.
        still_ours: Returns False once the launcher has lost the run's lease. Reads the folder.
        request: The study's, with the launcher's results folder, `cpu` or `cuda`, and the threads.
        marker: A file in the folder, by which a machine knows that it sees the same folder; None:
            work in a folder of its own in any case.
        session: The name under which the latencies of finished runs are recorded.
        networks: The networks to measure with.
        load_wall_s: The time that loading the data took the launcher, in seconds.
        version: The launcher's version of ablate.
    """

    run_id: str
    spec: RunSpec
    quantise: bool
    finished_before: bool
    still_ours: Callable[[], bool]
    request: StudyRequest
    marker: str | None
    session: str
    networks: Networks
    load_wall_s: float
    version: str = __version__

    def check_lease(self) -> None:
        """Stop if another process has taken the run over, as `ablate.base.errors.check_lease`."""
        check_lease(self.run_id, self.still_ours)


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `payload` is None if everything is in the launcher's folder already."""

    how: Literal["made", "quantised", "interrupted", "failed"]
    row: Row = field(default_factory=dict)
    error: str = ""
    payload: Payload | None = None


def run_task(task: RunTask, data: Data, weights: Sequence[Any], earlier: Sequence[Any], actor: Any) -> RunResult:
    """Make a run. Errors are returned, not raised.

    Args:
        task: What to do.
        data: The images, read-only; or the label of a program's data.
        weights: Empty, or a reference to the networks' weights by file name. They are fetched if
            this machine lacks them.
        earlier: Empty, or a reference to the `Payload` that the run goes on from. It is fetched if
            this machine does not see the launcher's folder.
        actor: The handle of the launcher's `ProgressActor`.
    """
    # The processes of a machine share the images, read-only. Nothing writes to them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    host = socket.gethostname()
    progress = RemoteProgress(actor, task.run_id, host)
    try:
        if task.version != __version__:
            raise AblateError(f"{host} has ablate {__version__}, the launcher {task.version}; install the same on both")
        runs = study_runs(task.request, [task.spec])
        runs.data, runs.load_wall_s = data, task.load_wall_s
        target = pick_device(task.request.device)
        if isinstance(data, ImageSet):
            memory.check(task.spec.variant, task.spec.config, device_bytes(target))
            _check(data)
        metric_networks = _suite(task.networks, weights, target)
        with use_threads(task.request.threads):
            if task.marker is not None and (task.request.results / task.marker).is_file():
                with tables.append_only_if(task.check_lease):
                    return _run_in(runs, task, metric_networks, progress)
            with tempfile.TemporaryDirectory(prefix="ablate-node-") as scratch:
                # Only the launcher sees the lease here. It asks before it records the run.
                alone = replace(task, still_ours=lambda: True)
                runs.request = task.request.model_copy(update={"results": Path(scratch)})
                return _run_isolated(runs, alone, metric_networks, progress, earlier, actor)
    except AblateError as error:
        return RunResult("failed", error=str(error))


def _check(data: ImageSet) -> None:
    """Check the fingerprint of images that this process receives for the first time."""
    if data.digest not in _checked and fingerprint(data.train, data.held_out) != data.digest:
        raise AblateError(f"{socket.gethostname()}: the images arrived damaged; run the same command again")
    _checked.add(data.digest)


def _suite(networks: Networks, weights: Sequence[Any], target: torch.device) -> MetricNetworks:
    """Assemble the launcher's networks from the launcher's weights."""
    key = (str(target), *networks.names, *networks.files.values())
    if key not in _suites:
        folder = _store_weights(networks.files, weights) if networks.files else None
        _suites[key] = load_networks(networks.names, folder, target)
    return _suites[key]


def _store_weights(files: Mapping[str, str], weights: Sequence[Any]) -> Path:
    """Write weights into this machine's cache if it lacks them. Reading checks their digests."""
    names = hashlib.sha256("".join(sorted(files.values())).encode()).hexdigest()
    folder = cache_folder() / "weights" / names
    if not all((folder / name).is_file() for name in files):
        import ray

        for name, content in ray.get(weights[0]).items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)
    return folder


def _run_in(runs: StudyRuns, task: RunTask, metric_networks: MetricNetworks, progress: Progress) -> RunResult:
    """Make the run in the results folder of `runs`."""

    def networks() -> MetricNetworks:
        return metric_networks

    try:
        if task.quantise:
            added = runs.measure_more(task.spec, task.run_id, networks, progress, lacking=False, session=task.session)
            return RunResult("quantised", {"rows": added})
        of_run = {"finished_before": task.finished_before, "still_ours": task.still_ours}
        return RunResult("made", runs.make(task.spec, networks, progress, **of_run))
    except KeyboardInterrupt:
        return RunResult("interrupted")
    except AblateError as error:
        return RunResult("failed", error=str(error))
    except Exception as error:
        traceback.print_exc()  # into the cluster's logs
        return RunResult("failed", error=f"{type(error).__name__}: {error}")


def _run_isolated(
    runs: StudyRuns,
    task: RunTask,
    metric_networks: MetricNetworks,
    progress: Progress,
    earlier: Sequence[Any],
    actor: Any,
) -> RunResult:
    """Make the run in a folder of its own, and return its files and rows."""
    import ray

    before: Payload = ray.get(earlier[0]) if earlier else Payload()
    scratch = runs.request.results
    working = open_working_folder(scratch, task.run_id)
    artifacts = scratch / "artifacts" / task.run_id
    start = artifacts if task.quantise else working
    start.mkdir(parents=True, exist_ok=True)
    for name, content in before.files.items():
        (start / name).parent.mkdir(parents=True, exist_ok=True)
        (start / name).write_bytes(content)
    if before.rows:
        tables.append(scratch, before.rows)
    # A program may be in the middle of writing a file, so its files are sent at the end only.
    with nullcontext() if is_program([task.spec]) else _sending_checkpoints(working, task.run_id, actor):
        result = _run_in(runs, task, metric_networks, progress)
    rows = {table: tables.to_records(tables.read(scratch, table)) for table in RUN_TABLES}
    new = {table: [row for row in some if row not in before.rows.get(table, [])] for table, some in rows.items()}
    if task.quantise:
        return replace(result, payload=Payload({}, new))
    start = artifacts if artifacts.exists() else working
    files = resumable_files(start)
    return replace(
        result, payload=Payload({path.relative_to(start).as_posix(): path.read_bytes() for path in files}, new)
    )


def resumable_files(working: Path) -> list[Path]:
    """Return the files from which a run resumes: no older checkpoint, no half-written file."""
    paths = (path for path in working.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.name.startswith("previous_") and not is_temporary(path))


@contextmanager
def _sending_checkpoints(working: Path, run_id: str, actor: Any) -> Iterator[None]:
    """Send each new file of the working folder to the actor while the block runs.

    If this machine is lost, the run goes on elsewhere from what was sent.
    """
    import ray

    stop, sent = threading.Event(), dict[str, int]()

    def send() -> None:
        while not stop.wait(SEND_EVERY_S):
            for path in resumable_files(working):
                try:
                    with path.open("rb") as file:  # replaced whole: an open file does not change
                        modified = os.fstat(file.fileno()).st_mtime_ns
                        if sent.get(path.name) != modified:
                            ray.get(actor.keep_file.remote(run_id, path.name, file.read()))
                            sent[path.name] = modified
                except (OSError, ray.exceptions.RayError):
                    continue  # the file is gone; or the launcher is, and soon this process

    sender = threading.Thread(target=send, name="checkpoints", daemon=True)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


def earlier_work(folder: Path, run: QueuedRun) -> Payload | None:
    """Return what a run goes on from: its checkpoints, or the models and rows of a finished one."""
    finished, working = run_folder(folder, run.run_id), working_folders(folder, run.run_id).get(run.run_id)
    start, paths = (working, resumable_files(working)) if working else (finished, [])
    if run.quantise:
        start, paths = finished, [finished / name for name in MODELS]
    files = {}
    for path in paths:
        with suppress(FileNotFoundError):
            files[path.relative_to(start).as_posix()] = path.read_bytes()
    rows: dict[str, list[Row]] = {}
    if run.quantise:
        for table in ("runs", "quantized"):
            rows[table] = [row for row in tables.to_records(tables.read(folder, table)) if row["run_id"] == run.run_id]
        rows["runs"] = [row | {"artifacts": None} for row in rows["runs"]]  # there the folder has the run's name
    return Payload(files, rows) if files or rows else None
