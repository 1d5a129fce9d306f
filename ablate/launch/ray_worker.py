"""One run on a machine of a Ray cluster.

Where the machine sees the launcher's results folder, the run works in it, as a process beside the launcher would. Else it works in a
folder of its own: checkpoints go to the launcher as they are saved, and what was made goes back in a parcel at the end.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ablate import __version__
from ablate.base.errors import AblateError
from ablate.base.machine import device_bytes, pick_device, use_threads
from ablate.base.progress import Progress
from ablate.data.datasets import ImageSet, fingerprint
from ablate.inference import number_formats
from ablate.launch.ray_messages import Relay
from ablate.metrics.suite import Suite, assemble, only
from ablate.models import memory
from ablate.runs import loading
from ablate.runs.job import Row
from ablate.runs.pipeline import execute, working_folder
from ablate.store import tables
from ablate.store.atomic_files import half_written, replacing
from ablate.store.cache import cache_folder
from ablate.store.schema import SCHEMAS
from ablate.study.metric_names import Metric
from ablate.study.plan import RunSpec

SEND_S = 0.5  # between two looks for a new checkpoint
MODELS = ("model.safetensors", "autoencoder.safetensors")

_checked: set[str] = set()  # digests of the data sets that this process has received
_suites: dict[tuple[str, ...], Suite] = {}  # by what they were assembled from


@dataclass(frozen=True)
class Parcel:
    """Files by name, and rows by table, of one run."""

    files: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Networks:
    """What the launcher measures with; files of weights by name with their SHA-256."""

    metrics: tuple[Metric, ...]
    extractors: tuple[str, ...]
    distances: tuple[str, ...]
    files: dict[str, str]


@dataclass(frozen=True)
class Order:
    """A run to be made: all of it but pictures, weights and what there is of it already.

    Attributes:
        run_id: The run's name.
        spec: What to run.
        quantise: It has finished: measure the schemes and scopes that it lacks.
        finished_before: It has a finished row, which an interruption leaves in place.
        folder: The launcher's results folder.
        mark: A file in it, by which a machine that sees the folder knows it; None: work apart in any case.
        session: Names the latencies of `quantise`.
        device: `cpu` or `cuda`.
        threads: That torch computes with.
        networks: What is measured with.
        load_wall_s: What loading the data took the launcher, in seconds.
        save_every_s: Seconds between checkpoints.
        compile: As in `machine.pick_compile`.
        version: Of the launcher's ablate.
    """

    run_id: str
    spec: RunSpec
    quantise: bool
    finished_before: bool
    folder: Path
    mark: str | None
    session: str
    device: str
    threads: int
    networks: Networks
    load_wall_s: float
    save_every_s: float
    compile: str
    version: str = __version__


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `parcel` is None where everything lies in the launcher's folder already."""

    how: Literal["made", "quantised", "interrupted", "failed"]
    row: Row = field(default_factory=dict)
    error: str = ""
    parcel: Parcel | None = None


def work(order: Order, data: ImageSet, weights: Sequence[Any], kept: Sequence[Any], board: Any) -> Outcome:
    """Make a run; what a user can mend, and what cannot be foreseen, is an outcome too.

    Args:
        order: What to do.
        data: The pictures, read-only.
        weights: A reference to the contents of the files of weights, by name; fetched where this machine does not have them.
        kept: A reference to the parcel of what there is of the run, where there is something; fetched where the folder is not seen.
        board: The handle of the launcher's board.
    """
    # Pictures are shared by the processes of a machine, so read-only; torch warns of that, and nothing writes to them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    place = socket.gethostname()
    relay = Relay(board, order.run_id, place)
    try:
        if order.version != __version__:
            raise AblateError(
                f"{place} has ablate {__version__}, the launcher {order.version}; install the same on both"
            )
        target = pick_device(order.device)
        memory.check(order.spec.variant, order.spec.config, device_bytes(target))
        _check(data)
        suite = _suite(order.networks, weights, target)
        with use_threads(order.threads):
            if order.mark is not None and (order.folder / order.mark).is_file():
                return _make(order, data, order.folder, suite, relay)
            with tempfile.TemporaryDirectory(prefix="ablate-node-") as scratch:
                return _make_apart(order, data, Path(scratch), suite, relay, kept, board)
    except AblateError as error:
        return Outcome("failed", error=str(error))


