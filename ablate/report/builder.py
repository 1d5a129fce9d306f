"""From a results folder's tables to the findings of one comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ablate.base.errors import ResultsError
from ablate.report.effects import make_factorials, make_fronts
from ablate.report.findings import Compared, Findings, Row, Value
from ablate.report.quantized_summary import summarise
from ablate.report.selection import Choice, finite, select
from ablate.report.variant_rows import describe_metrics, make_rows, unequal_machines
from ablate.report.verdicts import make_verdicts
from ablate.stats import paired
from ablate.store import tables
from ablate.study.variants import BASELINE

EVERYTHING = Choice()
TABLES = ("runs", "fidelity", "quantized")
NO_CURVES = "quality is measured at the end of a training alone: there is no curve of quality against its cost"


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """Read what `build` needs of a results folder.

    Raises:
        ResultsError: There is no such folder, or a table cannot be read.
    """
    if not folder.is_dir():
        raise ResultsError(f"--results {folder}: no such folder; make a run first: ablate run")
    return {table: tables.read(folder, table) for table in TABLES}


def build(frames: Mapping[str, pd.DataFrame], choice: Choice = EVERYTHING) -> Findings:
    """Return the findings of one comparison.

    Args:
        frames: The tables `runs` and, where there are any rows, `fidelity` and `quantized`, as `read` returns them.
        choice: What is to be compared.

    Raises:
        ResultsError: The runs differ in preset, data set, extractor or number of samples and `choice` does not say which; or it names
            something that is not there.
    """
    selected = select(frames, choice)
    notes = selected.notes
    made = make_rows(selected, choice.against, choice.budget, notes)
    notes += unequal_machines(made.done)
    claimed = choice.claims and choice.against == BASELINE
    if choice.claims and not claimed:
        notes.append(f"claims are not judged: they speak of the baseline, not of {choice.against}")
    formats = _formats(made.done, frames.get("quantized"))
    fidelity = frames.get("fidelity", pd.DataFrame())
    comparisons, claims, family = make_verdicts(made, fidelity, formats, choice.budget, claimed=claimed)
    factorials = make_factorials(made, choice.budget, notes)
    fronts = make_fronts(made, formats, notes)
    if made.rows:
        notes.append(NO_CURVES)
    first = selected.runs.iloc[-1] if len(selected.runs) else None
    done = selected.done.iloc[-1] if len(selected.done) else first
    compared = Compared(
        preset=None if first is None else str(first["preset"]),
        data=None if done is None or pd.isna(done["data"]) else str(done["data"]),
        data_digest=None if done is None or pd.isna(done["data_digest"]) else str(done["data_digest"]),
        budget=choice.budget,
        against=made.against,
        headline=selected.metrics,
        why_headline=selected.why_metrics,
        family=family,
        least_seeds=paired.min_seeds(paired.ALPHA / max(1, family)),
        alpha=paired.ALPHA,
        power=paired.POWER,
        runs=sum(row.runs for row in made.rows),
        variants=len({row.variant for row in made.rows}),
    )
    return Findings(
        compared=compared,
        metrics=describe_metrics(selected),
        rows=_at_other_budget(made.rows, frames, choice, selected.metrics),
        comparisons=comparisons,
        claims=claims,
        factorials=factorials,
        fronts=fronts,
        quantized=summarise(formats),
        notes=tuple(notes),
    )


def _formats(done: pd.DataFrame, quantized: pd.DataFrame | None) -> pd.DataFrame:
    """The rows of `quantized` of these runs, with their label and seed."""
    of_run = done[["run_id", "label", "seed"]]
    if quantized is None or not len(quantized):
        return pd.DataFrame()
    return of_run.merge(finite(quantized).astype(dict.fromkeys(("run_id", "scheme", "scope"), object)), on="run_id")


def _at_other_budget(
    rows: tuple[Row, ...], frames: Mapping[str, pd.DataFrame], choice: Choice, metrics: tuple[str, ...]
) -> tuple[Row, ...]:
    """Add the differences of the same variants at equal training MACs, where the study has such runs (or at equal steps)."""
    if not rows or not (frames["runs"]["budget"] == "macs").any():
        return rows
    budget = "macs" if choice.budget == "steps" else "steps"
    try:
        other = make_rows(select(frames, replace(choice, budget=budget, metrics=metrics)), choice.against, budget, [])
    except ResultsError:  # nothing there that compares
        return rows
    there: dict[str, dict[str, Value]] = {}
    for row in other.rows:
        if row.label in other.newest and row.differences and any(value.n for value in row.differences.values()):
            there[row.variant] = row.differences
    return tuple(replace(row, at_other_budget=there.get(row.variant) if row.differences else None) for row in rows)
