"""The report as Markdown."""

from __future__ import annotations

from ablate.report.findings import Findings
from ablate.report.render.quality_table import quality_table
from ablate.report.render.report_tables import (
    EMPTY,
    claim_table,
    explanation,
    lead,
    other_tables,
    title,
    verdict_tables,
)
from ablate.report.render.text_table import TextTable, bullets, escape
from ablate.report.render.text_table import to_markdown as table_to_markdown


def to_markdown(findings: Findings) -> str:
    """Return the report as Markdown.

    The order is: verdicts, claims, quality and costs, notes, budgets, effects, trade-offs, number formats.
    """
    if not findings.rows:
        return EMPTY + "\n"
    parts = [f"## {escape(title(findings))}", escape(lead(findings))]
    for table in verdict_tables(findings):
        parts += _section(table)
    if findings.comparisons:
        parts.append(bullets(explanation(findings)))
    claims = claim_table(findings)
    parts += _section(claims) if claims is not None else []
    parts += _section(quality_table(findings, " ± "))
    if findings.notes:
        parts += ["### Notes", bullets(findings.notes)]
    for table in other_tables(findings):
        parts += _section(table)
    return "\n\n".join(parts) + "\n"


def _section(table: TextTable) -> list[str]:
    legend = [bullets(table.legend)] if table.legend else []
    return [f"### {escape(table.title)}", table_to_markdown(table), *legend]
