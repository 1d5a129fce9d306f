"""The paired differences of a study: of each variant in each metric, and what each claim is about.

A seed at which one of the two diverged counts in the test as the largest difference seen, against
the one that diverged; means and intervals are those of the finished seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ablate.report.clean_rows import tuples
from ablate.report.findings import VariantRow
from ablate.report.judged_metrics import COSTS
from ablate.report.variant_rows import SeedGrid, VariantRows, budgets_of, make_grid
from ablate.stats import paired
from ablate.study.claims import Claim as StatedClaim
from ablate.study.claims import read_margin
from ablate.study.metric_names import METRICS, PAIRS

SCHEMES = ("bf16", "fp8", "int8", "int4")
FORMAT_METRICS = (
    *("psnr_db", "pd", "lpips", "lpips_vgg", "fd", "fd_change", "fid", "fid_change"),
    *("file_bytes", "latency_step_ms"),
)
SCOPE = "kpn"  # of a claim on a number format


@dataclass(frozen=True)
class Differences:
    """The paired differences of one variant in one metric."""

    row: VariantRow
    metric: str
    seeds: np.ndarray  # (seeds of the study,)
    column: np.ndarray  # (seeds of the study,) what is tested; NaN: the pair lacks the seed
    finished: np.ndarray  # (seeds of the study,) bool: both finished it
    theirs: float | None  # mean of the other variant over the finished seeds
    summary: paired.Paired  # of the finished seeds
    margin: float | None  # of `same`
    higher_is_better: bool
    refused: str | None  # why it is not judged

    @property
    def key(self) -> tuple[str, str]:
        return self.row.label, self.metric

    @property
    def diverged(self) -> int:
        return int((~np.isnan(self.column)).sum()) - self.summary.n


class StudyDifferences:
    """The paired differences of all variants of a study."""

    def __init__(self, table: VariantRows, budget: str, same_within: str | None) -> None:
        self.table, self.budget, self.same_within = table, budget, same_within
        self.seeds = np.unique(table.runs["seed"].to_numpy(np.int64))
        lost = table.runs[table.runs["status"] == "diverged"]
        self.diverged = {str(label): group.to_numpy(np.int64) for label, group in lost.groupby("label")["seed"]}
        self._not_judged: dict[str, dict[str, str]] = {}
        self.rows = [row for row in table.rows if row.label in table.newest and row.label != table.against]

    def pair(self, row: VariantRow, metric: str, grid: SeedGrid) -> Differences:
        """Return the paired differences of one variant in one metric."""
        against = self.table.against or ""
        mine, theirs = self._values(grid, row.label), self._values(grid, against)
        x = mine - theirs
        finished = ~np.isnan(x)
        column = x.copy()
        higher_is_better = self.table.recorded.higher_is_better(metric)
        if metric not in COSTS or metric in self.table.recorded:
            size = float(np.abs(x[finished]).max(initial=0.0)) or 1.0
            worst = -size if higher_is_better else size
            column[self._diverged(row.label, mine) & ~np.isnan(theirs)] = worst
            column[self._diverged(against, theirs) & ~np.isnan(mine)] = -worst
        their_mean = float(theirs[finished].mean()) if finished.any() else None
        return Differences(
            row=row,
            metric=metric,
            seeds=self.seeds,
            column=column,
            finished=finished,
            theirs=their_mean,
            summary=paired.summarise(x[finished]),
            margin=self._margin(row, metric, their_mean),
            higher_is_better=higher_is_better,
            refused=self._refused(metric).get(row.label),
        )

    def _refused(self, metric: str) -> dict[str, str]:
        if metric not in self._not_judged:
            self._not_judged[metric] = unjudged(self.table, self.budget, metric)
        return self._not_judged[metric]

    def _values(self, grid: SeedGrid, label: str) -> np.ndarray:
        values = np.full(len(self.seeds), np.nan)
        values[np.searchsorted(self.seeds, grid.seeds)] = grid.of(label)
        return values

    def _diverged(self, label: str, values: np.ndarray) -> np.ndarray:
        return np.isnan(values) & np.isin(self.seeds, self.diverged.get(label, ()))

    def _margin(self, row: VariantRow, metric: str, theirs: float | None) -> float | None:
        """Return the margin that the variant's claim states, or else the one that was asked for."""
        stated = [c.margin for c in self.table.stated[row.variant].claims if (c.metric, c.expect) == (metric, "same")]
        text = next((margin for margin in stated if margin is not None), self.same_within)
        return (read_margin(text, theirs) or None) if text is not None and theirs is not None else None


