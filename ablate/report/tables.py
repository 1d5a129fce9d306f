"""The rows of a report: quality and costs by variant, over its finished seeds.

value      = mean +- sd of  m(variant, seed)                     over the variant's finished seeds
difference = mean +- sd of  m(variant, seed) - m(against, seed)  over the seeds finished by both
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablate.measure.metrics import FEATURES, METRICS
from ablate.report.findings import Metric, Row, Value
from ablate.report.metrics import describe, higher_is_better
from ablate.report.select import Selected
from ablate.variant import BASELINE

COSTS = {  # column -> head
    "params": "params",
    "macs": "MACs",
    "nfe": "nfe",
    "train_macs": "train MACs",
    "train_wall_s": "train s",
    "latency_step_ms": "ms/step",
    "latency_image_ms": "ms/image",
}
UNFINISHED = ("diverged", "failed", "interrupted")
MACHINE = ("device", "precision", "threads")


@dataclass(frozen=True)
class Rows:
    """The rows, what is compared against first, and the numbers they were made of."""

    rows: tuple[Row, ...]
    against: str | None  # a label; None: it has no finished run
    values: dict[str, pd.DataFrame]  # metric -> seeds x labels, NaN where there is none
    done: pd.DataFrame  # with a column `label`


def make_rows(selected: Selected, against: str, budget: str, notes: list[str]) -> Rows:
    """Summarise runs that may be compared, one row per variant and configuration.

    Args:
        selected: The runs.
        against: The variant that the others are compared with: its newest configuration that finished.
        budget: `steps` or `macs`, what the runs have in common.
        notes: Is added to.
    """
    runs = selected.runs.assign(config_hash=selected.runs["config_hash"].fillna(""))
    keys = list(dict.fromkeys(zip(runs["variant"][::-1], runs["config_hash"][::-1], strict=True)))  # the newest first
    several = {name for name, n in Counter(name for name, _ in keys).items() if n > 1}
    labels = {key: f"{key[0]} @{key[1]}" if key[0] in several else key[0] for key in keys}
    named = [labels[key] for key in zip(runs["variant"], runs["config_hash"], strict=True)]
    runs["label"] = pd.Series(named, runs.index, dtype=object)
    done = runs.loc[selected.done.index]
    finished = set(done["label"])
    base = next((labels[key] for key in keys if key[0] == against and labels[key] in finished), None)
    values = {name: _matrix(done, name) for name in selected.metrics}
    axes = {labels[key]: "" for key in keys} | dict(zip(runs["label"], runs["axis"].fillna(""), strict=True))
    by_label = {str(label): some for label, some in runs.groupby("label", sort=False)}
    finished_by_label = {str(label): some.sort_values("seed") for label, some in done.groupby("label", sort=False)}
    rows = []
    for key in sorted(keys, key=lambda key: (labels[key] != base, key[0] != BASELINE, axes[labels[key]], *key)):
        label = labels[key]
        mine = finished_by_label.get(label, done.iloc[:0])
        rows.append(_row(label, by_label[label], mine, values, base, notes))
    _unequal(rows, finished_by_label, base, budget, notes)
    if base is None:
        what = "the baseline" if against == BASELINE else against
        notes.append(f"{what} has no finished run here: no differences")
    elif against in several:
        newest = base.partition(" @")[2]
        what = "the baseline" if against == BASELINE else against
        notes.append(f"{what} has several configurations; differences are to the newest, @{newest}")
    machines = Counter(_machine(*parts) for parts in zip(*(done[name] for name in MACHINE), strict=True))
    if len(machines) > 1:
        listed = ", ".join(f"{machine or 'unknown'} ({n} runs)" for machine, n in sorted(machines.items()))
        notes.append(f"times come from unequal devices, precisions or threads and do not compare: {listed}")
    return Rows(tuple(rows), base, values, done)


def describe_metrics(selected: Selected) -> tuple[Metric, ...]:
    """Return what the metrics mean here, with the number of pictures and the floor."""
    return tuple(_metric(name, selected) for name in selected.metrics)


def _metric(name: str, selected: Selected) -> Metric:
    network = METRICS[name].network if name in METRICS else None
    common = {"about": describe(name), "higher_is_better": higher_is_better(name), "extractor": network}
    metric = Metric(name, **common, extractor_digest=selected.digests.get(network or ""))  # type: ignore[arg-type]
    done = selected.done
    if name not in FEATURES or not len(done):
        return metric
    n, ref_n = _first(done["fd_n"]), _first(done["fd_ref_n"])
    floors = done.loc[done[f"{name}_floor"].notna(), ["fd_floor_n", f"{name}_floor"]]
    floor_n = _first(floors["fd_floor_n"])
    same = floors if floor_n is None else floors[floors["fd_floor_n"] == floor_n]
    few = [x for x in (n, ref_n) if x is not None and x <= FEATURES[name]]
    warning = f"fewer pictures than the {FEATURES[name]:,} features: a covariance without full rank" if few else None
    floor = float(same[f"{name}_floor"].mean()) if len(same) else None
    return Metric(
        name,
        **common,  # type: ignore[arg-type]
        n=n,
        ref_n=ref_n,
        floor=floor,
        floor_n=floor_n,
        extractor_digest=metric.extractor_digest,
        warning=warning,
    )


def _first(numbers: pd.Series) -> int | None:
    known = numbers.dropna()
    return int(known.iloc[0]) if len(known) else None


def _matrix(done: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Seeds x labels of a metric, float64."""
    known = done.loc[done[metric].notna(), ["seed", "label"]]
    known = known.assign(value=done.loc[known.index, metric].astype("float64"))
    return known.pivot(index="seed", columns="label", values="value")


