"""Run a study in this process, one run after another; other processes may work on the same study beside it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

from ablate import finished as finished_runs
from ablate import quantize, results
from ablate.checkpoint import SAVE_EVERY_S
from ablate.claims import Claims
from ablate.data.images import load
from ablate.machine import device_bytes, pick_device
from ablate.measure.metrics import Metric
from ablate.measure.suite import Suite, assemble
from ablate.model import memory
from ablate.model.cost import cost
from ablate.progress import Progress
from ablate.run import clean, execute, working_folder
from ablate.study import Planned, RunSpec, estimate_wall_s

POLL_S = 2.0
AS_FAILED = ("failed", "diverged")


class Again(StrEnum):
    """Which runs of a study are made."""

    unfinished = "unfinished"  # all but finished ones
    failed = "failed"  # failed and diverged ones only
    all = "all"  # finished ones too


def forecast(specs: Sequence[RunSpec], source: str, past: pd.DataFrame, *, again: Again) -> list[Planned]:
    """Return what `launch` would do, and how long it should take.

    Args:
        specs: The study.
        source: `cats`, or a folder, zip or `.npz` of pictures.
        past: The table `runs`.
        again: Which runs are made, by how they ended before; with `failed` the others are not listed.

    Raises:
        AblateError: The data cannot be used.
    """
    data = load(source)
    ended = dict(zip(past["run_id"], past["status"], strict=True))
    macs = {spec.variant: cost(spec.config).train_macs(spec.config.train.steps) for spec in specs}
    found = []
    for spec in specs:
        run_id = spec.run_id(data.name, data.digest)
        if again is Again.failed and ended.get(run_id) not in AS_FAILED:
            continue
        finished = again is Again.unfinished and ended.get(run_id) == "done"
        found.append(Planned(spec, run_id, finished, estimate_wall_s(spec, macs[spec.variant], past)))
    return found


def launch(
    specs: Sequence[RunSpec],
    source: str,
    folder: Path,
    *,
    device: str,
    metrics: Collection[Metric] = (),
    weights: Path | None = None,
    again: Again = Again.unfinished,
    quantize_finished: bool = False,
    save_every_s: float = SAVE_EVERY_S,
    poll_s: float = POLL_S,
    on_row: Callable[[dict[str, Any], str], None],
    on_missing: Callable[[str, str], None],
) -> None:
    """Make the runs of a study, sharing them with other processes that work in the same folder.

    A run that another process is making is left to it, and waited for at the end: where that process dies, its run is taken over.

    Args:
        specs: The study.
        source: `cats`, or a folder, zip or `.npz` of pictures.
        folder: The results folder.
        device: A name that `pick_device` knows.
        metrics: Metrics asked for by name: the weights of their networks may be downloaded.
        weights: A folder of weights; None: `ABLATE_WEIGHTS`.
        again: Which runs are made, by how they ended before.
        quantize_finished: Measure finished ones in the schemes and scopes that they lack.
        save_every_s: Seconds between checkpoints.
        poll_s: Seconds between two looks at what other processes make.
        on_row: Called after each run with its row and what was done: `made`, `quantised` (with `rows`, how many were added), or, with its
            name and seed alone, why it was skipped.
        on_missing: Called once for each network that is not at hand, with its name and why.

    Raises:
        AblateError: The device or the data cannot be used, or a run cannot go on.
        KeyboardInterrupt: Interrupted by SIGINT or SIGTERM, after saving.
    """
    target = pick_device(device)
    for spec in specs:
        memory.check(spec.variant, spec.config, device_bytes(target))
    start = time.monotonic()
    data = load(source)
    load_wall_s = time.monotonic() - start
    suites: list[Suite] = []  # loaded when the first run needs it
    session = f"quantize-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    claims, at_start = Claims(folder), _endings(folder)
    waiting = {spec.run_id(data.name, data.digest): spec for spec in specs}
    told: set[str] = set()

    def suite() -> Suite:
        if not suites:
            suites.append(assemble(metrics, weights, target))
            for network, reason in suites[0].missing.items():
                on_missing(network, reason)
        return suites[0]

    with Progress() as progress, _terminate_as_interrupt():
        while waiting:
            took_one = False
            for run_id, spec in list(waiting.items()):
                row: dict[str, Any] = {"run_id": run_id, "variant": spec.variant, "seed": spec.seed}
                why = _settled(run_id, again, at_start, folder)
                if why is not None and not quantize_finished and not working_folder(folder, run_id).exists():
                    on_row(row, why)
                    del waiting[run_id]
                    continue
                with claims.take(run_id) as holder:
                    if holder is not None:
                        if run_id not in told:
                            progress.say(f"{run_id}: {holder.describe()} is making it")
                            told.add(run_id)
                        continue
                    # Between the first look and the claim another process may have finished it.
                    why = _settled(run_id, again, at_start, folder)
                    took_one = True
                    if why is None:
                        made = execute(
                            spec,
                            data,
                            folder,
                            suite=suite(),
                            progress=progress,
                            load_wall_s=load_wall_s,
                            save_every_s=save_every_s,
                            finished_before=at_start.get(run_id, ("",))[0] == "done",
                        )
                        on_row(made, "made")
                    elif clean(folder, run_id) and quantize_finished:
                        run, settings = finished_runs.load(folder, run_id, target), spec.config.quantize
                        added = quantize.add(folder, run, data, suite(), settings, session=session, progress=progress)
                        on_row(row | {"rows": added}, "quantised")
                    else:
                        on_row(row, why)
                    del waiting[run_id]
            if waiting and not took_one:
                time.sleep(poll_s)


def _endings(folder: Path) -> dict[str, tuple[str, Any]]:
    """How each run of the folder ended, and when."""
    runs = results.read(folder, "runs")
    return {
        run_id: (status, moment)
        for run_id, status, moment in zip(runs["run_id"], runs["status"], runs["finished_at"], strict=True)
    }


def _settled(run_id: str, again: Again, at_start: dict[str, tuple[str, Any]], folder: Path) -> str | None:
    """Why a run is not to be made, by the table as it is now, or None where it is."""
    now = _endings(folder).get(run_id)
    before = at_start.get(run_id)
    # Times are compared for being the same, never for order: a clock may have been set back between the two.
    if now is not None and now != before and now[0] != "interrupted":
        return f"{now[0]} meanwhile by another process"
    if again is Again.failed and (before is None or before[0] not in AS_FAILED):
        return f"{'not run yet' if before is None else before[0]}; --failed leaves it"
    if again is Again.unfinished and before is not None and before[0] == "done":
        return "done before; skipped (--force makes it again)"
    return None


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that what was begun is recorded."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # Not the main thread: signals are someone else's.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
