"""The report on a terminal: verdicts first, in as many columns as there are. Colour stands only where a verdict does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ablate.report.findings import Findings
from ablate.report.render import report_tables
from ablate.report.render.markdown import EMPTY
from ablate.report.render.report_tables import Sheet

COLOURS = {
    "helps": "green",
    "supported": "green",
    "passed": "green",
    "hurts": "red",
    "contradicted": "red",
    "failed": "red",
}
GAP = 2  # between columns
SENTENCE = 40  # what a reason is given at least


def render(findings: Findings) -> RenderableType:
    """Return what `rich` prints."""
    return _Rendered(findings)


@dataclass(frozen=True)
class _Rendered:
    findings: Findings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        findings, sign = self.findings, "+-" if options.ascii_only else "±"
        if not findings.rows:
            yield Text(EMPTY)
            return
        yield Text(report_tables.title(findings) + "\n", style="bold")
        if findings.comparisons:
            yield from _verdicts(findings, options)
        claims = report_tables.claim_sheet(findings)
        for sheet in [claims] if claims is not None else []:
            yield from _sheet(sheet, options)
        yield Text("Quality and costs", style="bold")
        for table in _quality(findings, sign, options):
            yield table
            yield Text("")
        for line in report_tables.legend(findings, sign):
            yield Text(line, style="dim")
        for line in findings.notes:
            yield Text(f"! {line}")
        yield Text("")
        budgets = report_tables.budget_sheet(findings)
        for sheet in [budgets] if budgets is not None else []:
            yield from _sheet(sheet, options)
        for sheet in (*report_tables.factorial_sheets(findings), *report_tables.front_sheets(findings)):
            yield from _sheet(sheet, options)
        formats = report_tables.format_sheet(findings)
        if formats is not None:
            yield Text(formats.title, style="bold")
            yield _formats(formats)
            yield Text("")
            for line in formats.legend:
                yield Text(line, style="dim")
            yield Text("")


def _verdicts(findings: Findings, options: ConsoleOptions) -> Iterator[RenderableType]:
    words = Table.grid(padding=(0, 2))
    for word, names in report_tables.summary(findings):
        words.add_row(Text(word) if names == report_tables.NONE else coloured(word), Text(names))
    yield words
    yield Text("")
    for sheet in report_tables.verdict_sheets(findings):
        yield from _sheet(sheet, options)
    yield Text(report_tables.explained(findings), style="dim")
    yield Text("")


def _sheet(sheet: Sheet, options: ConsoleOptions) -> Iterator[RenderableType]:
    yield Text(sheet.title, style="bold")
    yield fit(sheet, options)
    yield Text("")
    for line in sheet.legend:
        yield Text(line, style="dim")
    if sheet.legend:
        yield Text("")


def fit(sheet: Sheet, options: ConsoleOptions) -> Table:
    """Return the table with as many of its columns as there is room for; a sentence at the end may wrap."""
    shown = list(range(len(sheet.heads)))
    for dropped in (None, *sheet.drop):
        shown = [i for i in shown if i != dropped]
        if fits(sheet, options, shown):
            break
    return table(sheet, shown)


def fits(sheet: Sheet, options: ConsoleOptions, columns: Sequence[int] | None = None) -> bool:
    """Return whether there is room for some columns of a sheet, or for all of it."""
    shown = range(len(sheet.heads)) if columns is None else columns
    widths = [
        SENTENCE
        if sheet.heads[i] in ("why", "because")
        else max(map(_width, (sheet.heads[i], *(line[i] for line in sheet.lines))))
        for i in shown
    ]
    return sum(widths) + GAP * (len(widths) - 1) <= options.max_width


def _width(text: str) -> int:
    """What a cell takes: its widest line, with heads broken before `vs`."""
    return max(cell_len(line) for line in text.replace(" vs ", "\nvs ").split("\n"))


def table(sheet: Sheet, columns: Sequence[int]) -> Table:
    """Return some columns of a sheet."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i in columns:
        head = sheet.heads[i].replace(" vs ", "\nvs ")
        made.add_column(
            Text(head),
            justify="left" if i in sheet.left else "right",
            overflow="fold",
            no_wrap=i not in sheet.left,
        )
    for line in sheet.lines:
        made.add_row(*(coloured(line[i]) for i in columns))
    return made


def coloured(text: str) -> Text:
    """Return a text in the colour of its verdict, if it is one that stands."""
    return Text(text, style=COLOURS.get(text, ""))


def _quality(findings: Findings, sign: str, options: ConsoleOptions) -> list[Table]:
    """One table where the terminal is wide enough, else quality and costs apart, else four."""
    wide, tight = report_tables.quality_cells(findings, f" {sign} "), report_tables.quality_cells(findings, sign)
    for line in tight[1:]:
        line[:2] = [line[0].replace("+", "+\n"), line[1].replace("+", "+\n").replace(" ", "\n")]
    metrics = [[3 + 2 * i, 4 + 2 * i] for i in range(len(findings.metrics))]
    costs = list(range(3 + 2 * len(metrics), len(wide[0])))
    whole, quality = [*range(len(wide[0]))], [0, 2, *range(3, costs[0])]
    parts = ([2, *metrics[0]], *metrics[1:], [1, *costs[:3]], costs[3:])
    layouts = [(cells, [whole]) for cells in (wide, tight)]
    layouts += [(cells, [quality, [0, 1, *costs]]) for cells in (wide, tight)]
    layouts += [(tight, [[0, *some] for some in parts])]
    for cells, tables in layouts:
        widths = [max(_width(_broken(line[i])) for line in cells) for i in range(len(cells[0]))]
        if all(sum(widths[i] for i in some) + GAP * (len(some) - 1) <= options.max_width for some in tables):
            break
    return [_table(findings, cells, some) for some in tables]


def _broken(head: str) -> str:
    return head.replace(" vs ", "\nvs ").replace("train ", "train\n")


def _table(findings: Findings, cells: list[list[str]], columns: Sequence[int]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        made.add_column(Text(_broken(cells[0][column])), justify="left" if column < 2 else "right", overflow="fold")
    for row, line in zip(findings.rows, cells[1:], strict=True):
        made.add_row(*(Text(line[column]) for column in columns), style="bold" if row.differences is None else None)
    return made


def _formats(sheet: Sheet) -> Table:
    """The table of number formats; a variant and a scheme are named where they change."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    shown = [i for i, head in enumerate(sheet.heads) if head != "seeds"]
    for i in shown:
        head = sheet.heads[i].replace("PSNR dB", "PSNR\ndB")
        made.add_column(Text(head), justify="left" if i in sheet.left else "right", overflow="fold")
    before: Sequence[str] = ("", "")
    for line in sheet.lines:
        same = [line[0] == before[0], line[:2] == before[:2]]
        before = line[:2]
        made.add_row(*(Text("" if i < 2 and same[i] else line[i].replace(" [", "\n[", 1)) for i in shown))
    return made
