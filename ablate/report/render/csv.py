"""The report as CSV: one row per variant and metric, with numbers that are not rounded."""

from __future__ import annotations

import csv
import io

from ablate.report.findings import Comparison, Findings, Metric, VariantRow

COLUMNS = (
    *("preset", "data", "variant", "axis", "metric", "higher_is_better"),
    *("n", "mean", "sd", "low", "high"),  # of the variant
    *("against", "pairs", "difference", "difference_sd", "difference_low", "difference_high"),
    *("evidence", "alone", "adjusted", "verdict", "exploratory", "diverged", "why"),
)


def to_csv(findings: Findings) -> str:
    """Return the report as CSV, with a line of column names. A number that is unknown is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")  # pandas 2.2 would round the last digit
    table.writeheader()
    comparisons = {(one.label, one.metric): one for one in findings.comparisons}
    for metric in findings.metrics:
        for row in findings.rows:
            table.writerow(_line(findings, row, metric, comparisons.get((row.label, metric.name))))
    return text.getvalue()


def _line(findings: Findings, row: VariantRow, metric: Metric, one: Comparison | None) -> dict[str, object]:
    """Return one row. The row that the others are compared with has no comparison."""
    compared = findings.compared
    line: dict[str, object] = {
        "preset": compared.preset,
        "data": compared.data,
        "variant": row.label,
        "axis": row.axis,
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        **row.values[metric.name].model_dump(),
        "diverged": row.unfinished["diverged"],
        "against": compared.against,
        "pairs": 0,
        "evidence": "p" if compared.design == "planned" else "e",
        "exploratory": False,
    }
    if one is None:
        return line
    return line | {
        "pairs": one.n,
        "difference": one.mean,
        "difference_sd": one.sd,
        "difference_low": one.low,
        "difference_high": one.high,
        "alone": one.alone,
        "adjusted": one.adjusted,
        "verdict": one.verdict,
        "exploratory": one.exploratory,
        "why": one.why,
    }
