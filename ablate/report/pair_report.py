"""Two variants, or two runs, side by side: seed by seed, with their pictures and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from ablate.base.errors import ResultsError, did_you_mean
from ablate.report.builder import NO_CURVES, build
from ablate.report.effects import FRONT_OF_WORK
from ablate.report.findings import Comparison, Findings, Row, Value
from ablate.report.judged_metrics import COSTS
from ablate.report.render import report_tables, terminal
from ablate.report.render.report_tables import Sheet
from ablate.report.render.run_images import samples
from ablate.report.selection import Choice
from ablate.report.variant_rows import UNEQUAL_MACHINES
from ablate.store import tables
from ablate.study.variants import canonical


@dataclass(frozen=True)
class Pair:
    """One seed of both: metric -> value, and where the pictures lie (None: they are not there)."""

    seed: int
    run_a: str
    run_b: str
    a: dict[str, float | None]
    b: dict[str, float | None]
    pictures_a: str | None
    pictures_b: str | None


@dataclass(frozen=True)
class Versus:
    """B compared with A: every difference is B - A, and a verdict says whether B helps or hurts."""

    a: str
    b: str
    preset: str | None
    data: str | None
    comparisons: tuple[Comparison, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def compare(
    frames: Mapping[str, pd.DataFrame], folder: Path, a: str, b: str, choice: Choice
) -> tuple[Versus, Findings]:
    """Compare two variants over the seeds finished by both, or two runs.

    Args:
        frames: The tables, as `ablate.report.builder.read` returns them.
        folder: The results folder, where the pictures lie.
        a: A variant, or a finished run's name or a beginning of it.
        b: The same; both are variants, or both runs.
        choice: Preset, data set and so on; `against` and `variants` are a and b.

    Raises:
        ResultsError: Neither of the two, twice the same, or what does not compare.
    """
    runs = frames["runs"]
    variants = set(runs["variant"])
    a, b = (canonical(name) if canonical(name) in variants else name for name in (a, b))
    if a == b:
        raise ResultsError(f"compare {a} {b}: twice the same; name two variants, or two runs")
    extra: list[str] = []
    if a in variants and b in variants:
        for name in (a, b):
            _finished(runs[runs["variant"] == name], name)
        runs = _newest(runs)
    elif a not in variants and b not in variants:
        (a, b), runs, extra = _two_runs(runs, a, b)
    else:
        one, other = (a, b) if a in variants else (b, a)
        if not len(_begin(runs, other)):
            near = did_you_mean(other, sorted(variants))
            raise ResultsError(
                f"compare {other}: no variant and no run here{near} Variants in the results: {_listed(variants)}"
            )
        raise ResultsError(f"compare: {one} is a variant and {other} is a run; name two variants, or two runs")
    findings = build({**frames, "runs": runs}, replace(choice, against=a, variants=(b,), claims=False))
    rows = {row.label: row for row in findings.rows}
    if a not in rows or b not in rows:
        missing = ", ".join(name for name in (a, b) if name not in rows)
        raise ResultsError(f"compare {a} {b}: no such run of {missing}: {'; '.join(findings.notes)}")
    pairs = tuple(_pairs(rows[a], rows[b], folder))
    compared = findings.compared
    idle = (NO_CURVES, FRONT_OF_WORK, *(() if set(COSTS) & set(compared.headline) else (UNEQUAL_MACHINES,)))
    notes = (*extra, *(note for note in findings.notes if not note.startswith(idle)))
    return Versus(a, b, compared.preset, compared.data, findings.comparisons, pairs, notes), findings


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _newest(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep each variant's newest configuration that finished, by preset, data set and budget."""
    done = runs[runs["status"] == "done"].sort_values("finished_at", kind="stable", na_position="first")
    keys = ["variant", "preset", "data_digest", "budget"]
    newest = done.drop_duplicates(keys, keep="last")[[*keys, "config_hash"]]
    return runs.merge(newest, on=[*keys, "config_hash"])


def _finished(runs: pd.DataFrame, name: str) -> None:
    """Refuse a variant none of whose runs is finished."""
    if not (runs["status"] == "done").any():
        counts = ", ".join(f"{n} {status}" for status, n in runs["status"].value_counts().items())
        raise ResultsError(f"compare {name}: none of its runs here is finished ({counts})")


