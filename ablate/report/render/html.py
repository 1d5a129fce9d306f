"""The report as one HTML file: readable without scripts and without a network.

Every text goes through the template's escaping, and the page's policy lets no script run but its own two, which are named by their digests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
import vl_convert

from ablate import __version__
from ablate.base.text import printable
from ablate.report.findings import CLAIM_VERDICTS, VERDICTS, Findings
from ablate.report.render import report_tables
from ablate.report.render.page import gather, lead

WORDS = {*VERDICTS, *CLAIM_VERDICTS}  # that a table shows as badges


def to_html(findings: Findings, folder: Path) -> str:
    """Return the page of one comparison.

    Args:
        findings: What `ablate.report.builder.build` found.
        folder: The results folder: tables, and pictures in `artifacts`.

    Raises:
        ResultsError: A table cannot be read.
    """
    page, js = gather(findings, folder), _read("page.js")
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;") if page.has_plots else ""
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in (bundle, js) if script)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    template = _environment().get_template("page.html")
    return template.render(
        page=page, policy=policy, css=_read("page.css"), js=js, bundle=bundle, words=WORDS, version=__version__
    )


def to_fragment(
    findings: Findings | None, *, note: str = "", heads: Sequence[str] = (), rows: Sequence[Sequence[object]] = ()
) -> str:
    """Return what a notebook shows of a comparison: its verdicts by the first metric; or of other rows, with a note.

    Args:
        findings: The comparison, or None.
        note: Stands above the rows.
        heads: Of the rows.
        rows: What is shown where there is no comparison.
    """
    words: dict[str, object] = {
        "note": printable(note),
        "heads": heads,
        "rows": [list(map(printable, row)) for row in rows],
    }
    if findings is not None:
        found = report_tables.verdict_sheets(findings)
        words = {
            "title": report_tables.title(findings),
            "lead": lead(findings),
            "explained": report_tables.explained(findings),
        }
        words |= {"heads": found[0].heads if found else (), "rows": found[0].lines if found else ()}
    return _environment().get_template("fragment.html").render(findings=findings, **words)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read(name: str) -> str:
    return resources.files("ablate.report.render").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
