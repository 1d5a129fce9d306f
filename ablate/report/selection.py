"""Which runs belong in one comparison: of one preset, data set, budget, number of samples and extractor; else one line says which."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import printable
from ablate.report.judged_metrics import COSTS, HEADLINES, describe
from ablate.study.metric_names import FEATURES, METRICS
from ablate.study.variants import BASELINE

SAME_MACS = 0.01  # of the training MACs: as good as equal
TEXT = (
    "variant",
    "axis",
    "preset",
    "status",
    "error",
    "data",
    "data_digest",
    "budget",
    "config_hash",
    "device",
    "processor",
    "vector_units",
    "arithmetic",
    "mixed_arithmetic",
)

NUMBERS = (
    *("run_id", "seed", "steps", "threads", "memorised", "finished_at", "decode_macs"),
    *("fd_n", "fd_ref_n", "fd_floor", "fd_floor_n", "fid_floor"),
    *("autoencoder_fd", "autoencoder_pd", "autoencoder_psnr_db"),
)


@dataclass(frozen=True)
class Choice:
    """What is to be compared. None leaves it open: it is then an error if the results hold several."""

    preset: str | None = None
    data: str | None = None  # a data set's name, the path it was read from, or the beginning of its digest
    budget: str = "steps"  # `steps`, or the baseline's training `macs`
    against: str = BASELINE  # a variant, by its canonical name, as `variants`
    metrics: tuple[str, ...] = ()  # the first decides; none: the headlines
    samples: str | None = None  # what Frechet distances were taken of: `512`, or with the reference `512/2048`
    extractor: str | None = None  # the beginning of a digest of weights
    variants: tuple[str, ...] = ()  # only these, beside what they are compared against; none: all
    claims: bool = True  # whether the claims of the variants' files are judged too


@dataclass(frozen=True)
class Selected:
    """Runs that may be compared, from old to new, a column of `runs` per metric; `done` are the newest of each configuration and seed."""

    runs: pd.DataFrame
    done: pd.DataFrame
    metrics: tuple[str, ...]
    why_metrics: str
    digests: dict[str, str]  # extractor -> digest of its weights, of those that the metrics use
    notes: list[str]


def select(frames: Mapping[str, pd.DataFrame], choice: Choice) -> Selected:
    """Return the runs of one comparison.

    Raises:
        ResultsError: They differ in what must not differ, or what was chosen is not there.
    """
    runs = _shown(frames["runs"])
    fidelity = finite(frames.get("fidelity", pd.DataFrame()))
    runs = _only(runs, "preset", choice.preset, {choice.preset or ""})
    stems = {choice.data, Path(choice.data).stem} if choice.data else set()
    runs = _data(runs, choice, {stem for stem in stems if stem})
    notes: list[str] = []
    every = runs
    if choice.variants:
        _known(runs, (*choice.variants, choice.against))
        runs = runs[runs["variant"].isin([*choice.variants, choice.against])]
    elif choice.against != BASELINE:
        _known(runs, [choice.against])
    runs = _one(runs, "preset", "--preset")
    runs = _one_data(runs)
    runs = _of_budget(runs, every, choice.budget, notes)
    runs = runs.sort_values("finished_at", kind="stable", na_position="first")
    done = runs[runs["status"] == "done"]
    metrics, why = _metrics(done, fidelity, choice)
    for name in metrics:
        if name not in runs.columns:
            runs = runs.assign(**{name: runs["run_id"].map(_recorded(fidelity, name))})
    if choice.extractor is not None:
        runs = _with_extractor(runs, fidelity, choice.extractor)
    digests = _one_extractor(runs[runs["status"] == "done"], fidelity, metrics)
    if any(_of_sets(name) for name in metrics):
        runs = _one_size(runs, choice.samples)
    done = runs[runs["status"] == "done"].drop_duplicates(["variant", "config_hash", "seed"], keep="last")
    return Selected(runs, done, metrics, why, digests, notes)


def _shown(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the columns that a report is about, as plain objects where they are text."""
    kept = [name for name in runs.columns if name in (*TEXT, *NUMBERS, "precision") or name in METRICS or name in COSTS]
    shown = runs[kept]
    shown = finite(shown.rename(columns={"precision": "arithmetic"}))  # a metric has the name precision
    shown = shown.assign(**_processors(runs))
    # A table may come from elsewhere: what is shown of it must not steer a terminal.
    safe = {
        name: shown[name].astype(object).map(_safe(shown[name]), na_action="ignore").astype(object) for name in TEXT
    }
    return shown.assign(**safe, run_id=shown["run_id"].astype(object), seed=shown["seed"].astype("int64"))


