"""Run a study in this process, one run after another; other processes may work on the same study beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.base.errors import ResultsError
from ablate.base.machine import device_bytes, environment, pick_device, use_threads
from ablate.base.progress import Progress
from ablate.data.datasets import load
from ablate.inference import number_formats
from ablate.launch.queue import AS_FAILED, POLL_S, Again, Share, terminate_as_interrupt
from ablate.metrics.suite import Suite, assemble
from ablate.models import memory
from ablate.models.cost import cost
from ablate.runs import loading as finished_runs
from ablate.runs.pipeline import execute
from ablate.study.metric_names import Metric
from ablate.study.plan import Planned, RunSpec, estimate_wall_s
from ablate.training.checkpoint import SAVE_EVERY_S


def forecast(specs: Sequence[RunSpec], source: str, past: pd.DataFrame, *, again: Again, device: str) -> list[Planned]:
    """Return what `launch` would do, and how long it should take.

    Args:
        specs: The study.
        source: `cats`, or a folder, zip or `.npz` of pictures.
        past: The table `runs`; times come from runs of this very machine, or of others where it has none.
        again: Which runs are made, by how they ended before; with `failed` the others are not listed.
        device: As for `launch`.

    Raises:
        AblateError: The data or the device cannot be used.
    """
    data = load(source)
    ended = dict(zip(past["run_id"], past["status"], strict=True))
    here = past[past["environment"] == environment(pick_device(device))]
    times = here if "done" in set(here["status"]) else past
    macs = {spec.variant: cost(spec.config).train_macs(spec.config.train.steps) for spec in specs}
    found = []
    for spec in specs:
        run_id = spec.run_id(data.name, data.digest)
        if again is Again.failed and ended.get(run_id) not in AS_FAILED:
            continue
        finished = again is Again.unfinished and ended.get(run_id) == "done"
        found.append(Planned(spec, run_id, finished, estimate_wall_s(spec, macs[spec.variant], times)))
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
    threads: int | None = None,
    compile: str = "auto",
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
        threads: That torch computes with; None: as they are.
        compile: As in `machine.pick_compile`.
        poll_s: Seconds between two looks at what other processes make.
        on_row: Called after each run with its row and what was done: `made`, `quantised` (with `rows`, how many were added), or, with its
            name and seed alone, why it was skipped.
        on_missing: Called once for each network that is not at hand, with its name and why.

    Raises:
        AblateError: The device or the data cannot be used, or a run cannot go on.
        KeyboardInterrupt: Interrupted by SIGINT or SIGTERM, after saving.
    """
    target = pick_device(device)
    start = time.monotonic()
    data = load(source)
    load_wall_s = time.monotonic() - start
    with ExitStack() as stack:
        for spec in specs:
            memory.check(spec.variant, spec.config, device_bytes(target))
        stack.enter_context(use_threads(threads))
        progress = stack.enter_context(Progress())
        stack.enter_context(terminate_as_interrupt())
        suites: list[Suite] = []  # loaded when the first run needs it

        def suite() -> Suite:
            if not suites:
                suites.append(assemble(metrics, weights, target))
                for network, reason in suites[0].missing.items():
                    on_missing(network, reason)
            return suites[0]

        share = Share(
            specs,
            data,
            folder,
            again=again,
            quantize_finished=quantize_finished,
            on_row=on_row,
            say=progress.say,
        )
        study = stack.enter_context(progress.study(share.total))
        lost: list[ResultsError] = []
        for turn in share.turns():
            if turn is None:
                time.sleep(poll_s)
                continue
            study.left_to(share.settled, 1)
            with turn:
                if turn.quantise:
                    try:
                        run = finished_runs.load(folder, turn.run_id, target)
                    except ResultsError as error:  # the others are worth going on for
                        lost.append(error)
                    else:
                        settings, session = turn.spec.config.quantize, share.session
                        added = number_formats.add(
                            folder, run, data, suite(), settings, session=session, progress=progress
                        )
                        on_row(turn.row | {"rows": added}, "quantised")
                else:
                    made = execute(
                        turn.spec,
                        data,
                        folder,
                        suite=suite(),
                        progress=progress,
                        load_wall_s=load_wall_s,
                        save_every_s=save_every_s,
                        finished_before=turn.finished_before,
                        compile=compile,
                    )
                    on_row(made, "made")
            study.made_one()
        if lost:
            more = f" (and {len(lost) - 1} more runs could not be measured in number formats)" if len(lost) > 1 else ""
            raise ResultsError(f"{lost[0]}{more}")
