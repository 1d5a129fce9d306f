"""The report as JSON and as Markdown. Every number was computed by `ablate.report.builder`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from ablate.report.findings import Findings
from ablate.report.render import report_tables
from ablate.report.render.report_tables import Sheet

VERSION = 1  # of the document that `report.schema.json` describes
SCHEMA = Path(__file__).parent / "report.schema.json"
EMPTY = "No runs yet: start some with `ablate run`."


def to_json(findings: Findings) -> str:
    """Return the report as one strict JSON document (no NaN), as `report.schema.json` beside this module describes it."""
    return json.dumps({"version": VERSION, **asdict(findings)}, indent=2, allow_nan=False)


def to_markdown(findings: Findings) -> str:
    """Return the report as Markdown: verdicts first, then claims, quality and costs, notes, effects, trade-offs, number formats."""
    if not findings.rows:
        return EMPTY + "\n"
    parts = [f"## {escape(report_tables.title(findings))}"]
    if findings.comparisons:
        parts.append("\n".join(f"- **{word}**: {escape(names)}" for word, names in report_tables.summary(findings)))
        for sheet in report_tables.verdict_sheets(findings):
            parts += _sheet(sheet)
        parts.append(escape(report_tables.explained(findings)))
    claims = report_tables.claim_sheet(findings)
    parts += _sheet(claims) if claims is not None else []
    parts.append("### Quality and costs")
    head, *rows = report_tables.quality_cells(findings, " ± ")
    parts.append(table(head, rows, (0, 1)))
    parts.append(_list((*report_tables.legend(findings, "±"), *findings.notes)))
    budgets = report_tables.budget_sheet(findings)
    parts += _sheet(budgets) if budgets is not None else []
    for sheet in (*report_tables.factorial_sheets(findings), *report_tables.front_sheets(findings)):
        parts += _sheet(sheet)
    formats = report_tables.format_sheet(findings)
    parts += _sheet(formats) if formats is not None else []
    return "\n\n".join(parts) + "\n"


def _sheet(sheet: Sheet) -> list[str]:
    legend = [_list(sheet.legend)] if sheet.legend else []
    return [f"### {escape(sheet.title)}", table(sheet.heads, sheet.lines, sheet.left), *legend]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int]) -> str:
    """Return a Markdown table; the columns that are not in `left` are aligned to the right."""
    rule = ["---" if i in left else "---:" for i in range(len(heads))]
    return "\n".join("| " + " | ".join(map(escape, line)) + " |" for line in (heads, rule, *rows))


def escape(text: str) -> str:
    """Keep a cell from ending early or being read as markup."""
    return "".join(f"\\{c}" if c in "\\|*_`<[" else c for c in " ".join(text.split()))
