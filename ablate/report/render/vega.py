"""What all plots of the page share: a Vega-Lite specification becomes both an SVG and a live plot.

Altair writes the specification. Its SVG is shown if scripts are off. Colours are CSS variables of
the page, so one plot fits a light and a dark page. What a colour says, a shape or a word says too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from ablate.report.render.text_table import TextTable

WIDTH = 640  # pixels of the SVG; the live plot is as wide as its place on the page
ROW = 24  # pixels of height per variant
PANEL = 150  # pixels of width of a small panel, with its margin
PANELS = 4  # side by side in the SVG
FONT = "Arial, Helvetica, sans-serif"  # fonts whose widths are known where the SVG is drawn
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
    """A plot with its text and its table."""

    name: str  # id of the HTML element: letters, digits and hyphens
    title: str
    caption: str  # how to read it
    alt: str  # what it shows, for people who cannot see it
    svg: str
    spec: str  # JSON without `<`, so that it may stand in a script element
    table: TextTable
    panel: int = 0  # pixels of width of one of many panels; 0: it is one plot
    stretches: bool = False  # whether panels may have another width


def finish(
    name: str,
    chart: Any,
    title: str,
    caption: str,
    description: str,
    table: TextTable,
    *,
    panel: int = 0,
    stretches: bool = False,
) -> Plot:
    """Return a plot of an Altair chart; the other arguments are the fields of `Plot`."""
    with alt.data_transformers.disable_max_rows():  # 5,000 by default
        spec: dict[str, Any] = chart.to_dict()
    padding = {"left": 12, "right": 12, "top": 5, "bottom": 5}
    spec |= {"background": None, "description": description, "config": CONFIG, "padding": padding}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=".".join(alt.SCHEMA_VERSION.split(".")[:2]))
    text = json.dumps(spec).replace("<", "\\u003c")
    return Plot(name, title, caption, description, svg, text, table, panel, stretches)


def below(title: str | None = None) -> alt.Legend:
    """Return a legend below the plot."""
    return alt.Legend(orient="bottom", title=title)


def panel_width(frame: pd.DataFrame) -> int:
    """Return the width of one variant's panel in pixels: wider if there are few variants."""
    return max(PANEL, min(300, (WIDTH - 60) // frame["variant"].nunique()))


def panels(inner: Any, frame: pd.DataFrame, *, height: int) -> Any:
    """Return one small panel per variant, in the order of the frame, of a chart without data."""
    order, width = list(dict.fromkeys(frame["variant"])), panel_width(frame)
    head = alt.Header(labelFontSize=12, labelLimit=width, labelFontWeight="bold")
    inner = inner.properties(width=width - 20, height=height)
    inner.data = frame
    return inner.facet(facet=alt.Facet("variant:N", sort=order, title=None, header=head), columns=PANELS)
