"""The plan of a study, recorded before its first run starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ablate.base.machine import code_version
from ablate.data.datasets import ImageSet
from ablate.stats.paired import ALPHA
from ablate.store.plans import make_plan, record
from ablate.study.plan import RunSpec

if TYPE_CHECKING:
    from ablate.study.request import StudyRequest


def with_plan(specs: Sequence[RunSpec], request: StudyRequest, data: ImageSet) -> list[RunSpec]:
    """Record what is to be run and judged, and return the runs with the plan's name.

    Args:
        specs: All runs of the study.
        request: What the study was asked to do.
        data: Its images.

    Raises:
        ResultsError: The results folder cannot be read or written.
    """
    plan = make_plan(
        preset=request.preset,
        data=data.name,
        data_digest=data.digest,
        budget=request.budget,
        variants=[(spec.variant, spec.config.hash) for spec in specs],
        seeds=request.seeds,
        metrics=request.metrics,
        level=ALPHA,
    )
    plan_id = record(request.results, plan, code_version())
    return [replace(spec, plan_id=plan_id) for spec in specs]
