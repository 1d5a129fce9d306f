"""What a page says, in words and tables, from the findings and the folder of results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablate import results, variant
from ablate.data import cats
from ablate.errors import VariantError
from ablate.files import printable
from ablate.report import charts, gallery, quantized, series
from ablate.report.charts import Plot
from ablate.report.findings import Claim, Comparison, Findings, Value
from ablate.report.text import large, number, signed

TITLES = {"helps": "Better than {}", "hurts": "Worse than {}", "undecided": "Undecided"}
COSTS = {
    "params": "parameters",
    "macs": "MACs",
    "nfe": "nfe",
    "train_macs": "train MACs",
    "train_wall_s": "train s",
    "latency_step_ms": "ms/step",
    "latency_image_ms": "ms/image",
}
AMOUNTS = ("params", "macs", "train_macs")
Table = list[tuple[str, ...]]


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
class Titled:
    """A table with its title."""

    title: str
    rows: Table


@dataclass(frozen=True)
class Page:
    """All that the template writes down."""

    findings: Findings
    title: str
    subtitle: str
    lead: str
    how_judged: str
    cards: list[tuple[str, str, list[Card]]]  # verdict, title, variants
    claims: list[Said]
    intervals: list[Plot]
    factorials: list[Titled]
    gallery: gallery.Gallery
    fronts: list[Plot]
    over_time: list[Plot]
    formats: Plot | None
    formats_rows: Table
    formats_legend: list[str]
    latency: Plot | None
    inside: list[gallery.Part]
    rows: Table
    rows_how: str
    methods: list[tuple[str, str]]
    environment: Table
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
            ("claims", "Claims", bool(self.claims)),
            ("differences", "Differences", bool(self.intervals)),
            ("samples", "Samples", bool(self.gallery.rows)),
            ("trade", "Cost", bool(self.fronts)),
            ("training", "Training", bool(self.over_time)),
            ("formats", "Number formats", self.formats is not None),
            ("latency-section", "Latency", self.latency is not None),
            ("inside", "Inside", True),
            ("table", "Numbers", True),
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
    runs = series.compared_runs(findings)
    tables = {name: _clean(results.read(folder, name)) for name in ("runs", "curves", "denoising", "latency")}
    shown = gallery.gallery(findings, artifacts)
    plots = [
        charts.denoising(tables["denoising"], runs, compared.against),
        charts.curves(tables["curves"], runs, compared.against),
    ]
    formats = findings.quantized
    mine = tables["runs"][tables["runs"]["run_id"].isin(list(runs))]
    return Page(
        findings=findings,
        title=f"Ablation study: {_plural(compared.variants, 'variant')}, preset {compared.preset}, data {compared.data}",
        subtitle=_subtitle(findings, mine),
        lead=_lead(findings),
        how_judged=_how_judged(findings),
        cards=_cards(findings),
        claims=[_said(claim, compared.against) for claim in findings.claims],
        intervals=[plot for metric in findings.metrics if (plot := charts.intervals(findings, metric))],
        factorials=_factorials(findings),
        gallery=shown,
        fronts=[plot for i, front in enumerate(findings.fronts) if (plot := charts.front(front, i))],
        over_time=[plot for plot in plots if plot],
        formats=charts.sensitivity(findings),
        formats_rows=[tuple(line) for line in quantized.cells(formats)] if formats else [],
        formats_legend=[*quantized.legend(formats)] if formats else [],
        latency=charts.latency(tables["latency"], runs),
        inside=gallery.inside(findings, artifacts, shown),
        rows=_rows(findings),
        rows_how="Means ± standard deviations over seeds; costs are medians. MACs and ms/step: of one network evaluation; ms/image: of nfe evaluations.",
        methods=_methods(findings, mine),
        environment=_environment(mine),
        credits=_credits(findings),
    )


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    """Tables may come from elsewhere: text without what steers a reader."""
    columns = {
        name: frame[name].map(printable, na_action="ignore")
        for name in frame
        if frame[name].dtype == "string" and name != "run_id"
    }
    return frame.assign(**columns)


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def _subtitle(findings: Findings, runs: pd.DataFrame) -> str:
    seeds = {seed for row in findings.rows for seed in row.seeds}
    moments = runs["finished_at"].dropna()
    when = f", finished {moments.min():%Y-%m-%d} to {moments.max():%Y-%m-%d}" if len(moments) else ""
    budget = "equal training steps" if findings.compared.budget == "steps" else "equal training MACs"
    return f"{_plural(findings.compared.runs, 'run')} under {_plural(len(seeds), 'seed')}, {budget}{when}."


def _lead(findings: Findings) -> str:
    if not findings.rows:
        return "There are no finished runs yet."
    compared = findings.compared
    found = _judged(findings)
    if not found or compared.against is None:
        return f"Nothing is compared yet: that needs finished runs of {compared.against or 'the baseline'} and of a variant under the same seeds."
    counts = Counter(one.verdict for one in found)
    said = []
    if counts["hurts"]:
        said.append(
            f"{counts['hurts']} {'makes' if counts['hurts'] == 1 else 'make'} the pictures worse: there, what {compared.against} does earns its place"
        )
    if counts["helps"]:
        said.append(f"{counts['helps']} {'makes' if counts['helps'] == 1 else 'make'} them better")
    if counts["undecided"]:
        said.append(f"{counts['undecided']} cannot be told from chance with the seeds there are")
    return f"Of {_plural(len(found), 'change')} to {compared.against}, {'; '.join(said)} (judged by {compared.headline[0]})."


def _judged(findings: Findings) -> list[Comparison]:
    """The comparisons that verdicts are read by first."""
    return [one for one in findings.comparisons if one.metric == findings.compared.headline[0]]


def _how_judged(findings: Findings) -> str:
    compared = findings.compared
    metric = next((metric for metric in findings.metrics if metric.name == compared.headline[0]), None)
    if metric is None:
        return ""
    floor = "" if metric.floor is None else f" Real pictures against real ones reach {number(metric.floor)}."
    size = (
        ""
        if metric.n is None
        else f" N = {metric.n:,} samples"
        + ("." if metric.ref_n is None else f" against {metric.ref_n:,} real pictures.")
    )
    return (
        f"{metric.name}: {metric.about}; {'higher' if metric.higher_is_better else 'lower'} is better.{size}{floor} Why this one: {compared.why_headline}. "
        f"Each change is compared with {compared.against} seed by seed. In brackets 95 % intervals; a verdict needs a sign-flip test below {compared.alpha:g}, corrected by Holm over "
        f"{_plural(compared.family, 'test')}."
    )


def _cards(findings: Findings) -> list[tuple[str, str, list[Card]]]:
    judged, against = _judged(findings), findings.compared.against or "the baseline"
    sign = -1 if any(m.higher_is_better for m in findings.metrics if m.name == findings.compared.headline[0]) else 1
    judged.sort(key=lambda one: sign * (one.mean or 0.0))
    cards: dict[str, list[Card]] = {verdict: [] for verdict in TITLES}
    for one in judged:
        effect = f"{one.metric} {signed(one.mean)}"
        if one.low is not None and one.high is not None:
            effect += f" [{signed(one.low)}, {signed(one.high)}]"
        cards.setdefault(one.verdict, []).append(Card(one.label, _about(one.variant), effect, one.why))
    return [(verdict, TITLES[verdict].format(against), some) for verdict, some in cards.items()]


def _about(name: str) -> str:
    """What a variant's file says of it; nothing where the file is gone."""
    try:
        return printable(variant.load(name).about)
    except VariantError:
        return ""