def _check(data: ImageSet) -> None:
    """Take the fingerprint of pictures that this process sees for the first time."""
    if data.digest not in _checked and fingerprint(data.train, data.held_out) != data.digest:
        raise AblateError(f"{socket.gethostname()}: the pictures did not arrive as they were sent; run again")
    _checked.add(data.digest)


def _suite(networks: Networks, weights: Sequence[Any], target: torch.device) -> Suite:
    """Assemble the launcher's networks from the launcher's weights."""
    key = (str(target), *networks.extractors, *networks.distances, *networks.files.values())
    if key not in _suites:
        folder = _place_weights(networks.files, weights) if networks.files else None
        _suites[key] = only(assemble(networks.metrics, folder, target), networks.extractors, networks.distances)
    return _suites[key]


def _place_weights(files: Mapping[str, str], weights: Sequence[Any]) -> Path:
    """Write the files of weights into this machine's cache, where they are not there yet; they are checked as they are read."""
    names = hashlib.sha256("".join(sorted(files.values())).encode()).hexdigest()
    folder = cache_folder() / "weights" / names
    if not all((folder / name).is_file() for name in files):
        import ray

        for name, content in ray.get(weights[0]).items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)
    return folder


def _make(order: Order, data: ImageSet, folder: Path, suite: Suite, progress: Progress) -> Outcome:
    """Make the run in a results folder."""
    try:
        if order.quantise:
            run = loading.load(folder, order.run_id, suite.device)
            settings = order.spec.config.quantize
            added = number_formats.add(folder, run, data, suite, settings, session=order.session, progress=progress)
            return Outcome("quantised", {"rows": added})
        row = execute(
            order.spec,
            data,
            folder,
            suite=suite,
            progress=progress,
            load_wall_s=order.load_wall_s,
            save_every_s=order.save_every_s,
            finished_before=order.finished_before,
            compile=order.compile,
        )
        return Outcome("made", row)
    except KeyboardInterrupt:
        return Outcome("interrupted")
    except AblateError as error:
        return Outcome("failed", error=str(error))
    except Exception as error:
        traceback.print_exc()  # into the cluster's logs
        return Outcome("failed", error=f"{type(error).__name__}: {error}")


def _make_apart(
    order: Order, data: ImageSet, scratch: Path, suite: Suite, progress: Progress, kept: Sequence[Any], board: Any
) -> Outcome:
    """Make the run in a folder of its own, and pack what was made."""
    import ray

    before: Parcel = ray.get(kept[0]) if kept else Parcel()
    working = working_folder(scratch, order.run_id)
    place = scratch / "artifacts" / order.run_id if order.quantise else working
    place.mkdir(parents=True)
    for name, content in before.files.items():
        (place / name).write_bytes(content)
    if before.rows:
        tables.append(scratch, before.rows)
    with _sending(working, order.run_id, board):
        outcome = _make(order, data, scratch, suite, progress)
    rows = {table: tables.records(tables.read(scratch, table)) for table in SCHEMAS}
    new = {table: [row for row in some if row not in before.rows.get(table, [])] for table, some in rows.items()}
    if order.quantise:
        return replace(outcome, parcel=Parcel({}, new))
    made = scratch / "artifacts" / order.run_id
    left = list(made.iterdir()) if made.exists() else unfinished(working)
    return replace(outcome, parcel=Parcel({path.name: path.read_bytes() for path in left}, new))


def unfinished(working: Path) -> list[Path]:
    """Return the files of a run's working folder that it goes on from: not the checkpoint before the newest, nor what is being written."""
    names = working.glob("*")
    return sorted(path for path in names if not path.name.startswith("previous_") and not half_written(path))


@contextmanager
def _sending(working: Path, run_id: str, board: Any) -> Iterator[None]:
    """Send each new checkpoint, and what else is finished, to the board while the block runs: a lost machine's run goes on from it."""
    import ray

    stop, sent = threading.Event(), dict[str, int]()

    def send() -> None:
        while not stop.wait(SEND_S):
            for path in unfinished(working):
                try:
                    with path.open("rb") as file:  # replaced whole: an open one stays what it is
                        moment = os.fstat(file.fileno()).st_mtime_ns
                        if sent.get(path.name) != moment:
                            ray.get(board.keep.remote(run_id, path.name, file.read()))
                            sent[path.name] = moment
                except (OSError, ray.exceptions.RayError):
                    continue  # gone by now; or the launcher is gone, and soon this process

    sender = threading.Thread(target=send, name="checkpoints", daemon=True)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()
