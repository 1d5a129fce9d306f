"""Plots of the raw tables: denoising by noise level, training loss, latency.

They show single values, and means over seeds.
"""

from __future__ import annotations

from collections.abc import Collection

import altair as alt
import pandas as pd

from ablate.report import plot_data
from ablate.report.render.number_text import change, number
from ablate.report.render.text_table import TextTable
from ablate.report.render.vega import ACCENT, FG, QUIET, ROW, WIDTH, Plot, below, finish, panel_width, panels
from ablate.store.tables import to_records

HEIGHT = 90  # pixels of a small panel


def denoising(frame: pd.DataFrame, runs: plot_data.Runs, against: str | None, *, latent: bool = False) -> Plot | None:
    """Plot one-step denoising by noise level as the difference to `against`, a panel per variant.

    Args:
        frame: The table `denoising`.
        runs: The runs that are compared.
        against: The variant that the others are compared with.
        latent: Whether any of them works on latents.
    """
    rows = plot_data.denoising(frame, runs, against)
    if rows.empty:
        return None
    plotted, field = rows[(rows["variant"] != against) & rows["difference"].notna()], "difference"
    if plotted.empty:  # nothing to compare with: plot the values
        plotted, field = rows, "value"
    measures = list(dict.fromkeys(plotted["measure"]))
    pick = alt.param(name="measure", value=measures[0], bind=alt.binding_select(options=measures, name="Measure: "))
    base = alt.Chart().encode(x=alt.X("t:Q", title="t (0 noise, 1 clean)", axis=alt.Axis(values=[0.1, 0.5, 0.9])))
    seeds = base.mark_line(color=ACCENT, strokeWidth=1, opacity=0.35).encode(y=f"{field}:Q", detail="seed:N")
    points = alt.OverlayMarkDef(size=22, color=ACCENT)
    mean = base.mark_line(color=ACCENT, strokeWidth=2, point=points).encode(
        y=alt.Y(f"mean({field}):Q", title=field, scale=alt.Scale(zero=field == "difference")),
        tooltip=["variant:N", "t:Q", alt.Tooltip(f"mean({field}):Q", title=field, format=".3g")],
    )
    zero = [alt.Chart().mark_rule(color=FG, strokeDash=[3, 3]).encode(y=alt.datum(0))] if field == "difference" else []
    lower = " and ".join(name for name in measures if name != "psnr_db")
    better = ["psnr_db: higher is better."] if "psnr_db" in measures else []
    better += [f"{lower}: lower is better."] if lower else []
    better += ["Variants in latent space add noise to latents instead of pixels."] if latent else []
    minus = f"minus {against}" if field == "difference" else ""
    heads = ("variant", "measure", "t", "value", *([minus] if minus else []))
    means = rows.groupby(["variant", "measure", "t"], sort=False)[["value", "difference"]].mean().reset_index()
    lines = []
    for row in to_records(means):
        line = (row["variant"], row["measure"], f"{row['t']:.1f}", number(row["value"]), change(row["difference"]))
        lines.append(line[: len(heads)])
    return finish(
        "denoising",
        panels(alt.layer(*zero, seeds, mean), plotted, height=HEIGHT)
        .add_params(pick)
        .transform_filter("datum.measure === measure"),
        "Denoising in one step, by noise level",
        f"First shown: {measures[0]}. Each panel is one variant {minus}, on the same held-out images with the same "
        f"noise: a thin line per seed, a thick one for their mean. {' '.join(better)}",
        "One small panel per variant: one-step denoising at t = 0.1 to 0.9. The table has the numbers.",
        TextTable("Denoising", heads, tuple(lines), (0, 1)),
        panel=panel_width(plotted),
        stretches=True,
    )


