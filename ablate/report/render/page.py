"""The contents of the HTML page, in words, tables and plots, from the findings and the results folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.base.text import plural, printable, read_json
from ablate.data import cats
from ablate.report import plot_data
from ablate.report.findings import Claim, Findings
from ablate.report.render import main_table, report_tables, run_plots, trade_off_plot, verdict_plots
from ablate.report.render.gallery import LEFT_OUT, data_images, is_embedded, make_gallery
from ablate.report.render.latex import to_latex
from ablate.report.render.number_text import interval, signed
from ablate.report.render.quality_table import quality_table
from ablate.report.render.text_table import TextTable
from ablate.store import tables as results
from ablate.store.schema import IMPORTED

RAW = ("runs", "curves", "denoising", "latency")
SECTIONS = {  # element id -> name in the navigation
    "verdicts": "Findings",
    "samples": "Samples",
    "differences": "Differences",
    "claims": "Claims",
    "trade_offs": "Cost",
    "training": "Training",
    "formats": "Number formats",
    "speed": "Latency",
    "data_images": "Inside",
    "quality": "Numbers",
    "methods": "Methods",
}


TRAINED_HERE = ("Question", "Which parts of the model earn their place? Each variant changes one thing of it.")
TRAINED_PAIRS = (
    "Pairing",
    "Variants at one seed share the initial weights of common parts, the order of images, the training noise, "
    "and the noise that samples start from. Differences are compared seed by seed.",
)
ELSEWHERE = ("Question", "Which changes make a difference?")
PAIRS = (
    "Pairing",
    "Differences are compared seed by seed. What two runs of one seed share was up to the program that made them.",
)


def contents(findings: Findings, folder: Path) -> dict[str, Any]:
    """Return the contents of a page: the names that the template uses.

    Args:
        findings: The findings.
        folder: The results folder: tables, and images in `artifacts`.

    Raises:
        ResultsError: A table cannot be read.
    """
    compared = findings.compared
    runs = plot_data.compared_runs(findings)
    tables = {name: _clean(results.read(folder, name)) for name in RAW}
    mine = tables["runs"][tables["runs"]["run_id"].isin(list(runs))]
    trained_here, models = _trained_here(mine), _models(mine)
    latent = any(model.get("space") == "latent" for model in models)
    gallery = make_gallery(findings, folder, same_noise=trained_here, latent=latent)
    images = data_images(findings, folder, gallery, shipped=_shipped(models)) if trained_here else []
    timed = [row.label for row in findings.rows if row.costs["latency_step_ms"] is not None]
    plots = {
        "differences": [
            plot(findings, metric)
            for metric in findings.metrics
            for plot in (verdict_plots.differences, verdict_plots.e_values)
        ],
        "trade_offs": [trade_off_plot.trade_off(front, i) for i, front in enumerate(findings.fronts)],
        "training": [
            verdict_plots.tuning(findings),
            *map(verdict_plots.curve, findings.curves),
            run_plots.denoising(tables["denoising"], runs, compared.against, latent=latent),
            run_plots.curves(tables["curves"], runs, compared.against),
        ],
        "formats": [verdict_plots.sensitivity(findings)],
        "speed": [run_plots.latency(tables["latency"], runs, timed)],
    }
    sentences = [line for line in map(trade_off_plot.front_sentence, findings.fronts) if line is not None]
    shown = {name: [plot for plot in some if plot is not None] for name, some in plots.items()}
    page = {
        "findings": findings,
        "title": f"Ablation study of {plural(compared.variants, 'variant')}",
        "subtitle": _subtitle(findings, mine),
        "headlines": main_table.headlines(findings),
        "main": main_table.main_table(findings),
        "reasons": main_table.reasons(findings),
        "explanation": _explanation(findings),
        "claims": [
            _claim_text(claim, findings)
            for claim in sorted(findings.claims, key=lambda claim: claim.verdict == "undecided")  # decided ones first
        ],
        "budgets": report_tables.budget_table(findings),
        "factorials": [report_tables.factorial_table(findings, study) for study in findings.factorials],
        "gallery": gallery,
        "trained_here": trained_here,
        **shown,
        "has_plots": any(shown.values()),
        "trade_off_sentences": sentences,
        "format_table": report_tables.format_table(findings),
        "data_images": images,
        "quality": quality_table(findings, " ± ") if findings.rows else None,
        "latex": to_latex(findings),
        "methods": _methods(findings, mine),
        "environment": _environment(mine),
        "credits": _credits(findings, mine),
    }
    there = {"verdicts": True, "samples": gallery.rows, "methods": True}
    there |= {"trade_offs": page["trade_offs"] or sentences, "formats": page["formats"] or page["format_table"]}
    return page | {"sections": [(name, title) for name, title in SECTIONS.items() if there.get(name, page.get(name))]}


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    """Escape control characters: a table may come from elsewhere."""
    texts = [name for name in frame if frame[name].dtype == "string" and name not in ("run_id", "environment")]
    return frame.assign(**{str(name): frame[name].map(printable, na_action="ignore") for name in texts})


def _subtitle(findings: Findings, runs: pd.DataFrame) -> str:
    compared, seeds = findings.compared, {seed for row in findings.rows for seed in row.seeds}
    moments = runs["finished_at"].dropna()
    days = dict.fromkeys(f"{day:%Y-%m-%d}" for day in (moments.min(), moments.max())) if len(moments) else {}
    when = f", finished {' to '.join(days)}" if days else ""
    budget = report_tables.equal_budget(findings)
    equal = f", equal {budget}" if budget else ""
    where = f"Preset {compared.preset}{f' on {compared.data}' if compared.data else ''}"
    where = report_tables.where(findings) if compared.preset in (IMPORTED, None) else where
    return f"{where}: {plural(compared.runs, 'run')} under {plural(len(seeds), 'seed')}{equal}{when}."


def _explanation(findings: Findings) -> str:
    """Return what the verdicts mean; the columns of the tables of all tests are explained where these stand."""
    lines = report_tables.explanation(findings)
    return " ".join([*lines[:2], *lines[4:]]) if findings.comparisons else ""


def _claim_text(claim: Claim, findings: Findings) -> tuple[str, str, str]:
    """Return a claim's verdict, the claim in words, and why the verdict is what it is."""
    against = findings.compared.against
    than = f"as good as {against}" if claim.expect == "same" else f"{claim.expect} than {against}"
    within = f" within {claim.margin}" if claim.margin else ""
    decimals = report_tables.claim_decimals(findings, claim)
    why = f"{claim.why.rstrip('.')}."
    if claim.mean is not None and "differs by" not in why:
        why += f" The difference is {signed(claim.mean, decimals)}"
        why += f" {interval(claim.low, claim.high, decimals)}." if claim.low is not None else "."
    words = f"{claim.label}: {than} in {claim.metric}{within}, because {claim.because.rstrip('.')}."
    return claim.verdict, printable(words), why