def column(values: pd.DataFrame, label: str) -> pd.Series:
    """Return a label's known values by seed."""
    return values[label].dropna() if label in values.columns else pd.Series(dtype="float64")


def _row(
    label: str,
    runs: pd.DataFrame,
    done: pd.DataFrame,
    values: dict[str, pd.DataFrame],
    against: str | None,
    notes: list[str],
) -> Row:
    seeds = tuple(int(seed) for seed in done["seed"])
    of_metric: dict[str, Value] = {}
    differences: dict[str, Value] = {}
    by_seed: dict[str, tuple[float | None, ...]] = {}
    for name, matrix in values.items():
        mine = column(matrix, label)
        theirs = column(matrix, against) if against is not None else mine.iloc[:0]
        shared = mine.index.intersection(theirs.index)
        of_metric[name] = summary(mine.to_numpy())
        differences[name] = summary((mine[shared] - theirs[shared]).to_numpy())
        known = dict(zip(mine.index.tolist(), mine.tolist(), strict=True))
        by_seed[name] = tuple(known.get(seed) for seed in seeds)
        if label != against and len(theirs) and len(shared) < len(mine):
            common = f"difference over {_seeds(shared)}" if len(shared) else "no difference"
            lacking = _seeds(set(mine.index) - set(shared))
            notes.append(f"{label}: {name} {common}: {_name(against)} lacks {lacking}")
        if len(mine) < len(seeds):
            notes.append(f"{label}: no {name} for {_seeds(set(seeds) - set(mine.index))}")
    _more(label, done, notes)
    unfinished = _unfinished(label, runs, set(seeds), notes)
    newest = runs.iloc[-1]
    return Row(
        label=label,
        variant=str(newest["variant"]),
        axis=None if pd.isna(newest["axis"]) else str(newest["axis"]),
        config_hash=str(newest["config_hash"]) or None,
        seeds=seeds,
        run_ids=tuple(str(name) for name in done["run_id"]),
        runs=len(seeds) + sum(unfinished.values()),
        unfinished=unfinished,
        values=of_metric,
        differences=None if label == against else differences,
        by_seed=by_seed,
        costs={name: None if done[name].isna().all() else float(done[name].median()) for name in COSTS},
    )


def _more(label: str, done: pd.DataFrame, notes: list[str]) -> None:
    """Note what an autoencoder reaches alone, and samples that look like copies."""
    means = {name: done[f"autoencoder_{name}"].mean() for name in ("fd", "pd", "psnr_db")}
    if not pd.isna(means["fd"]):
        notes.append(
            f"{label}: its autoencoder alone: fd {means['fd']:.1f}, pd {means['pd']:.4f}, {means['psnr_db']:.2f} dB"
        )
    copies = done.loc[done["memorised"].fillna(False).astype(bool), "seed"]
    if len(copies):
        notes.append(
            f"{label}: {_seeds(copies)}: samples lie next to training pictures more often than held-out ones do: copies?"
        )


def _unfinished(label: str, runs: pd.DataFrame, finished: set[int], notes: list[str]) -> dict[str, int]:
    counts = dict.fromkeys(UNFINISHED, 0)
    rest = runs[runs["status"] != "done"]
    for status in UNFINISHED if len(rest) else ():
        some = rest[(rest["status"] == status) & ~rest["seed"].isin(list(finished))].drop_duplicates(
            "seed", keep="last"
        )
        counts[status] = len(some)
        if len(some):
            errors = "; ".join(dict.fromkeys(textwrap.shorten(str(error), 160) for error in some["error"].dropna()))
            notes.append(f"{label}: {_seeds(some['seed'])} {status}, not in the means{': ' if errors else ''}{errors}")
    return counts


def _unequal(
    rows: Sequence[Row], done: dict[str, pd.DataFrame], against: str | None, budget: str, notes: list[str]
) -> None:
    """Note the variants that spend something else than what they are compared with."""
    allowed = spent(done[against], budget) if against is not None else ""
    for row in rows:
        mine = spent(done[row.label], budget) if row.seeds else ""
        if mine and allowed and mine != allowed:
            notes.append(f"{row.label}: an unequal budget: {mine}; {_name(against)}: {allowed}")


def spent(done: pd.DataFrame, budget: str) -> str:
    """Return what one configuration spends on each of its runs, beside what makes the budgets equal."""
    first = done.iloc[0]
    nfe = f"nfe {count(first['nfe'])}"
    return f"{count(first['steps'])} steps, {nfe}" if budget == "steps" else nfe


def _machine(*parts: Any) -> str:
    return " ".join(str(part) for part in parts if not pd.isna(part))


def _name(label: str | None) -> str:
    return "the baseline" if label is None or label.partition(" @")[0] == BASELINE else label


def summary(numbers: np.ndarray) -> Value:
    """Return mean and spread of numbers (n,)."""
    n = len(numbers)
    return Value(float(numbers.mean()) if n else None, float(numbers.std(ddof=1)) if n > 1 else None, n)


def _seeds(seeds: Iterable[int]) -> str:
    listed = sorted(int(seed) for seed in seeds)
    shown = ", ".join(map(str, listed[:12])) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")
    return f"seed{'' if len(listed) == 1 else 's'} {shown}"


def count(n: Any) -> str:
    """Return a number with thousands separated, or `unknown`."""
    return "unknown" if n is None or pd.isna(n) else f"{int(n):,}"
