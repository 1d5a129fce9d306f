"""From the tables of a results folder to the findings of one comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ablate.base.errors import ResultsError
from ablate.base.text import plural, some_of
from ablate.report.clean_rows import finite
from ablate.report.curves import make_curves
from ablate.report.design import StudyDesign, design_of
from ablate.report.factorial_effects import make_factorials
from ablate.report.findings import Compared, Findings, Value, VariantRow
from ablate.report.left_out import without_left_out
from ablate.report.machines import unequal_machines
from ablate.report.quantized_summary import summarise
from ablate.report.selection import Choice, SelectedRuns, resolve, select
from ablate.report.trade_offs import make_fronts
from ablate.report.tuning import make_tuning
from ablate.report.variant_rows import describe_metrics, make_rows
from ablate.report.verdicts import make_verdicts
from ablate.stats import paired
from ablate.store import tables
from ablate.store.artifacts import folders_without_row, run_of
from ablate.study.claims import read_margin

EVERYTHING = Choice()
TABLES = ("runs", "fidelity", "metrics", "quantized", "sampling", "plans")


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """Read what `build` needs of a results folder: tables, and `artifacts`, the folders without a row.

    Raises:
        ResultsError: The folder does not exist, or a table cannot be read.
    """
    tables.check_exists(folder)
    frames = {table: tables.read(folder, table) for table in TABLES}
    lost = [run_of(path.name) for path in folders_without_row(folder, set(frames["runs"]["run_id"]))]
    return frames | {"artifacts": pd.DataFrame({"run_id": lost})}


def build(frames: Mapping[str, pd.DataFrame], choice: Choice = EVERYTHING) -> Findings:
    """Return the findings of one comparison.

    Args:
        frames: The tables `runs` and, if there are any rows, `fidelity`, `metrics`, `quantized`,
            `sampling` and `plans`.
        choice: What to compare.

    Raises:
        ResultsError: The runs differ in preset, data set, extractor or number of samples and `choice`
            does not say which; or it names something that does not exist.
    """
    if choice.same_within is not None and not 0 < read_margin(choice.same_within, 1.0) < math.inf:
        allowed = "allowed: a percentage as in 2%, or a number above 0 in the metric's unit"
        raise ResultsError(f"--same-within {choice.same_within}: not a margin; {allowed}")
    choice = resolve(frames, choice)
    every, frames = frames, without_left_out(frames, choice)
    selected = select(frames, choice)
    notes = selected.notes
    table = make_rows(selected, choice.against, choice.budget, notes)
    notes += _lost_rows(frames.get("artifacts"))
    notes += [f"{note}; costs show times of one machine only" for note in unequal_machines(table.done)]
    if choice.claims and choice.against != selected.baseline:
        notes.append(f"claims are not judged: they are about the baseline, not {choice.against}")
    whole = selected.whole_study()
    narrowed = len(whole.runs) > len(selected.runs) or whole.metrics != selected.metrics
    study = make_rows(whole, choice.against, choice.budget, []) if narrowed else table
    design = design_of(study.runs[study.runs["label"].isin(study.newest)], frames.get("plans"))
    left_out = 0
    if choice.filters and len(selected.every):
        left_out, design = _after_leaving_out(every, selected, choice, design)
        notes.insert(0, f"left out, not judged: {left_out} runs of this study, by {choice.filters}")
    formats = _formats(table.done, frames.get("quantized"))
    verdicts = make_verdicts(
        table,
        study,
        design,
        selected.judged,
        frames.get("fidelity", pd.DataFrame()),
        _formats(study.done, frames.get("quantized")),
        choice.budget,
        show_claims=choice.claims,
        same_within=choice.same_within,
    )
    factorials = make_factorials(table, design, choice.budget, notes)
    fronts = make_fronts(table, formats, notes)
    first = selected.runs.iloc[-1] if len(selected.runs) else None
    done = selected.done.iloc[-1] if len(selected.done) else first
    compared = Compared(
        preset=None if first is None else str(first["preset"]),
        data=None if done is None or pd.isna(done["data"]) else str(done["data"]),
        data_digest=None if done is None or pd.isna(done["data_digest"]) else str(done["data_digest"]),
        budget=choice.budget,
        against=table.against,
        headline=selected.metrics,
        why_headline=selected.why_metrics,
        design=design.word,
        why_design=design.why,
        where=choice.where,
        without_seeds=choice.without_seeds,
        left_out=left_out,
        tests=verdicts.tests,
        least_seeds=verdicts.least_seeds,
        alpha=paired.ALPHA,
        power=paired.POWER,
        runs=sum(row.runs for row in table.rows),
        variants=len({row.variant for row in table.rows}),
    )
    metrics = describe_metrics(selected)
    return Findings(
        compared=compared,
        metrics=metrics,
        rows=_with_other_budget(table.rows, frames, choice, selected.metrics),
        comparisons=verdicts.comparisons,
        claims=verdicts.claims,
        factorials=factorials,
        fronts=fronts,
        quantized=summarise(formats),
        tuning=make_tuning(table.rows, frames.get("plans"), notes),
        curves=make_curves(table.rows, metrics, frames, table.against, notes),
        notes=tuple(notes),
    )


def _after_leaving_out(
    every: Mapping[str, pd.DataFrame], selected: SelectedRuns, choice: Choice, design: StudyDesign
) -> tuple[int, StudyDesign]:
    """Return how many runs of a study are left out, and its design then.

    Runs may be left out because of their results, so the study counts as grown. Its tests are still
    as many as those of the whole study.
    """
    whole = selected.unfiltered(choice)
    runs = select(every, whole).every["run_id"]
    left_out = int((~runs.isin(selected.every["run_id"])).sum())
    if not left_out:
        return 0, design
    findings = build(every, whole)
    extra = sum(one.exploratory and one.adjusted is not None for one in findings.comparisons)
    why = f"{left_out:,} of its {len(runs):,} runs are left out by {choice.filters}"
    return left_out, StudyDesign("grown", why, (findings.compared.tests, extra))


def _lost_rows(artifacts: pd.DataFrame | None) -> list[str]:
    """Return a note on the folders of runs that have no row: such runs cannot be judged."""
    if artifacts is None or not len(artifacts):
        return []
    names = artifacts["run_id"].tolist()
    return [
        f"not judged: artifacts/ holds {plural(len(names), 'run')} without a row in runs.parquet: {some_of(names)} "
        "(ablate doctor --results says how to fix that)"
    ]


def _formats(done: pd.DataFrame, quantized: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows of `quantized` of these runs, with their label and seed."""
    if quantized is None or not len(quantized):
        return pd.DataFrame()
    formats = finite(quantized).astype(dict.fromkeys(("run_id", "scheme", "scope"), object))
    return done[["run_id", "label", "seed"]].merge(formats, on="run_id")


def _with_other_budget(
    rows: tuple[VariantRow, ...], frames: Mapping[str, pd.DataFrame], choice: Choice, metrics: tuple[str, ...]
) -> tuple[VariantRow, ...]:
    """Add the differences of the same variants at the other budget, if the study has such runs."""
    if not rows or not (frames["runs"]["budget"] == "macs").any():
        return rows
    budget = "macs" if choice.budget == "steps" else "steps"
    try:
        other = make_rows(select(frames, replace(choice, budget=budget, metrics=metrics)), choice.against, budget, [])
    except ResultsError:  # nothing to compare at that budget
        return rows
    differences: dict[str, dict[str, Value]] = {}
    for row in other.rows:
        if row.label in other.newest and row.differences and any(value.n for value in row.differences.values()):
            differences[row.variant] = row.differences
    return tuple(
        row.model_copy(update={"at_other_budget": differences.get(row.variant) if row.differences else None})
        for row in rows
    )
