"""The verdicts of a report: on each variant by each metric, and on the claims in the variants' files.

All tests form one family for Holm's correction: every comparison that is shown, and every claim on
another metric. A comparison with fewer seeds than one test alone needs cannot be decided whatever
its values are, so it is left out of the family.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablate.report.findings import Claim, Comparison, VariantRow
from ablate.report.judged_metrics import COSTS, HEADLINES, higher_is_better
from ablate.report.variant_rows import SeedGrid, VariantRows, budgets_of, count, make_grid
from ablate.stats import paired
from ablate.study.claims import Claim as StatedClaim
from ablate.study.claims import read_margin
from ablate.study.metric_names import METRICS, PAIRS
from ablate.study.variants import BASELINE

SCHEMES = ("bf16", "fp8", "int8", "int4")
FORMAT_METRICS = (
    *("psnr_db", "pd", "lpips", "lpips_vgg", "fd", "fd_change", "fid", "fid_change"),
    *("file_bytes", "latency_step_ms"),
)
SCOPE = "kpn"  # of a claim on a number format


@dataclass(frozen=True)
class Verdicts:
    """All verdicts of a report."""

    comparisons: tuple[Comparison, ...]
    claims: tuple[Claim, ...]
    family: int  # tests that are corrected for together; if no test has enough seeds: how many there would be
    study_tests: int  # tests of the whole study, whatever is shown: `seeds_needed` allows for them


@dataclass(frozen=True)
class _Differences:
    """The paired differences of one variant in one metric."""

    seeds: tuple[int, ...]
    values: np.ndarray  # (seeds,)
    theirs: float | None  # mean of the other variant over the same seeds
    summary: paired.Paired
    refused: str | None = None  # why they are not judged


@dataclass(frozen=True)
class _ClaimInput:
    """A claim with the differences and the margin that it is judged by."""

    row: VariantRow
    claim: StatedClaim
    differences: _Differences
    margin: float | None


class _Family:
    """The tests that are corrected for together."""

    def __init__(self) -> None:
        self.p: dict[tuple[str, ...], float] = {}
        self.too_few: set[tuple[str, ...]] = set()  # comparisons with fewer seeds than a test needs

    def add(self, key: tuple[str, ...], pair: _Differences) -> None:
        if pair.summary.p is None or pair.refused is not None:
            return
        if pair.summary.n < paired.SEEDS_NEEDED:
            self.too_few.add(key)
        else:
            self.p[key] = pair.summary.p

    def size(self, key: tuple[str, ...]) -> int:
        """Return the number of tests that a comparison is one of, if it had the seeds."""
        return len(self.p) + (0 if key in self.p else len(self.too_few))


def make_verdicts(
    table: VariantRows, fidelity: pd.DataFrame, formats: pd.DataFrame, budget: str, *, judge_claims: bool
) -> Verdicts:
    """Judge every variant and every claim.

    Args:
        table: The rows and their values.
        fidelity: The table of that name, for claims on metrics that `runs` lacks.
        formats: The rows of `quantized` of these runs, with their `label` and `seed`.
        budget: `steps` or `macs`.
        judge_claims: Whether to judge claims: they are about the baseline only.
    """
    against = table.against
    pairs: dict[tuple[str, ...], _Differences] = {}
    for metric, values in table.values.items():
        refused = unjudged(table, budget, metric)
        for row in table.rows[1:] if against is not None else ():
            if row.label not in table.newest:
                continue
            pairs[row.label, metric] = _differences(values, row.label, against or "", refused.get(row.label))
    inputs = _claim_inputs(table, fidelity, formats, pairs, budget) if judge_claims and against is not None else []
    family = _Family()
    for key, pair in pairs.items():
        family.add(key, pair)
    for one in inputs:
        key = (one.row.label, one.claim.metric)
        family.add(key, one.differences)
        if one.margin is not None and key in family.p:
            family.p[*key, "same"] = paired.equivalence(one.differences.values, one.margin)
    corrected = dict(zip(family.p, paired.holm(list(family.p.values())), strict=True))
    study_tests = _study_tests(table)
    rows = {row.label: row for row in table.rows}
    return Verdicts(
        tuple(_comparison(rows[key[0]], key, pair, corrected, family, study_tests) for key, pair in pairs.items()),
        tuple(_claim(one, corrected, family, study_tests) for one in inputs),
        len(family.p) or len(family.too_few),
        study_tests,
    )


def _study_tests(table: VariantRows) -> int:
    """Return how many tests the whole study has: its variants by the headline metrics, and other claims.

    It does not depend on which variants and metrics are shown, so every command says the same number
    of seeds for one pair.
    """
    against = "" if table.against is None else table.against.partition(" @")[0]
    others = [name for name in table.study if name != against]
    headline = {name for pair in HEADLINES for name in pair}
    claims = [claim for name in others for claim in table.stated[name].claims] if against == BASELINE else []
    return max(1, len(others) * len(HEADLINES) + sum(claim.metric not in headline for claim in claims))


def unjudged(table: VariantRows, budget: str, metric: str) -> dict[str, str]:
    """Return the labels whose difference in a metric has another cause than the variant, and why."""
    if table.against is None:
        return {}
    first = table.done.drop_duplicates("label").set_index("label")
    refused: dict[Hashable, str] = {}
    if metric in METRICS and METRICS[metric].kind == PAIRS:
        in_latents = first["decode_macs"].fillna(0) > 0
        other_noise = in_latents[in_latents != in_latents[table.against]].index
        refused = dict.fromkeys(other_noise, "not judged: one adds its noise to latents, the other to pixels")
    if budget == "steps":
        budgets, steps = budgets_of(table.done, budget), first["steps"].dropna().to_dict()
        theirs = steps.get(table.against)
        refused |= {
            label: f"not judged: an unequal budget, {budgets[str(label)]} against {budgets[table.against]}"
            for label, n in steps.items()
            if theirs is not None and n != theirs
        }
    return {str(label): why for label, why in refused.items()}


def _differences(values: SeedGrid, label: str, against: str, refused: str | None = None) -> _Differences:
    theirs = values.of(against)
    x = values.of(label) - theirs
    known = ~np.isnan(x)
    their_mean = float(theirs[known].mean()) if known.any() else None
    return _Differences(tuple(values.seeds[known].tolist()), x[known], their_mean, paired.summarise(x[known]), refused)


def _comparison(
    row: VariantRow,
    key: tuple[str, ...],
    pair: _Differences,
    corrected: Mapping[tuple[str, ...], float],
    family: _Family,
    study_tests: int,
) -> Comparison:
    metric, summary, size = key[1], pair.summary, family.size(key)
    if pair.refused is not None:
        verdict = paired.Verdict("undecided", pair.refused)
    else:
        up = higher_is_better(metric)
        verdict = paired.compare(summary, corrected.get(key), size, higher_is_better=up)
        if verdict.word == "helps" and row.unfinished["diverged"]:
            verdict = paired.Verdict("undecided", f"{verdict.why} where it finished")
    lost = row.unfinished["diverged"] + row.unfinished["failed"]
    more = f"; {count(lost)} seed{'' if lost == 1 else 's'} diverged or failed, not counted" if lost else ""
    return Comparison(
        label=row.label,
        variant=row.variant,
        axis=row.axis,
        **tested(metric, summary, corrected.get(key)),
        seeds=pair.seeds,
        differences=tuple(pair.values.tolist()),
        sd=summary.sd,
        relative=summary.mean / pair.theirs if summary.mean is not None and pair.theirs else None,
        detectable=paired.detectable(summary.sd, summary.n, paired.ALPHA / max(1, size)),
        seeds_needed=_needed(pair, verdict.word, max(size, study_tests)),
        verdict=verdict.word,
        why=verdict.why + more,
    )


def tested(metric: str, summary: paired.Paired, p_holm: float | None) -> dict[str, Any]:
    """Return the fields of `Difference`, without the reason of its verdict."""
    numbers = {name: getattr(summary, name) for name in ("n", "mean", "low", "high", "p")}
    return {"metric": metric, **numbers, "p_holm": p_holm}


def _needed(pair: _Differences, verdict: str, tests: int, margin: float | None = None) -> int | None:
    """Return the seeds of a verdict that is decided or never will be; else more seeds than there are."""
    if pair.refused or verdict != "undecided":
        return pair.summary.n
    needed = (
        paired.seeds_needed(pair.summary, paired.ALPHA / tests)
        if margin is None
        else paired.seeds_for_margin(pair.summary, margin)
    )
    return None if needed is None else max(needed, pair.summary.n + 1)


def _claim_inputs(
    table: VariantRows,
    fidelity: pd.DataFrame,
    formats: pd.DataFrame,
    pairs: Mapping[tuple[str, ...], _Differences],
    budget: str,
) -> list[_ClaimInput]:
    inputs = []
    cache: dict[str, SeedGrid | str] = {}
    for row in table.rows:
        judged = row.label != table.against and row.label in table.newest
        for claim in table.stated[row.variant].claims if judged else ():
            metric = claim.metric
            pair = pairs.get((row.label, metric))
            if pair is None:
                if metric not in cache:
                    cache[metric] = _values(metric, table.done, fidelity, formats)
                values = cache[metric]
                if isinstance(values, str):
                    pair = _Differences((), np.zeros(0), None, paired.summarise([]), values)
                else:
                    refused = unjudged(table, budget, metric).get(row.label)
                    pair = _differences(values, row.label, table.against or "", refused)
            margin = read_margin(claim.margin, pair.theirs or 0.0) if claim.margin is not None else None
            inputs.append(_ClaimInput(row, claim, pair, margin))
    return inputs


def _values(metric: str, done: pd.DataFrame, fidelity: pd.DataFrame, formats: pd.DataFrame) -> SeedGrid | str:
    """Return the values that a claim is about, or why there are none."""
    of_run = done[["run_id", "label", "seed"]]
    scheme, _, plain = metric.partition("_")
    if scheme in SCHEMES:
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


def _claim(one: _ClaimInput, corrected: Mapping[tuple[str, ...], float], family: _Family, study_tests: int) -> Claim:
    pair, claim, key = one.differences, one.claim, (one.row.label, one.claim.metric)
    summary, size = pair.summary, family.size(key)
    if pair.refused is not None:
        verdict = paired.ClaimVerdict("undecided", pair.refused)
    else:
        verdict = paired.judge(
            summary,
            corrected.get(key),
            size,
            claim.expect,
            higher_is_better=higher_is_better(claim.metric),
            margin=one.margin,
            p_same=corrected.get((*key, "same")),
        )
    return Claim(
        label=one.row.label,
        variant=one.row.variant,
        **tested(claim.metric, summary, corrected.get(key)),
        expect=claim.expect,
        because=claim.because,
        margin=claim.margin,
        seeds_needed=_needed(pair, verdict.word, max(size, study_tests), one.margin),
        verdict=verdict.word,
        why=verdict.why,
    )
