"""The plots of the findings: intervals, trade-offs, sensitivity to number formats. Nothing is computed here."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from ablate.report.findings import VERDICTS, Comparison, Findings, Front, Metric
from ablate.report.render import report_tables
from ablate.report.render.report_tables import FRONT_HEADS
from ablate.report.render.vega import ACCENT, FG, FONT, QUIET, ROW, WIDTH, Plot, below, finish

COLOURS = alt.Scale(domain=list(VERDICTS), range=[f"var(--{name})" for name in VERDICTS])
SHAPES = alt.Scale(domain=list(VERDICTS), range=["triangle-left", "triangle-right", "circle"])
FRONT = ("on the front", "beaten")


def intervals(findings: Findings, metric: Metric) -> Plot | None:
    """Draw the difference of every variant to what it is compared with, by one metric; None where there is none."""
    found = [one for one in findings.comparisons if one.metric == metric.name and one.mean is not None]
    if not found:
        return None
    found.sort(key=lambda one: (one.mean or 0.0) * (-1 if metric.higher_is_better else 1))
    decimals = report_tables.difference_decimals(findings, metric.name)
    frame = pd.DataFrame([_interval(one, decimals) for one in found])
    against, better = findings.compared.against, "higher" if metric.higher_is_better else "lower"
    y = alt.Y("variant:N", sort=frame["variant"].tolist(), title=None, axis=alt.Axis(labelLimit=220))
    colour = alt.Color("verdict:N", scale=COLOURS, legend=below("the change"))
    shape = alt.Shape("verdict:N", scale=SHAPES, legend=below("the change"))
    tips = [alt.Tooltip(f"{name}:N") for name in ("variant", "difference", "interval", "verdict", "seeds")]
    base = alt.Chart(frame).encode(y=y, tooltip=tips)
    x = alt.X("low:Q", title=f"difference in {metric.name} ({better} is better)")
    drawn = alt.layer(
        alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=FG, strokeDash=[3, 3]).encode(x="x:Q"),
        base.mark_rule(strokeWidth=3, opacity=0.55).encode(x=x, x2="high:Q", color=colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(x="mean:Q", color=colour, shape=shape),
    ).properties(width=WIDTH, height=ROW * len(frame))
    told = "; ".join(f"{one.label} {report_tables.signed(one.mean, decimals)}, {one.verdict}" for one in found)
    return finish(
        f"intervals-{metric.name}",
        drawn,
        f"{metric.name}: what each change does",
        f"Each line is one change to {against}: the mean of its paired differences over seeds, and their 95 % interval, not corrected for "
        f"how many there are. {metric.about[:1].upper()}{metric.about[1:]}; {better} is better. "
        "A line across the dashed one may be no difference at all.",
        f"Differences to {against} in {metric.name}: {told}.",
        next(sheet for sheet in report_tables.verdict_sheets(findings) if sheet.title.startswith(f"{metric.name},")),
    )


def _interval(one: Comparison, decimals: int) -> dict[str, Any]:
    return {
        "variant": one.label,
        "mean": one.mean,
        "low": one.mean if one.low is None else one.low,
        "high": one.mean if one.high is None else one.high,
        "difference": report_tables.signed(one.mean, decimals),
        "interval": report_tables.interval(one.low, one.high, decimals),
        "verdict": one.verdict,
        "seeds": report_tables.seeds(one),
    }


def front(found: Front, index: int, sheet: report_tables.Sheet) -> Plot | None:
    """Draw what may be traded: quality upward or downward, a cost sideways, which where there are several the reader chooses."""
    if len(found.objectives) < 2 or not found.points:
        return None
    heads = [FRONT_HEADS.get(name, name) for name in found.objectives]
    quality, costs = heads[0], heads[1:]
    rows = []
    for point, line in zip(found.points, sheet.lines, strict=True):
        shared = {"name": line[0], "quality": point.values[0], "front": FRONT[0] if point.on_front else FRONT[1]}
        shared |= {"told": line[-1]} | dict(zip(heads, line[1:], strict=False))
        rows += [shared | {"axis": cost, "cost": value} for cost, value in zip(costs, point.values[1:], strict=True)]
    pick = alt.param(name="axis", value=costs[0], bind=alt.binding_select(options=costs, name="Cost: "))
    tips = [alt.Tooltip("name:N", title="variant")]
    tips += [alt.Tooltip(f"{_field(head)}:N", title=head) for head in heads] + [alt.Tooltip("told:N", title="front")]
    amounts = any(name in report_tables.COUNTS for name in found.objectives[1:])
    x = alt.X(
        "cost:Q",
        title=" or ".join(costs),
        scale=alt.Scale(zero=False, padding=30),
        axis=alt.Axis(format="~s" if amounts else "~g", tickCount=6),
    )
    y = alt.Y("quality:Q", title=quality, scale=alt.Scale(zero=False, padding=14))
    colour, shape = [ACCENT, QUIET], ["diamond", "circle"]
    points = alt.Chart().mark_point(size=80, filled=True, opacity=1)
    points = points.encode(
        x=x,
        y=y,
        tooltip=tips,
        color=alt.Color("front:N", scale=alt.Scale(domain=list(FRONT), range=colour), legend=below()),
        shape=alt.Shape("front:N", scale=alt.Scale(domain=list(FRONT), range=shape), legend=below()),
    )
    names = alt.Chart().mark_text(align="left", dx=8, dy=-5, color=FG, font=FONT, limit=140)
    names = names.encode(x=x, y=y, text="name:N").transform_filter(alt.datum.front == FRONT[0])
    frame = pd.DataFrame(rows).rename(columns={head: _field(head) for head in heads})
    drawn = alt.layer(points, names, data=frame).properties(width=WIDTH, height=320)
    if len(costs) > 1:
        drawn = drawn.add_params(pick).transform_filter("datum.axis === axis")
    signs = ", ".join(
        f"{head} ({'higher' if up else 'lower'} is better)"
        for head, up in zip(heads, found.higher_is_better, strict=True)
    )
    first = f"Drawn at first: {costs[0]}. " if len(costs) > 1 else ""
    on = ", ".join(line[0] for point, line in zip(found.points, sheet.lines, strict=True) if point.on_front)
    flat = " Of more than two objectives the plot shows two: a diamond may look beaten here." if len(costs) > 1 else ""
    return finish(
        f"front-{index}",
        drawn,
        sheet.title,
        f"{first}{signs}. A diamond is on the front: nothing else is as good everywhere and better somewhere.{flat}",
        f"{sheet.title}: on the front are {on}.",
        sheet,
    )


def _field(head: str) -> str:
    """A column's name that Vega does not read as a path."""
    return "shown_" + "".join(letter if letter.isalnum() else "_" for letter in head)


