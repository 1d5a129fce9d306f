"""`ablate compare`: two variants, or two runs, side by side, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import some_of
from ablate.report.builder import build
from ablate.report.findings import Comparison, Findings, Record, Value, VariantRow
from ablate.report.left_out import without_left_out
from ablate.report.render import report_tables, terminal
from ablate.report.render.number_text import decimals_of, evidence, interval, mean_sd, rounded, signed
from ablate.report.render.run_images import folder_of, sample_file
from ablate.report.render.text_table import TextTable, coloured, fits
from ablate.report.selection import Choice, known_name
from ablate.store import tables


class SeedPair(Record):
    """Both variants at one seed."""

    seed: int
    run_a: str
    run_b: str
    a: dict[str, float | None]  # metric -> value
    b: dict[str, float | None]
    images_a: str | None  # path of its samples; None: the file does not exist
    images_b: str | None


class PairReport(Record):
    """B compared with A: every difference is B - A, and the verdicts are on B."""

    a: str
    b: str
    preset: str | None
    data: str | None
    comparisons: tuple[Comparison, ...]
    pairs: tuple[SeedPair, ...]
    notes: tuple[str, ...]


def compare(
    frames: Mapping[str, pd.DataFrame], folder: Path, a: str, b: str, choice: Choice
) -> tuple[PairReport, Findings]:
    """Compare two variants over the seeds that both finished, or two runs.

    Args:
        frames: The tables, as `ablate.report.builder.read` returns them.
        folder: The results folder, for the paths of images.
        a: A variant, or the name of a finished run or its beginning.
        b: The same; both are variants, or both are runs.
        choice: Preset, data set and so on; a and b take the place of `against` and `variants`.

    Raises:
        ResultsError: One of them does not exist, both are the same, or they do not compare.
    """
    existing = set(frames["runs"]["variant"])
    a, b = (name if known_name(name, existing) not in existing else known_name(name, existing) for name in (a, b))
    runs = without_left_out(frames, replace(choice, against=a))["runs"]
    if a == b:
        raise ResultsError(f"compare {a} {b}: twice the same; name two variants, or two runs")
    not_paired: list[str] = []

    if a in existing and b in existing:
        for name in (a, b):
            _check_finished(runs[runs["variant"] == name], name, choice.filters)
        every = runs[runs["purpose"].isna()] if "purpose" in runs else runs  # others are not judged
        kept = _newest(every, (a, b))
        not_paired += _left_out(every, kept, (a, b))
        older = every.index.difference(kept.index)
        runs = frames["runs"].drop(older)  # `build` leaves out what the choice does, and says so
    elif a not in existing and b not in existing:
        (a, b), runs, not_paired = _two_runs(runs, a, b)
        choice = replace(choice, where=None, without_seeds=())
    else:
        variant, run = (a, b) if a in existing else (b, a)
        if not len(_starting_with(runs, run)):
            raise ResultsError(f"compare {run}: {_unknown(run, existing, existing)}")
        raise ResultsError(f"compare: {variant} is a variant and {run} is a run; name two variants, or two runs")
    findings = build({**frames, "runs": runs}, replace(choice, against=a, variants=(b,), claims=False))
    rows = {row.label: row for row in findings.rows}
    if a not in rows or b not in rows:
        missing = ", ".join(name for name in (a, b) if name not in rows)
        raise ResultsError(f"compare {a} {b}: no such run of {missing}: {'; '.join(findings.notes)}")
    report = PairReport(
        a=a,
        b=b,
        preset=findings.compared.preset,
        data=findings.compared.data,
        comparisons=findings.comparisons,
        pairs=tuple(_pairs(rows[a], rows[b], folder)),
        notes=(*not_paired, *report_tables.verdict_notes(findings)),
    )
    return report, findings


def _unknown(name: str, candidates: set[str], variants: set[str]) -> str:
    near = did_you_mean(name, sorted(candidates))
    return f"no variant and no run here{near} Variants in the results: {', '.join(sorted(variants)) or 'none'}"


def _newest(runs: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """Keep the newest finished configuration of two variants, by preset, data set and budget, and all other runs."""
    done = runs[runs["status"] == "done"].sort_values("finished_at", kind="stable", na_position="first")
    keys = ["variant", "preset", "data_digest", "budget"]
    newest = done.drop_duplicates(keys, keep="last")[[*keys, "config_hash"]]
    kept = pd.MultiIndex.from_frame(runs[[*keys, "config_hash"]]).isin(pd.MultiIndex.from_frame(newest))
    return runs[kept | ~runs["variant"].isin(names)]


def _left_out(every: pd.DataFrame, kept: pd.DataFrame, names: tuple[str, str]) -> list[str]:
    """Return a note for each variant with finished runs of another configuration than the one compared."""
    notes = []
    rest = every[~every["run_id"].isin(kept["run_id"]) & (every["status"] == "done")]
    for name in names:
        chosen = " and ".join(f"@{value}" for value in kept.loc[kept["variant"] == name, "config_hash"].unique())
        for config, group in rest[rest["variant"] == name].groupby("config_hash"):
            seeds = ", ".join(map(str, sorted(group["seed"])))
            notes.append(f"{name}: the newest configuration is compared, {chosen}; left out: @{config}, seeds {seeds}")
    return notes


def _check_finished(runs: pd.DataFrame, name: str, filters: str) -> None:
    if not len(runs):
        raise ResultsError(f"compare {name}: all of its runs are left out by {filters}")
    if not (runs["status"] == "done").any():
        counts = ", ".join(f"{n} {status}" for status, n in runs["status"].value_counts().items())
        raise ResultsError(f"compare {name}: none of its runs here is finished ({counts})")


def _starting_with(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    return runs[runs["run_id"].isin(tables.match_run_ids(runs["run_id"], name))]


def _two_runs(runs: pd.DataFrame, a: str, b: str) -> tuple[tuple[str, str], pd.DataFrame, list[str]]:
    """Return the names of two runs, a table of both, and a note if their seeds differ."""
    chosen = []
    for name in (a, b):
        matching = _starting_with(runs, name)
        done = matching[matching["status"] == "done"]
        if len(done) > 1:
            listed = some_of(done["run_id"].tolist(), 5)
            raise ResultsError(
                f"compare {name}: {len(done)} finished runs begin with this: {listed}; type more of the name"
            )
        if len(matching) and not len(done):
            raise ResultsError(f"compare {name}: its run is {matching['status'].iloc[0]}; name a finished run")
        if not len(done):
            variants = set(runs["variant"])
            raise ResultsError(f"compare {name}: {_unknown(name, variants | set(runs['run_id']), variants)}")
        chosen.append(done.iloc[[0]])
    both = pd.concat(chosen)
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
        why = "so the noise and the order of the images differ too"
        notes.append(f"not paired: the seeds are {seeds[0]} and {seeds[1]}, {why}")
    # Treat each run as a variant of its own name, both at one seed.
    return names, both.assign(variant=both["run_id"], seed=seeds[0]), notes


def _pairs(a: VariantRow, b: VariantRow, folder: Path) -> Iterator[SeedPair]:
    for i, seed in enumerate(a.seeds):
        if seed in b.seeds:
            j = b.seeds.index(seed)
            files = [sample_file(folder_of(folder, run)) for run in (a.run_ids[i], b.run_ids[j])]
            images_a, images_b = (path.as_posix() if path.is_file() else None for path in files)
            yield SeedPair(
                seed=seed,
                run_a=a.run_ids[i],
                run_b=b.run_ids[j],
                a={metric: values[i] for metric, values in a.by_seed.items()},
                b={metric: values[j] for metric, values in b.by_seed.items()},
                images_a=images_a,
                images_b=images_b,
            )


def render(report: PairReport, findings: Findings) -> RenderableType:
    """Return what `rich` prints: verdicts, means, values by seed, images of the first seed, notes."""
    return _Rendered(report, findings)


@dataclass(frozen=True)
class _Rendered:
    report: PairReport
    findings: Findings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self.report
        where = report_tables.where(self.findings)
        yield Text(f"{report.b} (B) against {report.a} (A): {where}\n", style="bold")
        for one in report.comparisons:
            yield Text.assemble(f"{one.metric}: {report.b} ", coloured(one.verdict), f": {one.why}")
        yield Text("")
        yield terminal.fit(self._means(), options)
        yield Text("")
        for line in report_tables.explanation(self.findings, all_intervals=False):
            yield Text(line, style="dim")
        yield Text("")
        if report.pairs:
            metrics = list(report.pairs[0].a)
            together = self._by_seed(metrics)
            narrow = not fits(together, range(len(together.heads)), options.max_width)
            for table in [self._by_seed([metric]) for metric in metrics] if narrow else [together]:
                yield terminal.fit(table, options)
                yield Text("")
        images = [pair for pair in report.pairs if pair.images_a or pair.images_b]
        # One pair shows what the two look like: the first of which both images exist, if there is one.
        for pair in sorted(images, key=lambda pair: not (pair.images_a and pair.images_b))[:1]:
            yield Text(f"Samples of seed {pair.seed}:", style="dim")
            for path in filter(None, (pair.images_a, pair.images_b)):
                yield Text(path, style="dim", overflow="fold")
        for note in report.notes:
            yield Text(f"! {note}")

    def _means(self) -> TextTable:
        """Return means over the seeds that both have, so that they differ by the difference beside them."""
        lines, rows = [], {row.label: row for row in self.findings.rows}
        for c in self.report.comparisons:
            decimals = report_tables.difference_decimals(self.findings, c.metric)
            values = [(pair.a[c.metric], pair.b[c.metric]) for pair in self.report.pairs]
            both = [(x, y) for x, y in values if x is not None and y is not None]
            means = (mean_sd(Value.over([pair[side] for pair in both]), decimals, "±") for side in range(2))
            difference = (signed(c.mean, decimals), interval(c.low, c.high, decimals))
            tests = (
                evidence(c.adjusted, self.findings.compared.design),
                rounded(c.detectable, decimals),
                report_tables.seeds(c.n, rows[c.label]),
                report_tables.needs(c),
            )
            lines.append((c.metric, *means, *difference, *tests))
        tested = report_tables.evidence_head(self.findings)
        heads = ("metric", "A", "B", "B - A", "95 %", tested, "detects", "seeds", "needs")
        return TextTable("", heads, tuple(lines), (0, 7), drop=(8, 6, 5, 1, 2, 7))

    def _by_seed(self, metrics: list[str]) -> TextTable:
        heads = ["seed"]
        for metric in metrics:
            heads += [f"{metric} A", "B", "B - A"]
        lines = []
        decimals = {metric: decimals_of([pair.a[metric] for pair in self.report.pairs]) for metric in metrics}
        for pair in self.report.pairs:
            line = [str(pair.seed)]
            for metric in metrics:
                a, b = pair.a[metric], pair.b[metric]
                difference = None if a is None or b is None else b - a
                line += [rounded(a, decimals[metric]), rounded(b, decimals[metric])]
                line.append(signed(difference, decimals[metric]))
            lines.append(tuple(line))
        return TextTable("", tuple(heads), tuple(lines), ())
