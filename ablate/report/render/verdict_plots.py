"""Plots of the findings: differences with their intervals, e-values, number formats, tuning, curves.

They show numbers of the findings and compute none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import pandas as pd

from ablate.report.findings import VERDICTS, Comparison, Curve, Findings, Metric, Value
from ablate.report.render import curve_tables, report_tables
from ablate.report.render.label_places import apart
from ablate.report.render.number_text import interval, signed
from ablate.report.render.text_table import TextTable
from ablate.report.render.vega import FG, FONT, ROW, WIDTH, Plot, below, finish

SHAPES = ["triangle-left", "triangle-right", "square", "circle"]  # of helps, hurts, same and undecided
NAMES = 120  # pixels at the right of a plot for the names of its lines
FEWEST_CELLS = 5  # of a heat map


def differences(findings: Findings, metric: Metric) -> Plot | None:
    """Plot the difference of every variant in one metric with its interval; None if there is none."""
    mine = [one for one in findings.comparisons if one.metric == metric.name and one.mean is not None]
    if not mine:
        return None
    mine.sort(key=lambda one: (one.mean or 0.0) * (-1 if metric.higher_is_better else 1))
    decimals = report_tables.difference_decimals(findings, metric.name)
    rows = {row.label: row for row in findings.rows}
    frame = pd.DataFrame([_difference(one, decimals, report_tables.seeds(one.n, rows[one.label])) for one in mine])
    against, better = findings.compared.against, "higher" if metric.higher_is_better else "lower"
    y = alt.Y("variant:N", sort=frame["variant"].tolist(), title=None, axis=alt.Axis(labelLimit=220))
    legend = below("the change")
    colour = alt.Color("verdict:N", scale=_colours(mine), legend=legend)
    swapped = [SHAPES[1], SHAPES[0], *SHAPES[2:]] if metric.higher_is_better else SHAPES  # towards the better side
    shapes = dict(zip(VERDICTS, swapped, strict=True))
    there = _colours(mine).domain
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=there, range=[shapes[v] for v in there]), legend=legend)
    tips = [
        alt.Tooltip(f"{name}:N") for name in ("variant", "difference", "interval", "for all tests", "verdict", "seeds")
    ]
    base = alt.Chart(frame).encode(y=y, tooltip=tips)
    title = f"difference in {report_tables.heading(metric)} ({better} is better)"
    scale = alt.Scale(domain=_domain(frame), nice=False)
    axis = alt.Axis(tickCount=6, labelOverlap=True)
    x, x_all = (alt.X(f"{name}:Q", title=title, scale=scale, axis=axis) for name in ("low", "all_low"))
    chart = alt.layer(
        alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=FG, strokeDash=[3, 3]).encode(x="x:Q"),
        base.mark_rule(strokeWidth=1, opacity=0.8, clip=True).encode(x=x_all, x2="all_high:Q", color=colour),
        base.mark_rule(strokeWidth=4, opacity=0.55, clip=True).encode(x=x, x2="high:Q", color=colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(x="mean:Q", color=colour, shape=shape),
    ).properties(width=WIDTH, height=ROW * len(frame))
    listed = "; ".join(f"{one.label} {signed(one.mean, decimals)}, {one.verdict}" for one in mine)
    table = report_tables.verdict_tables(findings)[findings.metrics.index(metric)]
    return finish(
        f"differences-{_id(findings, metric)}",
        chart,
        f"{metric.name}: the effect of each change",
        f"Each line is one change to {against}: the mean of its paired differences over seeds, thick their 95 % "
        "interval, thin the interval that holds for all tests together. "
        f"{metric.about[:1].upper()}{metric.about[1:]}; {better} is better. "
        "The verdicts come from the tests: a thin line may cross the dashed one where the test decides. "
        "A line that reaches the edge goes on beyond it.",
        f"Differences to {against} in {metric.name}: {listed}.",
        replace(table, legend=tuple(report_tables.explanation(findings)[2:4])),
    )


def _colours(comparisons: Sequence[Comparison]) -> alt.Scale:
    """Return the colours of the verdicts that are there, in their usual order."""
    there = [verdict for verdict in VERDICTS if any(one.verdict == verdict for one in comparisons)]
    return alt.Scale(domain=there, range=[f"var(--{verdict})" for verdict in there])


def _domain(frame: pd.DataFrame) -> list[float]:
    """Return what the axis of differences shows: 0, the means, and the intervals unless they are far wider."""
    means = [0.0, *frame["mean"]]
    size = max(means) - min(means)
    size = size or float((frame["high"] - frame["low"]).max()) or 1.0
    low = max(min(0.0, frame["low"].min()), min(means) - 2 * size)
    high = min(max(0.0, frame["high"].max()), max(means) + 2 * size)
    more = 0.25 * (high - low)
    ends = max(low - more, min(low, frame["all_low"].min())), min(high + more, max(high, frame["all_high"].max()))
    edge = 0.03 * (ends[1] - ends[0])
    return [ends[0] - edge, ends[1] + edge]


def _id(findings: Findings, metric: Metric) -> str:
    """Return a metric's name in the id of an HTML element; a recorded one may have any letters."""
    return f"{findings.metrics.index(metric)}" if metric.recorded else metric.name


