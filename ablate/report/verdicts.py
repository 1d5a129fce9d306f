"""The verdicts of a report: on each variant by each metric, and on the claims in the variants' files.

All tests form one family and are corrected for together: every variant of the study by every judged
metric, and every claim on another metric. What is shown does not change it. How they are tested
follows from how the study came about (`ablate.report.design`).

A seed at which one of the two diverged counts in the test as the largest difference seen, against
the one that diverged; means and intervals are those of the finished seeds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablate.report.design import StudyDesign
from ablate.report.findings import Claim, ClaimWord, Comparison, VariantRow, VerdictWord
from ablate.report.judged_metrics import COSTS, higher_is_better
from ablate.report.variant_rows import SeedGrid, VariantRows, budgets_of, make_grid
from ablate.stats import family, paired, sequential
from ablate.stats.family import Evidence, Family
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
    tests: int  # that are corrected for together
    least_seeds: int  # the fewest with which one of them can be decided


@dataclass(frozen=True)
class _Question:
    """Whether one variant differs in one metric."""

    row: VariantRow
    metric: str
    seeds: np.ndarray  # (seeds of the study,)
    column: np.ndarray  # (seeds of the study,) what is tested; NaN: the pair lacks the seed
    finished: np.ndarray  # (seeds of the study,) bool: both finished it
    theirs: float | None  # mean of the other variant over the finished seeds
    summary: paired.Paired  # of the finished seeds
    margin: float | None  # of `same`
    refused: str | None  # why it is not judged

    @property
    def key(self) -> tuple[str, str]:
        return self.row.label, self.metric

    @property
    def diverged(self) -> int:
        return int((~np.isnan(self.column)).sum()) - self.summary.n


class _Study:
    """The seeds of a study, and its questions."""

    def __init__(self, table: VariantRows, budget: str, same_within: str | None) -> None:
        self.table, self.budget, self.same_within = table, budget, same_within
        self.seeds = np.unique(table.runs["seed"].to_numpy(np.int64))
        lost = table.runs[table.runs["status"] == "diverged"]
        self.diverged = {str(label): group.to_numpy(np.int64) for label, group in lost.groupby("label")["seed"]}
        self._not_judged: dict[str, dict[str, str]] = {}
        self.rows = [row for row in table.rows if row.label in table.newest and row.label != table.against]

    def question(self, row: VariantRow, metric: str, grid: SeedGrid) -> _Question:
        """Return the paired differences of one variant in one metric."""
        against = self.table.against or ""
        mine, theirs = self._values(grid, row.label), self._values(grid, against)
        x = mine - theirs
        finished = ~np.isnan(x)
        column = x.copy()
        if metric not in COSTS:
            size = float(np.abs(x[finished]).max(initial=0.0)) or 1.0
            worst = -size if higher_is_better(metric) else size
            column[self._diverged(row.label, mine) & ~np.isnan(theirs)] = worst
            column[self._diverged(against, theirs) & ~np.isnan(mine)] = -worst
        their_mean = float(theirs[finished].mean()) if finished.any() else None
        return _Question(
            row=row,
            metric=metric,
            seeds=self.seeds,
            column=column,
            finished=finished,
            theirs=their_mean,
            summary=paired.summarise(x[finished]),
            margin=self._margin(row, metric, their_mean),
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


class _Judged:
    """Questions that are corrected for together, with their evidence."""

    def __init__(self, questions: Iterable[_Question], design: StudyDesign, *, exploratory: bool) -> None:
        self.exploratory = exploratory
        every = [q for q in questions if q.refused is None and not np.isnan(q.column).all()]
        columns = np.stack([q.column for q in every], axis=1) if every else np.empty((0, 0))
        judge = family.planned if design.word == "planned" else family.grown
        self.family: Family = judge(columns, [q.margin for q in every])
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
    one = _Study(study, budget, same_within)
    questions = {
        (row.label, metric): one.question(row, metric, grid)
        for metric, grid in study.values.items()
        for row in one.rows
    }
    on_baseline = study.against.partition(" @")[0] == BASELINE
    claims = list(_stated_claims(one, fidelity, formats, questions)) if on_baseline else []
    confirmatory = [q for q in questions.values() if q.metric in judged]
    confirmatory += [q for q, _ in claims if q.key not in questions]
    main = _Judged(confirmatory, design, exploratory=not on_baseline)
    extra = _Judged((q for q in questions.values() if q.metric not in judged), design, exploratory=True)
    labels = [row.label for row in shown.rows]
    return Verdicts(
        tuple(
            _comparison(questions[label, metric], main if metric in judged else extra)
            for metric in shown.values
            for label in labels
            if (label, metric) in questions
        ),
        tuple(
            _claim(q, claim, extra if q.key in extra.evidence else main)
            for q, claim in claims
            if show_claims and q.row.label in labels
        ),
        main.family.tests,
        main.family.least_seeds,
    )


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


def _comparison(question: _Question, judged: _Judged) -> Comparison:
    summary, row = question.summary, question.row
    evidence = judged.evidence.get(question.key)
    verdict, why = _verdict(question, evidence, judged.family)
    tested = ~np.isnan(question.column)
    path = sequential.e_values(question.column[tested]).tolist() if judged.family.by_e else None
    critical = judged.family.critical(summary.n)
    return Comparison(
        label=row.label,
        variant=row.variant,
        axis=row.axis,
        **difference_fields(question.metric, summary, evidence, judged.family),
        seeds=tuple(question.seeds[question.finished].tolist()),
        differences=tuple(question.column[question.finished].tolist()),
        diverged=question.diverged,
        e_by_seed=None if path is None else tuple(path),
        e_seeds=None if path is None else tuple(question.seeds[tested].tolist()),
        exploratory=judged.exploratory,
        margin=question.margin,
        sd=summary.sd,
        relative=summary.mean / question.theirs if summary.mean is not None and question.theirs else None,
        detectable=paired.detectable(summary.sd, summary.n, critical),
        seeds_needed=_needed(question, verdict, judged.family),
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


def _verdict(question: _Question, evidence: Evidence | None, tests: Family) -> tuple[VerdictWord, str]:
    """Return the verdict on a comparison, and the reason in a sentence."""
    if question.refused is not None:
        return "undecided", question.refused
    word, why = verdict_of(
        question.summary,
        evidence,
        tests,
        column=question.column[~np.isnan(question.column)],
        higher_is_better=higher_is_better(question.metric),
        margin=question.margin,
    )
    row = question.row
    lost = [f"{row.unfinished[status]} {status}" for status in ("diverged", "failed") if row.unfinished[status]]
    listed = f"of {_seeds(row.runs)} {' and '.join(lost)}"
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
        return "same", f"any difference is smaller than {margin:.3g}, {same} over {_seeds(n)}"
    clear = low > 0 or high < 0
    if evidence.differs and (clear or n > summary.n):
        better = (column.sum() > 0) == higher_is_better
        return ("helps", f"better, {tested}") if better else ("hurts", f"worse, {tested}")
    if n < tests.least_seeds:
        return "undecided", f"{_seeds(n)}: at least {tests.least_seeds} are needed to decide anything"
    if evidence.differs:
        return "undecided", f"{tested}, but the interval includes 0: one seed is far from the others"
    if evidence.differs_alone and clear:
        found = f"differs by {summary.mean or 0.0:+.3g} [{low:+.3g}, {high:+.3g}]"
        one = f"{_one(evidence.alone, evidence.by_e)} over {_seeds(n)}"
        corrected = f"corrected {_number(evidence.difference, evidence.by_e)}"
        return "undecided", f"{found}, but not after correction for {tests.tests} tests ({one}, {corrected})"
    return "undecided", f"no difference seen: {_one(evidence.alone, evidence.by_e)} over {_seeds(n)}"


def _tested(evidence: Evidence, n: int, tests: Family) -> str:
    more = ""
    if tests.tests > 1:
        more = f", {_number(evidence.difference, evidence.by_e)} after correction for {tests.tests} tests"
    return f"{_one(evidence.alone, evidence.by_e)} over {_seeds(n)}{more}"


def _one(value: float | None, by_e: bool) -> str:
    return f"{'e' if by_e else 'p'} = {_number(value or 0.0, by_e)}"


def _number(value: float, by_e: bool) -> str:
    return f"{value:,.0f}" if by_e and 100 <= value < 1e6 else f"{value:.2g}"


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def _needed(question: _Question, verdict: str, tests: Family, *, same: bool = False) -> int | None:
    """Return the seeds of a verdict that is decided or never will be; else more seeds than there are."""
    n = int((~np.isnan(question.column)).sum())
    if question.refused or verdict != "undecided":
        return n
    if same and question.margin is not None:
        needed = tests.seeds_for_margin(question.summary, question.margin)
    else:
        needed = paired.seeds_needed(question.summary, tests.critical, tests.least_seeds)
    return None if needed is None else max(needed, n + 1)


def _stated_claims(
    study: _Study,
    fidelity: pd.DataFrame,
    formats: pd.DataFrame,
    questions: Mapping[tuple[str, str], _Question],
) -> Iterable[tuple[_Question, StatedClaim]]:
    """Yield every claim of the study with the differences that it is judged by."""
    cache: dict[str, SeedGrid | str] = {}
    for row in study.rows:
        for claim in study.table.stated[row.variant].claims:
            metric = claim.metric
            if (row.label, metric) in questions:
                yield questions[row.label, metric], claim
                continue
            if metric not in cache:
                cache[metric] = _values(metric, study.table.done, fidelity, formats)
            values = cache[metric]
            if isinstance(values, str):
                unknown = _Question(
                    row=row,
                    metric=metric,
                    seeds=study.seeds,
                    column=np.full(len(study.seeds), np.nan),
                    finished=np.zeros(len(study.seeds), bool),
                    theirs=None,
                    summary=paired.summarise([]),
                    margin=None,
                    refused=values,
                )
                yield unknown, claim
            else:
                yield study.question(row, metric, values), claim


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


def _claim(question: _Question, claim: StatedClaim, judged: _Judged) -> Claim:
    evidence = judged.evidence.get(question.key)
    verdict, why = _claim_verdict(question, claim, evidence, judged.family)
    return Claim(
        label=question.row.label,
        variant=question.row.variant,
        **difference_fields(claim.metric, question.summary, evidence, judged.family),
        expect=claim.expect,
        because=claim.because,
        margin=claim.margin,
        seeds_needed=_needed(question, verdict, judged.family, same=claim.expect == "same"),
        verdict=verdict,
        why=why,
    )


def _claim_verdict(
    question: _Question, claim: StatedClaim, evidence: Evidence | None, tests: Family
) -> tuple[ClaimWord, str]:
    word, why = _verdict(question, evidence, tests)
    if claim.expect != "same":
        if word == "undecided":
            return "undecided", why
        return ("supported" if word == {"better": "helps", "worse": "hurts"}[claim.expect] else "contradicted"), why
    if claim.margin is None:
        return "undecided", "the claim states no margin: not seeing a difference does not show that there is none"
    margin, numbers = question.margin, difference_fields(question.metric, question.summary, evidence, tests)
    if word == "same":
        return "supported", why
    if question.refused or margin is None or numbers["all_low"] is None:
        return "undecided", why
    if word in ("helps", "hurts") and (numbers["all_low"] > margin or numbers["all_high"] < -margin):
        return "contradicted", f"{why}; the interval that holds for all tests lies outside the margin of {margin:.3g}"
    if question.summary.n < tests.least_seeds:
        return "undecided", why
    seeds = _seeds(question.summary.n)
    return "undecided", f"{seeds} place the difference neither within the margin of {margin:.3g} nor outside it"
