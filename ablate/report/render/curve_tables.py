"""The tables of curves: the settings that were tried, and quality over a budget."""

from __future__ import annotations

from ablate.base.text import duration
from ablate.report.findings import Curve, Findings
from ablate.report.render.number_text import decimals_of, interval, rounded, signed
from ablate.report.render.text_table import TextTable


def tuning_table(findings: Findings) -> TextTable | None:
    """Return the score of every setting that was tried for each variant, if there was a choice."""
    tuning = findings.tuning
    if tuning is None:
        return None
    settings = list(dict.fromkeys(setting for one in tuning.variants for setting in one.settings))
    known = [score for one in tuning.variants for score in one.scores if score is not None]
    decimals = decimals_of(known)
    lines = []
    for one in tuning.variants:
        scores = dict(zip(one.settings, one.scores, strict=True))
        cells = ("diverged" if scores.get(at, 0) is None else rounded(scores.get(at), decimals) for at in settings)
        choice = one.choice or "its own"
        if len(tuning.keys) == 1:
            choice = choice.rpartition("=")[2]  # the title names the key
        lines.append((one.label, *cells, choice, duration(one.wall_s)))
    better = "higher" if tuning.higher_is_better else "lower"
    seeds = ", ".join(map(str, tuning.seeds))
    return TextTable(
        f"Settings of {' and '.join(tuning.keys)} chosen by {tuning.metric} ({better} is better) on seeds {seeds}, "
        "which are not judged",
        ("variant", *settings, "chosen", "cost"),
        tuple(lines),
        (0, len(settings) + 1),
    )


def curve_table(curve: Curve) -> TextTable:
    """Return the points of a curve, a line each."""
    decimals = decimals_of(point.value.mean for line in curve.lines for point in line.points)
    better = "higher" if curve.higher_is_better else "lower"
    lines = []
    for line in curve.lines:
        for point in line.points:
            found = point.difference
            change = signed(found.mean, decimals) if found else ""
            span = interval(found.low, found.high, decimals) if found else ""
            cells = (f"{point.x:,}", rounded(point.value.mean, decimals), change, span, str(point.value.n))
            lines.append((line.label, *cells))
    return TextTable(
        f"{curve.metric} over {curve.over}, {better} is better",
        ("variant", curve.over, curve.metric, f"vs {curve.against or 'the baseline'}", "95 %", "seeds"),
        tuple(lines),
        (0,),
        ("Not judged: each interval is of one difference alone.",),
    )