def _difference(one: Comparison, decimals: int, seeds: str) -> dict[str, Any]:
    return {
        "variant": one.label,
        "mean": one.mean,
        "low": one.mean if one.low is None else one.low,
        "high": one.mean if one.high is None else one.high,
        "difference": signed(one.mean, decimals),
        "interval": interval(one.low, one.high, decimals),
        "verdict": one.verdict,
        "all_low": one.mean if one.all_low is None else one.all_low,
        "all_high": one.mean if one.all_high is None else one.all_high,
        "for all tests": interval(one.all_low, one.all_high, decimals),
        "seeds": seeds,
    }


def e_values(findings: Findings, metric: Metric) -> Plot | None:
    """Plot the evidence after each seed of a grown study; None for a planned one."""
    mine = [one for one in findings.comparisons if one.metric == metric.name and one.e_by_seed]
    if not mine:
        return None
    points = [
        {"variant": one.label, "verdict": one.verdict, "seeds": i + 1, "seed": seed, "e": float(f"{e:.4g}")}
        for one in mine
        for i, (seed, e) in enumerate(zip(one.e_seeds or (), one.e_by_seed or (), strict=True))
    ]
    decided, most = 1 / findings.compared.alpha, max(len(one.e_by_seed or ()) for one in mine)
    seen = [max(float(str(point["e"])), 1e-6) for point in points]
    low, high = math.log10(0.8 * min(1.0, *seen)), math.log10(1.5 * max(decided, *seen))
    height = max(240, 13 * len(mine))
    last = [(math.log10(max((one.e_by_seed or (1.0,))[-1], 1e-6)) - low) / (high - low) * height for one in mine]
    names = []  # from the end of a line to its name, at the right
    for one, place in zip(mine, apart(last, 13, height), strict=True):
        ends = (
            (len(one.e_by_seed or ()), (one.e_by_seed or (1.0,))[-1]),
            (most, 10 ** (low + place / height * (high - low))),
        )
        names += [{"variant": one.label, "verdict": one.verdict, "seeds": at, "e": max(e, 1e-6)} for at, e in ends]
    powers = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    ticks = sorted([*powers[:: 1 + len(powers) // 8], decided])
    scale = alt.Scale(type="log", domain=[10**low, 10**high], nice=False)
    y = alt.Y("e:Q", scale=scale, title="e", axis=alt.Axis(format="~g", values=ticks, labelOverlap=True))
    axis = alt.Axis(values=list(range(1, most + 1, 1 + most // 16)), format="d")
    x = alt.X("seeds:Q", title="seeds", axis=axis, scale=alt.Scale(domain=[1, max(2, most)], nice=False))
    colour = alt.Color("verdict:N", scale=_colours(mine), legend=below("the change"))
    tips = [alt.Tooltip("variant:N"), alt.Tooltip("seeds:Q"), alt.Tooltip("seed:Q"), alt.Tooltip("e:Q", format=".3g")]
    lines = alt.Chart(pd.DataFrame(points)).encode(x=x, y=y, color=colour, detail="variant:N", tooltip=tips)
    ended = alt.Chart(pd.DataFrame(names)).encode(x=x, y=y, color=colour, detail="variant:N")
    labels = alt.Chart(pd.DataFrame(names[1::2])).mark_text(
        align="left", dx=6, font=FONT, fontSize=11, limit=NAMES - 10
    )
    rule = alt.Chart(pd.DataFrame({"e": [decided]})).mark_rule(color=FG, strokeDash=[3, 3]).encode(y=y)
    chart = alt.layer(
        rule,
        ended.mark_line(strokeWidth=1, strokeDash=[1, 3]),
        lines.mark_line(),
        labels.encode(x=x, y=y, text="variant:N", color=colour),
    ).properties(width=WIDTH - NAMES, height=height)
    listed = "; ".join(f"{one.label} {(one.e_by_seed or (1.0,))[-1]:.3g}" for one in mine)
    table = TextTable(
        f"Evidence on {metric.name} by seed",
        ("variant", "e after each seed"),
        tuple((one.label, ", ".join(f"{e:.3g}" for e in one.e_by_seed or ())) for one in mine),
        (0, 1),
    )
    tests = findings.compared.tests
    corrected = f" The verdict corrects it for {tests} tests, so a line above {decided:g} may be undecided."
    corrected = corrected if tests > 1 else ""
    return finish(
        f"e-values-{_id(findings, metric)}",
        chart,
        f"{metric.name}: the evidence seed by seed",
        "Each line is one change: its e-value after each seed, in the order of the seeds. Without any difference it "
        f"reaches {decided:g} (dashed) with a probability of at most {findings.compared.alpha:g}, however often one "
        f"looks.{corrected}",
        f"e-values after the last seed, {metric.name}: {listed}.",
        table,
    )


def sensitivity(findings: Findings) -> Plot | None:
    """Plot how far each number format moves the samples, by the module group that is quantised.

    None if there are so few cells that the table says it all.
    """
    table = report_tables.format_table(findings)
    rows = [row for row in findings.quantized.rows if row.psnr_db is not None] if findings.quantized else []
    if len(rows) < FEWEST_CELLS or table is None:
        return None
    columns = ("variant", "scheme", "scope", "psnr_db", "simulated")
    frame = pd.DataFrame(
        [(row.label, row.scheme, row.scope, row.psnr_db, "yes" if row.simulated else "no") for row in rows],
        columns=columns,
    )
    variants, schemes, scopes = (list(dict.fromkeys(frame[name])) for name in columns[:3])
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
    chart = alt.layer(cells, text, data=frame).properties(width=panel, height=ROW * len(variants))
    facet = alt.Facet("scheme:N", sort=schemes, title=None)
    worst = min(rows, key=lambda row: row.psnr_db or 0.0)
    return finish(
        "sensitivity",
        chart.facet(facet=facet, columns=max(1, (WIDTH - 60) // (panel + 110))),
        "What each module group tolerates",
        "PSNR in dB of samples against those of the float32 graph from the same noise: higher is closer. "
        f"{_scopes(scopes)}",
        "Heat map of PSNR by variant, number format and what is quantised. The lowest is "
        f"{worst.label} in {worst.scheme}, {worst.scope}: {worst.psnr_db:.1f} dB.",
        table,
        panel=panel + 110,
    )


def _scopes(scopes: Sequence[str]) -> str:
    whole = {"kpn": "kpn: all but the drift network is quantised.", "all": "all: the whole network is quantised."}
    said = [text for scope, text in whole.items() if scope in scopes]
    return " ".join([*said, "Another name: only that module group is."] if len(scopes) > len(said) else said)


def tuning(findings: Findings) -> Plot | None:
    """Plot the score of every setting that was tried, a line per variant, the chosen one marked."""
    found, table = findings.tuning, curve_tables.tuning_table(findings)
    if found is None or table is None:
        return None
    points = [
        {"variant": one.label, "setting": setting, "score": score, "chosen": "chosen" if at else "tried"}
        | {"value": _numeric(setting)}
        for one in found.variants
        for setting, score, at in zip(one.settings, one.scores, [s == one.choice for s in one.settings], strict=True)
        if score is not None
    ]
    if not points:
        return None
    frame, key = pd.DataFrame(points), " and ".join(found.keys)
    values = frame["value"]
    numeric = bool(values.notna().all())
    logarithmic = values.min() > 0 and values.max() >= 4 * values.min()
    scale = alt.Scale(type="log" if logarithmic else "linear", zero=False, nice=False)
    order = list(dict.fromkeys(frame["setting"]))
    ticks = alt.Axis(values=sorted({*values.dropna()}), format="~g")
    x = alt.X("value:Q", title=key, scale=scale, axis=ticks) if numeric else alt.X("setting:N", title=key, sort=order)
    base = alt.Chart(frame).encode(
        x=x,
        y=alt.Y("score:Q", title=found.metric, scale=alt.Scale(zero=False)),
        color=alt.Color("variant:N", scale=alt.Scale(scheme="tableau20"), legend=below()),
        tooltip=["variant:N", "setting:N", alt.Tooltip("score:Q", format=".4g"), "chosen:N"],
    )
    marks = base.mark_point(filled=True, opacity=1).encode(
        size=alt.Size("chosen:N", scale=alt.Scale(domain=["chosen", "tried"], range=[140, 30]), legend=None)
    )
    better = "higher" if found.higher_is_better else "lower"
    choices = "; ".join(f"{one.label} {one.choice or 'its own'}" for one in found.variants)
    return finish(
        "tuning",
        alt.layer(base.mark_line(), marks).properties(width=WIDTH, height=240),
        f"Each variant at its own best {key}",
        f"The mean {found.metric} ({better} is better) of every value that was tried, on seeds that are not judged. "
        "The large point is the value that the study uses. A large point at an end of its line asks for more values.",
        f"Chosen: {choices}.",
        table,
    )


def _numeric(setting: str) -> float | None:
    """Return the number of one setting, as in `train.lr=0.0003`; None for a word or for several settings."""
    try:
        return float(setting.partition("=")[2])
    except ValueError:
        return None


def curve(found: Curve) -> Plot:
    """Plot the mean of every variant over a budget, and below it the paired differences with their intervals."""
    rows = [
        {"variant": line.label, "x": point.x, "mean": point.value.mean, "seeds": point.value.n}
        | ({} if point.difference is None else _interval(point.difference))
        for line in found.lines
        for point in line.points
    ]
    frame = pd.DataFrame(rows).reindex(columns=["variant", "x", "mean", "seeds", "difference", "low", "high"])
    values = sorted({*frame["x"]})
    axis = alt.Axis(values=values, format="d")
    x = alt.X("x:Q", title=found.over, scale=alt.Scale(type="log", nice=False), axis=axis)
    legend = alt.Legend(orient="bottom", title=None, columns=5, symbolType="stroke", symbolOpacity=1)
    colour = alt.Color("variant:N", scale=alt.Scale(scheme="tableau20"), legend=legend, sort=None)
    numbers = [alt.Tooltip(f"{name}:Q", format=".4g") for name in ("mean", "difference", "low", "high")]
    tips = [alt.Tooltip("variant:N"), alt.Tooltip("x:Q"), *numbers, alt.Tooltip("seeds:Q")]
    base = alt.Chart(frame).encode(x=x, color=colour, tooltip=tips)
    points = alt.OverlayMarkDef(filled=True, size=40)
    y = alt.Y("mean:Q", title=found.metric, scale=alt.Scale(zero=False))
    parts: list[Any] = [base.mark_line(point=points).encode(y=y).properties(width=WIDTH, height=200)]
    compared = frame[frame["difference"].notna()]
    if len(compared):
        # Two seeds have enormous intervals: their ends are cut, not the differences.
        most = max(0.0, compared["difference"].max()), min(0.0, compared["difference"].min())
        margin = 1.5 * (most[0] - most[1])
        scale = alt.Scale(domain=[most[1] - margin, most[0] + margin], nice=False)
        paired = alt.Chart(compared).encode(x=x, color=colour, tooltip=tips)
        y = alt.Y("difference:Q", title=f"difference to {found.against}", scale=scale)
        layers = alt.layer(
            alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color=FG, strokeDash=[3, 3]).encode(y="y:Q"),
            paired.mark_rule(strokeWidth=2, opacity=0.5, clip=True).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
            paired.mark_line(point=points).encode(y=y),
        )
        parts.append(layers.properties(width=WIDTH, height=200))
    better = "higher" if found.higher_is_better else "lower"
    ends = ((line.label, line.points[0].value.mean, line.points[-1].value.mean) for line in found.lines)
    last = "; ".join(f"{label} {first:.4g} to {end:.4g}" for label, first, end in ends)
    return finish(
        f"curve-{found.kind}-{found.metric}",
        alt.vconcat(*parts),
        f"{found.metric} over {found.over}",
        f"Above, means over seeds; {better} is better. Below, the paired differences to {found.against} with their "
        "95 % intervals: a line that crosses the dashed one is a ranking that turns round. Nothing is judged by these "
        "points, and each interval is of one difference alone.",
        f"{found.metric} from {values[0]:,} to {values[-1]:,} {found.over}: {last}.",
        curve_tables.curve_table(found),
    )


def _interval(value: Value) -> dict[str, float | None]:
    low, high = (value.mean if end is None else end for end in (value.low, value.high))
    return {"difference": value.mean, "low": low, "high": high}
