"""The effects of factorial studies: what each level of an axis does on average, and interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ablate.report.findings import Effect, Factorial, VariantRow
from ablate.report.judged_metrics import higher_is_better
from ablate.report.variant_rows import SeedGrid, VariantRows
from ablate.report.verdicts import tested, unjudged
from ablate.stats import factorial, paired
from ablate.study.variants import BASELINE


def make_factorials(table: VariantRows, budget: str, notes: list[str]) -> tuple[Factorial, ...]:
    """Return the effects of every complete factorial study among the rows, by every metric.

    Args:
        table: The rows and their values.
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
    for design in factorial.designs(cells, axis_of):
        title = " x ".join(design.axes)
        if design.missing:
            names = ", ".join(sorted("+".join(sorted(cell)) or BASELINE for cell in design.missing)[:3])
            more = f" and {len(design.missing) - 3} more" if len(design.missing) > 3 else ""
            notes.append(f"no effects of {title}: no finished run of {names}{more}")
            continue
        for metric, values in table.values.items():
            refused = unjudged(table, budget, metric)
            odd = sorted(label for cell in design.cells() if (label := cells[cell].label) in refused)
            if odd:
                notes.append(f"no effects of {title} on {metric}: {odd[0]}: {refused[odd[0]]}")
            else:
                factorials.append(_factorial(design, metric, values, cells))
    return tuple(factorials)


def _cells(rows: Sequence[VariantRow]) -> dict[factorial.Cell, VariantRow]:
    """Return the finished combinations."""
    return {frozenset(row.variant.split("+")) - {BASELINE}: row for row in rows if row.seeds}


def _factorial(
    design: factorial.Design, metric: str, grid: SeedGrid, cells: Mapping[factorial.Cell, VariantRow]
) -> Factorial:
    values = {cell: grid.of(cells[cell].label) for cell in design.cells()}
    known = ~np.isnan(np.stack([*values.values()])).any(axis=0)
    contrasts = list(factorial.effects(design, {cell: x[known] for cell, x in values.items()}))
    summaries = [paired.summarise(contrast) for _, _, contrast in contrasts]
    corrected = paired.holm([1.0 if summary.p is None else summary.p for summary in summaries])
    effects = []
    for (levels, axes, _), summary, p_holm in zip(contrasts, summaries, corrected, strict=True):
        verdict = paired.compare(summary, p_holm, len(summaries), higher_is_better=higher_is_better(metric))
        numbers = tested(metric, summary, None if summary.p is None else p_holm)
        effects.append(Effect(levels=levels, axes=axes, **numbers, verdict=verdict.word, why=verdict.why))
    return Factorial(
        axes=design.axes,
        levels=tuple((BASELINE, *levels) for levels in design.levels),
        metric=metric,
        seeds=tuple(grid.seeds[known].tolist()),
        effects=tuple(effects),
    )