def _begin(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    return runs[runs["run_id"].isin(tables.named(runs["run_id"], name))]


def _two_runs(runs: pd.DataFrame, a: str, b: str) -> tuple[tuple[str, str], pd.DataFrame, list[str]]:
    found = []
    for name in (a, b):
        some = _begin(runs, name)
        done = some[some["status"] == "done"]
        if len(done) > 1:
            listed = ", ".join(done["run_id"].head(5)) + (", ..." if len(done) > 5 else "")
            raise ResultsError(f"compare {name}: {len(done)} finished runs begin so: {listed}; give more of the name")
        if not len(done):
            known = sorted({*runs["variant"], *runs["run_id"]})
            what = (
                f"its run is {some['status'].iloc[0]}"
                if len(some)
                else f"no variant and no run here{did_you_mean(name, known)}"
            )
            there = ", ".join(sorted(set(runs["variant"])))
            raise ResultsError(f"compare {name}: {what} Variants in the results: {there or 'none'}")
        found.append(done.iloc[[0]])
    both = pd.concat(found)
    names = str(both["run_id"].iloc[0]), str(both["run_id"].iloc[1])
    if names[0] == names[1]:
        raise ResultsError(f"compare {a} {b}: both are {names[0]}; name two runs")
    for column, what in (("preset", "presets"), ("data_digest", "data sets")):
        if both[column].nunique(dropna=False) > 1:
            listed = ", ".join(f"{run}: {str(value)[:8]}" for run, value in zip(names, both[column], strict=True))
            raise ResultsError(f"{what} that do not compare: {listed}")
    notes = []
    seeds = both["seed"].tolist()
    if seeds[0] != seeds[1]:
        notes.append(
            f"not paired: the seeds are {seeds[0]} and {seeds[1]}, so noise and order of the pictures differ too"
        )
    # Each run stands for itself: it is compared under its own name, and both at one seed.
    return names, both.assign(variant=both["run_id"], seed=seeds[0]), notes


def _pairs(a: Row, b: Row, folder: Path) -> Iterator[Pair]:
    for i, seed in enumerate(a.seeds):
        if seed in b.seeds:
            j = b.seeds.index(seed)
            runs = a.run_ids[i], b.run_ids[j]
            pictures = [samples(folder / "artifacts" / run) for run in runs]
            yield Pair(
                seed,
                *runs,
                {metric: values[i] for metric, values in a.by_seed.items()},
                {metric: values[j] for metric, values in b.by_seed.items()},
                *(path.as_posix() if path.is_file() else None for path in pictures),
            )


def to_json(versus: Versus) -> str:
    """Return one strict JSON document (no NaN)."""
    return json.dumps(asdict(versus), indent=2, allow_nan=False)


def render(versus: Versus, findings: Findings) -> RenderableType:
    """Return what `rich` prints."""
    return _Rendered(versus, findings)


@dataclass(frozen=True)
class _Rendered:
    versus: Versus
    findings: Findings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        versus = self.versus
        yield Text(
            f"{versus.b} against {versus.a}: preset {versus.preset}, data {versus.data or 'unknown'}\n", style="bold"
        )
        yield terminal.fit(_verdicts(versus, self.findings), options)
        yield Text("")
        for comparison in versus.comparisons:
            line = Text.assemble(
                f"{comparison.metric}: {versus.b} ", terminal.coloured(comparison.verdict), f": {comparison.why}"
            )
            yield line
        yield Text("")
        if versus.pairs:
            metrics = list(versus.pairs[0].a)
            together = [_by_seed(versus, metrics)]
            narrow = not terminal.fits(together[0], options)
            for sheet in [_by_seed(versus, [metric]) for metric in metrics] if narrow else together:
                yield terminal.fit(sheet, options)
                yield Text("")
        for pair in versus.pairs:
            for path in (pair.pictures_a, pair.pictures_b):
                if path is not None:
                    yield Text(path, style="dim", overflow="fold")
        for note in versus.notes:
            yield Text(f"! {note}")


def _verdicts(versus: Versus, findings: Findings) -> Sheet:
    """Means and spreads over the seeds that both have, so that they differ by the difference beside them."""
    lines = []
    for c in versus.comparisons:
        decimals = report_tables.difference_decimals(findings, c.metric)
        values = [(pair.a[c.metric], pair.b[c.metric]) for pair in versus.pairs]
        both = [(x, y) for x, y in values if x is not None and y is not None]
        lines.append(
            (
                c.metric,
                *(_spread([pair[side] for pair in both], decimals) for side in range(2)),
                report_tables.signed(c.mean, decimals),
                report_tables.interval(c.low, c.high, decimals),
                report_tables.p_value(c.p),
                report_tables.p_value(c.p_holm),
                report_tables.seeds(c),
                c.verdict,
            )
        )
    heads = ("", "A", "B", "B - A", "95 % interval", "p", "p Holm", "seeds", "verdict")
    return Sheet("", heads, tuple(lines), (0, 8), drop=(5, 6, 7, 1, 2, 4))


def _spread(values: list[float], decimals: int) -> str:
    value = Value(fmean(values) if values else None, stdev(values) if len(values) > 1 else None, len(values))
    return report_tables.spread(value, decimals, "±", "")


def _by_seed(versus: Versus, metrics: list[str]) -> Sheet:
    heads = ["seed"]
    for metric in metrics:
        heads += [f"{metric} A", "B", "B - A"]
    lines = []
    decimals = {m: report_tables.decimals_of([pair.a[m] for pair in versus.pairs]) for m in metrics}
    for pair in versus.pairs:
        line = [str(pair.seed)]
        for metric in metrics:
            mine, theirs = pair.b[metric], pair.a[metric]
            difference = None if mine is None or theirs is None else mine - theirs
            line += ["-" if x is None else f"{x:,.{decimals[metric]}f}" for x in (theirs, mine)]
            line.append(report_tables.signed(difference, decimals[metric]))
        lines.append(tuple(line))
    return Sheet("", tuple(heads), tuple(lines), ())