def _said(claim: Claim, against: str | None) -> Said:
    within = f" within {claim.margin}" if claim.margin else ""
    words = f"{claim.label} was claimed to be {claim.expect} than {against} in {claim.metric}, because {claim.because}."
    if claim.expect == "same":
        words = (
            f"{claim.label} was claimed to be as good as {against} in {claim.metric}{within}, because {claim.because}."
        )
    effect = "" if claim.mean is None else f" Difference {signed(claim.mean)}"
    if claim.low is not None and claim.high is not None:
        effect += f" [{signed(claim.low)}, {signed(claim.high)}]"
    return Said(printable(words), claim.verdict, f"{claim.why}.{effect}")


def _factorials(findings: Findings) -> list[Titled]:
    found = []
    for study in findings.factorials:
        rows: Table = [("effect", study.metric, "95 % interval", "p (Holm)", "verdict")]
        for effect in study.effects:
            interval = "-" if effect.low is None else f"{signed(effect.low)} to {signed(effect.high)}"
            rows.append(
                (" × ".join(effect.levels), signed(effect.mean), interval, number(effect.p_holm), effect.verdict)
            )
        found.append(Titled(f"Main effects and interactions of {' × '.join(study.axes)}, by {study.metric}", rows))
    return found


def _rows(findings: Findings) -> Table:
    names = [metric.name for metric in findings.metrics]
    lines: Table = [("variant", "axis", "seeds", *names, *COSTS.values())]
    for row in findings.rows:
        seeds = f"{len(row.seeds)}" if len(row.seeds) == row.runs else f"{len(row.seeds)}/{row.runs}"
        values = [_value(row.values.get(name)) for name in names]
        costs = [large(row.costs.get(name)) if name in AMOUNTS else number(row.costs.get(name)) for name in COSTS]
        lines.append((row.label, row.axis or "-", seeds, *values, *costs))
    return lines


