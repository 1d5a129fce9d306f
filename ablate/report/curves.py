"""Quality over training steps and over network evaluations, by variant.

    difference(x) = mean over seeds of  m(variant, seed, x) - m(against, seed, x)

A ranking that holds at one budget may turn round at another. The intervals are of each difference
alone, without a correction for their number: a curve shows where to look and decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype

from ablate.base.errors import VariantError
from ablate.base.text import read_json
from ablate.report.clean_rows import finite
from ablate.report.findings import Curve, CurveKind, CurveLine, CurvePoint, Metric, Value, VariantRow
from ablate.study.metric_names import FEATURES
from ablate.study.overrides import parse_name, settings_text

STEPS = "train.steps"
Points = dict[str, dict[int, dict[int, float]]]  # label -> x -> seed -> value


def make_curves(
    rows: Sequence[VariantRow],
    metrics: Sequence[Metric],
    frames: Mapping[str, pd.DataFrame],
    against: str | None,
    notes: list[str],
) -> tuple[Curve, ...]:
    """Return the curves that the runs of a report allow.

    Args:
        rows: The rows of the report.
        metrics: The metrics that are judged.
        frames: The tables `runs` and, if there are any rows, `sampling`.
        against: Label of the row that the others are compared with.
        notes: A note is appended for each variant whose difference changes its sign.
    """
    runs, sampling = frames["runs"], frames.get("sampling", pd.DataFrame())
    extra = (runs["purpose"] == "curve") & (runs["status"] == "done") if "purpose" in runs else pd.Series(dtype=bool)
    if not extra.any() and not len(sampling):
        return ()
    known = runs[runs["run_id"].isin([run_id for row in rows for run_id in row.run_ids])].set_index("run_id")
    curves = []
    for metric in metrics:
        if metric.name in runs and is_float_dtype(runs[metric.name]):  # the column `precision` is a dtype
            curves.append(_curve("train_steps", metric, _over_steps(rows, metric, runs[extra], known), against))
        if metric.name in FEATURES:
            curves.append(_curve("nfe", metric, _over_evaluations(rows, metric, sampling, known), against))
    there = tuple(curve for curve in curves if curve is not None)
    notes += [note for curve in there for note in _turns(curve)]
    return there


def _own(row: VariantRow, metric: Metric) -> Iterator[tuple[str, int, float]]:
    """Yield run, seed and value of a row's own runs."""
    values = row.by_seed.get(metric.name, ())
    for run_id, seed, value in zip(row.run_ids, row.seeds, values, strict=False):
        if value is not None:
            yield run_id, seed, value


def _over_steps(rows: Sequence[VariantRow], metric: Metric, extra: pd.DataFrame, known: pd.DataFrame) -> Points:
    points: Points = {}
    if not len(extra):
        return points
    bases = pd.Series([_base(name) for name in extra["variant"]], extra.index, dtype=object)
    extra = finite(extra).assign(settings=[_without_steps(text) for text in extra["config"]], base=bases)
    for row in rows:
        for run_id, seed, value in _own(row, metric):
            points.setdefault(row.label, {}).setdefault(_steps(known.loc[run_id, "config"]), {})[seed] = value
        if not row.run_ids:
            continue
        own = known.loc[row.run_ids[0]]
        same = extra[(extra["base"] == row.variant) & (extra["settings"] == _without_steps(own["config"]))]
        for column in ("preset", "data_digest", "budget", "fd_n", "fd_ref_n"):
            same = same[(same[column] == own[column]) | (same[column].isna() & pd.isna(own[column]))]
        for one in same.to_dict("records"):
            if pd.notna(one[metric.name]):
                at = points.setdefault(row.label, {}).setdefault(_steps(one["config"]), {})
                at[int(one["seed"])] = float(one[metric.name])
    return points


def _over_evaluations(
    rows: Sequence[VariantRow], metric: Metric, sampling: pd.DataFrame, known: pd.DataFrame
) -> Points:
    points: Points = {}
    if not len(sampling):
        return points
    by_run = dict(iter(finite(sampling).groupby("run_id")))
    for row in rows:
        for run_id, seed, value in _own(row, metric):
            if run_id not in by_run:
                continue
            at = points.setdefault(row.label, {})
            own: Mapping[Any, Any] = known.loc[run_id].to_dict()
            at.setdefault(int(own["nfe"]), {})[seed] = value
            alike = (by_run[run_id]["n"] == own["fd_n"]) & (by_run[run_id]["ref_n"] == own["fd_ref_n"])
            for one in by_run[run_id][alike].to_dict("records"):
                if pd.notna(one[metric.name]):
                    at.setdefault(int(one["nfe"]), {})[seed] = float(one[metric.name])
    return points


def _curve(kind: CurveKind, metric: Metric, points: Points, against: str | None) -> Curve | None:
    """Return a curve of variants with two points or more; None if there is none."""
    lines = []
    for label, by_x in points.items():
        if len(by_x) < 2:
            continue
        theirs = {} if label == against else points.get(against or "", {})
        made = (
            CurvePoint(x=x, value=Value.over([*values.values()]), difference=_difference(values, theirs.get(x)))
            for x, values in sorted(by_x.items())
        )
        lines.append(CurveLine(label=label, points=tuple(made)))
    if not lines:
        return None
    return Curve(
        kind=kind,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        against=against,
        lines=tuple(lines),
    )


def _difference(mine: Mapping[int, float], theirs: Mapping[int, float] | None) -> Value | None:
    both = sorted(mine.keys() & (theirs or {}).keys())
    return Value.over([mine[seed] - (theirs or {})[seed] for seed in both]) if both else None


def _turns(curve: Curve) -> Iterator[str]:
    """Yield a note for each variant that is better at one x and worse at another, by the intervals."""
    for line in curve.lines:
        signs: dict[int, list[int]] = {-1: [], 1: []}
        for point in line.points:
            found = point.difference
            if found is not None and found.low is not None and found.high is not None and found.low * found.high > 0:
                signs[1 if found.low > 0 else -1].append(point.x)
        if signs[-1] and signs[1]:
            better, worse = (signs[1], signs[-1]) if curve.higher_is_better else (signs[-1], signs[1])
            yield (
                f"the ranking turns round: in {curve.metric} {line.label} is better than {curve.against} at "
                f"{_listed(better)} {curve.over} and worse at {_listed(worse)}"
            )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)


def _base(name: str) -> str | None:
    """Return the name of a variant without its number of training steps."""
    with suppress(VariantError):  # a table may come from elsewhere
        parts, settings = parse_name(name)
        settings.pop(STEPS, None)
        return "+".join(parts) + settings_text(settings)
    return None


def _steps(text: object) -> int:
    """Return the number of training steps of a configuration; 0 of a damaged one."""
    with suppress(ValueError, TypeError, KeyError):
        return int(read_json(text, dict)["train"]["steps"])
    return 0


def _without_steps(text: object) -> str:
    """Return a configuration without its number of training steps; a damaged one is empty."""
    with suppress(TypeError, KeyError):
        config = read_json(text, dict)
        del config["train"]["steps"]
        return json.dumps(config, sort_keys=True)
    return ""
