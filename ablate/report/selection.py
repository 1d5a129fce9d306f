"""Which runs may be compared: those of one preset, data set, budget, number of samples and extractor.

If the results hold several of one of these, an error of one line says which option chooses. Data
sets are one if their digests are equal, whatever they are called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import plural, printable, split_names
from ablate.report.clean_rows import clean_runs, finite, tuples
from ablate.report.design import planned_metrics
from ablate.report.metric_choice import choose_metrics, in_fidelity, measured_names
from ablate.report.recorded_metrics import RecordedMetrics
from ablate.report.stated import Stated, stated_variants
from ablate.study.metric_names import FEATURES, METRICS
from ablate.study.variants import BASELINE, canonical

SAME_MACS = 0.01  # training MACs that differ by less than this fraction count as equal


@dataclass(frozen=True)
class Choice:
    """What to compare. None means: whatever there is, and an error if the results hold several."""

    preset: str | None = None
    data: str | None = None  # any name that a data set had, the path it was read from, or the start of its digest
    budget: str = "steps"  # `steps`, or the baseline's training `macs`
    against: str = BASELINE  # a variant; `resolve` finds the runs' own name, as of `variants`
    metrics: tuple[str, ...] = ()  # verdicts are sorted by the first; empty: the headline metrics
    samples: str | None = None  # samples behind the Frechet distances: `512`, or with the real images `512/2048`
    extractor: str | None = None  # the start of a digest of weights
    variants: tuple[str, ...] = ()  # only these, and `against`; empty: all
    claims: bool = True  # whether to show the claims of the variants' files
    same_within: str | None = None  # differences up to this count as none: `2%` of the other's mean, or a number
    where: str | None = None  # only runs that fit a condition, as in `ablate.store.row_filter`
    without_seeds: tuple[int, ...] = ()  # runs of these seeds are left out

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Choice:
        """Return the choice of options that are named after its fields; others are ignored.

        None is the default. Names may be one text, as in `fd,pd`.
        """
        given = {name: options[name] for name in cls.__dataclass_fields__ if options.get(name) is not None}
        given |= {name: split_names(given[name]) for name in ("metrics", "variants") if name in given}
        texts = ("preset", "data", "budget", "against", "samples", "extractor", "where")
        given |= {name: str(given[name]) for name in texts if name in given}
        if "without_seeds" in given:
            seeds = given["without_seeds"]
            given["without_seeds"] = tuple(map(int, dict.fromkeys([seeds] if isinstance(seeds, Integral) else seeds)))
        return cls(**given)

    @property
    def filters(self) -> str:
        """The options that leave runs out of the judging, as they are typed; empty: none."""
        text = printable(self.where or "")
        quoted = quote(text) if '"' in text else f'"{text}"'
        where = [] if self.where is None else [f"--where {quoted}"]
        return " ".join([*where, *(f"--without-seed {seed}" for seed in self.without_seeds)])


@dataclass(frozen=True)
class SelectedRuns:
    """Runs that may be compared, oldest first."""

    runs: pd.DataFrame  # with a column per metric
    metrics: tuple[str, ...]
    why_metrics: str
    digests: dict[str, str]  # extractor -> digest of its weights, of those that the metrics use
    stated: dict[str, Stated]  # what the file of each variant of the study said
    notes: list[str]
    every: pd.DataFrame  # as `runs`, of all variants of the study, shown or not
    judged: tuple[str, ...]  # metrics that the study was to be judged by, shown or not
    recorded: RecordedMetrics
    baseline: str  # the variant that the study was made to compare with

    @cached_property
    def done(self) -> pd.DataFrame:
        """The newest finished run of each configuration and seed."""
        return self.runs[self.runs["status"] == "done"].drop_duplicates(["variant", "config_hash", "seed"], keep="last")

    def unfiltered(self, choice: Choice) -> Choice:
        """Return the choice of the same comparison with no run left out."""
        done = self.every[self.every["status"] == "done"]
        first = (done if len(done) else self.every).iloc[-1]
        chosen: dict[str, str | None] = {
            "preset": str(first["preset"]),
            "data": choice.data if pd.isna(first["data_digest"]) else str(first["data_digest"]),
            "samples": choice.samples if pd.isna(first["fd_ref_n"]) else f"{first['fd_n']}/{first['fd_ref_n']}",
            "extractor": choice.extractor or next(iter(self.digests.values()), None),
        }
        return replace(choice, **chosen, where=None, without_seeds=(), variants=())  # type: ignore[arg-type]

    def whole_study(self) -> SelectedRuns:
        """Return the runs of all variants, with all metrics, whatever is shown."""
        metrics = tuple(dict.fromkeys((*self.judged, *self.metrics)))
        return replace(self, runs=self.every, metrics=metrics, notes=[])


def known_name(name: str, existing: Collection[str]) -> str:
    """Return a variant's name as runs have it: as it was typed, or in its canonical form.

    Imported runs have names of any form.

    Raises:
        VariantError: No run has the name, and its settings in brackets cannot be read.
    """
    return name if name in existing else canonical(name)


def resolve(frames: Mapping[str, pd.DataFrame], choice: Choice) -> Choice:
    """Return a choice with the names that the runs have, and the baseline that imported runs name.

    Raises:
        VariantError: As `known_name`.
    """
    runs = frames["runs"]
    existing = set(runs["variant"])
    names = tuple(known_name(name, existing) for name in choice.variants)
    choice = replace(choice, against=known_name(choice.against, existing), variants=names)
    runs = runs if choice.preset is None else runs[runs["preset"] == choice.preset]
    runs = runs if choice.data is None else _of_data(runs, runs["data"], choice.data)
    named = runs["baseline"].dropna().unique()
    if choice.against != BASELINE or len(named) != 1 or (runs["variant"] == BASELINE).any():
        return choice
    return replace(choice, against=printable(named[0]))


def select(frames: Mapping[str, pd.DataFrame], choice: Choice) -> SelectedRuns:
    """Return the runs of one comparison.

    Raises:
        ResultsError: They differ in what must be equal, or what was chosen does not exist.
    """
    runs = clean_runs(frames["runs"])
    names = runs["data"]
    runs = runs.assign(data=_newest_names(runs))
    fidelity = finite(frames.get("fidelity", pd.DataFrame()))
    if choice.data is not None:
        runs = _of_data(runs, names, choice.data)
    runs = _only(runs, "preset", choice.preset)
    shown = set(runs["variant"])
    if choice.variants:
        _check_variants(runs, (*choice.variants, choice.against))
        shown = {*choice.variants, choice.against}
    elif choice.against != BASELINE:
        _check_variants(runs, [choice.against])
    # Only what is shown must be of one kind. The others of the study that are like it are judged with it.
    mine = _one_data(_one_preset(runs[runs["variant"].isin(shown)]))
    like = runs["data_digest"].isin(mine["data_digest"].dropna()) | runs["data_digest"].isna()
    every = runs[runs["preset"].isin(mine["preset"]) & like]
    notes: list[str] = []
    mine = _of_budget(mine, runs, choice.budget, notes)
    every = _of_budget(every, runs, choice.budget, []).sort_values("finished_at", kind="stable", na_position="first")
    named = planned_metrics(every, frames.get("plans"))
    done = every[every["status"] == "done"]
    measured = measured_names(done, fidelity)
    recorded = RecordedMetrics(frames.get("metrics"), done, measured)
    metrics, judged, why = choose_metrics(done, measured, recorded, choice.metrics, named, notes)
    for name in {*metrics, *judged}:
        if name in recorded or name not in every.columns:
            values = recorded.values(name) if name in recorded else in_fidelity(fidelity, name)
            every = every.assign(**{recorded.column(name): every["run_id"].map(values)})
    if choice.extractor is not None:
        every = _with_extractor(every, fidelity, choice.extractor)
    mine = every[every["run_id"].isin(mine["run_id"])]
    built_in = [name for name in metrics if name not in recorded]
    digests = _one_extractor(mine[mine["status"] == "done"], fidelity, built_in)
    every = _measured_alike(every, fidelity, digests)
    if any(_compares_sets(name) and name not in recorded for name in metrics):
        mine, sizes = _one_size(mine, choice.samples)
        every = _of_sizes(every, sizes)
    runs = every[every["run_id"].isin(mine["run_id"])]
    texts = every[["variant", "about", "claims"]]
    return SelectedRuns(
        runs, metrics, why, digests, stated_variants(texts), notes, every, judged, recorded, _baseline(every)
    )


def _baseline(runs: pd.DataFrame) -> str:
    named = runs["baseline"].fillna(BASELINE).unique()
    return str(named[0]) if len(named) == 1 else BASELINE


def _only(runs: pd.DataFrame, column: str, asked: str | None) -> pd.DataFrame:
    kept = runs if asked is None else runs[runs[column] == asked]
    if len(runs) and not len(kept):
        raise _not_found(column, str(asked), runs[column])
    return kept


def _not_found(column: str, asked: str, values: pd.Series) -> ResultsError:
    existing = sorted(values.dropna().unique())
    listed = ", ".join(existing) or "none"
    return ResultsError(f"no run with {column} {asked!r}{did_you_mean(asked, existing)} Found in the results: {listed}")


def _newest_names(runs: pd.DataFrame) -> pd.Series:
    """Return the name of each run's data set: the newest name of those that its digest had."""
    named = runs[["data_digest", "data", "finished_at"]].dropna(subset=["data_digest", "data"])
    named = named.sort_values("finished_at", kind="stable", na_position="first")
    newest = dict(zip(named["data_digest"], named["data"], strict=True))  # the last counts
    names = [newest.get(digest, name) for digest, name in zip(runs["data_digest"], runs["data"], strict=True)]
    return pd.Series(names, runs.index, dtype=object)


