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

from ablate.report.findings import Metric, Row, Value
from ablate.report.judged_metrics import describe, higher_is_better
from ablate.report.selection import Selected
from ablate.study.metric_names import FEATURES, METRICS
from ablate.study.variants import BASELINE

UNEQUAL_MACHINES = "times come from unequal machines, precisions or threads and do not compare"
COST_HEADS = {  # columns of every report
    "params": "params",
    "macs": "MACs",
    "nfe": "nfe",
    "train_macs": "train MACs",
    "train_wall_s": "train s",
    "latency_step_ms": "ms/step",
    "latency_image_ms": "ms/image",
}
UNFINISHED = ("diverged", "failed", "interrupted")
AUTOENCODER = ("autoencoder_fd", "autoencoder_pd", "autoencoder_psnr_db")
NOTHING = Value(None, None, 0)
MACHINE = ("device", "processor", "arithmetic", "threads", "vector_units")


@dataclass(frozen=True)
class Grid:
    """A metric of every label and seed: `values` (seeds, labels) float64, NaN where there is none; `place`: label -> its column."""

    seeds: np.ndarray  # (seeds,) int64, ascending
    place: dict[str, int]
    values: np.ndarray

    def of(self, label: str | None) -> np.ndarray:
        """Return a label's values (seeds,), all NaN if it has none."""
        if label is None or label not in self.place:
            return np.full(len(self.seeds), np.nan)
        return self.values[:, self.place[label]]


def make_grid(label: pd.Series, seed: pd.Series, value: pd.Series) -> Grid:
    """Lay out values by seed and label; of a pair that comes twice the last counts."""
    seeds, row = np.unique(seed.to_numpy(np.int64), return_inverse=True)
    column, labels = pd.factorize(label)
    values = np.full((len(seeds), len(labels)), np.nan)
    values[row, column] = value.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return Grid(seeds, {str(name): i for i, name in enumerate(labels)}, values)


@dataclass(frozen=True)
class Rows:
    """The rows, what is compared against first, and the numbers they were made of."""

    rows: tuple[Row, ...]
    against: str | None  # a label; None: it has no finished run
    values: dict[str, Grid]  # by metric
    done: pd.DataFrame  # with a column `label`
    newest: frozenset[
        str
    ]  # the label of each variant's newest configuration that finished, or of its newest where none has


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
    done = runs.loc[selected.done.index].sort_values("seed", kind="stable")
    finished = set(done["label"])
    newest: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: labels[key] not in finished):
        newest.setdefault(key[0], labels[key])
    base = newest.get(against)
    base = base if base in finished else None
    axes = dict(zip(runs["label"], runs["axis"].fillna(""), strict=True))
    order = sorted(keys, key=lambda key: (labels[key] != base, key[0] != BASELINE, axes[labels[key]], *key))
    values = {name: make_grid(done["label"], done["seed"], done[name]) for name in selected.metrics}
    rows = _rows([(labels[key], *key, axes[labels[key]]) for key in order], runs, done, values, base, notes)
    _more(done, [row.label for row in rows], notes)
    _unequal(rows, done, base, budget, notes)
    _mixed(done, base, notes)
    what = _name(against)
    if base is None:
        notes.append(f"{what} has no finished run here: no differences")
    elif against in several:
        notes.append(f"{what} has several configurations; differences are to the newest, @{base.partition(' @')[2]}")
    return Rows(tuple(rows), base, values, done, frozenset(newest.values()))


def unequal_machines(done: pd.DataFrame) -> list[str]:
    """Return a note where finished runs' times do not compare, else nothing."""
    machines = done.groupby([*MACHINE], dropna=False).size()
    if len(machines) < 2:
        return []
    names = [_machine(*key[:-1]) for key in machines.index]
    # Vector units are many words: they are shown where machines differ in nothing else.
    shown = sorted(
        f"{name or 'unknown'}{f' {units}' if names.count(name) > 1 and not pd.isna(units) else ''} ({n} runs)"
        for name, (*_, units), n in zip(names, machines.index, machines, strict=True)
    )
    listed = ", ".join(shown)
    return [f"{UNEQUAL_MACHINES}: {listed}"]


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


