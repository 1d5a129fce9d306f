"""Run a study in this process, one run after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ablate import finished as finished_runs
from ablate import quantize
from ablate.data.images import load
from ablate.machine import pick_device
from ablate.measure.metrics import Metric
from ablate.measure.suite import assemble
from ablate.model.cost import cost
from ablate.progress import Progress
from ablate.run import execute
from ablate.study import Planned, RunSpec, estimate_wall_s


def forecast(specs: Sequence[RunSpec], source: str, past: pd.DataFrame, *, finished: Collection[str]) -> list[Planned]:
    """Return what `launch` would do, and how long it should take.

    Args:
        specs: The study.
        source: `cats`, or a folder, zip or `.npz` of pictures.
        past: The table `runs`.
        finished: Names of runs that are not made again.

    Raises:
        AblateError: The data cannot be used.
    """
    data = load(source)
    macs = {spec.variant: cost(spec.config).train_macs(spec.config.train.steps) for spec in specs}
    found = []
    for spec in specs:
        run_id = spec.run_id(data.name, data.digest)
        found.append(Planned(spec, run_id, run_id in finished, estimate_wall_s(spec, macs[spec.variant], past)))
    return found


def launch(
    specs: Sequence[RunSpec],
    source: str,
    folder: Path,
    *,
    device: str,
    metrics: Collection[Metric] = (),
    weights: Path | None = None,
    finished: Collection[str],
    quantize_finished: bool = False,
    on_row: Callable[[dict[str, Any], str], None],
    on_missing: Callable[[str, str], None],
) -> None:
    """Make every run that is not finished yet.

    Args:
        specs: The study.
        source: `cats`, or a folder, zip or `.npz` of pictures.
        folder: The results folder.
        device: A name that `pick_device` knows.
        metrics: Metrics asked for by name: the weights of their networks may be downloaded.
        weights: A folder of weights; None: `ABLATE_WEIGHTS`.
        finished: Names of runs that are not made again.
        quantize_finished: Measure them in the schemes and scopes that they lack.
        on_row: Called after each run with its row and what was done: `made`, `skipped` (its name and seed alone) or `quantised`, then
            with `rows`, how many were added.
        on_missing: Called once for each network that is not at hand, with its name and why.

    Raises:
        AblateError: The device or the data cannot be used, or a run cannot go on.
        KeyboardInterrupt: Interrupted, after saving.
    """
    target = pick_device(device)
    start = time.monotonic()
    data = load(source)
    load_wall_s = time.monotonic() - start
    suite = None
    session = f"quantize-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    with Progress() as progress:
        for spec in specs:
            run_id = spec.run_id(data.name, data.digest)
            row: dict[str, Any] = {"run_id": run_id, "variant": spec.variant, "seed": spec.seed}
            if run_id in finished and not quantize_finished:
                on_row(row, "skipped")
                continue
            if suite is None:
                suite = assemble(metrics, weights, target)
                for network, why in suite.missing.items():
                    on_missing(network, why)
            if run_id in finished:
                run = finished_runs.load(folder, run_id, target)
                added = quantize.add(folder, run, data, suite, spec.config.quantize, session=session, progress=progress)
                on_row(row | {"rows": added}, "quantised")
            else:
                on_row(execute(spec, data, folder, suite=suite, progress=progress, load_wall_s=load_wall_s), "made")
