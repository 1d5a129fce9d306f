"""The plots of a page, as Vega-Lite by Altair: one specification gives the drawing that stands without scripts and the one that moves.

Colours are CSS variables of the page, so that one drawing fits a light and a dark page; marks differ in shape too, where colour tells something.
Nothing is judged here: intervals and verdicts come from the findings. What is drawn of raw tables are means over seeds, and the values themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from ablate.report import series
from ablate.report.findings import Comparison, Findings, Front, Metric
from ablate.report.text import number, signed

WIDTH = 640  # of the drawing without scripts; with them a plot is as wide as its place
ROW = 24  # pixels of a variant's row
PANEL = 150  # width of one of many small panels
PANELS = 4  # beside each other, without scripts
VERDICTS = ["helps", "undecided", "hurts"]
VERDICT_COLOURS = alt.Scale(domain=VERDICTS, range=[f"var(--{name})" for name in VERDICTS])
VERDICT_SHAPES = alt.Scale(domain=VERDICTS, range=["triangle-left", "circle", "triangle-right"])
FONT = "system-ui, sans-serif"


@dataclass(frozen=True)
class Plot:
    """A plot with the words and numbers beside it. `table` holds the numbers drawn, heads first."""

    name: str  # letters, digits and hyphens: the element's id
    title: str
    how: str  # to read it
    alt: str  # what one sees, for those who do not
    svg: str
    spec: str  # JSON
    table: tuple[tuple[str, ...], ...]
    panel: int = 0  # width of one panel where there are many


def intervals(findings: Findings, metric: Metric) -> Plot | None:
    """Draw the difference of every variant to what it is compared with, by one metric; None where there is none."""
    found = [one for one in findings.comparisons if one.metric == metric.name and one.mean is not None]
    if not found:
        return None
    found.sort(key=lambda one: (one.mean or 0.0) * (-1 if metric.higher_is_better else 1))
    frame = pd.DataFrame([_interval(one) for one in found])
    against = findings.compared.against or "the baseline"
    better = "higher" if metric.higher_is_better else "lower"
    y = alt.Y("variant:N", sort=frame["variant"].tolist(), title=None, axis=alt.Axis(labelLimit=220))
    legend = alt.Legend(orient="bottom", title="the change")
    colour = alt.Color("verdict:N", scale=VERDICT_COLOURS, legend=legend)
    shape = alt.Shape("verdict:N", scale=VERDICT_SHAPES, legend=legend)
    tips = [alt.Tooltip(name, type="nominal") for name in ("variant", "difference", "interval", "verdict", "seeds")]
    base = alt.Chart(frame).encode(y=y, tooltip=tips)
    title = f"{metric.name}: difference to {against} ({better} is better)"
    drawn = alt.layer(
        alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color="var(--fg)", strokeDash=[3, 3]).encode(x="x:Q"),
        base.mark_rule(strokeWidth=3, opacity=0.55).encode(x=alt.X("low:Q", title=title), x2="high:Q", color=colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(x="mean:Q", color=colour, shape=shape),
    ).properties(width=WIDTH, height=ROW * len(frame))
    rows = [(one.variant, one.difference, one.interval, one.p, one.verdict, one.seeds) for one in frame.itertuples()]
    heads = ("variant", f"difference in {metric.name}", "95 % interval", "p (Holm)", "verdict", "seeds")
    told = "; ".join(f"{one.label} {signed(one.mean)}, {one.verdict}" for one in found)
    return _plot(
        f"intervals-{metric.name}",
        f"{metric.name}: what each change does",
        f"Each line is one change to {against}: the mean of its paired differences over seeds, and the 95 % interval. {metric.about[:1].upper()}{metric.about[1:]}; "
        f"{better} is better. A line that meets the dashed one may be no difference at all.",
        f"Differences to {against} in {metric.name}: {told}.",
        drawn,
        [heads, *rows],
    )


def _interval(one: Comparison) -> dict[str, Any]:
    bounds = "one seed: none" if one.low is None or one.high is None else f"{signed(one.low)} to {signed(one.high)}"
    return {
        "variant": one.label,
        "mean": one.mean,
        "low": one.mean if one.low is None else one.low,
        "high": one.mean if one.high is None else one.high,
        "difference": signed(one.mean),
        "interval": bounds,
        "p": "-" if one.p_holm is None else number(one.p_holm),
        "verdict": one.verdict,
        "seeds": str(one.n),
    }


def front(found: Front, index: int) -> Plot | None:
    """Draw what may be traded: quality upward or downward, the first cost sideways; further costs stand in the table."""
    if len(found.objectives) < 2 or not found.points:
        return None
    names = found.objectives
    frame = pd.DataFrame(
        [
            {
                "name": f"{point.label} {point.scheme}" if point.scheme else point.label,
                "quality": point.values[0],
                "cost": point.values[1],
                "front": "on the front" if point.on_front else "beaten",
                "beaten by": point.dominated_by or "",
                "share": "-" if point.share is None else f"{100 * point.share:.0f} %",
                **{f"v{i}": number(value) for i, value in enumerate(point.values)},
            }
            for point in found.points
        ]
    )
    tips = [alt.Tooltip("name:N", title="variant")]
    tips += [alt.Tooltip(f"v{i}:N", title=name) for i, name in enumerate(names)]
    tips += [alt.Tooltip("beaten by:N"), alt.Tooltip("share:N", title="on the front in resamples")]
    kinds = ["on the front", "beaten"]
    base = alt.Chart(frame).encode(
        x=alt.X("cost:Q", title=names[1], scale=alt.Scale(zero=False, padding=30)),
        y=alt.Y("quality:Q", title=names[0], scale=alt.Scale(zero=False, padding=14)),
        tooltip=tips,
    )
    points = base.mark_point(size=80, filled=True, opacity=1).encode(
        color=alt.Color(
            "front:N", scale=alt.Scale(domain=kinds, range=["var(--accent)", "var(--undecided)"]), legend=_legend()
        ),
        shape=alt.Shape("front:N", scale=alt.Scale(domain=kinds, range=["diamond", "circle"]), legend=_legend()),
    )
    labels = base.mark_text(align="left", dx=8, dy=-5, color="var(--fg)", font=FONT).encode(text="name:N")
    drawn = alt.layer(points, labels.transform_filter(alt.datum.front == kinds[0])).properties(width=WIDTH, height=320)
    rows = [
        (one["name"], *(one[f"v{i}"] for i in range(len(names))), one["front"], one["beaten by"] or "-", one["share"])
        for one in frame.to_dict("records")
    ]
    on = [one["name"] for one in frame.to_dict("records") if one["front"] == kinds[0]]
    signs = [
        f"{name} ({'higher' if up else 'lower'} is better)"
        for name, up in zip(names, found.higher_is_better, strict=True)
    ]
    return _plot(
        f"front-{index}",
        found.title,
        f"Objectives: {', '.join(signs)}. A diamond is on the front: no other is as good in all of them and better in one. "
        + (
            "With more than two objectives a diamond may look beaten in this plane; the table has them all."
            if len(names) > 2
            else ""
        ),
        f"{found.title}: on the front are {', '.join(on)}.",
        drawn,
        [("variant", *names, "front", "beaten by", "share of resamples"), *rows],
    )


def denoising(frame: pd.DataFrame, runs: series.Runs, against: str | None) -> Plot | None:
    """Draw one-step denoising by noise level, a panel per variant, as the difference to what it is compared with."""
    found = series.denoising(frame, runs, against)
    if found.empty:
        return None
    means = found.groupby(["variant", "measure", "t"], sort=False)[["value", "difference"]].mean().reset_index()
    rows = [
        (one.variant, one.measure, f"{one.t:.1f}", number(one.value), signed(one.difference))
        for one in means.itertuples()
    ]
    drawn_of = found[(found["variant"] != against) & found["difference"].notna()]
    field = "difference"
    if drawn_of.empty:  # nothing to compare with: the values themselves
        drawn_of, field = found, "value"
    measures = list(dict.fromkeys(drawn_of["measure"]))
    pick = alt.param(name="measure", value=measures[0], bind=alt.binding_select(options=measures, name="Measure: "))
    base = alt.Chart().encode(x=alt.X("t:Q", title="t (0 noise, 1 clean)", axis=alt.Axis(values=[0.1, 0.5, 0.9])))
    seeds = base.mark_line(color="var(--accent)", strokeWidth=1, opacity=0.35).encode(y=f"{field}:Q", detail="seed:N")
    points = alt.OverlayMarkDef(size=22, color="var(--accent)")
    mean = base.mark_line(color="var(--accent)", strokeWidth=2, point=points).encode(
        y=alt.Y(f"mean({field}):Q", title=field, scale=alt.Scale(zero=field == "difference")),
        tooltip=["variant:N", "t:Q", alt.Tooltip(f"mean({field}):Q", title=field, format=".3g")],
    )
    zero = alt.Chart().mark_rule(color="var(--fg)", strokeDash=[3, 3]).encode(y=alt.datum(0))
    layers = alt.layer(*([zero] if field == "difference" else []), seeds, mean)
    drawn = _panels(layers, drawn_of, height=90).add_params(pick).transform_filter("datum.measure === measure")
    return _plot(
        "denoising",
        "Denoising in one step, by noise level",
        f"Each panel is one variant{f' minus {against}' if field == 'difference' else ''}, on the same held-out pictures with the same noise; a thin line per seed, a thick one for "
        "their mean. psnr_db: higher is better; pd and lpips: lower is better. In latent space the noise is that of latents, not the same.",
        "One small panel per variant: one-step denoising at t = 0.1 to 0.9. The numbers are in the table below.",
        drawn,
        [("variant", "measure", "t", "value", f"difference to {against}"), *rows],
        panel=_panel(drawn_of),
    )


def curves(frame: pd.DataFrame, runs: series.Runs, against: str | None) -> Plot | None:
    """Draw the training loss of every variant, a panel each, with that of what it is compared with behind it."""
    found = series.curves(frame, runs)
    if found.empty:
        return None
    kinds = ["the variant", f"{against or 'none'}"]
    theirs = found[found["variant"] == against]
    shown = [name for name in dict.fromkeys(found["variant"]) if name != against or found["variant"].nunique() == 1]
    panels = [found[found["variant"] == name].assign(line=kinds[0]) for name in shown]
    panels += [theirs.assign(variant=name, line=kinds[1]) for name in shown if name != against]
    drawn_of = pd.concat(panels).sort_values("variant", key=lambda names: names.map(shown.index), kind="stable")
    line = (
        alt.Chart()
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=3)),
            y=alt.Y("loss:Q", title="loss", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(tickCount=4)),
            color=alt.Color(
                "line:N", scale=alt.Scale(domain=kinds, range=["var(--accent)", "var(--undecided)"]), legend=_legend()
            ),
            strokeDash=alt.StrokeDash(
                "line:N", scale=alt.Scale(domain=kinds, range=[[1, 0], [4, 3]]), legend=_legend()
            ),
            tooltip=["line:N", "step:Q", alt.Tooltip("loss:Q", format=".3g")],
        )
    )
    last = found.groupby("variant", sort=False).tail(1)
    rows = [(one.variant, f"{one.step:,.0f}", number(one.loss)) for one in last.itertuples()]
    return _plot(
        "curves",
        "Training loss",
        f"Means over seeds and over stretches of the training: each variant, and behind it {against}. Losses of other predictions, spaces or loss terms "
        "have other units: their shape may be read, not their height.",
        "One small panel per variant: its training loss over steps. Where each ends is in the table below.",
        _panels(line, drawn_of, height=90),
        [("variant", "last step", "loss there"), *rows],
        panel=_panel(drawn_of),
    )


def latency(frame: pd.DataFrame, runs: series.Runs) -> Plot | None:
    """Draw how long one network evaluation takes: single calls as ticks, their median as a point."""
    found, where = series.latency(frame, runs)
    if found.empty:
        return None
    batches = sorted(set(found["batch"]))
    pick = alt.param(name="batch", value=batches[0], bind=alt.binding_select(options=batches, name="Batch size: "))
    order = list(dict.fromkeys(found["name"]))
    base = alt.Chart(found).encode(y=alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=220)))
    x = alt.X("latency_ms:Q", title="ms for one network evaluation of the batch", scale=alt.Scale(zero=False))
    ticks = base.mark_tick(color="var(--accent)", opacity=0.45, thickness=1.5, height=ROW * 0.6).encode(x=x)
    middle = base.mark_point(filled=True, size=70, color="var(--fg)", opacity=1).encode(
        x="median(latency_ms):Q",
        tooltip=[
            alt.Tooltip("name:N", title="variant"),
            alt.Tooltip("median(latency_ms):Q", title="median, ms", format=".4g"),
        ],
    )
    drawn = alt.layer(ticks, middle).properties(width=WIDTH, height=ROW * len(order))
    stats = (
        found.groupby(["name", "batch"], sort=False)["latency_ms"].agg(["count", "min", "median", "max"]).reset_index()
    )
    rows = [
        (one.name, str(one.batch), number(one.min), number(one.median), number(one.max))
        for one in stats.itertuples(index=False)
    ]
    return _plot(
        "latency",
        "Time of one network evaluation",
        f"Ticks are single calls, evenly picked from the fastest to the slowest; the point is their median. {where}",
        "Distribution of the time of one network evaluation by variant; the table below has the fastest, the median and the slowest.",
        drawn.add_params(pick).transform_filter("datum.batch === batch"),
        [("variant", "batch", "fastest, ms", "median, ms", "slowest, ms"), *rows],
    )


def sensitivity(findings: Findings) -> Plot | None:
    """Draw how far each number format moves the pictures, by what is quantised."""
    found = findings.quantized
    kept = [row for row in found.rows if row.psnr_db is not None] if found is not None else []
    if not kept:
        return None
    frame = pd.DataFrame(
        [
            {
                "variant": row.label,
                "scheme": row.scheme,
                "scope": row.scope,
                "psnr_db": row.psnr_db,
                "shown": f"{row.psnr_db:.0f}",
                "pd": "-" if row.pd is None else number(row.pd),
                "simulated": "yes" if row.simulated else "no",
            }
            for row in kept
        ]
    )
    scopes, schemes = list(dict.fromkeys(frame["scope"])), list(dict.fromkeys(frame["scheme"]))
    variants = list(dict.fromkeys(frame["variant"]))
    base = alt.Chart().encode(
        x=alt.X("scope:N", sort=scopes, title=None, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("variant:N", sort=variants, title=None, axis=alt.Axis(labelLimit=160)),
    )
    middle = float(frame["psnr_db"].min() + frame["psnr_db"].max()) / 2
    cells = base.mark_rect(stroke="var(--bg)", strokeWidth=2).encode(
        color=alt.Color(
            "psnr_db:Q",
            scale=alt.Scale(scheme="viridis"),
            title="PSNR, dB",
            legend=alt.Legend(orient="bottom", gradientLength=180),
        ),
        tooltip=["variant:N", "scheme:N", "scope:N", alt.Tooltip("psnr_db:Q", format=".1f"), "pd:N", "simulated:N"],
    )
    text = base.mark_text(font=FONT, fontSize=11).encode(
        text="shown:N", color=alt.condition(f"datum.psnr_db > {middle}", alt.value("#111"), alt.value("#fff"))
    )
    panel = 34 * len(scopes)
    drawn = (
        alt.layer(cells, text, data=frame)
        .properties(width=panel, height=ROW * len(variants))
        .facet(facet=alt.Facet("scheme:N", sort=schemes, title=None), columns=max(1, (WIDTH - 60) // (panel + 110)))
    )
    rows = [
        (one.variant, one.scheme, one.scope, f"{one.psnr_db:.1f}", one.pd, one.simulated) for one in frame.itertuples()
    ]
    worst = min(kept, key=lambda row: row.psnr_db or math.inf)
    return _plot(
        "sensitivity",
        "Number formats: what each part tolerates",
        "PSNR in dB of samples against those of the float32 graph from the same noise: the higher, the nearer. kpn: all but the drift network; a module's name: that one alone.",
        f"Heat map of PSNR by variant, number format and what is quantised. The lowest is {worst.label} in {worst.scheme}, {worst.scope}: {worst.psnr_db:.1f} dB.",
        drawn,
        [("variant", "scheme", "scope", "PSNR, dB", "pd", "simulated"), *rows],
        panel=panel + 110,
    )


def _legend() -> alt.Legend:
    return alt.Legend(orient="bottom", title=None)


def _panels(inner: alt.Chart | alt.LayerChart, frame: pd.DataFrame, *, height: int) -> alt.FacetChart:
    """One small panel per variant, in the order of the frame."""
    order = list(dict.fromkeys(frame["variant"]))
    head = alt.Header(
        labelColor="var(--fg)", labelFont=FONT, labelFontSize=12, labelLimit=_panel(frame), labelFontWeight="bold"
    )
    inner = inner.properties(width=_panel(frame) - 20, height=height)
    inner.data = frame
    return inner.facet(facet=alt.Facet("variant:N", sort=order, title=None, header=head), columns=PANELS)


def _panel(frame: pd.DataFrame) -> int:
    """Width of one panel in pixels: few are wider."""
    return max(PANEL, min(300, (WIDTH - 60) // frame["variant"].nunique()))


def _plot(
    name: str,
    title: str,
    how: str,
    told: str,
    chart: alt.TopLevelMixin,
    table: Sequence[tuple[str, ...]],
    *,
    panel: int = 0,
) -> Plot:
    """Draw it, and keep the specification for the page's script."""
    spec = chart.to_dict()
    axis = {
        "labelColor": "var(--fg)",
        "titleColor": "var(--fg)",
        "gridColor": "var(--grid)",
        "domainColor": "var(--muted)",
        "tickColor": "var(--muted)",
        "labelFont": FONT,
        "titleFont": FONT,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    legend = {name: axis[name] for name in ("labelColor", "titleColor", "labelFont", "titleFont", "labelFontSize")}
    spec["background"] = None
    spec["description"] = told
    spec["config"] = {"axis": axis, "legend": legend, "view": {"stroke": "var(--grid)"}, "header": {"labelFont": FONT}}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=".".join(alt.SCHEMA_VERSION.split(".")[:2]))
    text = json.dumps(spec).replace("<", "\\u003c")  # it will stand in a script element
    return Plot(name, title, how, told, svg, text, tuple(table), panel)
