"""The plots of the raw tables: denoising by noise level, training loss, latency. What is drawn are single values and means over seeds."""

from __future__ import annotations

import altair as alt
import pandas as pd

from ablate.report import plot_data
from ablate.report.render.number_text import number, signed
from ablate.report.render.report_tables import Sheet
from ablate.report.render.vega import ACCENT, FG, QUIET, ROW, WIDTH, Plot, below, finish, panel_width, panels, records

HEIGHT = 90  # pixels of a small panel


def denoising(frame: pd.DataFrame, runs: plot_data.Runs, against: str | None) -> Plot | None:
    """Draw one-step denoising by noise level, a panel per variant, as the difference to what it is compared with."""
    found = plot_data.denoising(frame, runs, against)
    if found.empty:
        return None
    shown, field = found[(found["variant"] != against) & found["difference"].notna()], "difference"
    if shown.empty:  # nothing to compare with: the values themselves
        shown, field = found, "value"
    measures = list(dict.fromkeys(shown["measure"]))
    pick = alt.param(name="measure", value=measures[0], bind=alt.binding_select(options=measures, name="Measure: "))
    base = alt.Chart().encode(x=alt.X("t:Q", title="t (0 noise, 1 clean)", axis=alt.Axis(values=[0.1, 0.5, 0.9])))
    seeds = base.mark_line(color=ACCENT, strokeWidth=1, opacity=0.35).encode(y=f"{field}:Q", detail="seed:N")
    points = alt.OverlayMarkDef(size=22, color=ACCENT)
    mean = base.mark_line(color=ACCENT, strokeWidth=2, point=points).encode(
        y=alt.Y(f"mean({field}):Q", title=field, scale=alt.Scale(zero=field == "difference")),
        tooltip=["variant:N", "t:Q", alt.Tooltip(f"mean({field}):Q", title=field, format=".3g")],
    )
    zero = [alt.Chart().mark_rule(color=FG, strokeDash=[3, 3]).encode(y=alt.datum(0))] if field == "difference" else []
    drawn = panels(alt.layer(*zero, seeds, mean), shown, height=HEIGHT)
    heads = ("variant", "measure", "t", "value", *([f"minus {against}"] if field == "difference" else []))
    means = found.groupby(["variant", "measure", "t"], sort=False)[["value", "difference"]].mean().reset_index()
    lines = tuple(
        (row["variant"], row["measure"], f"{row['t']:.1f}", number(row["value"]), signed(row["difference"]))[
            : len(heads)
        ]
        for row in records(means)
    )
    minus = f" minus {against}" if field == "difference" else ""
    return finish(
        "denoising",
        drawn.add_params(pick).transform_filter("datum.measure === measure"),
        "Denoising in one step, by noise level",
        f"Drawn at first: {measures[0]}. Each panel is one variant{minus}, on the same held-out pictures with the same noise: a thin line "
        "per seed, a thick one for their mean. psnr_db: higher is better; pd and lpips: lower is better. In latent space noise is added to "
        "latents, so it is not the same.",
        "One small panel per variant: one-step denoising at t = 0.1 to 0.9. The numbers are in the table below.",
        Sheet("Denoising", heads, lines, (0, 1)),
        panel=panel_width(shown),
        stretches=True,
    )


def curves(frame: pd.DataFrame, runs: plot_data.Runs, against: str | None) -> Plot | None:
    """Draw the training loss of every variant, a panel each, with that of what it is compared with behind it."""
    found = plot_data.curves(frame, runs)
    if found.empty:
        return None
    theirs = found[found["variant"] == against]
    names = [name for name in dict.fromkeys(found["variant"]) if name != against]
    kinds = ["the variant", str(against)] if len(theirs) and names else ["the variant"]
    beside = f": each variant, and {against} beside it" if kinds[1:] else ""
    names = names or list(dict.fromkeys(found["variant"]))
    parts = [found[found["variant"] == name].assign(line=kinds[0]) for name in names]
    parts += [theirs.assign(variant=name, line=kinds[1]) for name in names if kinds[1:]]
    shown = pd.concat(parts)
    shown = shown.sort_values("variant", key=lambda labels: labels.map(names.index), kind="stable")
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
    last = found.groupby("variant", sort=False).tail(1)
    lines = tuple((row["variant"], f"{row['step']:,.0f}", number(row["loss"])) for row in records(last))
    return finish(
        "curves",
        panels(line, shown, height=HEIGHT),
        "Training loss",
        f"Means over seeds and over stretches of the training{beside}. Losses of other predictions, spaces "
        "or loss terms have other units: their shape may be read, not their height.",
        "One small panel per variant: its training loss over steps. Where each ends is in the table below.",
        Sheet("Training loss", ("variant", "last step", "loss there"), lines, (0,)),
        panel=panel_width(shown),
        stretches=True,
    )


def latency(frame: pd.DataFrame, runs: plot_data.Runs) -> Plot | None:
    """Draw how long one network evaluation takes: single calls as ticks, their median as a point."""
    found, where = plot_data.latency(frame, runs)
    if found.empty:
        return None
    batches, order = sorted({int(batch) for batch in found["batch"]}), list(dict.fromkeys(found["name"]))
    pick = alt.param(name="batch", value=batches[0], bind=alt.binding_select(options=batches, name="Batch size: "))
    base = alt.Chart(found).encode(y=alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=320)))
    x = alt.X("latency_ms:Q", title="ms per network evaluation", scale=alt.Scale(zero=False))
    ticks = base.mark_tick(color=ACCENT, opacity=0.45, thickness=1.5, height=ROW * 0.6).encode(x=x)
    tip = alt.Tooltip("median(latency_ms):Q", title="median, ms", format=".4g")
    middle = base.mark_point(filled=True, size=70, color=FG, opacity=1)
    middle = middle.encode(x="median(latency_ms):Q", tooltip=[alt.Tooltip("name:N", title="variant"), tip])
    drawn = alt.layer(ticks, middle).properties(width=WIDTH, height=ROW * len(order)).add_params(pick)
    spread = found.groupby(["name", "batch"], sort=False)["latency_ms"].agg(["min", "median", "max"]).reset_index()
    lines = tuple(
        (row["name"], str(row["batch"]), number(row["min"]), number(row["median"]), number(row["max"]))
        for row in records(spread)
    )
    return finish(
        "latency",
        drawn.transform_filter("datum.batch === batch"),
        "Time of one network evaluation",
        f"Drawn at first: batch {batches[0]}. "
        f"Ticks are single calls, evenly picked from the fastest to the slowest; the point is their median. {where}",
        "Times of one network evaluation by variant; the table below has the fastest, the median and the slowest.",
        Sheet("Latency", ("variant", "batch", "fastest, ms", "median, ms", "slowest, ms"), lines, (0,)),
    )
