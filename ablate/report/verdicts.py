"""The verdicts of a report: on each variant by each metric, and on the claims of the variants' files.

All of them are one family for Holm's correction: every comparison that is shown, and every claim on something else, as far as it has
the seeds that a test alone needs. With fewer no test can decide, whatever the pictures are, so none takes a share of the error.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.base.errors import VariantError
from ablate.report.findings import Claim, Comparison, Row
from ablate.report.judged_metrics import COSTS, higher_is_better
from ablate.report.variant_rows import Grid, Rows, count, make_grid, spent
from ablate.stats import paired
from ablate.study import variants
from ablate.study.claims import Claim as StatedClaim
from ablate.study.claims import read_margin
from ablate.study.metric_names import METRICS, PAIRS

SCHEMES = ("bf16", "fp8", "int8", "int4")
FORMAT_METRICS = (
    "psnr_db",
    "pd",
    "lpips",
    "lpips_vgg",
    "fd",
    "fd_change",
    "fid",
    "fid_change",
    "file_bytes",
    "latency_step_ms",
)
SCOPE = "kpn"  # of a claim on a number format


@dataclass(frozen=True)
class _Differences:
    """The paired differences of one variant in one metric, and what is known of them."""

    seeds: tuple[int, ...]
    values: np.ndarray  # (seeds,)
    theirs: float | None  # the other's mean over the same seeds
    found: paired.Paired
    refused: str | None = None  # why they are not judged


@dataclass(frozen=True)
class _Stated:
    """A claim with what it is judged by."""

    row: Row
    claim: StatedClaim
    differences: _Differences
    margin: float | None


def make_verdicts(
    made: Rows, fidelity: pd.DataFrame, formats: pd.DataFrame, budget: str, *, claimed: bool
) -> tuple[tuple[Comparison, ...], tuple[Claim, ...], int]:
    """Judge every variant and every claim.

    Args:
        made: The rows and their numbers.
        fidelity: The table, for claims on what is not in `runs`.
        formats: The rows of `quantized` of these runs, with their `label` and `seed`, for claims on number formats.
        budget: `steps` or `macs`.
        claimed: Whether claims are judged: they speak of the baseline alone.

    Returns:
        The comparisons, the claims, and how many tests were corrected for together (where none has the seeds: how many it would be).
    """
    pairs: dict[tuple[str, str], _Differences] = {}
    for metric, values in made.values.items():
        refused = unjudged(made, budget, metric)
        for row in made.rows[1:] if made.against is not None else ():
            pairs[row.label, metric] = _differences(values, row.label, made.against or "", refused.get(row.label))
    stated = _stated(made, fidelity, formats, pairs, budget) if claimed and made.against is not None else []
    tests: dict[tuple[str, ...], float] = {}
    few: set[tuple[str, ...]] = set()
    for key, pair in pairs.items():
        _add(tests, few, key, pair)
    for one in stated:
        key = (one.row.label, one.claim.metric)
        _add(tests, few, key, one.differences)
        if one.margin is not None and key in tests:
            tests[*key, "same"] = paired.equivalence(one.differences.values, one.margin)
    corrected = dict(zip(tests, paired.holm(list(tests.values())), strict=True))
    every = len(tests) + len(few)

    def family(label: str, metric: str) -> int:
        return len(tests) if (label, metric) in tests else every

    rows = {row.label: row for row in made.rows}
    comparisons = tuple(
        _comparison(rows[label], metric, pair, corrected.get((label, metric)), family(label, metric))
        for (label, metric), pair in pairs.items()
    )
    claims = tuple(_claim(one, corrected, family(one.row.label, one.claim.metric)) for one in stated)
    return comparisons, claims, len(tests) or every


def _add(
    tests: dict[tuple[str, ...], float], few: set[tuple[str, ...]], key: tuple[str, str], pair: _Differences
) -> None:
    """Put a comparison among the tests, or among those with too few seeds for one."""
    if pair.found.p is None or pair.refused is not None:
        return
    if pair.found.n < paired.SEEDS_NEEDED:
        few.add(key)
    else:
        tests[key] = pair.found.p


def unjudged(made: Rows, budget: str, metric: str) -> dict[str, str]:
    """Return the labels whose difference by a metric is no verdict's matter, and why: it has another cause than the variant."""
    if made.against is None:
        return {}
    first = made.done.drop_duplicates("label").set_index("label")
    found: dict[Hashable, str] = {}  # pandas' labels are hashable, no more
    if metric in METRICS and METRICS[metric].kind == PAIRS:
        in_latents = first["decode_macs"].fillna(0) > 0
        noised = in_latents[in_latents != in_latents[made.against]].index
        found = dict.fromkeys(noised, "not judged: one adds its noise to latents, the other to pixels")
    if budget == "steps":
        costs, steps = spent(made.done, budget), first["steps"].dropna().to_dict()
        allowed = steps.get(made.against)
        found |= {
            label: f"not judged: an unequal budget, {costs[str(label)]} against {costs[made.against]}"
            for label, n in steps.items()
            if allowed is not None and n != allowed
        }
    return {str(label): why for label, why in found.items()}


def _differences(values: Grid, label: str, against: str, refused: str | None = None) -> _Differences:
    theirs = values.of(against)
    x = values.of(label) - theirs
    known = ~np.isnan(x)
    whole = float(theirs[known].mean()) if known.any() else None
    return _Differences(tuple(values.seeds[known].tolist()), x[known], whole, paired.paired(x[known]), refused)


