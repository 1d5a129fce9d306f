"""The report on a terminal: one screen with the verdicts, or all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ablate.base.text import plural
from ablate.report.findings import Findings
from ablate.report.render.quality_table import quality_table
from ablate.report.render.report_tables import (
    EMPTY,
    claim_table,
    explanation,
    lead,
    other_tables,
    title,
    verdict_notes,
    verdict_tables,
)
from ablate.report.render.text_table import TextTable, columns_that_fit, fits, to_rich

SCREEN = 40  # lines; notes and claims are left out where they would not fit
CLAIM_COLUMNS = (0, 1, 7)  # variant, claim and verdict


def render(findings: Findings, *, full: bool = False) -> RenderableType:
    """Return what `rich` prints.

    Args:
        findings: The findings.
        full: Show every section; else the verdicts, and notes and claims if there is room for them.
    """
    return _Report(findings, full)


@dataclass(frozen=True)
class _Report:
    findings: Findings
    full: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        findings = self.findings
        if not findings.rows:
            yield Text(EMPTY)
            return
        yield Text(title(findings), style="bold")
        yield Text(lead(findings) + "\n")
        verdicts = [part for table in verdict_tables(findings) for part in _section(table, options)]
        if findings.comparisons:
            verdicts += [*(Text(line, style="dim") for line in explanation(findings)), Text("")]
        yield from verdicts
        claims = claim_table(findings)
        if self.full:
            yield from _section(claims, options) if claims is not None else ()
            yield from _quality(findings, options)
            for table in other_tables(findings):
                yield from _section(table, options)
            return
        if not findings.comparisons:
            yield from _quality(findings, options)
            return
        notes = [Text(f"! {note}") for note in verdict_notes(findings)]
        optional: dict[str, list[RenderableType]] = {
            plural(len(notes), "note"): [*notes, Text("")] if notes else [],
            "claims": []
            if claims is None
            else [Text(claims.title, style="bold"), to_rich(claims, CLAIM_COLUMNS), Text("")],
        }
        # The title, two lines of the first sentence and a blank, two of the last sentence.
        room = SCREEN - 6 - _height(console, options, verdicts)
        left_out = []
        for name, parts in optional.items():
            height = _height(console, options, parts)
            if height <= max(0, room):
                room -= height
                yield from parts
            else:
                left_out.append(name)
        quality = "quality, costs and trade-offs" if findings.fronts else "quality"
        more = ", ".join((*left_out, quality))
        yield Text(f"--full: also {more}. -o report.html: a page with images and plots.", style="dim")


def _height(console: Console, options: ConsoleOptions, parts: list[RenderableType]) -> int:
    return sum(len(console.render_lines(part, options, pad=False)) for part in parts)


def _section(table: TextTable, options: ConsoleOptions) -> Iterator[RenderableType]:
    yield Text(table.title, style="bold")
    yield fit(table, options)
    yield Text("")
    for line in table.legend:
        yield Text(line, style="dim")
    if table.legend:
        yield Text("")


def fit(table: TextTable, options: ConsoleOptions) -> Table:
    """Return the table with the columns that fit the terminal."""
    return to_rich(table, columns_that_fit(table, options.max_width))


def _quality(findings: Findings, options: ConsoleOptions) -> Iterator[RenderableType]:
    """One table if the terminal is wide enough, else quality and costs apart, else one per metric and two of costs."""
    sign = "+-" if options.ascii_only else "±"
    wide, tight = quality_table(findings, f" {sign} "), quality_table(findings, sign, narrow=True)
    seeds = wide.heads.index("seeds")  # the columns before it name the variant and its axis
    metrics = [[seeds + 1 + 2 * i, seeds + 2 + 2 * i] for i in range(len(findings.metrics))]
    end = seeds + 1 + 2 * len(metrics)
    names, costs = [*range(seeds)], [*range(end, len(wide.heads))]
    halves = [[0, *range(seeds, end)], *([[*names, *costs]] if costs else [])]
    small = [[0, seeds, *metrics[0]], *([0, *pair] for pair in metrics[1:])]
    small += [[*names, *costs[:3]]] if costs else []
    small += [[0, *costs[3:]]] if costs[3:] else []
    whole = [[*range(len(wide.heads))]]
    table, parts = tight, small
    for table, parts in ((wide, whole), (tight, whole), (wide, halves), (tight, halves), (tight, small)):
        if all(fits(table, part, options.max_width) for part in parts):
            break
    yield Text(wide.title, style="bold")
    for part in parts:
        yield to_rich(table, part, bold_first=findings.rows[0].differences is None)
        yield Text("")
    for line in wide.legend:
        yield Text(line, style="dim")
    for note in findings.notes:
        yield Text(f"! {note}")
    yield Text("")
