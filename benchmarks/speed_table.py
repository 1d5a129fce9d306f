"""The results of `ablate bench --ops` as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablate.report.render.number_text import number

HEADS = ("batch", "ref. ms", "ours ms", "ratio", "interval", "floor", "ref. MB", "ours MB")


def render(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the table and a legend, for rows of `benchmarks.speed.measure`."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for head in HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        interval = "" if row["ratio"] is None else f"{row['ratio_low']:.1f}-{row['ratio_high']:.1f}"
        share = "" if row["ceiling_share"] is None else f"{100 * row['ceiling_share']:.0f} %"
        table.add_row(
            row["name"],
            str(row["batch"] or ""),
            number(row["reference_ms"]),
            number(row["ours_ms"]),
            "" if row["ratio"] is None else f"{row['ratio']:.1f}x",
            interval,
            share,
            number(row["reference_peak_mb"]),
            number(row["ours_peak_mb"]),
        )
    threads = rows[0]["threads"]
    title = Text(f"{rows[0]['device']}, {threads} thread{'' if threads == 1 else 's'}; medians")
    legend = (
        "ref.: the published formulation, float32, eager. ratio: ref. / ours; interval: 95 %.",
        "floor: least time for arithmetic and memory traffic, at the rates of a matrix",
        "product and a copy measured here, as a share of ours. MB: peak of one call.",
    )
    return Group(title, Text(""), table, Text(""), *(Text(words, style="dim") for words in legend))