def _comparison(row: Row, metric: str, pair: _Differences, p_holm: float | None, family: int) -> Comparison:
    found, alpha = pair.found, paired.ALPHA / max(1, family)
    if pair.refused is not None:
        said = paired.Verdict("undecided", pair.refused)
    else:
        said = paired.compare(found, p_holm, family, higher_is_better=higher_is_better(metric))
    lost = row.unfinished["diverged"] + row.unfinished["failed"]
    why = said.why + (f"; {count(lost)} seed{'' if lost == 1 else 's'} diverged or failed, not counted" if lost else "")
    return Comparison(
        label=row.label,
        variant=row.variant,
        axis=row.axis,
        metric=metric,
        n=found.n,
        seeds=pair.seeds,
        differences=tuple(pair.values.tolist()),
        mean=found.mean,
        sd=found.sd,
        low=found.low,
        high=found.high,
        relative=found.mean / pair.theirs if found.mean is not None and pair.theirs else None,
        p=found.p,
        p_holm=p_holm,
        detectable=paired.detectable(found.sd, found.n, alpha),
        seeds_needed=found.n if pair.refused else _needed(found, said, alpha),
        verdict=said.word,
        why=why,
    )


def _needed(found: paired.Paired, said: paired.Verdict, alpha: float, margin: float | None = None) -> int | None:
    """Of a verdict that stands, what it took; of what is undecided, more than there are."""
    needed = paired.seeds_needed(found, alpha) if margin is None else paired.seeds_for_margin(found, margin)
    if said.word != "undecided":
        return found.n
    return None if needed is None else max(needed, found.n + 1)


def _stated(
    made: Rows,
    fidelity: pd.DataFrame,
    formats: pd.DataFrame,
    pairs: Mapping[tuple[str, str], _Differences],
    budget: str,
) -> list[_Stated]:
    stated = []
    cache: dict[str, Grid | str] = {}
    known = set(variants.names())
    for row in made.rows:
        for claim in _claims_of(row.variant, known) if row.label != made.against else ():
            metric = claim.metric
            pair = pairs.get((row.label, metric))
            if pair is None:
                if metric not in cache:
                    cache[metric] = _values(metric, made.done, fidelity, formats)
                values = cache[metric]
                if isinstance(values, str):
                    pair = _Differences((), np.zeros(0), None, paired.paired([]), values)
                else:
                    refused = unjudged(made, budget, metric).get(row.label)
                    pair = _differences(values, row.label, made.against or "", refused)
            margin = None if claim.margin is None else read_margin(claim.margin, pair.theirs or 0.0)
            stated.append(_Stated(row, claim, pair, margin))
    return stated


def _claims_of(name: str, known: set[str]) -> tuple[StatedClaim, ...]:
    """The claims in a variant's file: none of a combination, nor of a user's file that is gone or damaged, whose runs are still shown."""
    if name not in known:
        return ()
    try:
        return variants.load(name).claims
    except VariantError:
        return ()


def _values(metric: str, done: pd.DataFrame, fidelity: pd.DataFrame, formats: pd.DataFrame) -> Grid | str:
    """Return the values that a claim is about, or why there are none."""
    of_run = done[["run_id", "label", "seed"]]
    scheme, _, plain = metric.partition("_")
    if scheme in SCHEMES:
        if plain not in FORMAT_METRICS:
            return f"{metric} is not a metric"
        if not len(formats):
            return f"no run was measured in {scheme}"
        found = formats[(formats["scheme"] == scheme) & (formats["scope"] == SCOPE) & formats[plain].notna()]
        found = found.assign(value=found[plain])
        if plain.startswith(("fd", "fid")) and len(found[["n", "fd_ref_n"]].drop_duplicates()) > 1:
            return f"{metric} was measured with unequal numbers of pictures"
    elif metric in done.columns and (metric in METRICS or metric in COSTS):
        found = of_run.assign(value=done[metric])
    elif metric in METRICS and len(fidelity):
        found = of_run.merge(fidelity.loc[fidelity["metric"] == metric, ["run_id", "value"]], on="run_id")
    else:
        return f"{metric} is not a metric"
    return make_grid(found["label"], found["seed"], found["value"])


def _claim(one: _Stated, corrected: Mapping[tuple[str, ...], float], family: int) -> Claim:
    found, claim = one.differences.found, one.claim
    key = (one.row.label, claim.metric)
    p_holm = corrected.get(key)
    if one.differences.refused is not None:
        said = paired.Verdict("undecided", one.differences.refused)
    else:
        said = paired.judge(
            found,
            p_holm,
            family,
            claim.expect,
            higher_is_better=higher_is_better(claim.metric),
            margin=one.margin,
            p_same=corrected.get((*key, "same")),
        )
    return Claim(
        label=one.row.label,
        variant=one.row.variant,
        metric=claim.metric,
        expect=claim.expect,
        because=claim.because,
        margin=claim.margin,
        n=found.n,
        mean=found.mean,
        low=found.low,
        high=found.high,
        p=found.p,
        p_holm=p_holm,
        seeds_needed=found.n
        if one.differences.refused
        else _needed(found, said, paired.ALPHA / max(1, family), one.margin),
        verdict=said.word,
        why=said.why,
    )