def _of_data(runs: pd.DataFrame, names: pd.Series, asked: str) -> pd.DataFrame:
    """Return the runs of the data sets that ever had a name.

    Args:
        runs: All runs.
        names: What each run's data set was called when it was made.
        asked: The start of a digest of at least four digits, a name, or a path.

    Raises:
        ResultsError: No run matches.
    """
    digests = runs["data_digest"]
    by_digest = digests.str.startswith(asked).fillna(False).astype(bool)
    if len(asked) >= 4 and by_digest.any():
        return runs[by_digest]
    path = Path(asked)
    for name in (asked, path.name, path.stem):
        match = names == name
        if match.any():
            return runs[match | digests.isin(digests[match].dropna())]
    if len(runs):
        raise _not_found("data", asked, names)
    return runs


def _check_variants(runs: pd.DataFrame, names: Sequence[str]) -> None:
    existing = sorted(runs["variant"].unique())
    for name in names:
        if len(runs) and name not in existing:
            near = did_you_mean(name, existing)
            raise ResultsError(f"no run of variant {name!r}{near} Found in the results: {', '.join(existing)}")


def _finished_if_any(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs, or all if none is finished: these decide what there is to choose from."""
    done = runs[runs["status"] == "done"]
    return done if len(done) else runs


def _counts(runs: pd.DataFrame, *columns: str) -> list[tuple[tuple[Any, ...], int]]:
    """Return each combination of values with its number of rows, sorted by the values, missing ones last."""
    counts = Counter(tuples(runs, columns, missing=pd.NA))
    return sorted(counts.items(), key=lambda item: [(value is pd.NA, value) for value in item[0]])


def _one_preset(runs: pd.DataFrame) -> pd.DataFrame:
    counts = _counts(_finished_if_any(runs), "preset")
    if len(counts) > 1:
        listed = ", ".join(f"{name} ({plural(n, 'run')})" for (name,), n in counts)
        choose = f"choose one, as in --preset {quote(str(counts[0][0][0]))}"
        raise ResultsError(f"presets that do not compare: {listed}; {choose}")
    return runs[runs["preset"] == counts[0][0][0]] if counts else runs


def _one_data(runs: pd.DataFrame) -> pd.DataFrame:
    sets = _counts(_finished_if_any(runs), "data", "data_digest")  # one name per digest
    if len(sets) > 1:
        names = [str(data) for (data, _), _ in sets]
        listed = ", ".join(
            f"{data}{'' if pd.isna(digest) else f' {digest[:8]}'} ({plural(n, 'run')})" for (data, digest), n in sets
        )
        # Two data sets may have one name: then the digest chooses.
        first = names[0] if names.count(names[0]) == 1 else str(sets[0][0][1])[:8]
        raise ResultsError(f"data sets that do not compare: {listed}; choose one, as in --data {quote(first)}")
    if not sets or pd.isna(sets[0][0][1]):
        return runs
    digest = sets[0][0][1]
    # A run that failed before its images were read belongs to any data set.
    return runs[(runs["data_digest"] == digest) | runs["data_digest"].isna()]


def _of_budget(runs: pd.DataFrame, every: pd.DataFrame, budget: str, notes: list[str]) -> pd.DataFrame:
    """Keep the runs that may be compared at a budget, and note the variants that have none.

    Args:
        runs: Of the variants that are compared.
        every: Of all variants, to look up the baseline's training MACs.
        budget: `steps` or `macs`.
        notes: Notes are appended.
    """
    asked = (runs["budget"] == "macs").fillna(False).astype(bool)
    if budget == "steps":
        if asked.any():
            notes.append(
                f"left out: {plural(int(asked.sum()), 'run')} with the baseline's training MACs (see --budget macs)"
            )
        return runs[~asked]
    spent = runs["train_macs"].astype("Float64").fillna(0).astype("float64")
    allowed = _baseline_macs(runs, every)
    if allowed is None:
        matched = asked
    else:
        # Runs at equal MACs may be off by part of a step. A failed run may have spent nothing.
        step = (spent / runs["steps"].astype("Float64")).fillna(0).astype("float64")
        tolerance = step.where(asked, 0).clip(lower=SAME_MACS * allowed)
        matched = ((spent - allowed).abs() < tolerance) | (asked & (runs["status"] != "done"))
    lacking = sorted(set(runs["variant"]) - set(runs.loc[matched, "variant"]))
    if lacking:
        notes.append(f"no run with the baseline's training MACs (ablate run --budget macs): {', '.join(lacking)}")
    return runs[matched]


def _baseline_macs(runs: pd.DataFrame, every: pd.DataFrame) -> float | None:
    """Return the training MACs of the newest finished baseline of the same preset and data, if any."""
    like = every["preset"].isin(runs["preset"]) & every["data_digest"].isin(runs["data_digest"].dropna())
    done = (every["variant"] == BASELINE) & (every["status"] == "done") & every["train_macs"].notna()
    base = every[like & done].sort_values("finished_at", kind="stable", na_position="first")
    return float(base["train_macs"].iloc[-1]) if len(base) else None


def _compares_sets(metric: str) -> bool:
    """Return whether a metric compares sets of images, so that its value depends on their sizes."""
    return metric in METRICS and METRICS[metric].kind in ("frechet", "infinity", "kernel", "precision", "recall")


def _with_extractor(runs: pd.DataFrame, fidelity: pd.DataFrame, asked: str) -> pd.DataFrame:
    measured = fidelity[fidelity["run_id"].isin(runs["run_id"])] if len(fidelity) else fidelity
    digests = sorted(measured["weights_digest"].dropna().unique()) if len(measured) else []
    if not any(digest.startswith(asked) for digest in digests):
        listed = ", ".join(digest[:12] for digest in digests)
        raise ResultsError(f"--extractor {asked}: no run was measured with such weights. Found: {listed or 'none'}")
    fits = measured.loc[measured["weights_digest"].str.startswith(asked).fillna(False).astype(bool), "run_id"]
    return runs[runs["run_id"].isin(fits) | (runs["status"] != "done")]


def _one_extractor(done: pd.DataFrame, fidelity: pd.DataFrame, metrics: Sequence[str]) -> dict[str, str]:
    """Return the weights' digest of each network that the metrics use; refuse two digests of one."""
    networks = {METRICS[name].network for name in metrics if name in METRICS} - {None}
    if not len(fidelity) or not networks:
        return {}
    rows = fidelity[["run_id", "extractor", "weights_digest"]]
    pairs = rows[["extractor", "weights_digest"]].drop_duplicates()
    if pairs["extractor"].is_unique:  # whatever runs are compared: skip the slower look at single runs
        return {str(net): str(digest) for net, digest in pairs.itertuples(index=False) if net in networks}
    rows = rows[rows["extractor"].isin(list(networks)) & rows["run_id"].isin(done["run_id"])].drop_duplicates()
    counts = _counts(rows, "extractor", "weights_digest")
    digests: dict[str, str] = {}
    for (network, digest), _ in counts:
        if network in digests:
            listed = ", ".join(f"{d[:12]} ({plural(n, 'run')})" for (net, d), n in counts if net == network)
            raise ResultsError(
                f"runs measured with different weights of {network} do not compare: {listed}; "
                f"choose one, as in --extractor {digest[:12]}, or run the others again"
            )
        digests[str(network)] = str(digest)
    return digests


def _measured_alike(runs: pd.DataFrame, fidelity: pd.DataFrame, digests: Mapping[str, str]) -> pd.DataFrame:
    """Leave out runs that were measured with other weights of the networks."""
    if not digests or not len(fidelity):
        return runs
    rows = fidelity[fidelity["extractor"].isin(list(digests)) & fidelity["weights_digest"].notna()]
    other = rows["weights_digest"] != rows["extractor"].map(digests)
    return runs[~runs["run_id"].isin(rows.loc[other, "run_id"])] if other.any() else runs


def _one_size(runs: pd.DataFrame, asked: str | None) -> tuple[pd.DataFrame, list[tuple[int, int]]]:
    """Refuse to mix Frechet distances of unequal numbers of images: their bias depends on it.

    Returns:
        The runs of one size, and the sizes: (samples, real images).
    """
    measured = runs.loc[_measured(runs), ["fd_n", "fd_ref_n"]]
    counts = _counts(measured, "fd_n", "fd_ref_n")
    sizes = {f"{n}/{ref_n}": (n, ref_n) for (n, ref_n), _ in counts}
    listed = ", ".join(f"{size} ({plural(n, 'run')})" for size, (_, n) in zip(sizes, counts, strict=True))
    if asked is not None:
        chosen = {size: pair for size, pair in sizes.items() if asked in (size, size.split("/")[0])}
        if len(measured) and not chosen:
            raise ResultsError(f"--samples {asked}: no run was measured with so many. Found: {listed}")
        sizes = chosen
    if len(sizes) > 1:
        raise ResultsError(
            f"runs measured with unequal numbers of images (samples/real) do not compare: {listed}; "
            f"choose one, as in --samples {next(iter(sizes))}, or run the others again"
        )
    return _of_sizes(runs, list(sizes.values())), list(sizes.values())


def _of_sizes(runs: pd.DataFrame, sizes: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Keep the runs that were measured with these numbers of images, or with none."""
    fits = runs["fd_n"].isin([n for n, _ in sizes]) & runs["fd_ref_n"].isin([ref_n for _, ref_n in sizes])
    return runs[fits | ~_measured(runs)]


def _measured(runs: pd.DataFrame) -> np.ndarray:
    """Return which runs (n,) have a Frechet distance."""
    return (runs["status"] == "done").to_numpy() & np.any([runs[name].notna() for name in FEATURES], axis=0)