def _methods(findings: Findings, runs: pd.DataFrame) -> list[tuple[str, str]]:
    compared = findings.compared
    trained_here = _trained_here(runs)
    rows = [TRAINED_HERE, TRAINED_PAIRS] if trained_here or not len(runs) else [ELSEWHERE, PAIRS]
    if compared.data_digest:
        rows.append(("Data", f"{compared.data}, fingerprint {compared.data_digest[:16]}{_sizes(runs)}"))
    if trained_here and not is_embedded(findings):
        rows.append(("Images of the data", LEFT_OUT.format(data=compared.data)))
    tested = report_tables.explanation(findings)[0] if findings.comparisons else "No tests: nothing to compare."
    rows.append(("Statistics", tested))
    for metric in findings.metrics:
        if metric.extractor is not None:
            weights = str(metric.extractor_digest)[:16]
            rows.append((f"Network of {metric.name}", f"{metric.extractor}, weights {weights}"))
    return [(term, printable(text)) for term, text in rows]


def _trained_here(runs: pd.DataFrame) -> bool:
    """Return whether ablate trained the models: it knows their weights."""
    return bool(runs["weights_digest"].notna().any())


def _models(runs: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Return the settings of the models of the runs."""
    settings = [read_json(text, dict).get("model") for text in dict.fromkeys(runs["config"].dropna())]
    return [model for model in settings if isinstance(model, dict)]


def _shipped(models: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether any run trained the model that ships. Old rows, which name no model, did."""
    return not models or any(model.get("kind", "kpn") == "kpn" for model in models)


def _sizes(runs: pd.DataFrame) -> str:
    if runs.empty or runs["n_train"].isna().all():
        return ""
    one = runs.iloc[0]
    dropped = f"{one['duplicates']:,} copies dropped"
    return f": {one['n_train']:,} training images, {one['n_held_out']:,} held out, {dropped}"


def _environment(runs: pd.DataFrame) -> TextTable:
    """Return what the runs were computed with; if there are several values, with their numbers of runs."""
    values: dict[str, Counter[str]] = {}
    for row in results.to_records(runs):
        columns: Mapping[str, Any] = {name: row[name] for name in ("device", "precision", "threads", "git_commit")}
        for name, value in {**columns, **read_json(row["environment"], dict)}.items():
            if value not in (None, ""):
                values.setdefault(printable(name), Counter())[printable(value)] += 1
    lines = []
    for name, counts in values.items():
        several = [f"{value} ({plural(n, 'run')})" for value, n in counts.most_common()]
        lines.append((name, ", ".join(counts if len(counts) == 1 else several)))
    return TextTable("Environment", ("what", "value"), tuple(lines), (0, 1))


def _credits(findings: Findings, runs: pd.DataFrame) -> list[str]:
    plots = "Plots: Vega-Lite, by Altair and vl-convert (BSD-3-Clause)."
    if len(runs) and not _trained_here(runs):
        return [plots]
    name = findings.compared.data
    own = f"{name}, the user's own. This file has no image of it: the models drew the samples." if name else "none"
    model = ["The model and its claims: A. Schreiner, “Generating Cats with KPN Filtering” (2025)."]
    return [
        f"Data: {cats.CREDIT if findings.rows and is_embedded(findings) else printable(own)}",
        *(model if _shipped(_models(runs)) else []),
        f"EfficientNet-Lite0 weights: Apache-2.0. {plots}",
    ]
