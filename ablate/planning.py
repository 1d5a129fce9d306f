"""The plan of a study before it is run: what it judges, the differences it can detect, how long it takes."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import pandas as pd

from ablate.base.errors import AblateError, ResultsError, did_you_mean
from ablate.base.source_code import code_version
from ablate.launch.study import study_specs
from ablate.launch.study_runs import is_program, named_metrics, study_runs
from ablate.report.findings import Findings
from ablate.report.judged_metrics import HEADLINES
from ablate.report.plan_preview import MetricPower, PlannedRun, PlanPreview
from ablate.stats.paired import POWER
from ablate.stats.planned_power import detectable_effect
from ablate.store import plans, tables
from ablate.studies import comparable_findings
from ablate.study.metric_names import METRICS
from ablate.study.plan import Planned, RunSpec
from ablate.study.request import StudyRequest
from ablate.study.variants import BASELINE

POWER_SEEDS = (4, 6, 8, 12)
HOW = (
    "Simulated for a planned study and its joint test: normal differences, any two variants correlated by 1/2 (they "
    "share the baseline), metrics independent, one true difference."
)


def preview_plan(request: StudyRequest, sds: Iterable[str] = (), *, record: bool = False) -> PlanPreview:
    """Return the plan that `ablate run` would record for a request, and the differences that it can detect.

    Args:
        request: The study.
        sds: Standard deviations of the paired differences, as in `fd=5`; a number alone is of the
            first metric. Those of other metrics come from runs in the folder.
        record: Record the plan, unless it is recorded already.

    Raises:
        AblateError: An unknown name, data that cannot be used, no variant besides the baseline, or
            one of `sds` that is no number above 0 or of a metric that is not judged.
    """
    specs, _ = study_specs(request)
    study, past = study_runs(request, specs), tables.read(request.results, "runs")
    names = [spec.variant for spec in specs if spec.variant != BASELINE]
    variants = list(dict.fromkeys(names))
    if not variants or len(names) == len(specs):
        missing = "no variant to compare with the baseline" if not variants else "no baseline to compare with"
        raise AblateError(f"ablate plan: {missing}; name a variant, and leave the baseline in")
    plan, _ = study.plan()
    assert plan is not None  # none of these runs tunes
    # Times of other machines do not count.
    here = past["environment"] == study.environment
    runs = study.forecast(past.assign(wall_s=past["wall_s"].where(here)))
    finished = past[past["run_id"].isin([run.run_id for run in runs]) & (past["status"] == "done")]
    found: Findings | None = None
    with suppress(ResultsError):  # runs that do not compare tell no spread
        configs = {(spec.variant, spec.config.hash) for spec in specs}
        found = comparable_findings(request.results, request.preset, study.data.digest, request.budget, configs)
    metrics = judged_metrics(request, specs, found)
    if not metrics:
        raise AblateError("ablate plan: judged by what? Name metrics below [program.metrics], or with --metric")
    stated = {(spec.variant, claim["metric"]) for spec in specs for claim in json.loads(spec.claims)}
    claims = len(stated - set(itertools.product(variants, metrics)))
    given = _parse_sds(sds, metrics)
    counts = sorted({*POWER_SEEDS, *([len(plan.seeds)] if len(plan.seeds) <= max(POWER_SEEDS) else [])})
    effects = tuple(detectable_effect(n, len(variants), len(metrics)) for n in counts)
    if record:
        plans.record(request.results, plan, code_version())
    return PlanPreview(
        plan_id=plan.plan_id,
        recorded_at=_recorded_at(request, plan.plan_id),
        preset=plan.preset,
        data=plan.data,
        data_digest=plan.data_digest,
        budget=plan.budget,
        variants=tuple(dict.fromkeys(spec.variant for spec in specs)),
        seeds=tuple(plan.seeds),
        metrics=metrics,
        tests=len(variants) * len(metrics) + claims,
        level=plan.level,
        power=POWER,
        runs=tuple(_run(run) for run in runs),
        of_other_plans=int((finished["plan_id"] != plan.plan_id).fillna(True).sum()),
        power_seeds=tuple(counts),
        effects=effects,
        wall_s=_wall_s(runs, counts),
        metric_power=tuple(one for name in metrics for one in _metric_power(name, given, found, variants, effects)),
        how=HOW,
    )


def judged_metrics(request: StudyRequest, specs: Sequence[RunSpec], found: Findings | None) -> tuple[str, ...]:
    """Return the metrics that a study is judged by: the headline metrics, then others asked for.

    Without finished runs, a better headline metric counts if it is asked for, or if no metric is
    named and its weights are here or can be downloaded.
    """
    if is_program(specs):
        recorded = () if found is None else found.compared.headline
        return named_metrics(request, specs) or recorded
    headline = _expected_headline(request) if found is None else list(found.compared.headline)
    return tuple(dict.fromkeys([*headline, *request.metrics]))


def _expected_headline(request: StudyRequest) -> list[str]:
    if request.metrics:
        return [best if best in request.metrics else embedded for best, embedded in HEADLINES]
    from ablate.metrics.weights import BACKBONE_OF, Search, obtainable

    search = Search(request.weights, download=not request.offline)
    return [
        best if obtainable(BACKBONE_OF[str(METRICS[best].network)], search) else embedded
        for best, embedded in HEADLINES
    ]


def family_line(request: StudyRequest, planned: Sequence[Planned]) -> str:
    """Return in one line what a report will judge of these runs."""
    names = dict.fromkeys(run.spec.variant for run in planned if run.spec.purpose is None)
    variants = [name for name in names if name != BASELINE]
    if len(variants) in (0, len(names)):
        missing = "no variant" if not variants else "no baseline"
        return f"nothing will be judged: there is {missing} among these runs"
    metrics = judged_metrics(request, [run.spec for run in planned], None)
    tests = len(variants) * len(metrics)
    if not metrics:
        return f"to be judged by the metrics that the runs record: {', '.join(variants)}"
    return (
        f"to be judged by {', '.join(metrics)}: {', '.join(variants)}; {tests} tests, and those of variants "
        "that the folder has already (ablate plan shows more)"
    )


def _parse_sds(texts: Iterable[str], metrics: Sequence[str]) -> dict[str, float]:
    sds = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            sd = float(number)
        except ValueError:
            sd = math.nan
        if not 0 < sd < math.inf:
            raise AblateError(f"--sd {text}: it must be a number above 0, as in 5 or fd=5; one --sd for each metric")
        name = name.strip() or metrics[0]
        if name not in metrics:
            near = did_you_mean(name, metrics)
            raise AblateError(f"--sd {text}: {name} is not judged here{near} Allowed: {', '.join(metrics)}")
        sds[name] = sd
    return sds


def _run(run: Planned) -> PlannedRun:
    spec = run.spec
    return PlannedRun(run_id=run.run_id, variant=spec.variant, seed=spec.seed, finished=run.finished, wall_s=run.wall_s)


def _wall_s(runs: Sequence[Planned], counts: Sequence[int]) -> tuple[float | None, ...]:
    """Return the seconds that every variant's runs of so many seeds take, one after another."""
    one_seed = {run.spec.variant: run.wall_s for run in runs}.values()
    known = [seconds for seconds in one_seed if seconds is not None]
    return tuple(n * sum(known) if len(known) == len(one_seed) else None for n in counts)