def _rows(
    keys: Sequence[tuple[str, str, str, str]],
    runs: pd.DataFrame,
    done: pd.DataFrame,
    values: dict[str, Grid],
    against: str | None,
    notes: list[str],
) -> list[Row]:
    """Make a row of each label, variant, configuration and axis."""
    costs = done.groupby("label")[[*COST_HEADS]].agg("median").astype("float64").replace(np.nan, None).to_dict("index")
    of_label = done.groupby("label").indices
    unfinished = _unfinished(runs, done, notes)
    all_seeds, run_ids = done["seed"].to_numpy(), done["run_id"].to_numpy()
    summaries = {name: _summaries(grid, None) for name, grid in values.items()}
    paired = {name: _summaries(grid, grid.of(against)) for name, grid in values.items()}
    rows = []
    for label, variant, config_hash, axis in keys:
        at = of_label.get(label, np.zeros(0, int))
        seeds = tuple(all_seeds[at].tolist())
        lost = unfinished.get(label, dict.fromkeys(UNFINISHED, 0))
        by_seed = {}
        for name, grid in values.items():
            mine = grid.of(label)[np.searchsorted(grid.seeds, seeds)]
            by_seed[name] = tuple(None if x != x else x for x in mine.tolist())
            _lacking(label, name, grid, against, seeds, mine, notes)
        rows.append(
            Row(
                label=label,
                variant=variant,
                axis=axis or None,
                config_hash=config_hash or None,
                seeds=seeds,
                run_ids=tuple(map(str, run_ids[at])),
                runs=len(seeds) + sum(lost.values()),
                unfinished=lost,
                values={name: some.get(label, NOTHING) for name, some in summaries.items()},
                at_other_budget=None,
                differences=None if label == against else {name: x.get(label, NOTHING) for name, x in paired.items()},
                by_seed=by_seed,
                costs=costs.get(label, dict.fromkeys(COST_HEADS)),
            )
        )
    return rows


