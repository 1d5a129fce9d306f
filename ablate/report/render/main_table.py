"""The table that a paper would print first, the sentences above it, and the reasons of its verdicts.

Rows that differ from the baseline come first, undecided ones last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ablate.base.text import join_and
from ablate.report.findings import Comparison, Findings, Metric, Value, VariantRow
from ablate.report.render import report_tables
from ablate.report.render.number_text import decimals_of, interval, quantity, rounded, signed
from ablate.report.variant_rows import COST_HEADS

COSTS = ("latency_image_ms", "latency_step_ms", "params")  # the time that is known first, and the size
MOST_NAMES = 8  # in one sentence
WORDS = {"hurts": "worse than {}", "helps": "better than {}", "same": "the same as {} within the margin"}


@dataclass(frozen=True)
class Cell:
    """A number, its interval, and the verdict on it if it is a difference."""

    text: str
    span: str = ""
    verdict: str | None = None


@dataclass(frozen=True)
class Row:
    """One variant: a cell for each head after the first."""

    label: str
    about: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows under one heading; the baseline has none."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class MainTable:
    """The table: groups of rows under common heads."""

    heads: tuple[str, ...]
    groups: tuple[Group, ...]
    legend: str


def main_table(findings: Findings) -> MainTable | None:
    """Return means with intervals, differences with verdicts, seeds, time and size; None if there is no row."""
    if not findings.rows:
        return None
    against = findings.compared.against
    judged = {(one.label, one.metric): one for one in findings.comparisons}
    costs = _costs(findings.rows)
    arrows = {metric.name: "↑" if metric.higher_is_better else "↓" for metric in findings.metrics}
    heads = ["variant"]
    for metric in findings.metrics:
        heads += [f"{report_tables.heading(metric)}\N{NO-BREAK SPACE}{arrows[metric.name]}"]
        heads += [f"{metric.name} vs {against}"] if judged else []
    groups = []
    for title, rows in _groups(findings, judged):
        lines = tuple(Row(row.label, row.about, _cells(findings, row, judged, costs)) for row in rows)
        groups.append(Group(title, lines))
    spread = any(row.values[metric.name].low is not None for row in findings.rows for metric in findings.metrics)
    legend = f"{' '.join(f'{arrow}: {_better(arrow)} is better.' for arrow in sorted(set(arrows.values())))}"
    legend += " ±: half of the 95 % interval of the mean." if spread else ""
    legend += " In brackets: the 95 % interval of the difference, seed by seed." if judged else ""
    legend += f" {' and '.join(COST_HEADS[cost] for cost in costs)}: medians over seeds." if costs else ""
    return MainTable((*heads, "seeds", *(COST_HEADS[cost] for cost in costs)), tuple(groups), legend)


def _better(arrow: str) -> str:
    return "higher" if arrow == "↑" else "lower"


def _costs(rows: Iterable[VariantRow]) -> list[str]:
    """Choose a column of time and one of size that at least one run recorded."""
    known = [cost for cost in COSTS if any(row.costs[cost] is not None for row in rows)]
    return [cost for cost in known if cost != "latency_step_ms" or "latency_image_ms" not in known]


def _groups(findings: Findings, judged: dict[tuple[str, str], Comparison]) -> list[tuple[str, list[VariantRow]]]:
    """Return the rows in groups with their titles; in each, the largest difference in the first metric first."""
    against = findings.compared.against
    if not judged:
        return [("", list(findings.rows))]
    first = findings.metrics[0].name
    titles = {
        "": "",
        "differ": f"Differ from {against}",
        "same": f"The same as {against} within the margin",
        "undecided": "Undecided",
        "rest": "Not judged",
    }
    groups: dict[str, list[VariantRow]] = {key: [] for key in titles}
    for row in findings.rows:
        words = {judged[row.label, name].verdict for name in row.values if (row.label, name) in judged}
        decided = "differ" if words & {"helps", "hurts"} else "same" if "same" in words else "undecided"
        groups["" if row.label == against else decided if words else "rest"].append(row)

    def order(row: VariantRow) -> tuple[bool, float]:
        one = judged.get((row.label, first))
        return one is None or one.verdict == "undecided", -abs((one and one.mean) or 0.0)

    return [
        (f"{titles[key]}: {len(rows):,}" if key else "", sorted(rows, key=order) if key else rows)
        for key, rows in groups.items()
        if rows
    ]


def _cells(
    findings: Findings, row: VariantRow, judged: dict[tuple[str, str], Comparison], costs: list[str]
) -> tuple[Cell, ...]:
    cells = []
    for metric in findings.metrics:
        cells.append(_mean(row.values[metric.name], findings, metric))
        if judged:
            cells.append(_difference(judged.get((row.label, metric.name)), findings))
    pairs = [judged[row.label, name].n for name in row.values if (row.label, name) in judged]
    cells.append(Cell(report_tables.seeds(max(pairs, default=len(row.seeds)), row)))
    return (*cells, *(Cell(quantity(cost, row.costs[cost])) for cost in costs))


def _mean(value: Value, findings: Findings, metric: Metric) -> Cell:
    decimals = decimals_of([row.values[metric.name].mean for row in findings.rows])
    if value.low is None or value.high is None:
        return Cell(rounded(value.mean, decimals))
    return Cell(rounded(value.mean, decimals), f"± {rounded((value.high - value.low) / 2, decimals)}")


def _difference(one: Comparison | None, findings: Findings) -> Cell:
    if one is None:
        return Cell("")
    decimals = report_tables.difference_decimals(findings, one.metric)
    span = "" if one.low is None else interval(one.low, one.high, decimals)
    return Cell(signed(one.mean, decimals), span, one.verdict)


def headlines(findings: Findings) -> list[str]:
    """Return a sentence for each metric by which a verdict is decided; if there is none, what was judged and how."""
    against = findings.compared.against
    lines, silent = [], []
    for metric in findings.metrics:
        mine = [one for one in findings.comparisons if one.metric == metric.name]
        mine.sort(key=lambda one: -abs(one.mean or 0.0))
        said = []
        for verdict, words in WORDS.items():
            labels = [one.label for one in mine if one.verdict == verdict]
            if labels:
                said.append(f"{names(labels)} {'is' if len(labels) == 1 else 'are'} {words.format(against)}")
        if not said:
            silent.append(metric.name)
            continue
        open_ = sum(one.verdict == "undecided" for one in mine)
        rest = f"; {open_:,} of {len(mine):,} changes {'is' if open_ == 1 else 'are'} undecided" if open_ else ""
        lines.append(f"By {metric.name}, {' and '.join(said)}{rest}.")
    if not lines:
        return [report_tables.lead(findings)]
    return [*lines, f"By {names(silent)}, nothing is decided."] if silent else lines


def names(labels: list[str]) -> str:
    """Return labels as a list in words: at most `MOST_NAMES` of them."""
    shown = labels if len(labels) <= MOST_NAMES else [*labels[: MOST_NAMES - 1], f"{len(labels) - MOST_NAMES + 1} more"]
    return join_and(shown)


def reasons(findings: Findings) -> list[tuple[str, str, str, str]]:
    """Return label, metric and verdict of each comparison, and its reason with the seeds that an undecided one needs.

    They are in the order of the table.
    """
    judged = {(one.label, one.metric): one for one in findings.comparisons}
    if not judged:
        return []
    lines: list[tuple[str, str, str, str]] = []
    for _, rows in _groups(findings, judged):
        for row in rows:
            mine = [judged[row.label, metric.name] for metric in findings.metrics if (row.label, metric.name) in judged]
            lines += [(row.label, one.metric, one.verdict, f"{one.why}{_needed(one)}") for one in mine]
    return lines


def _needed(one: Comparison) -> str:
    if one.verdict != "undecided" or one.seeds_needed is None or one.seeds_needed <= one.n:
        return ""
    basis = "this many comparisons need at least" if one.low is None else "by the spread seen, that needs"
    return f"; {basis} {one.seeds_needed:,} seeds"
