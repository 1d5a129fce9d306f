"""The rows of a report: quality and costs of each variant over its finished seeds.

value      = mean +- sd of  m(variant, seed)                     over the variant's finished seeds
difference = mean +- sd of  m(variant, seed) - m(against, seed)  over the seeds that both finished
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablate.base.text import some_of
from ablate.report.findings import Metric, Value, VariantRow
from ablate.report.machines import on_one_machine
from ablate.report.recorded_metrics import RecordedMetrics
from ablate.report.selection import SelectedRuns
from ablate.report.stated import NOTHING, Stated
from ablate.stats import paired
from ablate.study.metric_names import FEATURES, METRICS
from ablate.study.variants import BASELINE

COST_HEADS = {  # cost -> head of its column
    "params": "params",
    "macs": "MACs",
    "nfe": "nfe",
    "train_macs": "train MACs",
    "train_wall_s": "train s",
    "latency_step_ms": "ms/step",
    "latency_image_ms": "ms/image",
}
TIMES = ("train_wall_s", "latency_step_ms", "latency_image_ms")
UNFINISHED = ("diverged", "failed", "interrupted")
AUTOENCODER = ("autoencoder_fd", "autoencoder_pd", "autoencoder_psnr_db")
NO_VALUE = Value(mean=None, sd=None, low=None, high=None, n=0)


@dataclass(frozen=True)
class SeedGrid:
    """One metric of every label at every seed."""

    seeds: np.ndarray  # (seeds,) int64, ascending
    columns: dict[str, int]  # label -> its column in `values`
    values: np.ndarray  # (seeds, labels) float64, NaN for no value

    def of(self, label: str | None) -> np.ndarray:
        """Return the values of a label (seeds,), all NaN if it has none."""
        if label is None or label not in self.columns:
            return np.full(len(self.seeds), np.nan)
        return self.values[:, self.columns[label]]


def make_grid(label: pd.Series, seed: pd.Series, value: pd.Series) -> SeedGrid:
    """Arrange values by seed and label; of several for one pair the last counts."""
    seeds, row = np.unique(seed.to_numpy(np.int64), return_inverse=True)
    column, labels = pd.factorize(label)
    values = np.full((len(seeds), len(labels)), np.nan)
    values[row, column] = value.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return SeedGrid(seeds, {str(name): i for i, name in enumerate(labels)}, values)


@dataclass(frozen=True)
class VariantRows:
    """The rows of a report, with the values they are computed from."""

    rows: tuple[VariantRow, ...]  # the row that the others are compared with comes first
    against: str | None  # its label; None: it has no finished run
    values: dict[str, SeedGrid]  # by metric
    done: pd.DataFrame  # finished runs, with a column `label`
    newest: frozenset[str]  # label of each variant's newest configuration, of those with a finished run if any
    stated: dict[str, Stated]  # what the file of each variant of the study said
    runs: pd.DataFrame  # finished or not, with a column `label`
    recorded: RecordedMetrics  # says which direction of any metric is better
    baseline: str  # the variant that the study was made to compare with


def make_rows(selected: SelectedRuns, against: str, budget: str, notes: list[str]) -> VariantRows:
    """Summarise runs that may be compared, one row per variant and configuration.

    Args:
        selected: The runs.
        against: The variant to compare with, in its newest finished configuration.
        budget: `steps` or `macs`.
        notes: Notes are appended.
    """
    runs = selected.runs.assign(config_hash=selected.runs["config_hash"].fillna(""))
    newest_first = zip(runs["variant"][::-1], runs["config_hash"][::-1], strict=True)
    keys = list(dict.fromkeys(newest_first))
    several = {name for name, n in Counter(name for name, _ in keys).items() if n > 1}
    labels = {key: f"{key[0]} @{key[1]}" if key[0] in several else key[0] for key in keys}
    of_run = [labels[key] for key in zip(runs["variant"], runs["config_hash"], strict=True)]
    runs["label"] = pd.Series(of_run, runs.index, dtype=object)
    done = runs.loc[selected.done["seed"].sort_values(kind="stable").index]
    finished = set(done["label"])
    newest: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: labels[key] not in finished):
        newest.setdefault(key[0], labels[key])
    base = newest.get(against)
    base = base if base in finished else None
    axes = dict(zip(runs["label"], runs["axis"].fillna(""), strict=True))
    order = sorted(keys, key=lambda key: (labels[key] != base, key[0] != BASELINE, axes[labels[key]], *key))
    columns = {name: selected.recorded.column(name) for name in selected.metrics}
    values = {name: make_grid(done["label"], done["seed"], done[column]) for name, column in columns.items()}
    keys_in_order = [(labels[key], *key, axes[labels[key]]) for key in order]
    rows = _rows(keys_in_order, selected.stated, runs, done, values, base, notes)
    _note_autoencoders_and_copies(done, [row.label for row in rows], notes)
    _note_unequal_budgets(rows, done, base, budget, notes)
    _note_mixed_arithmetic(done, base, notes)
    for column in ("code", "libraries"):
        _note_unequal(column, done, base, notes)
    _note_unstable(done, notes)
    _note_configurations(runs, done, newest, several, notes)
    if base is None:
        notes.append(f"{_name(against)} has no finished run here: no differences")
    elif against in several:
        hash_ = base.partition(" @")[2]
        notes.append(f"{_name(against)} has several configurations; differences are to the newest, @{hash_}")
    return VariantRows(
        rows=tuple(rows),
        against=base,
        values=values,
        done=done,
        newest=frozenset(newest.values()),
        stated=selected.stated,
        runs=runs,
        recorded=selected.recorded,
        baseline=selected.baseline,
    )


def describe_metrics(selected: SelectedRuns) -> tuple[Metric, ...]:
    """Return what each metric means here, with its numbers of images and its floor."""
    return tuple(_metric(name, selected) for name in selected.metrics)


def _metric(name: str, selected: SelectedRuns) -> Metric:
    recorded, done = selected.recorded, selected.done
    network = METRICS[name].network if name in METRICS and name not in recorded else None
    n = ref_n = floor = floor_n = warning = None
    if name in FEATURES and name not in recorded and len(done):
        n, ref_n = _first(done["fd_n"]), _first(done["fd_ref_n"])
        floors = done.loc[done[f"{name}_floor"].notna(), ["fd_floor_n", f"{name}_floor"]]
        floor_n = _first(floors["fd_floor_n"])
        same = floors if floor_n is None else floors[floors["fd_floor_n"] == floor_n]
        floor = float(same[f"{name}_floor"].mean()) if len(same) else None
        if any(x is not None and x <= FEATURES[name] for x in (n, ref_n)):
            warning = f"fewer images than the {FEATURES[name]:,} features, so the covariance lacks full rank"
    return Metric(
        name=name,
        about=recorded.describe(name),
        unit=recorded.unit(name),
        recorded=name in recorded,
        higher_is_better=recorded.higher_is_better(name),
        n=n,
        ref_n=ref_n,
        floor=floor,
        floor_n=floor_n,
        extractor=network,
        extractor_digest=selected.digests.get(network or ""),
        warning=warning,
    )


def _first(values: pd.Series) -> int | None:
    known = values.dropna()
    return int(known.iloc[0]) if len(known) else None


def _rows(
    keys: Sequence[tuple[str, str, str, str]],
    stated: Mapping[str, Stated],
    runs: pd.DataFrame,
    done: pd.DataFrame,
    values: dict[str, SeedGrid],
    against: str | None,
    notes: list[str],
) -> list[VariantRow]:
    """Make a row of each key: label, variant, configuration and axis."""
    costs = done[[*COST_HEADS]].to_numpy(np.float64, na_value=np.nan)
    costs[np.outer(~on_one_machine(done, against), [name in TIMES for name in COST_HEADS])] = np.nan
    by_label = pd.DataFrame(costs, columns=[*COST_HEADS]).groupby(done["label"].to_numpy())
    medians = by_label.median().replace(np.nan, None).to_dict("index")
    of_label = done.groupby("label").indices
    unfinished = _unfinished(runs, done, notes)
    unstable = Counter(done.loc[_true(done["unstable"]), "label"])
    all_seeds, run_ids = done["seed"].to_numpy(), done["run_id"].to_numpy()
    means = {name: _means(grid, None) for name, grid in values.items()}
    differences = {name: _means(grid, grid.of(against)) for name, grid in values.items()}
    rows = []
    for label, variant, config_hash, axis in keys:
        places = of_label.get(label, np.zeros(0, int))
        seeds = tuple(all_seeds[places].tolist())
        lost = unfinished.get(label, dict.fromkeys(UNFINISHED, 0))
        by_seed = {}
        for name, grid in values.items():
            mine = grid.of(label)[np.searchsorted(grid.seeds, seeds)]
            by_seed[name] = tuple(None if x != x else x for x in mine.tolist())
            _note_lacking_seeds(label, name, grid, against, seeds, mine, notes)
        rows.append(
            VariantRow(
                label=label,
                variant=variant,
                about=stated.get(variant, NOTHING).about,
                axis=axis or None,
                config_hash=config_hash or None,
                seeds=seeds,
                run_ids=tuple(map(str, run_ids[places])),
                runs=len(seeds) + sum(lost.values()),
                unfinished=lost,
                unstable=unstable[label],
                values={name: of.get(label, NO_VALUE) for name, of in means.items()},
                differences=None
                if label == against
                else {name: of.get(label, NO_VALUE) for name, of in differences.items()},
                at_other_budget=None,
                by_seed=by_seed,
                costs=medians.get(label, dict.fromkeys(COST_HEADS)),
            )
        )
    return rows


def _means(grid: SeedGrid, theirs: np.ndarray | None) -> dict[str, Value]:
    """Return mean, sd and interval of every label, or of its differences to other values (seeds,)."""
    x = grid.values if theirs is None else grid.values - theirs[:, None]
    n = np.sum(~np.isnan(x), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(x, axis=0) / n
        sd = np.sqrt(np.nansum((x - mean) ** 2, axis=0) / (n - 1))
    columns = zip(grid.columns, mean.tolist(), sd.tolist(), n.tolist(), strict=True)
    return {name: value_of(m, s, k) for name, m, s, k in columns}


def value_of(mean: float, sd: float, n: int) -> Value:
    """Return a mean over `n` seeds with its 95 % interval (Student's t)."""
    if n < 2:
        return NO_VALUE.model_copy(update={"mean": mean, "n": n}) if n else NO_VALUE
    half = paired.half_width(n, sd)
    return Value(mean=mean, sd=sd, low=mean - half, high=mean + half, n=n)


def _note_lacking_seeds(
    label: str,
    metric: str,
    grid: SeedGrid,
    against: str | None,
    seeds: tuple[int, ...],
    mine: np.ndarray,
    notes: list[str],
) -> None:
    known = ~np.isnan(mine)
    theirs = ~np.isnan(grid.of(against)[np.searchsorted(grid.seeds, seeds)])
    shared, own = known & theirs, np.asarray(seeds)
    if label != against and against is not None and shared.sum() < known.sum():
        common = f"difference over {_seeds(own[shared])}" if shared.any() else "no difference"
        notes.append(f"{label}: {metric} {common}: {_name(against)} lacks {_seeds(own[known & ~theirs])}")
    if not known.all():
        notes.append(f"{label}: no {metric} for {_seeds(own[~known])}")


def _note_autoencoders_and_copies(done: pd.DataFrame, labels: Iterable[str], notes: list[str]) -> None:
    """Note the quality that an autoencoder alone reaches, and samples that look like copies."""
    known = done["autoencoder_fd"].notna()
    alone = done.loc[known, ["label", *AUTOENCODER]].groupby("label").mean() if known.any() else done[:0]
    copies = _seeds_by_label(done, _true(done["memorised"]))
    for label in labels:
        if label in alone.index:
            fd, pd_, psnr_db = alone.loc[label]
            notes.append(f"{label}: its autoencoder alone: fd {fd:.1f}, pd {pd_:.4f}, {psnr_db:.2f} dB")
        if label in copies:
            near = "samples lie next to training images more often than held-out images do: copies?"
            notes.append(f"{label}: {copies[label]}: {near}")


def _unfinished(runs: pd.DataFrame, done: pd.DataFrame, notes: list[str]) -> dict[str, dict[str, int]]:
    """Count the seeds without a finished run by label and status, and note why."""
    counts: dict[str, dict[str, int]] = {}
    rest = runs.loc[runs["status"] != "done", ["label", "seed", "status", "error"]]
    if not len(rest):
        return counts
    finished = pd.MultiIndex.from_frame(done[["label", "seed"]])
    rest = rest[~pd.MultiIndex.from_frame(rest[["label", "seed"]]).isin(finished)]
    for (label, status), group in rest.drop_duplicates(["label", "seed"], keep="last").groupby(["label", "status"]):
        counts.setdefault(str(label), dict.fromkeys(UNFINISHED, 0))[str(status)] = len(group)
        errors = "; ".join(dict.fromkeys(textwrap.shorten(str(error), 160) for error in group["error"].dropna()))
        notes.append(f"{label}: {_seeds(group['seed'])} {status}, not in the means{': ' if errors else ''}{errors}")
    return counts


def _note_unequal_budgets(
    rows: Sequence[VariantRow], done: pd.DataFrame, against: str | None, budget: str, notes: list[str]
) -> None:
    budgets = budgets_of(done, budget)
    theirs = budgets.get(against or "")
    for row in rows:
        mine = budgets.get(row.label)
        if mine and theirs and mine != theirs:
            notes.append(f"{row.label}: an unequal budget: {mine}; {_name(against)}: {theirs}")


def _note_mixed_arithmetic(done: pd.DataFrame, against: str | None, notes: list[str]) -> None:
    """Note runs and pairs that were not computed in one arithmetic (precision)."""
    mixed_runs = done.loc[done["mixed_arithmetic"].notna(), ["label", "seed", "mixed_arithmetic"]]
    for label, group in mixed_runs.groupby("label", sort=False) if len(mixed_runs) else ():
        how = "; ".join(group["mixed_arithmetic"].unique())
        notes.append(f"{label}: {_seeds(group['seed'])} went on in another arithmetic after an interruption: {how}")
    if done["arithmetic"].nunique() < 2:
        return
    theirs = done[done["label"] == against].set_index("seed")["arithmetic"].rename("theirs")
    pairs = done[["label", "seed", "arithmetic"]].join(theirs, on="seed").dropna()
    for label, mixed in pairs[pairs["arithmetic"] != pairs["theirs"]].groupby("label", sort=False):
        how = " and ".join(sorted({*mixed["arithmetic"], *mixed["theirs"]}))
        notes.append(
            f"{label}: at {_seeds(mixed['seed'])} runs in {how} are paired: the difference is not the variant's "
            "alone; run one of them again (--force) on a machine like the other's"
        )


def _note_unequal(column: str, done: pd.DataFrame, against: str | None, notes: list[str]) -> None:
    """Note pairs whose two runs were computed by other code or other libraries."""
    if done[column].nunique() < 2:
        return
    theirs = done[done["label"] == against].drop_duplicates("seed").set_index("seed")[column].rename("theirs")
    pairs = done[["label", "seed", column]].join(theirs, on="seed").dropna()
    pairs = pairs[pairs["label"] != against]
    mixed = pairs[pairs[column] != pairs["theirs"]]
    if not len(mixed):
        return
    totals, counts = Counter(pairs["label"]), Counter(mixed["label"])
    listed = ", ".join(f"{label} ({n} of {totals[label]})" for label, n in counts.items())
    versions = sorted({*mixed[column], *mixed["theirs"]})
    if column == "libraries":  # only what differs
        parts = [set(version.split(", ")) for version in versions]
        versions = sorted(set.union(*parts) - set.intersection(*parts))
    shown = "; ".join(versions[:4]) + (f" and {len(versions) - 4} more" if len(versions) > 4 else "")
    verb = "differ" if column == "libraries" else "differs"
    notes.append(f"{column} {verb} within pairs with {_name(against)}: {listed}: {shown}")


def _note_unstable(done: pd.DataFrame, notes: list[str]) -> None:
    for label, seeds in _seeds_by_label(done, _true(done["unstable"])).items():
        notes.append(f"{label}: {seeds} unstable: the gradient norm left its own history")


def _note_configurations(
    runs: pd.DataFrame, done: pd.DataFrame, newest: Mapping[str, str], several: Iterable[str], notes: list[str]
) -> None:
    """Note variants of several configurations, which one is judged, and which are not."""
    for variant in sorted(several):
        labels = dict.fromkeys(runs.loc[runs["variant"] == variant, "label"])
        finished = {label: _seeds(done.loc[done["label"] == label, "seed"]) for label in labels}
        listed = ", ".join(f"@{label.partition(' @')[2]} ({seeds})" for label, seeds in finished.items())
        judged = f"only the newest is judged, @{newest[variant].partition(' @')[2]}"
        notes.append(f"{variant} has {len(finished)} configurations: {listed}; {judged}")


def budgets_of(done: pd.DataFrame, budget: str) -> dict[str, str]:
    """Return, by label, in words what each run spends beyond what `budget` makes equal."""
    first = ~done["label"].duplicated().to_numpy()
    columns = (done[name].to_numpy(object)[first] for name in ("label", "steps", "nfe"))
    return {
        label: f"{count(steps)} steps, nfe {count(nfe)}" if budget == "steps" else f"nfe {count(nfe)}"
        for label, steps, nfe in zip(*columns, strict=True)
    }


def _name(label: str | None) -> str:
    return "the baseline" if label is None or label.partition(" @")[0] == BASELINE else label


def _true(flags: pd.Series) -> np.ndarray:
    """Return which flags (n,) are set; a missing one is not."""
    return flags.astype("boolean").to_numpy(bool, na_value=False)


def _seeds_by_label(runs: pd.DataFrame, chosen: np.ndarray) -> dict[str, str]:
    """Return the seeds of the chosen runs in words, by label."""
    seeds: dict[str, list[int]] = {}
    for label, seed in zip(runs["label"].to_numpy()[chosen], runs["seed"].to_numpy()[chosen], strict=True):
        seeds.setdefault(label, []).append(seed)
    return {label: _seeds(some) for label, some in seeds.items()}


def _seeds(seeds: Iterable[int]) -> str:
    every = sorted(int(seed) for seed in seeds)
    return f"seed{'' if len(every) == 1 else 's'} {some_of(every, 12)}"


def count(n: Any) -> str:
    """Return a number with separated thousands, or `unknown`."""
    return "unknown" if n is None or pd.isna(n) else f"{int(n):,}"