def curves(frame: pd.DataFrame, runs: plot_data.Runs, against: str | None) -> Plot | None:
    """Plot the training loss of every variant, a panel each, with that of `against` behind it."""
    rows = plot_data.curves(frame, runs)
    if rows.empty:
        return None
    theirs = rows[rows["variant"] == against]
    names = [name for name in dict.fromkeys(rows["variant"]) if name != against]
    kinds = ["the variant", str(against)] if len(theirs) and names else ["the variant"]
    beside = f": each variant, and {against} beside it" if kinds[1:] else ""
    names = names or list(dict.fromkeys(rows["variant"]))
    parts = [rows[rows["variant"] == name].assign(line=kinds[0]) for name in names]
    parts += [theirs.assign(variant=name, line=kinds[1]) for name in names if kinds[1:]]
    plotted = pd.concat(parts)
    plotted = plotted.sort_values("variant", key=lambda labels: labels.map(names.index), kind="stable")
    colour = alt.Color("line:N", scale=alt.Scale(domain=kinds, range=[ACCENT, QUIET][: len(kinds)]), legend=below())
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=kinds, range=[[1, 0], [4, 3]][: len(kinds)]), legend=below())
    line = alt.Chart().mark_line(strokeWidth=1.8)
    line = line.encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=3)),
        y=alt.Y("loss:Q", title="loss", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(tickCount=4)),
        color=colour,
        strokeDash=dash,
        tooltip=["line:N", "step:Q", alt.Tooltip("loss:Q", format=".3g")],
    )
    last = rows.groupby("variant", sort=False).tail(1)
    lines = tuple((row["variant"], f"{row['step']:,.0f}", number(row["loss"])) for row in to_records(last))
    return finish(
        "curves",
        panels(line, plotted, height=HEIGHT),
        "Training loss",
        f"Means over seeds and over ranges of steps{beside}. Variants with another prediction, space or loss term have "
        "losses in other units: compare their shapes, not their heights.",
        "One small panel per variant: its training loss by step. The table has the last values.",
        TextTable("Training loss", ("variant", "last step", "loss there"), lines, (0,)),
        panel=panel_width(plotted),
        stretches=True,
    )


def latency(frame: pd.DataFrame, runs: plot_data.Runs, comparable: Collection[str]) -> Plot | None:
    """Plot the time of one network evaluation: a tick per call, a point for their median.

    Args:
        frame: The table `latency`.
        runs: The runs that are compared.
        comparable: Labels whose times come from one machine.
    """
    rows, origin = plot_data.latency(frame, runs, comparable)
    if rows.empty:
        return None
    batches, order = sorted({int(batch) for batch in rows["batch"]}), list(dict.fromkeys(rows["name"]))
    pick = alt.param(name="batch", value=batches[0], bind=alt.binding_select(options=batches, name="Batch size: "))
    base = alt.Chart(rows).encode(y=alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=320)))
    x = alt.X("latency_ms:Q", title="ms per network evaluation", scale=alt.Scale(zero=False))
    ticks = base.mark_tick(color=ACCENT, opacity=0.45, thickness=1.5, height=ROW * 0.6).encode(x=x)
    tip = alt.Tooltip("median(latency_ms):Q", title="median, ms", format=".4g")
    median = base.mark_point(filled=True, size=70, color=FG, opacity=1)
    median = median.encode(x="median(latency_ms):Q", tooltip=[alt.Tooltip("name:N", title="variant"), tip])
    chart = alt.layer(ticks, median).properties(width=WIDTH, height=ROW * len(order)).add_params(pick)
    summary = rows.groupby(["name", "batch"], sort=False)["latency_ms"].agg(["min", "median", "max"]).reset_index()
    lines = tuple(
        (row["name"], str(row["batch"]), number(row["min"]), number(row["median"]), number(row["max"]))
        for row in to_records(summary)
    )
    return finish(
        "latency",
        chart.transform_filter("datum.batch === batch"),
        "Time of one network evaluation",
        f"First shown: batch {batches[0]}. Ticks are single calls, evenly chosen from the fastest to the slowest. "
        f"The point is their median. {origin}",
        "Time of one network evaluation by variant. The table has the fastest, the median and the slowest call.",
        TextTable("Latency", ("variant", "batch", "fastest, ms", "median, ms", "slowest, ms"), lines, (0,)),
    )