def _value(value: Value | None) -> str:
    if value is None or value.mean is None:
        return "-"
    return number(value.mean) if value.sd is None else f"{number(value.mean)} ± {number(value.sd)}"


def _methods(findings: Findings, runs: pd.DataFrame) -> list[tuple[str, str]]:
    compared = findings.compared
    said = [
        ("Question", "Which parts of a small image generator earn their place? Each variant changes one thing of it."),
        (
            "Pairing",
            "Variants of one seed share initial weights of common parts, order of pictures, training noise, and the noise that samples start from.",
        ),
        ("Data", f"{compared.data}, fingerprint {str(compared.data_digest)[:16]}" + _sizes(runs)),
        (
            "Budget",
            f"Preset {compared.preset}, {'equal training steps' if compared.budget == 'steps' else 'the training MACs of the baseline'}.",
        ),
        (
            "Statistics",
            f"Paired differences over seeds: 95 % intervals by Student's t; two-sided sign-flip test; Holm's correction over {compared.family} tests at {compared.alpha:g}.",
        ),
    ]
    for metric in findings.metrics:
        network = "" if metric.extractor is None else f", {metric.extractor} {str(metric.extractor_digest or '')[:12]}"
        size = (
            ""
            if metric.n is None
            else f", N = {metric.n:,}" + ("" if metric.ref_n is None else f" against {metric.ref_n:,}")
        )
        floor = (
            ""
            if metric.floor is None
            else f"; real against real {number(metric.floor)}"
            + ("" if metric.floor_n is None else f" at N = {metric.floor_n:,}")
        )
        said.append(
            (metric.name, f"{metric.about}{network}{size}{floor}." + (f" {metric.warning}." if metric.warning else ""))
        )
    return [(term, printable(text)) for term, text in said]


def _sizes(runs: pd.DataFrame) -> str:
    if runs.empty or runs["n_train"].isna().all():
        return "."
    one = runs.iloc[0]
    return f": {one['n_train']:,} pictures to train on, {one['n_held_out']:,} held out, {one['duplicates']:,} copies dropped."


def _environment(runs: pd.DataFrame) -> Table:
    """What the runs were made with: each value with the number of runs that had it."""
    found: dict[str, Counter[str]] = {}
    for row in runs.astype(object).where(runs.notna(), None).to_dict("records"):
        known: Mapping[str, Any] = {name: row[name] for name in ("device", "precision", "threads", "git_commit")}
        for name, value in {**known, **_parsed(row["environment"])}.items():
            if value not in (None, ""):
                found.setdefault(printable(name), Counter())[printable(value)] += 1
    lines: Table = [("what", "value (runs)")]
    for name, counts in found.items():
        shown = list(counts) if len(counts) == 1 else [f"{value} ({n})" for value, n in counts.most_common()]
        lines.append((name, ", ".join(shown)))
    return lines


def _parsed(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _credits(findings: Findings) -> list[str]:
    listed: Sequence[str] = [
        "The model and the claims: A. Schreiner, “Generating Cats with KPN Filtering” (2025).",
        "EfficientNet-Lite0 weights: Apache-2.0. Plots: Vega-Lite, Altair and vl-convert (BSD-3-Clause).",
    ]
    data = (
        f"Data: {cats.CREDIT}"
        if gallery.is_embedded(findings)
        else f"Data: {findings.compared.data}, the user's own. None of its pictures is in this file; samples are a model's."
    )
    return [printable(data), *listed]
