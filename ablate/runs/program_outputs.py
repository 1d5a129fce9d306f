"""What a program leaves below {out}: `metrics.json`, and perhaps `curve.csv`.

metrics.json    {"accuracy": 0.91, "loss": {"value": 0.3, "unit": "nats", "better": "lower"}}
curve.csv       step,loss,...    of its columns those of the table `curves` are kept
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.base.errors import DivergedError, ResultsError, did_you_mean
from ablate.base.text import one_line, some_of
from ablate.runs.rows import Row
from ablate.store.schema import DIRECTIONS, SCHEMAS
from ablate.study.metric_names import direction
from ablate.study.program import MetricSettings

METRICS = "metrics.json"
CURVE = "curve.csv"
MAX_BYTES = 2**20  # of metrics.json
MAX_CURVE_BYTES = 2**26
MAX_NAME = 100
EXAMPLE = '{"accuracy": 0.91}'
_WHOLE = ("step", "images_seen")


class DirectionError(ResultsError):
    """No metric says whether higher or lower is better."""


def read_metrics(out: Path, declared: Mapping[str, MetricSettings]) -> tuple[list[Row], list[str]]:
    """Read `metrics.json`.

    Args:
        out: The folder that the program wrote to.
        declared: Metrics by name, from `[program.metrics]`.

    Returns:
        The rows of the table `metrics`, without the run's name, and notes for the user.

    Raises:
        DivergedError: A metric is NaN or infinite; with `declared`, one of these.
        DirectionError: Of no metric it is known whether higher or lower is better.
        ResultsError: The file is missing or malformed, or lacks a declared metric.
    """
    table = _read_table(out / METRICS)
    rows: list[Row] = []
    unknown: list[str] = []
    lost: list[str] = []
    for name, given in table.items():
        value, unit, better = _entry(name, given)
        if not math.isfinite(value):
            if declared and name not in declared:
                lost.append(name)
                continue
            raise DivergedError(f"{METRICS}: {name} is {'NaN' if math.isnan(value) else 'infinite'}")
        if name in declared:
            unit, better = unit or declared[name].unit, better or declared[name].better
        better = better or direction(name)
        if better is None:
            unknown.append(name)
        else:
            rows.append({"metric": name, "value": value, "unit": unit, "better": better})
    for name in declared:
        if name not in table:
            near = did_you_mean(name, table)
            raise ResultsError(
                f"{METRICS} has no {name}, which [program.metrics] names{near} It has: {some_of(list(table))}"
            )
    notes = [f"{METRICS}: {some_of(lost)} left out: not finite, and not named by [program.metrics]"] if lost else []
    if not unknown:
        return rows, notes
    which = "it is" if len(unknown) == 1 else "they are"
    fix = f'write {unknown[0]} = "higher" (or "lower") below [program.metrics] of baseline.toml'
    why = f"{some_of(unknown)}: higher or lower may be better, so {which} not judged; {fix}"
    if not rows:
        raise DirectionError(f"{METRICS}: {why}; the same command then goes on without running the program again")
    return rows, [*notes, f"{METRICS}: {why}"]


def read_curve(out: Path) -> tuple[list[Row], list[str]]:
    """Read `curve.csv`, which a program need not write: rows of the table `curves`, and notes for the user.

    Of several rows of a step the last counts: a program that resumes may repeat some.
    """
    path = out / CURVE
    if not path.is_file():
        return [], []
    known = [name for name in SCHEMAS["curves"].names if name != "run_id"]
    by_step: dict[int, Row] = {}
    try:
        if path.stat().st_size > MAX_CURVE_BYTES:
            raise ValueError(f"more than {MAX_CURVE_BYTES:,} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, skipinitialspace=True)
            names = [name.strip() for name in lines.fieldnames or ()]
            if "step" not in names:
                raise ValueError(f"its first line has no column step; found: {some_of(names)}")
            lines.fieldnames = names
            for line in lines:
                row = {name: _cell(name, line.get(name), lines.line_num) for name in known if name in names}
                if row["step"] is None:
                    raise ValueError(f"line {lines.line_num}: step is missing")
                by_step[int(row["step"])] = row
    except (OSError, ValueError, csv.Error) as error:
        return [], [f"{CURVE} is left out: {one_line(error)}"]
    others = [name for name in names if name not in known]
    allowed = ", ".join(known)
    notes = [f"{CURVE}: {some_of(others)} left out; the columns that are shown are {allowed}"] if others else []
    return [by_step[step] for step in sorted(by_step)], notes


def _read_table(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is there twice")
        return dict(pairs)

    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes; metrics are a few numbers")
        table = json.loads(content.decode("utf-8-sig"), object_pairs_hook=once)
    except FileNotFoundError:
        raise ResultsError(
            f"{METRICS} is missing: the program must write it to {{out}} before it ends, as in {EXAMPLE}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{METRICS} cannot be read ({one_line(error)}); it must be JSON, as in {EXAMPLE}") from None
    if not isinstance(table, dict) or not table:
        found = "nothing" if table in ({}, []) else f"a {type(table).__name__}"
        raise ResultsError(f"{METRICS} holds {found}; it must be an object of metrics, as in {EXAMPLE}")
    return table


def _entry(name: str, given: Any) -> tuple[float, str | None, str | None]:
    """Return value, unit and direction of one metric."""
    where = f"{METRICS}: {one_line(name)[:MAX_NAME]}"
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise ResultsError(f"{where}: a metric's name must have 1 to {MAX_NAME} printable characters")
    unit = better = None
    if isinstance(given, dict):
        others = sorted(given.keys() - {"value", "unit", "better"})
        if others or "value" not in given:
            what = f"has {others[0]!r}" if others else "has no value"
            raise ResultsError(
                f'{where} {what}; a metric is a number, or as in {{"value": 0.9, "unit": "%", "better": "higher"}}'
            )
        unit, better, given = given.get("unit"), given.get("better"), given["value"]
        if unit is not None and not (isinstance(unit, str) and unit.isprintable()):
            raise ResultsError(f"{where}: unit is {one_line(repr(unit))}; it must be a text")
        if better is not None and better not in DIRECTIONS:
            raise ResultsError(f"{where}: better is {one_line(repr(better))}; allowed: {', '.join(DIRECTIONS)}")
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ResultsError(f"{where} is {one_line(json.dumps(given))[:80]}; it must be a number")
    try:
        value = float(given)
    except OverflowError:
        value = math.inf
    return value, unit, better


def _cell(name: str, text: str | None, line: int) -> int | float | None:
    if text is None or not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"line {line}: {name} is {text.strip()[:40]!r}, not a number") from None
    if name not in _WHOLE:
        return number
    if not number.is_integer() or abs(number) >= 2**53:
        raise ValueError(f"line {line}: {name} is {text.strip()[:40]!r}, not a whole number")
    return int(number)
