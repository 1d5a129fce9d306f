"""The table of quality and costs: means over seeds, and their differences."""

from __future__ import annotations

from ablate.report.findings import Findings
from ablate.report.render.number_text import decimals_of, mean_sd, quantity
from ablate.report.render.report_tables import heading
from ablate.report.render.text_table import TextTable
from ablate.report.variant_rows import COST_HEADS, count


def quality_table(findings: Findings, plus_minus: str, *, narrow: bool = False) -> TextTable:
    """Return quality and costs: variant, axis, seeds, each metric with its difference, the costs.

    Axes and costs that no run recorded have no column.

    Args:
        findings: The findings.
        plus_minus: Text between a mean and its standard deviation.
        narrow: Whether to break names into lines.
    """
    names = [metric.name for metric in findings.metrics]
    against = findings.compared.against or "baseline"
    metrics = [f"{name}{suffix}" for name in names for suffix in ("", f"\nvs {against}")]
    costs = [cost for cost in COST_HEADS if any(row.costs[cost] is not None for row in findings.rows)]
    axes = ["axis"] if any(row.axis for row in findings.rows) else []
    heads = ("variant", *axes, "seeds", *metrics, *(COST_HEADS[cost].replace("train ", "train\n") for cost in costs))
    decimals = {name: decimals_of([row.values[name].mean for row in findings.rows]) for name in names}
    lines = []
    for row in findings.rows:
        variant, axis = row.label, row.axis or "-"
        if narrow:
            variant, axis = variant.replace("+", "+\n"), axis.replace("+", "+\n").replace(" ", "\n")
        line = [
            variant,
            *([axis] if axes else []),
            f"{len(row.seeds)}" if len(row.seeds) == row.runs else f"{len(row.seeds)}/{row.runs}",
        ]
        for name in names:
            line.append(mean_sd(row.values[name], decimals[name], plus_minus))
            differences = row.differences
            line.append(
                "" if differences is None else mean_sd(differences[name], decimals[name], plus_minus, sign=True)
            )
        lines.append((*line, *(quantity(cost, row.costs[cost]) for cost in costs)))
    legend = _quality_legend(findings, plus_minus.strip())
    if costs:
        step = [COST_HEADS[cost] for cost in ("macs", "latency_step_ms") if cost in costs]
        text = "Costs: medians over seeds."
        text += f" {', '.join(step)}: one network evaluation." if step else ""
        text += " ms/image: nfe evaluations." if "latency_image_ms" in costs else ""
        legend.append(text)
    title = "Quality and costs" if costs else "Quality"
    return TextTable(title, heads, tuple(lines), tuple(range(1 + len(axes))), tuple(legend))


def _quality_legend(findings: Findings, plus_minus: str) -> list[str]:
    lower = "" if any(metric.higher_is_better for metric in findings.metrics) else "Lower is better. "
    against = findings.compared.against or "baseline"
    lines = [f"{lower}Mean {plus_minus} sd over seeds. vs {against}: the same of the differences seed by seed."]
    for metric in findings.metrics:
        line = f"{heading(metric)}: {metric.about}"
        if not lower:
            line += f", {'higher' if metric.higher_is_better else 'lower'} is better"
        if metric.n is not None:
            line += f", N = {count(metric.n)} samples against {count(metric.ref_n)} real images"
        if metric.floor is not None:
            where = "" if metric.floor_n == metric.n else f" at N = {count(metric.floor_n)}"
            line += f"; real against real{where}: {metric.floor:.4g}"
        if metric.warning is not None:
            line += f"; {metric.warning}"
        lines.append(line + ".")
    lines.append(f"Metrics: {findings.compared.why_headline}.")
    return lines
