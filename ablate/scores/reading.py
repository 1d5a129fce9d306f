"""From a table of scores to runs that can be judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import pandas as pd

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import one_line, some_of
from ablate.scores import files, wandb
from ablate.scores.columns import choose_roles
from ablate.scores.files import RawScores
from ablate.scores.values import Values, read_values

MOST_RUNS = 100_000
BASELINES = ("baseline", "base", "control", "vanilla", "default", "reference", "original", "ref")


@dataclass(frozen=True)
class Options:
    """What the user said about a table.

    Attributes:
        variant: The column that says which variant a row is; None: guess it.
        seed: The column of the seed; None: guess it.
        metrics: The metrics to judge; empty: those whose direction is known.
        better: `higher` or `lower`, or `NAME=higher`, of metrics whose name does not say it.
        against: The variant to compare the others with; None: guess it.
    """

    variant: str | None = None
    seed: str | None = None
    metrics: tuple[str, ...] = ()
    better: tuple[str, ...] = ()
    against: str | None = None


@dataclass(frozen=True)
class ScoredRun:
    """The scores of one variant at one seed."""

    variant: str
    seed: int
    status: str  # done, failed or diverged
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Scores:
    """What a table says, ready to be judged.

    Attributes:
        name: What the table is called.
        runs: One for each variant and seed.
        better: Metric -> `higher` or `lower`.
        units: Metric -> its unit, where the table says it.
        against: The variant to compare the others with.
        notes: What was guessed, converted or left out, a line each.
    """

    name: str
    runs: tuple[ScoredRun, ...]
    better: Mapping[str, str]
    units: Mapping[str, str]
    against: str
    notes: tuple[str, ...]


def read_scores(source: Sequence[Path] | pd.DataFrame, options: Options) -> Scores:
    """Read a table of scores.

    Args:
        source: Files with the same columns, or a data frame.
        options: What the user said about it.

    Raises:
        ResultsError: What the table lacks, or which cell is wrong, in one line.
    """
    raw = wandb.as_table(files.read(source))
    roles = choose_roles(raw, options.variant, options.seed)
    values = read_values(raw, roles, options.metrics, options.better)
    against = _against(raw, list(dict.fromkeys(values.runs["variant"])), options.against)
    runs, incomplete = _runs(raw, values)
    guessed = list(roles.guessed)
    if not options.metrics or not options.better:
        guessed.append(
            "judged by " + ", ".join(f"{name} ({better} is better)" for name, better in values.better.items())
        )
    guessed += [f"compared with {against}"] if options.against is None else []
    guessed += [f"not read: {some_of(values.unused, 6)}"] if values.unused else []
    notes = [f"{raw.name}: {'; '.join(guessed)}"] if guessed else []
    notes += [*raw.notes, *values.notes, *incomplete, *_unpaired(raw, runs, against)]
    return Scores(raw.name, runs, values.better, values.units, against, tuple(notes))


def _against(raw: RawScores, variants: Sequence[str], asked: str | None) -> str:
    """Return the variant to compare with: the one asked for, or the one with a usual name."""
    if len(variants) < 2:
        raise ResultsError(
            f"{raw.name}: one variant only, {variants[0]}: nothing to compare; add rows of another, or name the column "
            "that says which variant a row is, as in --variant COLUMN"
        )
    if asked is not None:
        if (name := one_line(asked)) not in variants:
            near = did_you_mean(name, variants)
            raise ResultsError(f"{raw.name}: --against {name}: no such variant{near} Variants: {some_of(variants, 12)}")
        return name
    usual = [name for known in BASELINES for name in variants if name.lower().rpartition("/")[2] == known]
    if not usual:
        raise ResultsError(
            f"{raw.name}: which variant is the baseline? Name it, as in --against {quote(variants[0])}. "
            f"Variants: {some_of(variants, 12)}"
        )
    return usual[0]


def _runs(raw: RawScores, values: Values) -> tuple[tuple[ScoredRun, ...], list[str]]:
    """Return the runs with their scores, and notes on those that diverged or lack a score."""
    pairs = values.runs.drop_duplicates(["variant", "seed"], keep="last")
    if len(pairs) > MOST_RUNS:
        raise ResultsError(
            f"{raw.name}: {len(pairs):,} pairs of a variant and a seed; at most {MOST_RUNS:,} are judged together: "
            "name the columns of variant and seed, as in --variant COLUMN --seed COLUMN"
        )
    scores: dict[tuple[str, int], dict[str, float]] = {}
    empty: list[str] = []
    lost: dict[tuple[str, int], str] = {}
    for variant, seed, metric, value, not_finite, row in values.cells[
        ["variant", "seed", "metric", "value", "not_finite", "row"]
    ].itertuples(index=False):
        scores.setdefault((variant, seed), {})[metric] = value
        if not_finite:
            what = f"{raw.place(row)}: {one_line(metric)} is not finite"
            lost.setdefault(
                (variant, seed), f"{what}: seed {seed} of {variant} counts as diverged; if not, leave it empty"
            )
    runs = []
    for variant, seed, status, row in pairs[["variant", "seed", "status", "row"]].itertuples(index=False):
        key = (variant, int(seed))
        lacking = [name for name in values.better if status == "done" and name not in scores.get(key, {})]
        if lacking:
            empty.append(
                f"{raw.place(row)}: seed {seed} of {variant} has no {', '.join(lacking)}; fill it in to use it"
            )
        status = "diverged" if key in lost and status == "done" else status
        runs.append(ScoredRun(variant, int(seed), status, scores.get(key, {}) if status == "done" else {}))
    few = [*_few(list(lost.values()), f"{raw.name}: more runs have scores that are not finite")]
    return tuple(runs), [*few, *_few(empty, f"{raw.name}: more runs lack scores")]


def _few(notes: Sequence[str], more: str) -> Iterator[str]:
    """Yield the first notes of a kind, and how many there are beside them."""
    yield from notes[:3]
    if len(notes) > 3:
        yield f"{more}: {len(notes) - 3:,}"


def _unpaired(raw: RawScores, runs: Sequence[ScoredRun], against: str) -> Iterator[str]:
    """Yield a note on seeds that only one of two variants has, and on too few seeds."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.variant, set()).update([run.seed] if run.status != "failed" else [])
    theirs = seeds[against]
    shared = {variant: mine & theirs for variant, mine in seeds.items() if variant != against}
    if not any(shared.values()):
        variant = next(iter(shared))
        raise ResultsError(
            f"{raw.name}: no variant has a seed of {against}: {variant} has {_listed(seeds[variant])}, {against} has "
            f"{_listed(theirs)}; variants are paired by seed: give both the same seeds"
        )
    lacking = [f"{variant} lacks {_listed(theirs - mine)}" for variant, mine in seeds.items() if theirs - mine]
    extra = set().union(*(mine - theirs for variant, mine in seeds.items()))
    lacking += [f"{against} lacks {_listed(extra)}"] if extra else []
    if lacking:
        yield f"{raw.name}: seeds without a pair are not compared: {some_of(lacking, 4)}; add those rows to use them"
    if max(map(len, shared.values())) == 1:
        yield f"{raw.name}: one seed of each variant decides nothing; add rows of more seeds"


def _listed(seeds: set[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {some_of(sorted(seeds), 5)}"