def sensitivity(findings: Findings) -> Plot | None:
    """Draw how far each number format moves the pictures, by what is quantised."""
    sheet, found = report_tables.format_sheet(findings), findings.quantized
    kept = [row for row in found.rows if row.psnr_db is not None] if found is not None else []
    if not kept or sheet is None:
        return None
    columns = ("variant", "scheme", "scope", "psnr_db", "simulated")
    frame = pd.DataFrame(
        [(row.label, row.scheme, row.scope, row.psnr_db, "yes" if row.simulated else "no") for row in kept],
        columns=columns,
    )
    scopes, schemes = list(dict.fromkeys(frame["scope"])), list(dict.fromkeys(frame["scheme"]))
    variants = list(dict.fromkeys(frame["variant"]))
    base = alt.Chart().encode(
        x=alt.X("scope:N", sort=scopes, title=None, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("variant:N", sort=variants, title=None, axis=alt.Axis(labelLimit=160)),
    )
    legend = alt.Legend(orient="bottom", gradientLength=180)
    cells = base.mark_rect(stroke="var(--panel)", strokeWidth=2).encode(
        color=alt.Color("psnr_db:Q", scale=alt.Scale(scheme="viridis"), title="PSNR, dB", legend=legend),
        tooltip=["variant:N", "scheme:N", "scope:N", alt.Tooltip("psnr_db:Q", format=".1f"), "simulated:N"],
    )
    middle = float(frame["psnr_db"].min() + frame["psnr_db"].max()) / 2  # viridis is light above it
    ink = alt.condition(f"datum.psnr_db > {middle}", alt.value("#111"), alt.value("#fff"))
    text = base.mark_text(font=FONT, fontSize=11).encode(text=alt.Text("psnr_db:Q", format=".0f"), color=ink)
    panel = 34 * len(scopes)
    drawn = alt.layer(cells, text, data=frame).properties(width=panel, height=ROW * len(variants))
    facet = alt.Facet("scheme:N", sort=schemes, title=None)
    worst = min(kept, key=lambda row: math.inf if row.psnr_db is None else row.psnr_db)
    return finish(
        "sensitivity",
        drawn.facet(facet=facet, columns=max(1, (WIDTH - 60) // (panel + 110))),
        "What each part tolerates",
        "PSNR in dB of samples against those of the float32 graph from the same noise: the higher, the nearer. kpn: all but the drift "
        "network; a module's name: that one alone.",
        f"Heat map of PSNR by variant, number format and what is quantised. The lowest is {worst.label} in {worst.scheme}, {worst.scope}: "
        f"{worst.psnr_db:.1f} dB.",
        sheet,
        panel=panel + 110,
    )
