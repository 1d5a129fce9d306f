"""What plots have in common: one Vega-Lite specification, by Altair, gives the drawing that stands without scripts and the one that moves.

Colours are CSS variables of the page, so that one drawing fits a light and a dark page; what colour tells, shapes or words tell too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from ablate.report.render.report_tables import Sheet

WIDTH = 640  # pixels of the drawing without scripts; with them a plot is as wide as its place
ROW = 24  # pixels of a variant's row
PANEL = 150  # pixels of one of many small panels, with its margin
PANELS = 4  # beside each other, without scripts
FONT = "Arial, Helvetica, sans-serif"  # its widths are known where the drawing is made
FG, MUTED, GRID, ACCENT, QUIET = (f"var(--{name})" for name in ("fg", "muted", "grid", "accent", "undecided"))
AXIS = {
    "labelColor": FG,
    "titleColor": FG,
    "gridColor": GRID,
    "domainColor": MUTED,
    "tickColor": MUTED,
    "labelFont": FONT,
    "titleFont": FONT,
    "titleFontWeight": "normal",
    "labelFontSize": 12,
    "titleFontSize": 12,
}
LEGEND = {name: AXIS[name] for name in ("labelColor", "titleColor", "labelFont", "titleFont", "labelFontSize")}
CONFIG = {"axis": AXIS, "legend": LEGEND, "view": {"stroke": GRID}, "header": {"labelFont": FONT, "labelColor": FG}}


@dataclass(frozen=True)
class Plot:
    """A plot with the words and numbers beside it."""

    name: str  # letters, digits and hyphens: the element's id
    title: str
    how: str  # to read it
    alt: str  # what one sees, for those who do not
    svg: str
    spec: str  # JSON without `<`: it may stand in a script element
    sheet: Sheet  # the numbers
    panel: int = 0  # width of one panel in pixels where there are many
    stretches: bool = False  # whether panels may be of another width


def finish(
    name: str, chart: Any, title: str, how: str, told: str, sheet: Sheet, *, panel: int = 0, stretches: bool = False
) -> Plot:
    """Draw a chart, and keep its specification for the page's script.

    Args:
        name: The element's id.
        chart: An Altair chart.
        title: Of the plot.
        how: To read it.
        told: What one sees.
        sheet: The numbers.
        panel: Width of one panel, where there are many.
        stretches: Whether panels may be of another width.
    """
    spec: dict[str, Any] = chart.to_dict()
    spec |= {
        "background": None,
        "description": told,
        "config": CONFIG,
        "padding": {"left": 12, "right": 12, "top": 5, "bottom": 5},
    }
    svg = vl_convert.vegalite_to_svg(spec, vl_version=".".join(alt.SCHEMA_VERSION.split(".")[:2]))
    return Plot(name, title, how, told, svg, json.dumps(spec).replace("<", "\\u003c"), sheet, panel, stretches)


def below(title: str | None = None) -> alt.Legend:
    """Return a legend below the plot."""
    return alt.Legend(orient="bottom", title=title)


def panel_width(frame: pd.DataFrame) -> int:
    """Return the width of one variant's panel in pixels: few are wider."""
    return max(PANEL, min(300, (WIDTH - 60) // frame["variant"].nunique()))


def panels(inner: Any, frame: pd.DataFrame, *, height: int) -> Any:
    """Return one small panel per variant, in the order of the frame, of a chart without data."""
    order, width = list(dict.fromkeys(frame["variant"])), panel_width(frame)
    head = alt.Header(labelFontSize=12, labelLimit=width, labelFontWeight="bold")
    inner = inner.properties(width=width - 20, height=height)
    inner.data = frame
    return inner.facet(facet=alt.Facet("variant:N", sort=order, title=None, header=head), columns=PANELS)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows, as dictionaries by column."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
