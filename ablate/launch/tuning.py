"""Each variant at its own best setting: every setting of a grid is tried on seeds that are never judged.

    choice(variant) = the setting with the best mean over the tuning seeds of one metric

A setting that diverged at any of these seeds is not chosen. If all did, the variant keeps its own
setting, and the study shows how that ends.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.base.errors import AblateError, did_you_mean
from ablate.launch.study_runs import is_program, named_metrics, study_runs
from ablate.store import tables
from ablate.store.tables import to_records
from ablate.study import variants
from ablate.study.metric_names import higher_is_better
from ablate.study.overrides import joined, parse_name
from ablate.study.plan import RunSpec, plan
from ablate.study.request import TUNE_METRIC

if TYPE_CHECKING:
    from ablate.study.config import Config
    from ablate.study.request import StudyRequest

Match = Callable[["Config", "Config"], "Config"] | None


@dataclass(frozen=True)
class Tuned:
    """How the setting of one variant was chosen.

    Attributes:
        variant: Its name.
        metric: The metric that chose.
        seeds: The seeds of the runs that chose.
        scores: Setting, as in `train.lr=0.0003` -> mean of the metric; None: it diverged at a seed.
        choice: The chosen setting; None: every setting diverged.
        edge: Keys whose chosen value is the smallest or the largest of the grid.
        wall_s: Seconds that these runs took.
        better: Of a program's metric, `higher` or `lower`; None: ablate knows the metric.
    """

    variant: str
    metric: str
    seeds: tuple[int, ...]
    scores: dict[str, float | None]
    choice: str | None
    edge: tuple[str, ...]
    wall_s: float
    better: str | None = None

    def to_json(self) -> str:
        """Return it as `runs.tuned` holds it."""
        return json.dumps({name: value for name, value in vars(self).items() if name != "better" or value is not None})

    def __str__(self) -> str:
        """Return the choice in one line."""
        if self.choice is None:
            return f"{self.variant}: every setting diverged; it keeps its own"
        edge = f"; at the edge of the grid: {', '.join(self.edge)}, so try more values" if self.edge else ""
        return f"{self.variant}: {self.choice} is best, {self.metric} {self.scores[self.choice]:.4g}{edge}"


def tuning_runs(request: StudyRequest, match: Match) -> list[RunSpec]:
    """Return the runs that choose the settings: every variant with every setting at every tuning seed.

    Raises:
        VariantError: An unknown name or key, or a key that a variant's name sets already.
    """
    names = [name for grid in _grids(request).values() for name in grid.values()]
    specs = plan(names, request.tune_seeds, request.preset, match, array=request.array)
    return [replace(spec, purpose="tuning", claims="[]") for spec in specs]


def choose(request: StudyRequest, match: Match, runs: pd.DataFrame) -> list[Tuned] | None:
    """Return the best setting of every variant; None: some tuning runs have not finished.

    Args:
        request: The study.
        match: As in `ablate.study.plan.plan`.
        runs: The table `runs`.

    Raises:
        AblateError: The metric that chooses was not measured, or a run at a tuning seed is judged.
    """
    of_name: dict[str, list[Mapping[str, Any]]] = {}
    rows, finished, specs = {row["run_id"]: row for row in to_records(runs)}, True, tuning_runs(request, match)
    data = study_runs(request, specs).data
    recorded = to_records(tables.read(request.results, "metrics")) if is_program(specs) else []
    for own in recorded:
        rows.get(own["run_id"], {})[own["metric"]] = own["value"]
    for spec in specs:
        row = rows.get(spec.as_recorded(data.name, data.digest, runs).run_id(data.name, data.digest))
        if row is not None and row["purpose"] != "tuning":
            raise AblateError(f"--tune: {row['run_id']} is judged, so it may not choose; take other --tune-seeds")
        finished &= row is not None and row["status"] in ("done", "diverged")
        if row is not None:
            of_name.setdefault(spec.variant, []).append(row)
    if not finished:
        return None
    metric, better = request.tune_metric, None
    if is_program(specs):
        metric, better = _metric_of_program(request, specs, recorded)
    return [_best(request, variant, grid, of_name, metric, better) for variant, grid in _grids(request).items()]


def _metric_of_program(
    request: StudyRequest, specs: Sequence[RunSpec], recorded: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """Return the metric that chooses a program's settings, and its direction."""
    directions = {str(row["metric"]): str(row["better"]) for row in recorded}
    default = (*named_metrics(request, specs), *directions)
    metric = default[0] if request.tune_metric == TUNE_METRIC and default else request.tune_metric
    if metric not in directions:
        listed = ", ".join(directions) or "none"
        raise AblateError(
            f"--tune-metric {metric}: no run recorded it{did_you_mean(metric, directions)} Found: {listed}"
        )
    if request.tune_metric == TUNE_METRIC and not named_metrics(request, specs) and len(directions) > 1:
        raise AblateError(f"--tune: which metric chooses? Name one, as in --tune-metric {metric}")
    return metric, directions[metric]


def _best(
    request: StudyRequest,
    variant: str,
    grid: Mapping[str, str],
    of_name: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    better: str | None,
) -> Tuned:
    scores = {setting[1:-1]: _mean(of_name[name], metric) for setting, name in grid.items()}
    known = {setting: score for setting, score in scores.items() if score is not None}
    best = max if (better == "higher" if better else higher_is_better(metric)) else min
    choice = best(known, key=lambda setting: known[setting]) if known else None
    wall_s = [row["wall_s"] for name in set(grid.values()) for row in of_name[name] if pd.notna(row["wall_s"])]
    edge = () if choice is None else _at_edge(choice, list(scores))
    return Tuned(variant, metric, request.tune_seeds, scores, choice, edge, float(sum(wall_s)), better)


def _mean(rows: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    if any(row["status"] == "diverged" for row in rows):
        return None
    lacking = [row["run_id"] for row in rows if pd.isna(row.get(metric))]
    if lacking:
        raise AblateError(f"--tune-metric {metric}: {lacking[0]} was not measured by it; choose another")
    return statistics.fmean(row[metric] for row in rows)


def _at_edge(choice: str, settings: Sequence[str]) -> tuple[str, ...]:
    """Return the keys with numeric values of which the chosen one is the smallest or the largest."""
    tried = [parse_name(f"[{setting}]")[1] for setting in settings]
    chosen = parse_name(f"[{choice}]")[1]
    edge = []
    for key, value in chosen.items():
        values = [one[key] for one in tried]
        numeric = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
        if numeric and value in (min(values), max(values)):
            edge.append(key)
    return tuple(edge)


def _grids(request: StudyRequest) -> dict[str, dict[str, str]]:
    """Return for each variant its grid: a setting in brackets -> the name of the variant with that setting."""
    names = [name for given in request.names for name in (variants.names() if given == "all" else [given])]
    if request.baseline:
        names.insert(0, variants.BASELINE)
    preset = request.preset
    bases = dict.fromkeys(variants.without_idle_settings(name, preset) for name in names)
    return {
        base: {end: variants.without_idle_settings(joined(base, end), preset) for end in request.tune} for base in bases
    }
