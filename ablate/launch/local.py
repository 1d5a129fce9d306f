"""The local launcher: makes the runs of a study in this process, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

import pandas as pd

from ablate.base.machine import device_bytes, environment, pick_device, use_threads
from ablate.base.progress import Progress
from ablate.base.source_code import code_version
from ablate.base.text import one_line
from ablate.data.datasets import ImageSet
from ablate.inference import number_formats
from ablate.launch.here import study_clock
from ablate.launch.plans import planned
from ablate.launch.queue import AS_FAILED, POLL_S, QueuedRun, WorkQueue, make_runs, sigterm_as_interrupt
from ablate.launch.stale import stale_runs
from ablate.metrics.networks import BACKBONE_OF, MetricNetworks, load_networks, networks_of
from ablate.metrics.weights import BACKBONES, Search, fetch, local_file, obtainable
from ablate.models import memory
from ablate.models.cost import cost
from ablate.runs import loading as finished_runs
from ablate.runs.evaluation_curve import add_evaluations
from ablate.runs.missing_metrics import add_missing_metrics, lacking_networks
from ablate.runs.pipeline import execute_run
from ablate.runs.rows import Row
from ablate.store.plans import record
from ablate.store.tables import read
from ablate.study.images import study_images
from ablate.study.metric_names import FEATURES, headline_of
from ablate.study.plan import Planned, RunSpec
from ablate.study.request import Rerun, StudyRequest
from ablate.study.run_times import RunTimes
from ablate.training.perceptual import check_loss, loss_weights

IMAGE_BYTES = 1_500_000  # of a run's grids
CHECKPOINT_BYTES = 32  # per parameter: two checkpoints, each with weights, their average and two moments in float32


def forecast(
    request: StudyRequest, specs: Sequence[RunSpec], past: pd.DataFrame, data: ImageSet | None = None
) -> list[Planned]:
    """Return the runs that `launch` would make, with an estimate of their time.

    Args:
        request: What the study was asked to do.
        specs: Its runs. With `--failed` those that did not fail are left out.
        past: The table `runs`. Estimates come from runs of this machine, or of others where this
            machine has none.
        data: The images; None: load them.

    Raises:
        AblateError: The data or the device cannot be used.
    """
    data, rerun = study_images(request.data, specs) if data is None else data, request.rerun
    status = dict(zip(past["run_id"], past["status"], strict=True))
    stale = stale_runs(past) if rerun is Rerun.stale else {}
    times = RunTimes(past, specs[0].preset, [environment(pick_device(request.device))])
    costs = {spec.variant: cost(spec.config) for spec in specs}
    planned = []
    for spec in specs:
        run_id = spec.as_recorded(data.name, data.digest, past).run_id(data.name, data.digest)
        if rerun is Rerun.failed and status.get(run_id) not in AS_FAILED:
            continue
        made_again = run_id in stale if rerun is Rerun.stale else rerun is Rerun.all and not spec.added
        finished = status.get(run_id) == "done" and not made_again
        spent = costs[spec.variant]
        train_macs = spent.train_macs(spec.config.train.steps)
        wall_s = times.wall_s(spec.config.hash, train_macs)
        kept = 4 * (spent.total_params + FEATURES["fd"] * spec.config.measure.fd_samples) + IMAGE_BYTES
        checkpoints = CHECKPOINT_BYTES * spent.total_params
        planned.append(Planned(spec, run_id, finished, wall_s, kept, checkpoints, train_macs))
    return planned


def runs_lacking_metrics(
    request: StudyRequest, run_ids: Sequence[str], progress: Progress, kept: str = "model.safetensors"
) -> dict[str, list[str]]:
    """Return the finished runs that lack metrics, and the networks for them, after downloading their weights.

    Args:
        request: What the study was asked to do.
        run_ids: Its runs.
        progress: Shows downloads.
        kept: The file or folder in a run's folder that is measured.
    """
    wanted = networks_of(request.asked_metrics)
    if not lacking_networks(request.results, run_ids, wanted, kept):
        return {}
    search = Search(request.weights, download=not request.offline)
    unavailable = fetch([BACKBONE_OF[network] for network in wanted], search, progress)
    available = [network for network in wanted if BACKBONE_OF[network] not in unavailable]
    return lacking_networks(request.results, run_ids, available, kept)


def expected_measuring(request: StudyRequest, planned: Sequence[Planned]) -> list[str]:
    """Return what a study will download, and which finished runs get metrics that they lack, in lines."""
    wanted, lines = networks_of(request.asked_metrics), []
    search = Search(request.weights, download=not request.offline)
    available = [network for network in wanted if obtainable(BACKBONE_OF[network], search)]
    for network in wanted:
        backbone = BACKBONES[BACKBONE_OF[network]]
        if local_file(backbone.name, search) is not None:
            continue
        first = headline_of(network)
        what = f"{backbone.megabytes} MB from {backbone.url}"
        if network in available:
            lines.append(f"to be downloaded for {first}: {what}")
        else:
            lines.append(f"not measured: {first}, whose weights are not here (ablate weights --fetch downloads them)")
    losses = {loss_weights(run.spec.config.train): run.spec.variant for run in planned if not run.finished}
    for name, variant in losses.items():
        if name is None or local_file(name, search) is not None:
            continue
        backbone = BACKBONES[name]
        if obtainable(name, search):
            what = f"{backbone.megabytes} MB from {backbone.url}"
            lines.append(f"to be downloaded for the loss of {variant}: {what}")
        else:
            how = f"ablate weights --fetch {name} downloads them"
            lines.append(f"{variant} cannot train: the weights of its loss are not here ({how})")
    finished = [run.run_id for run in planned if run.finished]
    if lacking := lacking_networks(request.results, finished, available):
        networks = ", ".join(network for network in available if any(network in some for some in lacking.values()))
        lines.append(f"{len(lacking)} finished, without the metrics of {networks}: they are added without training")
    return lines


def _check_losses(
    request: StudyRequest,
    specs: Sequence[RunSpec],
    part: Collection[tuple[str, int]] | None,
    data: ImageSet,
    progress: Progress,
) -> None:
    """Find the weights that the losses of runs to be made need, before the first of them trains.

    Raises:
        AblateError: A loss cannot be computed.
    """
    needing = [spec for spec in specs if loss_weights(spec.config.train)]
    if part is not None:
        needing = [spec for spec in needing if (spec.variant, spec.seed) in part]
    if not needing:
        return
    search = Search(request.weights, download=not request.offline)
    unfinished = [
        run.spec for run in forecast(request, needing, read(request.results, "runs"), data) if not run.finished
    ]
    for spec in {spec.variant: spec for spec in unfinished}.values():
        check_loss(spec.variant, spec.config, search, progress)


def launch(
    request: StudyRequest,
    specs: Sequence[RunSpec],
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
        request: What the study was asked to do.
        specs: Its runs.
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
    folder, target = request.results, pick_device(request.device)
    start = time.monotonic()
    data = study_images(request.data, specs)
    load_wall_s = time.monotonic() - start
    for spec in {spec.variant: spec for spec in specs}.values():
        memory.check(spec.variant, spec.config, device_bytes(target))
    _check_losses(request, specs, part, data, progress)

    @cache  # assembled when the first run needs it
    def metric_networks() -> MetricNetworks:
        assembled = load_networks(
            networks_of(request.asked_metrics),
            request.weights,
            target,
            offline=request.offline,
            smallest_side=specs[0].config.data.size,
            progress=progress,
        )
        for network, reason in assembled.missing.items():
            on_missing(network, reason)
        for note in data.notes:
            progress.say(f"note: {one_line(request.data)}: {note}", once=True)
        return assembled

    with ExitStack() as stack:
        stack.enter_context(use_threads(request.threads))
        stack.enter_context(sigterm_as_interrupt())
        clock = study_clock(request, specs, data, part, later)
        plan, specs = planned(specs, request, data, part)
        lacking = runs_lacking_metrics(request, [spec.run_id(data.name, data.digest) for spec in specs], progress)
        queue = WorkQueue(
            specs,
            data,
            folder,
            rerun=request.rerun,
            quantize_finished=quantize_finished,
            lacking=lacking,
            steal=request.steal,
            at_start=at_start,
            on_row=on_row,
            say=progress.say,
        )

        def make(run: QueuedRun) -> None:
            if run.quantise:
                on_row(run.row | {"rows": measure_more(run)}, "quantised")
                return
            networks = metric_networks()
            if plan is not None:
                record(folder, plan, code_version())
            row = execute_run(
                run.spec,
                data,
                folder,
                networks=networks,
                progress=progress,
                load_wall_s=load_wall_s,
                save_every_s=request.save_every_s,
                finished_before=run.finished_before,
                compile=request.compile,
                still_ours=run.lease.still_ours,
            )
            on_row(row, "made")
            if request.nfe and run.spec.purpose is None and row["status"] == "done":
                finished = finished_runs.load_run(folder, run.run_id, target)
                add_evaluations(folder, finished, data, networks, request.nfe, progress=progress)

        def measure_more(run: QueuedRun) -> int:
            """Measure what a finished run lacks, and return the number of rows added."""
            finished, added = finished_runs.load_run(folder, run.run_id, target), 0
            if run.run_id in lacking:
                added += add_missing_metrics(folder, finished, run.spec, data, metric_networks(), progress=progress)
            if not quantize_finished:
                return added
            if request.quantize is not None or request.scopes is not None:
                added += number_formats.add_missing_formats(
                    folder,
                    finished,
                    data,
                    metric_networks(),
                    run.spec.config.quantize,
                    session=queue.session,
                    progress=progress,
                )
            if request.nfe and run.spec.purpose is None:
                added += add_evaluations(folder, finished, data, metric_networks(), request.nfe, progress=progress)
            return added

        options: dict[str, Any] = {"fail_fast": request.fail_fast, "poll_s": poll_s, "on_row": on_row}
        make_runs(queue, make, progress=progress, state=clock.state, **options)
