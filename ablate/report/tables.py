"""The study in one table per preset and data set: quality per variant, paired difference to the baseline, costs.

    value      = mean +- sd of  m(variant, seed)                      over the variant's finished seeds
    difference = mean +- sd of  m(variant, seed) - m(baseline, seed)  over the seeds finished by both

`build` computes every number once; the terminal, JSON and Markdown forms only write them down.
"""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ablate.errors import ResultsError, did_you_mean
from ablate.variant import BASELINE

ABOUT = {
    "fid": "Frechet distance in Inception-v3 features",
    "fd": "Frechet distance in EfficientNet-Lite0 features",
    "lpips": "LPIPS of one-step denoising on held-out pictures",
    "pd": "EfficientNet-Lite0 perceptual distance of one-step denoising on held-out pictures",
}
FIDELITY = ("fid", "fd")  # the ones that depend on how many samples are compared
COSTS = {  # column -> head
    "params": "params",
    "macs": "MACs",
    "nfe": "nfe",
    "train_wall_s": "train s",
    "latency_step_ms": "ms/step",
    "latency_image_ms": "ms/image",
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EMPTY = "No runs yet: start some with `ablate run`."
UNFINISHED = ("diverged", "failed", "interrupted")
MACHINE = ("device", "precision", "threads")
Run = dict[str, Any]  # one row of runs.parquet, null as None


@dataclass(frozen=True)
class Value:
    """A mean over `n` seeds and its spread: `mean` is None for no seed, `sd` for fewer than two."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class Metric:
    """A headline metric, lower is better: `n` samples against `ref_n` real pictures; `floor`: real against real."""

    name: str
    about: str
    n: int | None = None
    ref_n: int | None = None
    floor: float | None = None
    floor_n: int | None = None


@dataclass(frozen=True)
class Row:
    """One variant in one configuration. Costs are medians over its seeds."""

    label: str
    variant: str
    axis: str | None
    config_hash: str | None
    seeds: tuple[int, ...]
    runs: int
    unfinished: dict[str, int]
    values: dict[str, Value]
    differences: dict[str, Value] | None  # None: this is the baseline
    costs: dict[str, float | None]


@dataclass(frozen=True)
class Group:
    """The runs that may be compared: one preset on one data set."""

    preset: str
    data: str | None
    data_digest: str | None
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A study, one group per preset and data set."""

    groups: tuple[Group, ...]


def build(runs: pd.DataFrame, *, preset: str | None = None, data: str | None = None) -> Report:
    """Summarise the runs of a study.

    Args:
        runs: The table `runs`, as `ablate.results.read` returns it.
        preset: Only the runs of this preset.
        data: Only the runs on this data set: its name, or the path it was read from.

    Raises:
        ResultsError: There are runs, but none with this preset or data set.
    """
    records: list[Run] = runs.astype(object).where(runs.notna(), None).to_dict("records")  # type: ignore[assignment]
    records = _only(records, "preset", preset, {preset})
    records = _only(records, "data", data, {data, Path(data).stem} if data else set())
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in records:
        groups.setdefault((run["preset"], run["data"] or "", run["data_digest"] or ""), []).append(run)
    return Report(tuple(_group(groups[key]) for key in sorted(groups)))


def _only(records: list[Run], column: str, asked: str | None, accepted: set[str | None]) -> list[Run]:
    found = [run for run in records if asked is None or run[column] in accepted]
    if records and not found:
        there = sorted({str(run[column]) for run in records if run[column] is not None})
        near = did_you_mean(str(asked), there)
        raise ResultsError(f"no run with {column} {asked!r}{near} Found in the results: {', '.join(there) or 'none'}")
    return found


def _group(runs: list[Run]) -> Group:
    notes: list[str] = []
    configs: dict[tuple[str, str], list[Run]] = {}  # by variant and configuration, the newest last
    for run in sorted(runs, key=lambda run: run["finished_at"] or EPOCH):
        key = (run["variant"], run["config_hash"] or "")
        configs[key] = [*configs.pop(key, []), run]
    done = [run for some in configs.values() for run in _done(some).values()]
    base_key = next((key for key in reversed(configs) if key[0] == BASELINE and _done(configs[key])), None)
    baseline = _done(configs[base_key]) if base_key else {}
    names = _headline(done)
    sizes = _one_size(done, baseline, notes)
    metrics = tuple(_metric(name, sizes, done) for name in names)
    several = {variant for variant, n in Counter(variant for variant, _ in configs).items() if n > 1}
    rows = []
    axes = {key: some[-1]["axis"] or "" for key, some in configs.items()}
    for key in sorted(configs, key=lambda key: (key != base_key, key[0] != BASELINE, axes[key], *key)):
        label = f"{key[0]} @{key[1]}" if key[0] in several else key[0]
        spent, allowed = _budget(_done(configs[key])), _budget(baseline)
        if spent and allowed and spent != allowed:
            notes.append(f"{label}: an unequal budget: {spent}; the baseline: {allowed}")
        rows.append(_row(label, configs[key], None if key == base_key else baseline, names, notes))
    if base_key is None:
        notes.append("the baseline has no finished run here: no differences")
    elif BASELINE in several:
        notes.append(f"the baseline has several configurations; differences are to the newest, @{base_key[1]}")
    machines = Counter(" ".join(str(run[name]) for name in MACHINE if run[name] is not None) for run in done)
    if len(machines) > 1:
        listed = ", ".join(f"{machine or 'unknown'} ({n} runs)" for machine, n in sorted(machines.items()))
        notes.append(f"times come from unequal devices, precisions or threads and do not compare: {listed}")
    return Group(runs[0]["preset"], runs[0]["data"], runs[0]["data_digest"], metrics, tuple(rows), tuple(notes))


def _budget(runs: dict[int, Run]) -> str:
    """What one configuration spends on each of its runs."""
    return next((f"{_count(run['steps'])} steps, nfe {_count(run['nfe'])}" for run in runs.values()), "")


def _done(runs: Iterable[Run]) -> dict[int, Run]:
    """The finished runs by seed; `runs` from old to new, so the newest of each seed."""
    return {run["seed"]: run for run in runs if run["status"] == "done"}


def _headline(done: list[Run]) -> list[str]:
    """`fid` and `lpips` where every finished run has them, else the embedded `fd` and `pd`."""
    complete = [name for name in ABOUT if done and all(run[name] is not None for run in done)]
    return ["fid" if "fid" in complete else "fd", "lpips" if "lpips" in complete else "pd"]


def _one_size(done: list[Run], baseline: dict[int, Run], notes: list[str]) -> tuple[int | None, int | None]:
    """Return (N, reference N), and blank the Frechet distances taken with others: their bias depends on it."""
    sizes = Counter((run["fd_n"], run["fd_ref_n"]) for run in baseline.values() or done)
    size = sizes.most_common(1)[0][0] if sizes else (None, None)
    odd: dict[tuple[str, int | None, int | None], list[int]] = {}
    for run in done:
        if (run["fd_n"], run["fd_ref_n"]) != size:
            odd.setdefault((run["variant"], run["fd_n"], run["fd_ref_n"]), []).append(run["seed"])
            run.update(dict.fromkeys((*FIDELITY, "fd_floor")))
    for (variant, n, ref_n), seeds in odd.items():
        used = f"N = {_count(n)} against {_count(ref_n)}"
        notes.append(f"{variant}: {_seeds(seeds)} measured with {used}, not as the rest: Frechet distance left out")
    return size


def _metric(name: str, size: tuple[int | None, int | None], done: list[Run]) -> Metric:
    if name not in FIDELITY:
        return Metric(name, ABOUT[name])
    floors = [(run["fd_floor_n"], run["fd_floor"]) for run in done if name == "fd" and run["fd_floor"] is not None]
    floor_n = floors[0][0] if floors else None
    return Metric(name, ABOUT[name], *size, _summary(floor for n, floor in floors if n == floor_n).mean, floor_n)


def _row(label: str, runs: list[Run], baseline: dict[int, Run] | None, names: list[str], notes: list[str]) -> Row:
    done = _done(runs)
    values, differences = {}, {}
    for name in names:
        mine, theirs = _by_seed(done, name), _by_seed(baseline or {}, name)
        shared = [seed for seed in mine if seed in theirs]
        values[name] = _summary(mine.values())
        differences[name] = _summary(mine[seed] - theirs[seed] for seed in shared)
        if theirs and len(shared) < len(mine):
            common = f"difference over {_seeds(shared)}" if shared else "no difference"
            notes.append(f"{label}: {name} {common}: the baseline lacks {_seeds(set(mine) - set(shared))}")
        if len(mine) < len(done):
            notes.append(f"{label}: no {name} for {_seeds(set(done) - set(mine))}")
    unfinished = {}
    for status in UNFINISHED:
        lost = {run["seed"]: run["error"] for run in runs if run["status"] == status and run["seed"] not in done}
        unfinished[status] = len(lost)
        if lost:
            errors = "; ".join(dict.fromkeys(textwrap.shorten(error, 160) for error in lost.values() if error))
            notes.append(f"{label}: {_seeds(lost)} {status}, not in the means{': ' if errors else ''}{errors}")
    costs = {name: _by_seed(done, name) for name in COSTS}
    return Row(
        label=label,
        variant=runs[-1]["variant"],
        axis=runs[-1]["axis"],
        config_hash=runs[-1]["config_hash"],
        seeds=tuple(sorted(done)),
        runs=len(done) + sum(unfinished.values()),
        unfinished=unfinished,
        values=values,
        differences=None if baseline is None else differences,
        costs={name: statistics.median(known.values()) if known else None for name, known in costs.items()},
    )


def _by_seed(runs: dict[int, Run], column: str) -> dict[int, float]:
    return {seed: float(run[column]) for seed, run in runs.items() if run[column] is not None}


def _summary(values: Iterable[float]) -> Value:
    numbers = list(values)
    mean = statistics.fmean(numbers) if numbers else None
    return Value(mean, statistics.stdev(numbers) if len(numbers) > 1 else None, len(numbers))


def _seeds(seeds: Iterable[int]) -> str:
    listed = sorted(seeds)
    return f"seed{'' if len(listed) == 1 else 's'} {', '.join(map(str, listed))}"


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
        head = cells[0][column].replace(" vs ", "\nvs ")
        table.add_column(Text(head), justify="left" if column < 2 else "right", overflow="fold")
    for row, line in zip(group.rows, cells[1:], strict=True):
        table.add_row(*(Text(line[column]) for column in columns), style="bold" if row.differences is None else None)
    return table


def _title(group: Group) -> str:
    digest = f" ({group.data_digest[:8]})" if group.data_digest else ""
    variants, runs = len({row.variant for row in group.rows}), sum(row.runs for row in group.rows)
    return f"preset {group.preset}, data {group.data or 'unknown'}{digest}: variants {variants}, runs {runs}"


def _legend(group: Group, sign: str) -> list[str]:
    lines = [f"Lower is better. Mean {sign} sd over seeds; vs baseline: the same of the differences seed by seed."]
    for metric in group.metrics:
        line = f"{metric.name}: {metric.about}"
        if metric.n is not None:
            line += f", N = {_count(metric.n)} samples against {_count(metric.ref_n)} real pictures"
        if metric.floor is not None:
            at = "" if metric.floor_n == metric.n else f" at N = {_count(metric.floor_n)}"
            line += f"; real against real{at}: {metric.floor:.4g}"
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
    if name in ("params", "macs"):
        for unit, size in ((" T", 1e12), (" G", 1e9), (" M", 1e6), (" k", 1e3)):
            if value >= size:
                return _three_digits(value / size) + unit
    return f"{value:,.0f}" if name in ("params", "macs", "nfe") else _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:,.{min(4, max(0, 2 - math.floor(math.log10(value))))}f}" if value > 0 else "0"


def _count(n: int | None) -> str:
    return "unknown" if n is None else f"{n:,}"


def _escape(text: str) -> str:
    """Keep a cell from ending early or being read as markup."""
    return "".join(f"\\{c}" if c in "\\|*_`<[" else c for c in " ".join(text.split()))
