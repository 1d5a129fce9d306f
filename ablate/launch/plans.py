"""The plan of a study. The launchers record it before its first run starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ablate.runs.rows import Data
from ablate.stats.paired import ALPHA
from ablate.store import tables
from ablate.store.plans import Plan, make_plan
from ablate.study.plan import RunSpec
from ablate.study.program import ProgramConfig

if TYPE_CHECKING:
    from ablate.study.request import StudyRequest


def named_metrics(request: StudyRequest, specs: Sequence[RunSpec]) -> tuple[str, ...]:
    """Return the metrics that a study names: those asked for, else those that a program's settings name."""
    config: object = specs[0].config if specs else None
    if request.metrics or not isinstance(config, ProgramConfig):
        return request.metrics
    return tuple(config.program.metrics)


def planned(
    specs: Sequence[RunSpec],
    request: StudyRequest,
    data: Data,
    part: Collection[tuple[str, int]] | None = None,
) -> tuple[Plan | None, list[RunSpec]]:
    """Return the plan of a study, and its runs with the plan's name. Runs that are never judged have no plan.

    Runs that the results folder has under another name of the data set keep their name there.

    Args:
        specs: All runs of the study.
        request: What the study was asked to do.
        data: What they are compared on.
        part: Variant and seed of the runs to return; None: all.
    """
    runs = tables.read(request.results, "runs")
    chosen = [spec for spec in specs if part is None or (spec.variant, spec.seed) in part]
    named = [spec.as_recorded(data.name, data.digest, runs) for spec in chosen]
    judged = [spec for spec in specs if spec.purpose is None]
    if not judged:
        return None, named
    plan = make_plan(
        preset=request.preset,
        data=data.name,
        data_digest=data.digest,
        budget=request.budget,
        variants=[(spec.variant, spec.config.hash) for spec in judged],
        seeds=request.all_seeds,
        metrics=named_metrics(request, judged),
        level=ALPHA,
        max_seeds=len(request.all_seeds) if request.until_decided else None,
        tuning=[spec.tuned for spec in judged if spec.tuned],
    )
    return plan, [replace(spec, plan_id=plan.plan_id) if spec.purpose is None else spec for spec in named]
