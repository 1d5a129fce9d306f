"""The effects of factorial studies: what each level of an axis does on average, and interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ablate.base.text import some_of
from ablate.report.design import StudyDesign
from ablate.report.differences import unjudged
from ablate.report.findings import Effect, Factorial, VariantRow
from ablate.report.variant_rows import SeedGrid, VariantRows
from ablate.report.verdicts import difference_fields, verdict_of
from ablate.stats import factorial, paired
from ablate.study.variants import BASELINE


def make_factorials(table: VariantRows, design: StudyDesign, budget: str, notes: list[str]) -> tuple[Factorial, ...]:
    """Return the effects of every complete factorial study among the rows, by every metric.

    Args:
        table: The rows and their values.
        design: How the study came about.
        budget: `steps` or `macs`.
        notes: Notes are appended: what an incomplete study lacks.
    """
    cells = _cells([row for row in table.rows if row.label in table.newest])
    axis_of = {next(iter(cell)): row.axis for cell, row in cells.items() if len(cell) == 1 and row.axis}
    for cell, row in cells.items():  # a level that was run only in combinations: its axis has the same place
        axes = (row.axis or "").split("+")
        if len(axes) == len(cell):
            axis_of |= {part: axis for part, axis in zip(sorted(cell), axes, strict=True) if part not in axis_of}
    factorials = []
    for crossed in factorial.designs(cells, axis_of):
        title = " x ".join(crossed.axes)
        if crossed.missing:
            names = sorted("+".join(sorted(cell)) or BASELINE for cell in crossed.missing)
            notes.append(f"no effects of {title}: no finished run of {some_of(names)}")
            continue
        for metric, values in table.values.items():
            refused = unjudged(table, budget, metric)
            odd = sorted(label for cell in crossed.cells() if (label := cells[cell].label) in refused)
            if odd:
                notes.append(f"no effects of {title} on {metric}: {odd[0]}: {refused[odd[0]]}")
            else:
                up = table.recorded.higher_is_better(metric)
                factorials.append(_factorial(crossed, design, metric, values, cells, higher_is_better=up))
    return tuple(factorials)


def _cells(rows: Sequence[VariantRow]) -> dict[factorial.Cell, VariantRow]:
    """Return the finished combinations."""
    return {frozenset(row.variant.split("+")) - {BASELINE}: row for row in rows if row.seeds}


def _factorial(
    crossed: factorial.Design,
    design: StudyDesign,
    metric: str,
    grid: SeedGrid,
    cells: Mapping[factorial.Cell, VariantRow],
    *,
    higher_is_better: bool,
) -> Factorial:
    """Judge the effects on one metric. They are a family of their own."""
    values = {cell: grid.of(cells[cell].label) for cell in crossed.cells()}
    known = ~np.isnan(np.stack([*values.values()])).any(axis=0)
    contrasts = list(factorial.effects(crossed, {cell: x[known] for cell, x in values.items()}))
    columns = np.stack([contrast for _, _, contrast in contrasts], axis=1)
    tests = design.judge(columns, [None] * len(contrasts))
    effects = []
    for (levels, axes, contrast), evidence in zip(contrasts, tests.evidence, strict=True):
        summary = paired.summarise(contrast)
        word, why = verdict_of(summary, evidence, tests, column=contrast, higher_is_better=higher_is_better)
        numbers = difference_fields(metric, summary, evidence, tests)
        effects.append(Effect(levels=levels, axes=axes, **numbers, verdict=word, why=why))
    return Factorial(
        axes=crossed.axes,
        levels=tuple((BASELINE, *levels) for levels in crossed.levels),
        metric=metric,
        seeds=tuple(grid.seeds[known].tolist()),
        effects=tuple(effects),
    )
