"""The plot of a trade-off: a quality against a cost, one point for each variant.

It shows numbers of the findings and computes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from ablate.report.findings import Front
from ablate.report.render import report_tables
from ablate.report.render.label_places import Place, places
from ablate.report.render.number_text import COUNTS
from ablate.report.render.vega import ACCENT, FG, FONT, QUIET, WIDTH, Plot, finish

FRONT = ("on the front", "beaten")
NARROW, TALL = 250, 320  # pixels of the plot on a phone
FEWEST_POINTS = 3  # fewer are a sentence


def trade_off(front: Front, index: int) -> Plot | None:
    """Plot quality (vertical) against a cost (horizontal); the reader chooses the cost if there are several.

    None if there are so few points that `front_sentence` says it all.
    """
    if len(front.objectives) < 2 or len(front.points) < FEWEST_POINTS:
        return None
    table = report_tables.front_table(front)
    heads = table.heads[1 : 1 + len(front.objectives)]
    quality, costs = heads[0], list(heads[1:])
    rows = []
    for at, cost in enumerate(costs, start=1):
        names = [line[0] for line in table.lines]
        for point, line, place in zip(front.points, table.lines, _places(front, at, names), strict=True):
            row = {"name": line[0], "quality": point.values[0], "front": FRONT[0] if point.on_front else FRONT[1]}
            row |= {"status": line[-1], "axis": cost, "cost": point.values[at]}
            row |= dict(zip(map(_field, heads), line[1:], strict=False))
            found = place or Place(0, 0, "left")
            rows.append(row | {"shown": line[0] if place else "", "dx": found.dx, "dy": found.dy, "align": found.align})
    pick = alt.param(name="axis", value=costs[0], bind=alt.binding_select(options=costs, name="Cost: "))
    tips = [alt.Tooltip("name:N", title="variant")]
    tips += [alt.Tooltip(f"{_field(head)}:N", title=head) for head in heads] + [alt.Tooltip("status:N", title="front")]
    counts = any(name in COUNTS for name in front.objectives[1:])
    x = alt.X(
        "cost:Q",
        title=None,
        scale=alt.Scale(zero=False, nice=False, padding=30),
        axis=alt.Axis(format="~s" if counts else "~g", tickCount=6),
    )
    y = alt.Y(
        "quality:Q", title=quality, scale=alt.Scale(zero=False, nice=False, padding=24), axis=alt.Axis(tickCount=6)
    )
    colours, shapes = (
        alt.Scale(domain=list(FRONT), range=values) for values in ([ACCENT, QUIET], ["diamond", "circle"])
    )
    legend = alt.Legend(orient="top", title=None)
    points = alt.Chart().mark_point(size=80, filled=True, opacity=1)
    points = points.encode(
        x=x,
        y=y,
        tooltip=tips,
        color=alt.Color("front:N", scale=colours, legend=legend),
        shape=alt.Shape("front:N", scale=shapes, legend=legend),
    )
    dx, dy, align = (alt.ExprRef(f"datum.{name}") for name in ("dx", "dy", "align"))
    labels = alt.Chart().mark_text(baseline="middle", font=FONT, fontSize=11, limit=170, dx=dx, dy=dy, align=align)
    ink = alt.condition(alt.datum.front == FRONT[0], alt.value(FG), alt.value(QUIET))
    labels = labels.encode(x=x, y=y, text="shown:N", color=ink).transform_filter("datum.shown !== ''")
    below_axis = alt.TitleParams(
        text=alt.ExprRef("axis") if len(costs) > 1 else costs[0],
        orient="bottom",
        anchor="middle",
        fontSize=12,
        fontWeight="normal",
        font=FONT,
        color=FG,
    )
    chart = alt.layer(points, labels, data=pd.DataFrame(rows))
    chart = chart.properties(width=WIDTH, height=TALL, title=below_axis)
    if len(costs) > 1:
        chart = chart.add_params(pick).transform_filter("datum.axis === axis")
    signs = ", ".join(
        f"{head} ({'higher' if up else 'lower'} is better)"
        for head, up in zip(heads, front.higher_is_better, strict=True)
    )
    several = len(costs) > 1
    first = f"First shown: {costs[0]}. " if several else ""
    flat = " The plot shows one cost at a time, so a diamond may look beaten in it." if several else ""
    on_front = ", ".join(line[0] for line, point in zip(table.lines, front.points, strict=True) if point.on_front)
    return finish(
        f"front-{index}",
        chart,
        table.title,
        f"{first}{signs}. A diamond is on the front: no other point is as good in every objective "
        f"and better in one. Grey points are beaten; the numbers say by which.{flat}{_unnamed(rows)}",
        f"{quality} against {' and '.join(costs)}. On the front: {on_front}.",
        table,
    )


def _places(front: Front, objective: int, names: Sequence[str]) -> list[Place | None]:
    """Return where the names of the points stand in the plot of one cost, as narrow as on a phone."""
    across = _pixels([point.values[objective] for point in front.points], NARROW, 30)
    up = _pixels([point.values[0] for point in front.points], TALL, 24)
    return places([(x, TALL - y, name) for x, y, name in zip(across, up, names, strict=True)], NARROW)


def _pixels(values: Sequence[float], length: float, padding: float) -> list[float]:
    low, high = min(values), max(values)
    return [padding + (value - low) / ((high - low) or 1.0) * (length - 2 * padding) for value in values]


def _unnamed(rows: Sequence[dict[str, Any]]) -> str:
    return "" if all(row["shown"] for row in rows) else " Where points crowd, some have no name here."


def front_sentence(front: Front) -> str | None:
    """Return a front of two points in words; None if a plot shows it."""
    if len(front.objectives) < 2 or not 0 < len(front.points) < FEWEST_POINTS:
        return None
    table = report_tables.front_table(front)
    heads = table.heads[1 : 1 + len(front.objectives)]
    said = []
    for line in table.lines:
        values = ", ".join(f"{head} {value}" for head, value in zip(heads, line[1:], strict=False))
        said.append(f"{line[0]} ({values}) is {line[-1]}")
    return f"{table.title}: {'; '.join(said)}."


def _field(head: str) -> str:
    """Return a column name that Vega does not read as a path."""
    return "shown_" + "".join(letter if letter.isalnum() else "_" for letter in head)
