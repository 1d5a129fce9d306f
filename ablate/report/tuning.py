"""How the setting of each compared variant was chosen, read from the plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from ablate.base.text import printable
from ablate.report.clean_rows import objects
from ablate.report.findings import TunedVariant, Tuning, VariantRow
from ablate.study.metric_names import higher_is_better

Pair = tuple[str, str]  # variant, hash of its configuration


def make_tuning(rows: Sequence[VariantRow], plans: pd.DataFrame | None, notes: list[str]) -> Tuning | None:
    """Return how the settings of the compared variants were chosen; None if none was.

    Args:
        rows: The rows of the report.
        plans: The table of that name.
        notes: Notes are appended: variants whose setting was not chosen so, choices at the grid's edge.
    """
    chosen = {} if plans is None else _chosen(plans)
    tuned, methods = [], set()
    for row in rows:
        entry = chosen.get((row.variant, row.config_hash or ""))
        if entry is not None:
            variant, method = entry
            tuned.append(variant.model_copy(update={"label": row.label}))
            methods.add(method)
    if not tuned:
        return None
    untuned = [row.label for row in rows if row.label not in {one.label for one in tuned}]
    if untuned:
        notes.append(f"not at its own best setting, as others here are: {', '.join(untuned)}")
    if len(methods) > 1:
        notes.append("the variants' settings were chosen by different metrics or seeds")
    for key in dict.fromkeys(key for one in tuned for key in one.edge):
        at_edge = [one.label for one in tuned if key in one.edge]
        notes.append(f"the best {key} is at the edge of the grid, so a better one may lie beyond: {', '.join(at_edge)}")
    metric, seeds, higher = sorted(methods)[-1]
    return Tuning(metric=metric, higher_is_better=higher, seeds=seeds, variants=tuple(tuned))


def _chosen(plans: pd.DataFrame) -> dict[Pair, tuple[TunedVariant, tuple[str, tuple[int, ...], bool]]]:
    """Return the newest choice for each configuration of a variant."""
    found = {}
    for plan in plans.sort_values("created_at", kind="stable").to_dict("records") if len(plans) else ():
        pairs = {str(one.get("name")): str(one.get("config_hash")) for one in objects(plan["variants"])}
        for entry in objects(plan.get("tuning")):
            with suppress(KeyError, TypeError, ValueError):  # a table may come from elsewhere
                found[entry["variant"], pairs[entry["variant"]]] = _read(entry)
    return found


def _read(entry: dict[str, Any]) -> tuple[TunedVariant, tuple[str, tuple[int, ...], bool]]:
    scores = {printable(setting): None if score is None else float(score) for setting, score in entry["scores"].items()}
    if any(score is not None and not math.isfinite(score) for score in scores.values()):
        raise ValueError("a score is not finite")
    variant = TunedVariant(
        label="",
        choice=None if entry["choice"] is None else printable(entry["choice"]),
        edge=tuple(map(printable, entry["edge"])),
        settings=tuple(scores),
        scores=tuple(scores.values()),
        wall_s=float(entry["wall_s"]),
    )
    metric, better = printable(entry["metric"]), entry.get("better")  # of a program's metric
    higher = better == "higher" if better else higher_is_better(metric)
    return variant, (metric, tuple(map(int, entry["seeds"])), higher)
