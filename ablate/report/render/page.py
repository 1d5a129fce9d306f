"""What a page says, in words and tables, from the findings and the folder of results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.base.errors import VariantError
from ablate.base.text import printable
from ablate.data import cats
from ablate.report import plot_data
from ablate.report.findings import Claim, Comparison, Findings
from ablate.report.judged_metrics import COSTS
from ablate.report.render import report_tables, run_plots, verdict_plots
from ablate.report.render.gallery import Gallery, Part, inside, is_embedded, make_gallery
from ablate.report.render.report_tables import Sheet
from ablate.report.render.vega import Plot, records
from ablate.store import tables as results
from ablate.study import variants

TITLES = {"helps": "Better than {}", "hurts": "Worse than {}", "undecided": "Undecided"}
RAW = ("runs", "curves", "denoising", "latency")


@dataclass(frozen=True)
class Card:
    """One variant's verdict."""

    label: str
    about: str
    effect: str
    why: str


@dataclass(frozen=True)
class Said:
    """A claim in words, and its verdict."""

    words: str
    verdict: str
    why: str


@dataclass(frozen=True)
class Page:
    """All that the template writes down."""

    findings: Findings
    title: str
    subtitle: str
    lead: str
    explained: str
    cards: list[tuple[str, str, list[Card]]]  # verdict, title, variants
    claims: list[Said]
    intervals: list[Plot]
    budgets: Sheet | None
    factorials: list[Sheet]
    gallery: Gallery
    fronts: list[Plot]
    over_time: list[Plot]
    formats: Plot | None
    latency: Plot | None
    inside: list[Part]
    quality: Sheet
    methods: list[tuple[str, str]]
    environment: Sheet
    credits: list[str]

    @property
    def has_plots(self) -> bool:
        """Whether the plots' library is needed."""
        return bool(self.intervals or self.fronts or self.over_time or self.formats or self.latency)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """The sections that there are: element's id and name."""
        listed = [
            ("verdicts", "Findings", True),
            ("samples", "Samples", bool(self.gallery.rows)),
            ("differences", "Differences", bool(self.intervals)),
            ("claims", "Claims", bool(self.claims)),
            ("trade", "Cost", bool(self.fronts)),
            ("training", "Training", bool(self.over_time)),
            ("formats", "Number formats", self.formats is not None),
            ("speed", "Latency", self.latency is not None),
            ("inside", "Inside", bool(self.inside)),
            ("table", "Numbers", bool(self.findings.rows)),
            ("methods", "Methods", True),
        ]
        return [(name, title) for name, title, there in listed if there]