def _summaries(grid: Grid, theirs: np.ndarray | None) -> dict[str, Value]:
    """Mean and spread of every label, or of its differences to others' values (seeds,)."""
    x = grid.values if theirs is None else grid.values - theirs[:, None]
    n = np.sum(~np.isnan(x), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(x, axis=0) / n
        sd = np.sqrt(np.nansum((x - mean) ** 2, axis=0) / (n - 1))
    numbers = zip(grid.place, mean.tolist(), sd.tolist(), n.tolist(), strict=True)
    return {name: Value(m if k else None, s if k > 1 else None, k) for name, m, s, k in numbers}


def _lacking(
    label: str,
    metric: str,
    grid: Grid,
    against: str | None,
    seeds: tuple[int, ...],
    mine: np.ndarray,
    notes: list[str],
) -> None:
    """Note the seeds that one of the two lacks."""
    known = ~np.isnan(mine)
    theirs = ~np.isnan(grid.of(against)[np.searchsorted(grid.seeds, seeds)])
    shared, own = known & theirs, np.asarray(seeds)
    if label != against and against is not None and shared.sum() < known.sum():
        common = f"difference over {_seeds(own[shared])}" if shared.any() else "no difference"
        notes.append(f"{label}: {metric} {common}: {_name(against)} lacks {_seeds(own[known & ~theirs])}")
    if not known.all():
        notes.append(f"{label}: no {metric} for {_seeds(own[~known])}")


def _more(done: pd.DataFrame, labels: Iterable[str], notes: list[str]) -> None:
    """Note what an autoencoder reaches alone, and samples that look like copies."""
    alone = done[done["autoencoder_fd"].notna()].groupby("label")[[*AUTOENCODER]].mean().astype("float64")
    copied = done[done["memorised"].fillna(False).astype(bool)]
    copies = {label: _seeds(seeds) for label, seeds in copied.groupby("label")["seed"]}
    for label in labels:
        if label in alone.index:
            fd, pd_, psnr_db = alone.loc[label]
            notes.append(f"{label}: its autoencoder alone: fd {fd:.1f}, pd {pd_:.4f}, {psnr_db:.2f} dB")
        if label in copies:
            near = "samples lie next to training pictures more often than held-out ones do: copies?"
            notes.append(f"{label}: {copies[label]}: {near}")


def _unfinished(runs: pd.DataFrame, done: pd.DataFrame, notes: list[str]) -> dict[str, dict[str, int]]:
    """Count the seeds that ended otherwise and were not finished since, by label and status, and say why."""
    counts: dict[str, dict[str, int]] = {}
    rest = runs[runs["status"] != "done"]
    if len(rest):
        finished = pd.MultiIndex.from_frame(done[["label", "seed"]])
        rest = rest[~pd.MultiIndex.from_frame(rest[["label", "seed"]]).isin(finished)]
    for (label, status), some in rest.drop_duplicates(["label", "seed"], keep="last").groupby(["label", "status"]):
        counts.setdefault(str(label), dict.fromkeys(UNFINISHED, 0))[str(status)] = len(some)
        errors = "; ".join(dict.fromkeys(textwrap.shorten(str(error), 160) for error in some["error"].dropna()))
        notes.append(f"{label}: {_seeds(some['seed'])} {status}, not in the means{': ' if errors else ''}{errors}")
    return counts


def _unequal(rows: Sequence[Row], done: pd.DataFrame, against: str | None, budget: str, notes: list[str]) -> None:
    """Note the variants that spend something else than what they are compared with."""
    costs = spent(done, budget)
    allowed = costs.get(against or "")
    for row in rows:
        mine = costs.get(row.label)
        if mine and allowed and mine != allowed:
            notes.append(f"{row.label}: an unequal budget: {mine}; {_name(against)}: {allowed}")


def _mixed(done: pd.DataFrame, against: str | None, notes: list[str]) -> None:
    """Note what was not computed in one arithmetic: runs, and pairs, whose difference is then not the variant's alone."""
    for label, some in done[done["mixed_arithmetic"].notna()].groupby("label", sort=False):
        how = "; ".join(some["mixed_arithmetic"].unique())
        notes.append(f"{label}: {_seeds(some['seed'])} went on in another arithmetic after an interruption: {how}")
    theirs = done[done["label"] == against].set_index("seed")["arithmetic"].rename("theirs")
    pairs = done[["label", "seed", "arithmetic"]].join(theirs, on="seed").dropna()
    for label, mixed in pairs[pairs["arithmetic"] != pairs["theirs"]].groupby("label", sort=False):
        how = " and ".join(sorted({*mixed["arithmetic"], *mixed["theirs"]}))
        notes.append(
            f"{label}: at {_seeds(mixed['seed'])} runs in {how} are paired: the difference is not the variant's alone; "
            "make one of them again (--force) on a machine like the other's"
        )


def spent(done: pd.DataFrame, budget: str) -> dict[str, str]:
    """Return what each label spends on each of its runs, beside what makes the budgets equal."""
    first = done.drop_duplicates("label")
    numbers = zip(first["label"], first["steps"], first["nfe"], strict=True)
    return {
        label: f"{count(steps)} steps, nfe {count(nfe)}" if budget == "steps" else f"nfe {count(nfe)}"
        for label, steps, nfe in numbers
    }


def _machine(device: Any, processor: Any, arithmetic: Any, threads: Any) -> str:
    spread = None if pd.isna(threads) else f"{threads:g} thread{'s' * (threads != 1)}"
    return " ".join(str(part) for part in (device, processor, arithmetic, spread) if not pd.isna(part))


def _name(label: str | None) -> str:
    return "the baseline" if label is None or label.partition(" @")[0] == BASELINE else label


def _seeds(seeds: Iterable[int]) -> str:
    listed = sorted(int(seed) for seed in seeds)
    shown = ", ".join(map(str, listed[:12])) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")
    return f"seed{'' if len(listed) == 1 else 's'} {shown}"


def count(n: Any) -> str:
    """Return a number with thousands separated, or `unknown`."""
    return "unknown" if n is None or pd.isna(n) else f"{int(n):,}"
