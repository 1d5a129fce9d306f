"""One study from request to rows, with the launcher that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ablate.base.errors import AblateError
from ablate.base.progress import Progress
from ablate.launch import local
from ablate.launch.study_runs import StudyRuns, is_program, study_runs
from ablate.launch.tuning import Match, Tuned, choose, tuning_runs
from ablate.runs.rows import Row
from ablate.runs.trackers import open_trackers, record_run
from ablate.store import tables
from ablate.store.tags import tag_runs
from ablate.study.plan import Planned, RunSpec

if TYPE_CHECKING:
    from ablate.study.request import StudyRequest

SHOWN_METRICS = 4  # of a program's run


def forecast_study(request: StudyRequest) -> list[Planned]:
    """Return the runs that a study would make, with an estimate of their time.

    Where settings have not been chosen yet: the runs that choose, then the study at each variant's own.

    Raises:
        AblateError: An unknown name, or data or a device that cannot be used.
    """
    tuned = chosen_settings(request)
    specs, _ = _judged_specs(request, tuned or [])
    if tuned is None:
        specs = [*tuning_runs(request, _match(request)), *specs]
    open_trackers(request.log, request.results)
    return study_runs(request, specs).forecast(tables.read(request.results, "runs"))


def measuring_lines(request: StudyRequest, planned: Sequence[Planned]) -> list[str]:
    """Return what a study will download and add to finished runs, in lines. Nothing for a program."""
    if is_program([run.spec for run in planned]):
        return []
    from ablate.launch.model_runs import expected_measuring

    return expected_measuring(request, planned)


def run_study(
    request: StudyRequest,
    *,
    part: Collection[tuple[str, int]] | None = None,
    later: Collection[tuple[str, int]] = (),
    tuning: bool = False,
    progress: Progress,
    on_row: Callable[[Row, str], None],
    on_missing: Callable[[str, str], None],
) -> None:
    """Make the runs of a study: skip finished ones, resume interrupted ones.

    Args:
        request: What to do.
        part: Variant and seed of the runs to make now; None: all.
        later: Those of runs that may be made after these. They count in the time left.
        tuning: Make the runs that choose each variant's setting instead.
        progress: Shows what is under way.
        on_row: Called after each run with its row and how it went: `made`, `quantised`, or the
            reason for skipping it. `described` says it in words.
        on_missing: Called once for each network whose weights are missing, with its name and why.

    Raises:
        AblateError: An unknown name, data that cannot be used, or a run that cannot go on.
        KeyboardInterrupt: Interrupted by SIGINT or SIGTERM, after saving.
    """
    quantize_finished = False
    if tuning:
        specs = _without_formats(tuning_runs(request, _match(request)))
    else:
        specs, quantize_finished = study_specs(request)
    trackers = open_trackers(request.log, request.results)
    tables.check_folder(request.results)

    def recorded(row: Row, how: str) -> None:
        on_row(row, how)
        if request.tag:
            tag_runs(request.results, [row["run_id"]], add=request.tag)
        # A run that was done before is recorded too: it may have been made without a tracker.
        if trackers and (row["status"] == "done" if how == "made" else how.startswith(("done", "quantised"))):
            record_run(trackers, request.results, row["run_id"])

    launch: Callable[..., None] = local.launch
    if request.launcher == "ray":
        from ablate.launch import ray

        launch = ray.launch
    elif request.launcher == "slurm":
        from ablate.launch import slurm

        launch = slurm.launch
    options: dict[str, Any] = {"quantize_finished": quantize_finished, "progress": progress, "on_row": recorded}
    options |= {"later": later, "on_missing": on_missing}
    runs = study_runs(request, specs)
    with progress:
        lacking = _lacking_metrics(runs, part, progress) if request.launcher == "ray" else set()
        if lacking:  # Ray's workers cannot replace rows: this machine measures finished runs
            part = {(spec.variant, spec.seed) for spec in specs} if part is None else part
            part = set(part) - lacking
        launch(runs, part=part, **options)
        if lacking:
            local.launch(runs, part=lacking, **options)


def _lacking_metrics(
    runs: StudyRuns, part: Collection[tuple[str, int]] | None, progress: Progress
) -> set[tuple[str, int]]:
    """Return variant and seed of the finished runs that lack metrics which can be measured now."""
    request, past = runs.request, tables.read(runs.request.results, "runs")
    if request.force or request.stale or "done" not in set(past["status"]):
        return set()
    finished = [run for run in runs.forecast(past) if run.finished]
    mine = [run for run in finished if part is None or (run.spec.variant, run.spec.seed) in part]
    lacking = runs.lacking_metrics([run.run_id for run in mine], progress)
    return {(run.spec.variant, run.spec.seed) for run in mine if run.run_id in lacking}


def described(row: Row, how: str) -> str:
    """Return how a run ended, or why it was skipped, in one line."""
    if how == "quantised":
        what = f"done before; {row['rows']} rows added"
    elif how != "made":
        what = how
    elif row["status"] != "done":
        what = f"{row['status']}: {row['error']}"
    elif "metrics" in row:  # of a program
        own = [f"{name} {value:.4g}" for name, value in row["metrics"].items()]
        own += [f"fd {row['fd']:.1f} (N = {row['fd_n']})"] if row.get("fd") is not None else []
        more = f" and {len(own) - SHOWN_METRICS} more" if len(own) > SHOWN_METRICS else ""
        what = f"done in {row['wall_s']:.1f} s; {', '.join(own[:SHOWN_METRICS])}{more}"
    else:
        floor = f"real against real {row['fd_floor']:.1f} at {row['fd_floor_n']}"
        metrics = f"fd {row['fd']:.1f} (N = {row['fd_n']}; {floor}), pd {row['pd']:.4f}, {row['psnr_db']:.2f} dB"
        what = f"done in {row['wall_s']:.0f} s; {metrics}"
    return f"{row['run_id']}: {what}"


def study_specs(request: StudyRequest) -> tuple[list[RunSpec], bool]:
    """Return the runs, and whether finished ones may lack number formats that were asked for.

    Raises:
        AblateError: An unknown name, or settings that have not been chosen yet.
    """
    tuned = chosen_settings(request)
    if tuned is None:
        raise AblateError("the runs that choose each variant's setting have not finished; run the same command again")
    return _judged_specs(request, tuned)


def _judged_specs(request: StudyRequest, tuned: Sequence[Tuned]) -> tuple[list[RunSpec], bool]:
    """Return what `study_specs` does, with these settings. Points of curves are measured in no number format."""
    how = {one.variant: one for one in tuned}
    choices = {name: f"[{one.choice}]" for name, one in how.items() if one.choice is not None}
    specs = [
        replace(spec, tuned=how[spec.variant].to_json()) if spec.variant in how else spec
        for spec in request.specs(_match(request), choices)
    ]
    if is_program(specs):
        return specs, False
    from ablate.inference.requested_formats import with_formats

    made, asked = with_formats(specs, request.quantize, request.scopes)
    plain = [spec if spec.purpose is None else _without_formats([spec])[0] for spec in made]
    return plain, asked or bool(request.nfe)


def _without_formats(specs: list[RunSpec]) -> list[RunSpec]:
    if is_program(specs):
        return specs
    return [replace(spec, config=spec.config.replaced(quantize={"schemes": ()})) for spec in specs]


def chosen_settings(request: StudyRequest) -> list[Tuned] | None:
    """Return how each variant's setting was chosen, nothing without `tune`; None: tuning runs have not finished.

    Raises:
        AblateError: As `ablate.launch.tuning.choose`.
    """
    if not request.tune:
        return []
    return choose(request, _match(request), tables.read(request.results, "runs"))


def _match(request: StudyRequest) -> Match:
    if request.budget != "macs":
        return None
    from ablate.models.cost import match_training_macs

    return match_training_macs
