"""What a study needs on this machine, of a torch model or of a user's own program.

torch takes seconds to import, and a program may not need it: it is imported for a torch model only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from ablate.base.progress import Progress
from ablate.launch.queue import POLL_S
from ablate.launch.time_left import StudyClock, counted
from ablate.runs.rows import Data, Row
from ablate.store import tables
from ablate.study.plan import Planned, RunSpec
from ablate.study.program import ProgramConfig

if TYPE_CHECKING:
    from ablate.data.datasets import ImageSet
    from ablate.study.program import ProgramData
    from ablate.study.request import StudyRequest


def is_program(specs: Sequence[RunSpec]) -> bool:
    """Return whether the runs are of a program. A study has runs of one kind."""
    return bool(specs) and isinstance(specs[0].config, ProgramConfig)


def data_of(request: StudyRequest, specs: Sequence[RunSpec]) -> Data:
    """Return what the runs are compared on: a data set, or the label of a program's data.

    Raises:
        DataError: The data cannot be used.
    """
    if is_program(specs):
        from ablate.launch.programs import program_data

        return program_data(specs)
    from ablate.study.images import study_images

    return study_images(request.data, specs)


def environment_of(request: StudyRequest, specs: Sequence[RunSpec]) -> str:
    """Return the column `environment` of runs that would be made now."""
    if is_program(specs):
        from ablate.runs import program

        return program.environment_of(program.config_of(specs[0]), request.device)
    from ablate.base.machine import environment, pick_device

    return environment(pick_device(request.device))


def code_of(specs: Sequence[RunSpec], data: Data) -> Mapping[str, str] | None:
    """Return name of a run -> the code that would run it now; None: ablate's own."""
    if is_program(specs):
        from ablate.launch.programs import code_of_runs

        return code_of_runs(specs, data)
    return None


def forecast(
    request: StudyRequest, specs: Sequence[RunSpec], past: pd.DataFrame, data: Data | None = None
) -> list[Planned]:
    """Return the runs that `launch` would make, with an estimate of their time.

    Args:
        request: What the study was asked to do.
        specs: Its runs. With `--failed` those that did not fail are left out.
        past: The table `runs`. Estimates come from runs of this machine, or of others where this
            machine has none.
        data: What the runs are compared on; None: load it.

    Raises:
        AblateError: The data or the device cannot be used.
    """
    if is_program(specs):
        from ablate.launch import programs

        return programs.forecast(request, specs, past, cast("ProgramData | None", data))
    from ablate.launch import local

    return local.forecast(request, specs, past, cast("ImageSet | None", data))


def study_clock(
    request: StudyRequest,
    specs: Sequence[RunSpec],
    data: Data,
    part: Collection[tuple[str, int]] | None,
    later: Collection[tuple[str, int]],
) -> StudyClock:
    """Return what counts the runs of a study from now on; arguments as of `ablate.launch.local.launch`."""

    def planned() -> list[Planned]:
        return counted(forecast(request, specs, tables.read(request.results, "runs"), data), part, later)

    return StudyClock(request.results, planned, partial(environment_of, request, specs), at_most=bool(later))


def runs_lacking_metrics(request: StudyRequest, runs: Sequence[Planned], progress: Progress) -> set[str]:
    """Return the runs that lack metrics which can be measured now, after downloading weights."""
    if not runs:
        return set()
    ids, specs = [run.run_id for run in runs], [run.spec for run in runs]
    if is_program(specs):
        from ablate.launch.programs import program_runs_lacking_metrics

        return set(program_runs_lacking_metrics(request, specs, ids, progress))
    from ablate.launch.local import runs_lacking_metrics as of_models

    return set(of_models(request, ids, progress))


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
    """Make the runs of a study here; arguments and errors as `ablate.launch.local.launch`."""
    if is_program(specs):
        from ablate.launch import programs

        programs.launch(
            request,
            specs,
            part=part,
            later=later,
            poll_s=poll_s,
            at_start=at_start,
            progress=progress,
            on_row=on_row,
            on_missing=on_missing,
        )
        return
    from ablate.launch import local

    local.launch(
        request,
        specs,
        part=part,
        later=later,
        quantize_finished=quantize_finished,
        poll_s=poll_s,
        at_start=at_start,
        progress=progress,
        on_row=on_row,
        on_missing=on_missing,
    )