def gather(findings: Findings, folder: Path) -> Page:
    """Collect what a page shows.

    Args:
        findings: What was found.
        folder: The results folder: tables, and pictures in `artifacts`.

    Raises:
        ResultsError: A table cannot be read.
    """
    compared, artifacts = findings.compared, folder / "artifacts"
    runs = plot_data.compared_runs(findings)
    tables = {name: _clean(results.read(folder, name)) for name in RAW}
    mine = tables["runs"][tables["runs"]["run_id"].isin(list(runs))]
    shown = make_gallery(findings, artifacts)
    fronts = zip(findings.fronts, report_tables.front_sheets(findings), strict=True)
    over_time = (
        run_plots.denoising(tables["denoising"], runs, compared.against),
        run_plots.curves(tables["curves"], runs, compared.against),
    )
    head, *lines = report_tables.quality_cells(findings, " ± ")
    quality = Sheet(
        "All variants", tuple(head), tuple(map(tuple, lines)), (0, 1), tuple(report_tables.legend(findings, "±"))
    )
    return Page(
        findings=findings,
        title=f"Ablation study of {_plural(compared.variants, 'variant')}",
        subtitle=_subtitle(findings, mine),
        lead=lead(findings),
        explained=report_tables.explained(findings) if findings.comparisons else "",
        cards=cards_of(findings) if findings.comparisons else [],
        claims=[_said(claim, findings) for claim in findings.claims],
        intervals=[plot for metric in findings.metrics if (plot := verdict_plots.intervals(findings, metric))],
        budgets=report_tables.budget_sheet(findings),
        factorials=report_tables.factorial_sheets(findings),
        gallery=shown,
        fronts=[plot for i, (one, sheet) in enumerate(fronts) if (plot := verdict_plots.front(one, i, sheet))],
        over_time=[plot for plot in over_time if plot],
        formats=verdict_plots.sensitivity(findings),
        latency=run_plots.latency(tables["latency"], runs),
        inside=inside(findings, artifacts, shown) if findings.rows else [],
        quality=quality,
        methods=_methods(findings, mine),
        environment=_environment(mine),
        credits=_credits(findings),
    )


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    """Tables may come from elsewhere: their text without what steers a reader's eye."""
    texts = [name for name in frame if frame[name].dtype == "string" and name not in ("run_id", "environment")]
    return frame.assign(**{str(name): frame[name].map(printable, na_action="ignore") for name in texts})


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def _subtitle(findings: Findings, runs: pd.DataFrame) -> str:
    compared, seeds = findings.compared, {seed for row in findings.rows for seed in row.seeds}
    moments = runs["finished_at"].dropna()
    when = f", finished {moments.min():%Y-%m-%d} to {moments.max():%Y-%m-%d}" if len(moments) else ""
    budget = "equal training steps" if compared.budget == "steps" else "equal training MACs"
    where = f"Preset {compared.preset} on {compared.data}" if compared.preset else "No preset"
    return f"{where}: {_plural(compared.runs, 'run')} under {_plural(len(seeds), 'seed')}, {budget}{when}."


def lead(findings: Findings) -> str:
    """Return what was found in a sentence."""
    if not findings.rows:
        return "There are no runs yet: start some with `ablate run`."
    compared, found = findings.compared, _judged(findings)
    if not found:
        return (
            "Nothing is compared yet: that needs finished runs of the baseline and of a variant under the same seeds."
        )
    what = compared.headline[0] if compared.headline[0] in COSTS else "the pictures"
    counts = Counter(one.verdict for one in found)
    apart = sum(one.verdict == "undecided" and one.seeds_needed == one.n for one in found)
    said = []
    if n := counts["hurts"]:
        said.append(f"{n} {_make(n)} {what} worse: there, the way of {compared.against} earns its place")
    if n := counts["helps"]:
        said.append(f"{n} {_make(n)} {'them' if said and what == 'the pictures' else what} better")
    if n := counts["undecided"] - apart:
        said.append(f"{n} cannot be told from chance with the seeds there are")
    if apart:
        said.append(f"{apart} {'is' if apart == 1 else 'are'} not judged")
    return f"Of {_plural(len(found), 'change')} to {compared.against}, {'; '.join(said)} (judged by {compared.headline[0]})."


def _make(n: int) -> str:
    return "makes" if n == 1 else "make"


def _judged(findings: Findings) -> list[Comparison]:
    """The comparisons that verdicts are read by first."""
    return [one for one in findings.comparisons if one.metric == findings.compared.headline[0]]


def cards_of(findings: Findings) -> list[tuple[str, str, list[Card]]]:
    """Return each verdict with its title and its variants, the largest difference first."""
    metric = findings.compared.headline[0]
    decimals = report_tables.difference_decimals(findings, metric)
    cards: dict[str, list[Card]] = {verdict: [] for verdict in TITLES}
    for one in sorted(_judged(findings), key=lambda one: -abs(one.mean or 0.0)):
        effect = f"{metric} {report_tables.signed(one.mean, decimals)}"
        if one.low is not None:
            effect += f" {report_tables.interval(one.low, one.high, decimals)}"
        more = one.verdict == "undecided" and one.seeds_needed is not None and one.seeds_needed > one.n
        basis = "so many comparisons need at least {}" if one.low is None else "by the spread seen, {} seeds would tell"
        why = f"{one.why}; {basis.format(f'{one.seeds_needed:,}')}" if more else one.why
        cards[one.verdict].append(Card(one.label, _about(one.variant), effect, why))
    against = findings.compared.against or "the baseline"
    return [(verdict, TITLES[verdict].format(against), some) for verdict, some in cards.items()]


