"""The plan of a study as terminal text: `ablate plan`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from ablate.base.text import duration, plural, printable
from ablate.report.plan_preview import MetricPower, PlanPreview
from ablate.report.render.number_text import number
from ablate.report.render.text_table import TextTable, to_rich


def render(plan: PlanPreview) -> RenderableType:
    """Return the plan, and a table of the differences that it can detect."""
    return Group(
        *map(Text, _head(plan)), Text(""), Text(_question(plan), style="bold"), to_rich(_table(plan)), *_foot(plan)
    )


def _head(plan: PlanPreview) -> list[str]:
    recorded = "not recorded yet (--record does it, or the first run)"
    if plan.recorded_at is not None:
        recorded = f"recorded {plan.recorded_at[:16].replace('T', ' ')} UTC"
    budget = "steps" if plan.budget == "steps" else "training MACs"
    others = len(plan.variants) - 1
    to_run = [run for run in plan.runs if not run.finished]
    known = [run.wall_s for run in to_run if run.wall_s is not None]
    time = duration(sum(known) if len(known) == len(to_run) else None)
    more = plan.tests - others * len(plan.metrics)
    claims = f", {plural(more, 'claim')} on others" if more else ""
    lines = [
        f"plan {plan.plan_id}: {recorded}",
        f"preset {plan.preset}, data {printable(plan.data)} ({plan.data_digest[:8]}), equal {budget}",
        f"variants: {', '.join(plan.variants)}",
        f"seeds: {ranges(plan.seeds)}",
        f"judged by: {', '.join(plan.metrics)}",
        f"tests: {plan.tests} ({plural(others, 'variant')} x {len(plan.metrics)} metrics{claims}); at most "
        f"{100 * plan.level:g} % of studies make a false claim",
        f"runs: {len(plan.runs)}, {len(plan.runs) - len(to_run)} finished, {len(to_run)} to run"
        + (f": {time}" if to_run else ""),
    ]
    finished = [
        f"{name} {ranges(seeds)}"
        for name in plan.variants
        if (seeds := [run.seed for run in plan.runs if run.variant == name and run.finished])
    ]
    if finished:
        lines.append(f"finished: {'; '.join(finished)}")
    if plan.of_other_plans:
        runs = f"{plural(plan.of_other_plans, 'finished run')} {'is' if plan.of_other_plans == 1 else 'are'}"
        lines.append(f"note: {runs} of another plan or none, so a report judges this study as grown")
    return lines


def _question(plan: PlanPreview) -> str:
    return f"Smallest true difference that is detected with a probability of {100 * plan.power:g} %"


def _table(plan: PlanPreview) -> TextTable:
    heads = ("metric", "variant", "sd", "from", *(f"{n} seeds" for n in plan.power_seeds))
    own = {one.metric for one in plan.metric_power if one.variant is not None}
    lines = [
        (
            one.metric,
            one.variant or ("others" if one.metric in own else "all"),
            number(one.sd),
            one.sd_from,
            *_cells(one, plan.effects),
        )
        for one in plan.metric_power
    ]
    lines.append(("time", "", "", "", *map(duration, plan.wall_s)))
    return TextTable("", heads, tuple(lines), left=(0, 1, 3))


def _cells(one: MetricPower, effects: Sequence[float | None]) -> list[str]:
    cells = []
    for effect, difference in zip(effects, one.detectable, strict=True):
        in_sds = "nothing" if effect is None else f"{effect:.1f} sd"
        cells.append(in_sds if difference is None else number(difference))
    return cells


def _foot(plan: PlanPreview) -> list[Text]:
    return [
        Text(""),
        Text(
            f"sd: of the paired differences, from runs in this folder; --sd {plan.metrics[0]}=NUMBER sets it. "
            "time: of all runs, one after another."
        ),
        Text(plan.how),
    ]


def ranges(seeds: Sequence[int]) -> str:
    """Return seeds as they are written on the command line: `0-4,7`."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