def unjudged(table: VariantRows, budget: str, metric: str) -> dict[str, str]:
    """Return the labels whose difference in a metric has another cause than the variant, and why."""
    if table.against is None:
        return {}
    first = {label: of_run for label, *of_run in tuples(table.done, ("label", "decode_macs", "steps"))[::-1]}
    their_macs, their_steps = first[table.against]
    refused: dict[str, str] = {}
    if metric in METRICS and METRICS[metric].kind == PAIRS and metric not in table.recorded:
        why = "not judged: one adds its noise to latents, the other to pixels"
        refused = {label: why for label, (macs, _) in first.items() if ((macs or 0) > 0) != ((their_macs or 0) > 0)}
    if budget == "steps" and their_steps is not None:
        budgets = budgets_of(table.done, budget)
        refused |= {
            label: f"not judged: an unequal budget, {budgets[label]} against {budgets[table.against]}"
            for label, (_, steps) in first.items()
            if steps is not None and steps != their_steps
        }
    return refused


def claims_of(
    study: StudyDifferences,
    fidelity: pd.DataFrame,
    formats: pd.DataFrame,
    differences: Mapping[tuple[str, str], Differences],
) -> Iterable[tuple[Differences, StatedClaim]]:
    """Yield every claim of the study with the differences that it is judged by."""
    cache: dict[str, SeedGrid | str] = {}
    for row in study.rows:
        for claim in study.table.stated[row.variant].claims:
            metric = claim.metric
            if (row.label, metric) in differences:
                yield differences[row.label, metric], claim
                continue
            if metric not in cache:
                cache[metric] = _values(metric, study.table, fidelity, formats)
            values = cache[metric]
            if isinstance(values, str):
                nothing = SeedGrid(study.seeds, {}, np.empty((len(study.seeds), 0)))
                yield replace(study.pair(row, metric, nothing), refused=values), claim
            else:
                yield study.pair(row, metric, values), claim


def _values(metric: str, table: VariantRows, fidelity: pd.DataFrame, formats: pd.DataFrame) -> SeedGrid | str:
    """Return the values that a claim is about, or why there are none."""
    done = table.done
    of_run = done[["run_id", "label", "seed"]]
    scheme, _, plain = metric.partition("_")
    if metric in table.recorded:
        rows = of_run.assign(value=done["run_id"].map(table.recorded.values(metric)))
    elif scheme in SCHEMES:
        if plain not in FORMAT_METRICS:
            return f"{metric} is not a metric"
        if not len(formats):
            return f"no run was measured in {scheme}"
        rows = formats[(formats["scheme"] == scheme) & (formats["scope"] == SCOPE) & formats[plain].notna()]
        rows = rows.assign(value=rows[plain])
        if plain.startswith(("fd", "fid")) and len(rows[["n", "fd_ref_n"]].drop_duplicates()) > 1:
            return f"{metric} was measured with unequal numbers of images"
    elif metric in done.columns and (metric in METRICS or metric in COSTS):
        rows = of_run.assign(value=done[metric])
    elif metric in METRICS and len(fidelity):
        rows = of_run.merge(fidelity.loc[fidelity["metric"] == metric, ["run_id", "value"]], on="run_id")
    else:
        return f"{metric} is not a metric"
    return make_grid(rows["label"], rows["seed"], rows["value"])
