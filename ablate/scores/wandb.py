"""Exports of Weights & Biases that are no plain table: a chart, and runs by its Python API.

A chart has a column for each run, `Step`, `base-seed0 - val/acc`. Its API gives the configuration and
the scores of a run as Python objects; saved as CSV they are texts in the columns `config` and `summary`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import Any

import pandas as pd

from ablate.scores.columns import STEP
from ablate.scores.files import RawScores

CURVE = re.compile(r"^(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?$")
AXES = (*STEP, "relative time (process)", "wall time")
OBJECTS = ("summary", "config")
NO_LITERAL = re.compile(r"(?<![\w'\"])(nan|inf|-inf|Infinity|-Infinity|NaN)(?![\w'\"])")


def as_table(raw: RawScores) -> RawScores:
    """Return an export as a table; any other table as it is."""
    return _from_chart(_with_objects(raw))


def _from_chart(raw: RawScores) -> RawScores:
    """Turn the columns of a chart into a long table."""
    names = list(raw.frame.columns)
    axis = [name for name in names if name.lower() in AXES]
    matches = {name: match for name in names if (match := CURVE.match(name)) and name not in axis}
    if not axis or not matches or len(matches) + len(axis) < len(names):
        return raw
    parts = []
    for name, match in matches.items():
        if match["range"] is None:
            part = pd.DataFrame(
                {"name": match["run"].removeprefix("Group: "), "metric": match["metric"]}, raw.frame.index
            )
            parts.append(part.assign(step=raw.frame[axis[0]], value=raw.frame[name]))
    long = pd.concat(parts)
    rows = long.index
    file, number = (places.loc[rows].reset_index(drop=True) for places in (raw.file, raw.number))
    return replace(raw, frame=long.reset_index(drop=True), file=file, number=number)


def _with_objects(raw: RawScores) -> RawScores:
    """Give the members of objects in `summary` and `config` columns of their own, as in `summary.loss`."""
    frame = raw.frame
    for name in [name for name in OBJECTS if name in frame]:
        objects = [_object(cell) for cell in frame[name]]
        if not any(objects):
            continue
        members = pd.DataFrame(objects, frame.index).add_prefix(f"{name}.")
        frame = pd.concat([frame.drop(columns=name), members], axis=1)
    return replace(raw, frame=frame)


def _object(cell: Any) -> dict[str, Any]:
    """Return the plain members of an object that is written as Python writes it; none of any other text."""
    try:
        value = ast.literal_eval(NO_LITERAL.sub(r"'\1'", cell)) if isinstance(cell, str) else cell
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {str(key): one for key, one in value.items() if not isinstance(one, dict | list | tuple | set)}
