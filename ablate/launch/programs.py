"""The runs of a user's own program on this machine, one after another. torch is imported for images only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.base.errors import DataError
from ablate.base.progress import Progress
from ablate.base.source_code import code_of_command
from ablate.base.text import printable
from ablate.launch.here import study_clock
from ablate.launch.plans import planned
from ablate.launch.queue import AS_FAILED, QueuedRun, WorkQueue, make_runs, sigterm_as_interrupt
from ablate.launch.stale import stale_runs
from ablate.runs.program import OUT, config_of, environment_of, execute_program
from ablate.runs.rows import Data, Row
from ablate.store.plans import record
from ablate.study.plan import Planned, RunSpec
from ablate.study.program import ProgramData
from ablate.study.request import Rerun
from ablate.study.run_times import RunTimes

if TYPE_CHECKING:
    from ablate.metrics.networks import MetricNetworks
    from ablate.study.request import StudyRequest


def program_data(specs: Sequence[RunSpec]) -> ProgramData:
    """Return the label of the data that a program's runs are compared on, with the digest of the reference.

    Raises:
        DataError: The reference cannot be read.
    """
    program = config_of(specs[0]).program
    if program.reference is None:
        return ProgramData.of(program)
    return ProgramData.of(program, _digest(Path(program.workdir or ".") / program.reference))


def code_of_runs(specs: Sequence[RunSpec], data: Data) -> dict[str, str]:
    """Return name of a run -> the code of its program now."""
    version = cache(code_of_command)
    programs = {spec.run_id(data.name, data.digest): config_of(spec).program for spec in specs}
    return {run_id: version(Path(one.workdir or "."), one.command) for run_id, one in programs.items()}


def forecast(
    request: StudyRequest, specs: Sequence[RunSpec], past: pd.DataFrame, data: ProgramData | None = None
) -> list[Planned]:
    """Return the runs that `launch` would make; arguments and errors as in `ablate.launch.local.forecast`.

    The time of a run is that of finished runs of its configuration, else of its preset.
    """
    data, rerun = program_data(specs) if data is None else data, request.rerun
    named = [spec.as_recorded(data.name, data.digest, past) for spec in specs]
    status = dict(zip(past["run_id"], past["status"], strict=True))
    stale = stale_runs(past, code_of_runs(named, data)) if rerun is Rerun.stale else {}
    times = RunTimes(past, request.preset, [environment_of(config_of(specs[0]), request.device)])
    runs = []
    for spec in named:
        run_id = spec.run_id(data.name, data.digest)
        if rerun is Rerun.failed and status.get(run_id) not in AS_FAILED:
            continue
        made_again = run_id in stale if rerun is Rerun.stale else rerun is Rerun.all and not spec.added
        finished = status.get(run_id) == "done" and not made_again
        runs.append(Planned(spec, run_id, finished, times.wall_s(spec.config.hash)))
    return runs


def launch(
    request: StudyRequest,
    specs: Sequence[RunSpec],
    *,
    part: Collection[tuple[str, int]] | None,
    later: Collection[tuple[str, int]],
    poll_s: float,
    at_start: Mapping[str, tuple[str, Any]] | None,
    progress: Progress,
    on_row: Callable[[Row, str], None],
    on_missing: Callable[[str, str], None],
) -> None:
    """Make the runs of a program; arguments and errors as in `ablate.launch.local.launch`."""
    folder, data = request.results, program_data(specs)
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_interrupt())
        clock = study_clock(request, specs, data, part, later)
        plan, named = planned(specs, request, data, part)
        code = code_of_runs(named, data)
        run_ids = [spec.run_id(data.name, data.digest) for spec in named]
        lacking = program_runs_lacking_metrics(request, named, run_ids, progress)
        queue = WorkQueue(
            named,
            data,
            folder,
            rerun=request.rerun,
            quantize_finished=False,
            lacking=lacking,
            steal=request.steal,
            at_start=at_start,
            code=code,
            on_row=on_row,
            say=progress.say,
        )
        networks = cache(lambda: load_image_networks(request, on_missing))

        def make(run: QueuedRun) -> None:
            if run.quantise:
                from ablate.runs.missing_metrics import add_missing_image_metrics

                added = add_missing_image_metrics(
                    folder, run.run_id, config_of(run.spec), networks(), progress=progress
                )
                on_row(run.row | {"rows": added}, "quantised")
                return
            if plan is not None:
                record(folder, plan, code[run.run_id])
            row = execute_program(
                run.spec,
                data,
                folder,
                networks=networks,
                progress=progress,
                device=request.device,
                timeout_s=request.timeout,
                finished_before=run.finished_before,
                still_ours=run.lease.still_ours,
            )
            on_row(row, "made")

        options: dict[str, Any] = {"fail_fast": request.fail_fast, "poll_s": poll_s, "on_row": on_row}
        make_runs(queue, make, progress=progress, state=clock.state, **options)


def program_runs_lacking_metrics(
    request: StudyRequest, specs: Sequence[RunSpec], run_ids: Sequence[str], progress: Progress
) -> Collection[str]:
    """Return the finished runs whose images can be measured by metrics that they lack."""
    program = config_of(specs[0]).program if specs else None
    if program is None or program.images is None or program.reference is None:
        return ()
    from ablate.launch.local import runs_lacking_metrics

    return runs_lacking_metrics(request, run_ids, progress, f"{OUT}/{program.images}")


def load_image_networks(request: StudyRequest, on_missing: Callable[[str, str], None]) -> MetricNetworks:
    """Load the networks that a program's images are measured with."""
    from ablate.base.machine import pick_device
    from ablate.metrics.networks import load_networks, networks_of

    networks = load_networks(
        networks_of(request.asked_metrics), request.weights, pick_device(request.device), offline=request.offline
    )
    for network, why in networks.missing.items():
        on_missing(network, why)
    return networks


def _digest(path: Path) -> str:
    """Return the digest of the files of a reference."""
    total = hashlib.sha256()
    try:
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            total.update(f"{file.relative_to(path).as_posix()}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise DataError(
            f"[program] reference = {printable(path)}: cannot be read ({error.strerror}); give a folder, zip or .npz "
            "of real images, from the folder that holds the registry"
        ) from None
    return total.hexdigest()
