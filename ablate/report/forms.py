"""The report as text: a terminal's tables, JSON and Markdown. Every number was computed by `ablate.report.tables.build`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ablate.report import quantized
from ablate.report.tables import COSTS, Group, Report, Value, count

COUNTS = ("params", "macs", "train_macs")
EMPTY = "No runs yet: start some with `ablate run`."


def to_json(report: Report) -> str:
    """Return the report as one strict JSON document (no NaN)."""
    return json.dumps(asdict(report), indent=2, allow_nan=False)


def to_markdown(report: Report) -> str:
    """Return the report as Markdown: a heading, a table and its legend per group."""
    parts = [] if report.groups else [EMPTY]
    for group in report.groups:
        head, *rows = _cells(group, " ± ")
        lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *rows]
        parts.append(f"## {_escape(_title(group))}")
        parts.append("\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines))
        parts.append("\n".join(f"- {_escape(line)}" for line in (*_legend(group, "±"), *group.notes)))
        if group.quantized is not None:
            head, *rows = quantized.cells(group.quantized)
            lines = [head, [*["---"] * 3, *["---:"] * (len(head) - 3)], *rows]
            parts.append("\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines))
            parts.append("\n".join(f"- {_escape(line)}" for line in quantized.legend(group.quantized)))
    return "\n\n".join(parts) + "\n"


def render_rich(report: Report) -> RenderableType:
    """Return what `rich` prints: one table per group where it is wide enough, else one of quality and one of costs."""
    return _Rendered(report)


@dataclass(frozen=True)
class _Rendered:
    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sign = "+-" if options.ascii_only else "±"
        if not self.report.groups:
            yield Text(EMPTY)
        for group in self.report.groups:
            yield Text(_title(group) + "\n", style="bold")
            for table in _layout(group, sign, console, options):
                yield table
                yield Text("")
            for line in _legend(group, sign):
                yield Text(line, style="dim")
            for line in group.notes:
                yield Text(f"! {line}", style="yellow")
            yield Text("")
            if group.quantized is not None:
                yield _formats(group.quantized)
                yield Text("")
                for line in quantized.legend(group.quantized):
                    yield Text(line, style="dim")
                yield Text("")


def _layout(group: Group, sign: str, console: Console, options: ConsoleOptions) -> list[Table]:
    """One table where the terminal is wide enough, else quality and costs apart, else four."""
    wide, tight = _cells(group, f" {sign} "), _cells(group, sign)
    for line in tight[1:]:
        line[:2] = [line[0].replace("+", "+\n"), line[1].replace("+", "+\n").replace(" ", "\n")]
    metrics = [[3 + 2 * i, 4 + 2 * i] for i in range(len(group.metrics))]
    costs = list(range(3 + 2 * len(metrics), len(wide[0])))
    whole, quality = range(len(wide[0])), [0, 2, *range(3, costs[0])]
    layouts = [[_table(group, cells, whole)] for cells in (wide, tight)]
    layouts += [[_table(group, cells, quality), _table(group, cells, [0, 1, *costs])] for cells in (wide, tight)]
    quarters = ([2, *metrics[0]], metrics[1], [1, *costs[:3]], costs[3:])
    layouts += [[_table(group, tight, [0, *some]) for some in quarters]]
    unbounded = options.update(width=10_000)
    for tables in layouts:
        if all(Measurement.get(console, unbounded, table).maximum <= options.max_width for table in tables):
            return tables
    return layouts[-1]


def _table(group: Group, cells: list[list[str]], columns: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        head = cells[0][column].replace(" vs ", "\nvs ").replace("train ", "train\n")
        table.add_column(Text(head), justify="left" if column < 2 else "right", overflow="fold")
    for row, line in zip(group.rows, cells[1:], strict=True):
        table.add_row(*(Text(line[column]) for column in columns), style="bold" if row.differences is None else None)
    return table


def _formats(found: quantized.Quantized) -> Table:
    """The table of number formats; a variant and a scheme are named where they change."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    head, *rows = quantized.cells(found)
    shown = [i for i in range(len(head)) if head[i] != "seeds"]
    for i in shown:
        title = head[i].replace("PSNR dB", "PSNR\ndB")
        table.add_column(Text(title), justify="left" if i < 3 else "right", overflow="fold")
    before = ["", ""]
    for line in rows:
        same = [line[0] == before[0], line[:2] == before]
        before = line[:2]
        table.add_row(*(Text("" if i < 2 and same[i] else line[i].replace(" [", "\n[", 1)) for i in shown))
    return table