def _processors(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """What each run was computed on: `processor`, the GPU's name or the processor's; `vector_units` of a processor, where recorded."""
    environments = runs["environment"] if "environment" in runs else pd.Series(None, runs.index, dtype=object)
    found: dict[str, dict[str, str | None]] = {"processor": {}, "vector_units": {}}
    for text in environments.dropna().unique():
        with suppress(ValueError, AttributeError, TypeError):  # a table may come from elsewhere
            parts = json.loads(text)
            read = (parts.get(key) for key in ("gpu", "cpu", "cpu_features"))
            gpu, cpu, units = (value if value and isinstance(value, str) else None for value in read)
            found["processor"][text], found["vector_units"][text] = gpu or cpu, None if gpu else units
    return {name: environments.astype(object).map(values) for name, values in found.items()}


def finite(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which numbers that are not finite are null, as `ablate.store.tables.append` writes them; others may not."""
    floats = frame.select_dtypes("float64")
    return frame.assign(**floats.where(np.isfinite(floats)))


def _safe(texts: pd.Series) -> dict[str, str]:
    return {str(text): printable(" ".join(str(text).split())) for text in texts.dropna().unique()}


def _only(runs: pd.DataFrame, column: str, asked: str | None, accepted: set[str]) -> pd.DataFrame:
    found = runs if asked is None else runs[runs[column].isin(accepted)]
    if len(runs) and not len(found):
        there = sorted(runs[column].dropna().unique())
        near = did_you_mean(str(asked), there)
        raise ResultsError(f"no run with {column} {asked!r}{near} Found in the results: {', '.join(there) or 'none'}")
    return found


def _data(runs: pd.DataFrame, choice: Choice, names: set[str]) -> pd.DataFrame:
    if choice.data is not None and len(choice.data) >= 4:
        by_digest = runs[runs["data_digest"].str.startswith(choice.data).fillna(False).astype(bool)]
        if len(by_digest):
            return by_digest
    return _only(runs, "data", choice.data, names)


def _known(runs: pd.DataFrame, names: Sequence[str]) -> None:
    there = sorted(runs["variant"].unique())
    for name in names:
        if len(runs) and name not in there:
            near = did_you_mean(name, there)
            raise ResultsError(f"no run of variant {name!r}{near} Found in the results: {', '.join(there)}")


def _counted(runs: pd.DataFrame) -> pd.DataFrame:
    """What decides: finished runs, where there are any."""
    done = runs[runs["status"] == "done"]
    return done if len(done) else runs


def _counts(runs: pd.DataFrame, *columns: str) -> list[tuple[tuple[Any, ...], int]]:
    """How many rows have each combination of values, in the order of these."""
    sizes = runs.groupby([*columns], dropna=False).size().items()
    return [(key if isinstance(key, tuple) else (key,), int(n)) for key, n in sizes]


def _one(runs: pd.DataFrame, column: str, option: str) -> pd.DataFrame:
    counts = _counts(_counted(runs), column)
    if len(counts) > 1:
        listed = ", ".join(f"{name} ({_runs(n)})" for (name,), n in counts)
        raise ResultsError(f"{column}s that do not compare: {listed}; choose one, as in {option} {counts[0][0][0]}")
    return runs[runs[column] == counts[0][0][0]] if counts else runs


def _one_data(runs: pd.DataFrame) -> pd.DataFrame:
    sets = _counts(_counted(runs), "data", "data_digest")
    if len(sets) > 1:
        names = [str(data) for (data, _), _ in sets]
        listed = ", ".join(f"{data} {str(digest)[:8]} ({_runs(n)})" for (data, digest), n in sets)
        # Two data sets of one name are told apart by their digests.
        first = names[0] if names.count(names[0]) == 1 else str(sets[0][0][1])[:8]
        raise ResultsError(f"data sets that do not compare: {listed}; choose one, as in --data {first}")
    if not sets or pd.isna(sets[0][0][1]):
        return runs
    digest = sets[0][0][1]
    # A run that failed before its pictures were read belongs to whatever was chosen.
    return runs[(runs["data_digest"] == digest) | runs["data_digest"].isna()]


def _of_budget(runs: pd.DataFrame, every: pd.DataFrame, budget: str, notes: list[str]) -> pd.DataFrame:
    """Keep the runs that may be compared at a budget, and name the variants that have none; `every`: those of all variants."""
    asked = (runs["budget"] == "macs").fillna(False).astype(bool)
    if budget == "steps":
        if asked.any():
            notes.append(f"left out: {_runs(int(asked.sum()))} with the baseline's training MACs (see --budget macs)")
        return runs[~asked]
    spent = runs["train_macs"].astype("Float64").fillna(0).astype("float64")
    allowed = _allowed(runs, every)
    if allowed is None:
        matched = asked
    else:
        # A run that was asked to spend as much does so but for a part of a step; one that failed may have spent nothing.
        step = (spent / runs["steps"].astype("Float64")).fillna(0).astype("float64")
        room = step.where(asked, 0).clip(lower=SAME_MACS * allowed)
        matched = ((spent - allowed).abs() < room) | (asked & (runs["status"] != "done"))
    lacking = sorted(set(runs["variant"]) - set(runs.loc[matched, "variant"]))
    if lacking:
        notes.append(f"no run with the baseline's training MACs (ablate run --budget macs): {', '.join(lacking)}")
    return runs[matched]


def _allowed(runs: pd.DataFrame, every: pd.DataFrame) -> float | None:
    """The training MACs of the newest finished baseline of the same preset and data; None where there is none."""
    like = every["preset"].isin(runs["preset"]) & every["data_digest"].isin(runs["data_digest"].dropna())
    done = (every["variant"] == BASELINE) & (every["status"] == "done") & every["train_macs"].notna()
    base = every[like & done].sort_values("finished_at", kind="stable", na_position="first")
    return float(base["train_macs"].iloc[-1]) if len(base) else None


def _recorded(fidelity: pd.DataFrame, metric: str) -> pd.Series:
    if not len(fidelity):
        return pd.Series(dtype="float64")
    found = fidelity.loc[fidelity["metric"] == metric, ["run_id", "value"]]
    return found.drop_duplicates("run_id", keep="last").set_index("run_id")["value"]


def _metrics(done: pd.DataFrame, fidelity: pd.DataFrame, choice: Choice) -> tuple[tuple[str, ...], str]:
    """The metrics asked for, or `fid` and `lpips` where every finished run has them, else the embedded `fd` and `pd`."""
    if choice.metrics:
        for name in choice.metrics:
            describe(name)
            known = done[name].notna().any() if name in done.columns else bool(len(_recorded(fidelity, name)))
            if len(done) and not known:
                recorded = (
                    set(fidelity.loc[fidelity["run_id"].isin(done["run_id"]), "metric"]) if len(fidelity) else set()
                )
                there = [m for m in METRICS if m in recorded or (m in done.columns and done[m].notna().any())]
                raise ResultsError(
                    f"--metric {name}: no finished run here has it. Measured: {', '.join(there) or 'nothing'}"
                )
        return tuple(dict.fromkeys(choice.metrics)), "asked for"
    names, why = [], []
    for best, embedded in HEADLINES:
        lacking = int(done[best].isna().sum())
        names.append(best if len(done) and not lacking else embedded)
        if lacking:
            why.append(f"{embedded} instead of {best}, which {lacking} of {_runs(len(done))} lack")
    return tuple(names), "; ".join(why) or ("measured of every run" if len(done) else "no run is finished")


def _of_sets(metric: str) -> bool:
    """Whether a metric compares sets, so that its value depends on their sizes."""
    return metric in METRICS and METRICS[metric].kind in ("frechet", "infinity", "kernel", "precision", "recall")


def _with_extractor(runs: pd.DataFrame, fidelity: pd.DataFrame, asked: str) -> pd.DataFrame:
    measured = fidelity[fidelity["run_id"].isin(runs["run_id"])] if len(fidelity) else fidelity
    digests = sorted(measured["weights_digest"].dropna().unique()) if len(measured) else []
    if not any(digest.startswith(asked) for digest in digests):
        there = ", ".join(digest[:12] for digest in digests)
        raise ResultsError(f"--extractor {asked}: no run was measured with such weights. Found: {there or 'none'}")
    fits = measured.loc[measured["weights_digest"].str.startswith(asked).fillna(False).astype(bool), "run_id"]
    return runs[runs["run_id"].isin(fits) | (runs["status"] != "done")]


def _one_extractor(done: pd.DataFrame, fidelity: pd.DataFrame, metrics: Sequence[str]) -> dict[str, str]:
    """Return the digest of each network that the metrics use, and refuse two for one."""
    networks = {METRICS[name].network for name in metrics if name in METRICS} - {None}
    if not len(fidelity) or not networks:
        return {}
    rows = fidelity[["run_id", "extractor", "weights_digest"]]
    known = rows[["extractor", "weights_digest"]].drop_duplicates()
    if known["extractor"].is_unique:  # of whatever runs
        return {str(net): str(digest) for net, digest in known.itertuples(index=False) if net in networks}
    rows = rows[rows["extractor"].isin(list(networks)) & rows["run_id"].isin(done["run_id"])].drop_duplicates()
    counts = _counts(rows, "extractor", "weights_digest")
    found: dict[str, str] = {}
    for (network, digest), _ in counts:
        if network in found:
            listed = ", ".join(f"{d[:12]} ({_runs(n)})" for (net, d), n in counts if net == network)
            raise ResultsError(
                f"runs measured with different weights of {network} do not compare: {listed}; choose one, as in "
                f"--extractor {digest[:12]}, or make the others again"
            )
        found[str(network)] = str(digest)
    return found


def _one_size(runs: pd.DataFrame, asked: str | None) -> pd.DataFrame:
    """Refuse to mix Frechet distances of unequal numbers of pictures: their bias depends on it."""
    known = runs[(runs["status"] == "done") & runs[[*FEATURES]].notna().any(axis=1)]
    counts = _counts(known, "fd_n", "fd_ref_n")
    sizes = {f"{n}/{ref_n}": (n, ref_n) for (n, ref_n), _ in counts}
    listed = ", ".join(f"{size} ({_runs(n)})" for size, (_, n) in zip(sizes, counts, strict=True))
    if asked is not None:
        chosen = {size: pair for size, pair in sizes.items() if asked in (size, size.split("/")[0])}
        if len(known) and not chosen:
            raise ResultsError(f"--samples {asked}: no run was measured with so many. Found: {listed}")
        odd = known.index[~known["fd_n"].isin([n for n, _ in chosen.values()])]
        odd = odd.union(known.index[~known["fd_ref_n"].isin([ref_n for _, ref_n in chosen.values()])])
        runs, sizes = runs.drop(odd), chosen
    if len(sizes) > 1:
        raise ResultsError(
            f"runs measured with unequal numbers of pictures (samples/real) do not compare: {listed}; choose one, as in "
            f"--samples {next(iter(sizes))}, or make the others again"
        )
    return runs


def _runs(n: int) -> str:
    return f"{n} run{'' if n == 1 else 's'}"