def _about(name: str) -> str:
    """What a variant's file says of it; nothing where the file is gone."""
    try:
        return printable(variants.load(name).about)
    except VariantError:
        return ""


def _said(claim: Claim, findings: Findings) -> Said:
    against = findings.compared.against
    than = f"as good as {against}" if claim.expect == "same" else f"{claim.expect} than {against}"
    within = f" within {claim.margin}" if claim.margin else ""
    known = claim.metric in findings.compared.headline
    decimals = report_tables.difference_decimals(findings, claim.metric) if known else 3
    why = f"{claim.why.rstrip('.')}."
    if claim.mean is not None:
        why += f" The difference is {report_tables.signed(claim.mean, decimals)}"
        why += f" {report_tables.interval(claim.low, claim.high, decimals)}." if claim.low is not None else "."
    return Said(
        printable(f"{claim.label}: {than} in {claim.metric}{within}, because {claim.because.rstrip('.')}."),
        claim.verdict,
        why,
    )


def _methods(findings: Findings, runs: pd.DataFrame) -> list[tuple[str, str]]:
    compared = findings.compared
    said = [
        ("Question", "Which parts of a small image generator earn their place? Each variant changes one thing of it."),
        (
            "Pairing",
            "Variants of one seed share initial weights of common parts, order of pictures, training noise, and the noise that "
            "samples start from. What is compared are differences seed by seed.",
        ),
        ("Data", f"{compared.data}, fingerprint {str(compared.data_digest)[:16]}{_sizes(runs)}"),
        (
            "Statistics",
            "Sign-flip tests of paired differences, corrected by Holm; 95 % intervals by Student's t, not corrected.",
        ),
    ]
    for metric in findings.metrics:
        if metric.extractor is not None:
            said.append(
                (f"Network of {metric.name}", f"{metric.extractor}, weights {str(metric.extractor_digest)[:16]}")
            )
    return [(term, printable(text)) for term, text in said]


def _sizes(runs: pd.DataFrame) -> str:
    if runs.empty or runs["n_train"].isna().all():
        return ""
    one = runs.iloc[0]
    return f": {one['n_train']:,} pictures to train on, {one['n_held_out']:,} held out, {one['duplicates']:,} copies dropped"


def _environment(runs: pd.DataFrame) -> Sheet:
    """What the runs were made with: each value, with the number of runs that had it where there are several."""
    found: dict[str, Counter[str]] = {}
    for row in records(runs.astype(object).where(runs.notna(), None)):
        known: Mapping[str, Any] = {name: row[name] for name in ("device", "precision", "threads", "git_commit")}
        for name, value in {**known, **_parsed(row["environment"])}.items():
            if value not in (None, ""):
                found.setdefault(printable(name), Counter())[printable(value)] += 1
    lines = []
    for name, counts in found.items():
        shown = (
            list(counts)
            if len(counts) == 1
            else [f"{value} ({_plural(n, 'run')})" for value, n in counts.most_common()]
        )
        lines.append((name, ", ".join(shown)))
    return Sheet("Environment", ("what", "value"), tuple(lines), (0, 1))


def _parsed(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _credits(findings: Findings) -> list[str]:
    name = findings.compared.data
    own = (
        f"{name}, the user's own. None of its pictures is in this file: samples are drawn by the models."
        if name
        else "none"
    )
    return [
        f"Data: {cats.CREDIT if findings.rows and is_embedded(findings) else printable(own)}",
        "The model and its claims: A. Schreiner, “Generating Cats with KPN Filtering” (2025).",
        "EfficientNet-Lite0 weights: Apache-2.0. Plots: Vega-Lite, by Altair and vl-convert (BSD-3-Clause).",
    ]