def _title(group: Group) -> str:
    digest = f" ({group.data_digest[:8]})" if group.data_digest else ""
    variants, runs = len({row.variant for row in group.rows}), sum(row.runs for row in group.rows)
    what = f"preset {group.preset}, data {group.data or 'unknown'}{digest}: variants {variants}, runs {runs}"
    return what if group.budget == "steps" else f"{what}, equal training MACs"


def _legend(group: Group, sign: str) -> list[str]:
    lines = [f"Lower is better. Mean {sign} sd over seeds; vs baseline: the same of the differences seed by seed."]
    for metric in group.metrics:
        line = f"{metric.name}: {metric.about}"
        if metric.n is not None:
            line += f", N = {count(metric.n)} samples against {count(metric.ref_n)} real pictures"
        if metric.floor is not None:
            at = "" if metric.floor_n == metric.n else f" at N = {count(metric.floor_n)}"
            line += f"; real against real{at}: {metric.floor:.4g}"
        if metric.warning is not None:
            line += f"; {metric.warning}"
        lines.append(line + ".")
    lines.append("Costs: medians over seeds; MACs, ms/step: one network evaluation; ms/image: nfe evaluations.")
    return lines


def _cells(group: Group, sign: str) -> list[list[str]]:
    """The table as text, heads first: variant, axis, seeds, each metric with its difference, the costs."""
    names = [metric.name for metric in group.metrics]
    heads = [f"{name}{suffix}" for name in names for suffix in ("", " vs baseline")]
    lines = [["variant", "axis", "seeds", *heads, *COSTS.values()]]
    decimals = {name: _decimals([row.values[name].mean for row in group.rows]) for name in names}
    for row in group.rows:
        seeds = f"{len(row.seeds)}" if len(row.seeds) == row.runs else f"{len(row.seeds)}/{row.runs}"
        line = [row.label, row.axis or "-", seeds]
        for name in names:
            line.append(_value(row.values[name], decimals[name], sign, ""))
            line.append("" if row.differences is None else _value(row.differences[name], decimals[name], sign, "+"))
        lines.append([*line, *(_quantity(name, row.costs[name]) for name in COSTS)])
    return lines


def _value(value: Value, decimals: int, sign: str, plus: str) -> str:
    if value.mean is None:
        return "-"
    mean = f"{round(value.mean, decimals) + 0.0:{plus},.{decimals}f}"  # + 0.0: no negative zero
    return f"{mean}{sign}{'-' if value.sd is None else f'{value.sd:,.{decimals}f}'}"


def _decimals(values: Iterable[float | None]) -> int:
    """Four digits for the column's largest number, four decimals at most."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 4 if largest < 1 else max(0, 3 - math.floor(math.log10(largest)))


def _quantity(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in COUNTS:
        for unit, size in ((" T", 1e12), (" G", 1e9), (" M", 1e6), (" k", 1e3)):
            if value >= size:
                return _three_digits(value / size) + unit
    return f"{value:,.0f}" if name in COUNTS or name == "nfe" else _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:,.{min(4, max(0, 2 - math.floor(math.log10(value))))}f}" if value > 0 else "0"


def _escape(text: str) -> str:
    """Keep a cell from ending early or being read as markup."""
    return "".join(f"\\{c}" if c in "\\|*_`<[" else c for c in " ".join(text.split()))