def _metric_power(
    metric: str,
    given: Mapping[str, float],
    found: Findings | None,
    variants: Sequence[str],
    effects: Sequence[float | None],
) -> list[MetricPower]:
    """Return what a metric can show: of each variant by its own spread, and of the others by a typical one."""
    comparisons = [] if found is None else found.comparisons
    past = [(one, one.sd) for one in comparisons if one.metric == metric and one.sd]
    sds: list[tuple[str | None, float | None, str]] = []  # variant, standard deviation, its source
    if metric in given:
        sds = [(None, given[metric], "given")]
    else:
        sds = [(one.variant, sd, f"{one.n} seeds") for one, sd in past if one.variant in variants]
        if len(sds) < len(variants):
            spreads = [sd for _, sd in past]
            many = f"median of {len(past)} variants" if len(past) > 1 else "".join(one.label for one, _ in past)
            sds.append((None, statistics.median(spreads) if spreads else None, many or "unknown"))
    return [
        MetricPower(
            metric=metric,
            variant=variant,
            sd=sd,
            sd_from=source,
            detectable=tuple(None if sd is None or effect is None else effect * sd for effect in effects),
        )
        for variant, sd, source in sds
    ]


def _recorded_at(request: StudyRequest, plan_id: str) -> str | None:
    recorded = tables.read(request.results, "plans")
    times = recorded.loc[recorded["plan_id"] == plan_id, "created_at"]
    return None if not len(times) or pd.isna(times.iloc[0]) else times.iloc[0].isoformat()
