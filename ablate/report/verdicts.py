"""The verdicts of a report: on each variant by each metric, and on the claims in the variants' files.

All tests form one family and are corrected for together: every variant of the study by every judged
metric, and every claim on another metric. What is shown does not change it. How they are tested
follows from how the study came about (`ablate.report.design`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablate.base.text import plural
from ablate.report.design import StudyDesign
from ablate.report.differences import Differences, StudyDifferences, claims_of
from ablate.report.findings import Claim, ClaimWord, Comparison, VerdictWord
from ablate.report.variant_rows import VariantRows
from ablate.stats import paired, sequential
from ablate.stats.family import Evidence, Family
from ablate.study.claims import Claim as StatedClaim


@dataclass(frozen=True)
class Verdicts:
    """All verdicts of a report."""

    comparisons: tuple[Comparison, ...]
    claims: tuple[Claim, ...]
    tests: int  # that are corrected for together
    least_seeds: int  # the fewest with which one of them can be decided


class _Judged:
    """Comparisons that are corrected for together, with their evidence."""

    def __init__(
        self, differences: Iterable[Differences], design: StudyDesign, least_tests: int, *, exploratory: bool
    ) -> None:
        self.exploratory = exploratory
        every = [q for q in differences if q.refused is None and not np.isnan(q.column).all()]
        columns = np.stack([q.column for q in every], axis=1) if every else np.empty((0, 0))
        self.family = design.judge(columns, [q.margin for q in every], least_tests)
        self.evidence = {q.key: one for q, one in zip(every, self.family.evidence, strict=True)}


def make_verdicts(
    shown: VariantRows,
    study: VariantRows,
    design: StudyDesign,
    judged: Sequence[str],
    fidelity: pd.DataFrame,
    formats: pd.DataFrame,
    budget: str,
    *,
    show_claims: bool,
    same_within: str | None = None,
) -> Verdicts:
    """Judge every variant and every claim.

    Args:
        shown: The rows that are shown, and their values.
        study: The rows of all variants, and all values.
        design: How the study came about.
        judged: The metrics that the study was to be judged by.
        fidelity: The table of that name, for claims on metrics that `runs` lacks.
        formats: The rows of `quantized` of the study's runs, with their `label` and `seed`.
        budget: `steps` or `macs`.
        show_claims: Whether to return claims. Those on the baseline are tests of the family in any case.
        same_within: Differences up to this size count as none: `2%` of the other's mean, or a number.
    """
    if study.against is None:
        return Verdicts((), (), 0, 0)
    one = StudyDifferences(study, budget, same_within)
    differences = {
        (row.label, metric): one.pair(row, metric, grid) for metric, grid in study.values.items() for row in one.rows
    }
    on_baseline = study.against.partition(" @")[0] == study.baseline
    claims = list(claims_of(one, fidelity, formats, differences)) if on_baseline else []
    confirmatory = [q for q in differences.values() if q.metric in judged]
    confirmatory += [q for q, _ in claims if q.key not in differences]
    least, least_extra = design.least_tests
    main = _Judged(confirmatory, design, least, exploratory=not on_baseline)
    extra = _Judged((q for q in differences.values() if q.metric not in judged), design, least_extra, exploratory=True)
    labels = [row.label for row in shown.rows]
    return Verdicts(
        tuple(
            _comparison(differences[label, metric], main if metric in judged else extra)
            for metric in shown.values
            for label in labels
            if (label, metric) in differences
        ),
        tuple(
            _claim(q, claim, extra if q.key in extra.evidence else main)
            for q, claim in claims
            if show_claims and q.row.label in labels
        ),
        main.family.tests,
        main.family.least_seeds,
    )


def _comparison(pair: Differences, judged: _Judged) -> Comparison:
    summary, row = pair.summary, pair.row
    evidence = judged.evidence.get(pair.key)
    verdict, why = _verdict(pair, evidence, judged.family)
    tested = ~np.isnan(pair.column)
    path = sequential.e_values(pair.column[tested]).tolist() if judged.family.by_e and evidence else None
    critical = judged.family.critical(summary.n)
    return Comparison(
        label=row.label,
        variant=row.variant,
        axis=row.axis,
        **difference_fields(pair.metric, summary, evidence, judged.family),
        seeds=tuple(pair.seeds[pair.finished].tolist()),
        differences=tuple(pair.column[pair.finished].tolist()),
        diverged=pair.diverged,
        e_by_seed=None if path is None else tuple(path),
        e_seeds=None if path is None else tuple(pair.seeds[tested].tolist()),
        exploratory=judged.exploratory,
        margin=pair.margin,
        sd=summary.sd,
        relative=summary.mean / pair.theirs if summary.mean is not None and pair.theirs else None,
        detectable=paired.detectable(summary.sd, summary.n, critical),
        seeds_needed=_needed(pair, verdict, judged.family),
        verdict=verdict,
        why=why,
    )


def difference_fields(metric: str, summary: paired.Paired, evidence: Evidence | None, tests: Family) -> dict[str, Any]:
    """Return the fields of `Difference`, without the reason of its verdict."""
    reach = tests.critical(summary.n) * summary.sd / summary.n**0.5 if summary.sd is not None else np.inf
    known = summary.mean is not None and np.isfinite(reach)
    mean = summary.mean or 0.0
    return {
        "metric": metric,
        **{name: getattr(summary, name) for name in ("n", "mean", "low", "high")},
        "all_low": mean - reach if known else None,
        "all_high": mean + reach if known else None,
        "alone": None if evidence is None else evidence.alone,
        "adjusted": None if evidence is None else evidence.difference,
    }


def _verdict(pair: Differences, evidence: Evidence | None, tests: Family) -> tuple[VerdictWord, str]:
    """Return the verdict on a comparison, and the reason in a sentence."""
    if pair.refused is not None:
        return "undecided", pair.refused
    word, why = verdict_of(
        pair.summary,
        evidence,
        tests,
        column=pair.column[~np.isnan(pair.column)],
        higher_is_better=pair.higher_is_better,
        margin=pair.margin,
    )
    row = pair.row
    lost = [f"{row.unfinished[status]} {status}" for status in ("diverged", "failed") if row.unfinished[status]]
    listed = f"of {plural(row.runs, 'seed')} {' and '.join(lost)}"
    if row.unfinished["diverged"] and word in ("helps", "same"):
        return "undecided", f"{why}, but {listed}"
    return word, f"{why}; {listed}" if lost else why


def verdict_of(
    summary: paired.Paired,
    evidence: Evidence | None,
    tests: Family,
    *,
    column: np.ndarray,
    higher_is_better: bool,
    margin: float | None = None,
) -> tuple[VerdictWord, str]:
    """Return the verdict on paired differences, and the reason in a sentence.

    The test and the 95 % interval must agree, unless seeds diverged: these are in the test alone.

    Args:
        summary: Of the finished seeds.
        evidence: Of the test; None: there is no pair.
        tests: The family that the test belongs to.
        column: (n,) the differences that were tested, with those of diverged seeds.
        higher_is_better: Whether higher values of the metric are better.
        margin: Differences up to this size count as none.
    """
    n = len(column)
    if evidence is None or not n:
        return "undecided", "no seed is finished by both"
    tested = _tested(evidence, n, tests)
    low = -np.inf if summary.low is None else summary.low
    high = np.inf if summary.high is None else summary.high
    if evidence.is_same and margin is not None and -margin < low and high < margin:
        same = _one(evidence.same, evidence.by_e)
        return "same", f"any difference is smaller than {margin:.3g}, {same} over {plural(n, 'seed')}"
    clear = low > 0 or high < 0
    if evidence.differs and (clear or n > summary.n):
        better = (column.sum() > 0) == higher_is_better
        return ("helps", f"better, {tested}") if better else ("hurts", f"worse, {tested}")
    if n < tests.least_seeds:
        return "undecided", f"{plural(n, 'seed')}: at least {tests.least_seeds} are needed to decide anything"
    if evidence.differs:
        return "undecided", f"{tested}, but the interval includes 0: one seed is far from the others"
    if evidence.differs_alone and clear:
        found = f"differs by {summary.mean or 0.0:+.3g} [{low:+.3g}, {high:+.3g}]"
        one = f"{_one(evidence.alone, evidence.by_e)} over {plural(n, 'seed')}"
        corrected = f"corrected {_number(evidence.difference, evidence.by_e)}"
        return "undecided", f"{found}, but not after correction for {tests.tests} tests ({one}, {corrected})"
    return "undecided", f"no difference seen: {_one(evidence.alone, evidence.by_e)} over {plural(n, 'seed')}"


def _tested(evidence: Evidence, n: int, tests: Family) -> str:
    more = ""
    if tests.tests > 1:
        more = f", {_number(evidence.difference, evidence.by_e)} after correction for {tests.tests} tests"
    return f"{_one(evidence.alone, evidence.by_e)} over {plural(n, 'seed')}{more}"


def _one(value: float | None, by_e: bool) -> str:
    return f"{'e' if by_e else 'p'} = {_number(value or 0.0, by_e)}"


def _number(value: float, by_e: bool) -> str:
    return f"{value:,.0f}" if by_e and 100 <= value < 1e6 else f"{value:.2g}"


def _needed(pair: Differences, verdict: str, tests: Family, *, same: bool = False) -> int | None:
    """Return the seeds of a verdict that is decided or never will be; else more seeds than there are."""
    n = int((~np.isnan(pair.column)).sum())
    if pair.refused or verdict != "undecided":
        return n
    if same and pair.margin is not None:
        needed = tests.seeds_for_margin(pair.summary, pair.margin)
    else:
        needed = paired.seeds_needed(pair.summary, tests.critical, tests.least_seeds)
    return None if needed is None else max(needed, n + 1)


def _claim(pair: Differences, claim: StatedClaim, judged: _Judged) -> Claim:
    evidence = judged.evidence.get(pair.key)
    verdict, why = _claim_verdict(pair, claim, evidence, judged.family)
    return Claim(
        label=pair.row.label,
        variant=pair.row.variant,
        **difference_fields(claim.metric, pair.summary, evidence, judged.family),
        expect=claim.expect,
        because=claim.because,
        margin=claim.margin,
        seeds_needed=_needed(pair, verdict, judged.family, same=claim.expect == "same"),
        verdict=verdict,
        why=why,
    )


def _claim_verdict(
    pair: Differences, claim: StatedClaim, evidence: Evidence | None, tests: Family
) -> tuple[ClaimWord, str]:
    word, why = _verdict(pair, evidence, tests)
    if claim.expect != "same":
        if word == "undecided":
            return "undecided", why
        return ("supported" if word == {"better": "helps", "worse": "hurts"}[claim.expect] else "contradicted"), why
    if claim.margin is None:
        return "undecided", "the claim states no margin: not seeing a difference does not show that there is none"
    margin, numbers = pair.margin, difference_fields(pair.metric, pair.summary, evidence, tests)
    if word == "same":
        return "supported", why
    if pair.refused or margin is None or numbers["all_low"] is None:
        return "undecided", why
    if word in ("helps", "hurts") and (numbers["all_low"] > margin or numbers["all_high"] < -margin):
        return "contradicted", f"{why}; the interval that holds for all tests lies outside the margin of {margin:.3g}"
    if pair.summary.n < tests.least_seeds:
        return "undecided", why
    seeds = plural(pair.summary.n, "seed")
    return "undecided", f"{seeds} place the difference neither within the margin of {margin:.3g} nor outside it"
