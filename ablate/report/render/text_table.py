"""A table of text, and how it is printed: as `rich` columns that fit the terminal, or as Markdown.

Colour marks only verdicts that are decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

COLOURS = {
    **dict.fromkeys(("helps", "same", "supported", "passed"), "green"),
    **dict.fromkeys(("hurts", "contradicted", "failed"), "red"),
}
GAP = 2  # between columns
SENTENCES = ("why", "because")  # columns whose cells may wrap
SENTENCE_WIDTH = 40  # at least this much for a sentence


@dataclass(frozen=True)
class TextTable:
    """A table of text. Cells may have several lines."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    left: tuple[int, ...]  # columns of text, aligned to the left; the others are numbers
    legend: tuple[str, ...] = ()
    drop: tuple[int, ...] = ()  # columns to leave out, in this order, if there is no room for them


def columns_that_fit(table: TextTable, width: int) -> list[int]:
    """Return the columns that are left after dropping as few as possible."""
    columns = list(range(len(table.heads)))
    for dropped in (None, *table.drop):
        columns = [i for i in columns if i != dropped]
        if fits(table, columns, width):
            break
    return columns


def fits(table: TextTable, columns: Sequence[int], width: int) -> bool:
    """Return whether some columns of a table fit side by side."""
    widths = [
        SENTENCE_WIDTH
        if table.heads[i] in SENTENCES
        else max(cell_len(part) for line in (table.heads, *table.lines) for part in line[i].split("\n"))
        for i in columns
    ]
    return sum(widths) + GAP * (len(widths) - 1) <= width


def to_rich(table: TextTable, columns: Sequence[int] | None = None, *, bold_first: bool = False) -> Table:
    """Return what `rich` prints: some columns of a table, without its title and legend.

    Args:
        table: The table.
        columns: Which columns; None: all.
        bold_first: Whether the first line is bold.
    """
    columns = range(len(table.heads)) if columns is None else columns
    rich = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i in columns:
        left = i in table.left
        rich.add_column(Text(table.heads[i]), justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for place, line in enumerate(table.lines):
        style = "bold" if bold_first and place == 0 else None
        rich.add_row(*(coloured(line[i]) for i in columns), style=style)
    return rich


def coloured(text: str) -> Text:
    """Return a text in the colour of its verdict, or in yellow if it starts with the mark of a warning."""
    return Text(text, style="yellow" if text.startswith("!") else COLOURS.get(text, ""))


def to_markdown(table: TextTable) -> str:
    """Return the table in Markdown, without its title and legend."""
    rule = ["---" if i in table.left else "---:" for i in range(len(table.heads))]
    return "\n".join("| " + " | ".join(map(escape, line)) + " |" for line in (table.heads, rule, *table.lines))


def escape(text: str) -> str:
    """Return a text on one line, with Markdown's special characters escaped."""
    return "".join(f"\\{c}" if c in "\\|*_`<[" else c for c in " ".join(text.split()))


def bullets(lines: Iterable[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {escape(line)}" for line in lines)
