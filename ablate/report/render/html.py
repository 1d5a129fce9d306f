"""The report as one HTML file: readable without scripts and without a network.

The template escapes every text. The page's content security policy allows only its own two scripts,
named by their digests.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
import vl_convert

from ablate import __version__
from ablate.report.findings import CLAIM_VERDICTS, VERDICTS, Findings
from ablate.report.render import report_tables
from ablate.report.render.page import contents

WORDS = {*VERDICTS, *CLAIM_VERDICTS}  # tables show these as badges


def to_html(findings: Findings, folder: Path) -> str:
    """Return the page of one comparison.

    Args:
        findings: The findings, as `ablate.report.builder.build` returns them.
        folder: The results folder: tables, and images in `artifacts`.

    Raises:
        ResultsError: A table cannot be read.
    """
    page, js = contents(findings, folder), _read("page.js")
    bundle = _vega_embed() if page["has_plots"] else ""
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in (bundle, js) if script)
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )
    template = _environment().get_template("page.html")
    return template.render(
        page, policy=policy, css=_read("page.css"), js=js, bundle=bundle, words=WORDS, version=__version__
    )


def to_fragment(findings: Findings) -> str:
    """Return what a notebook shows: the verdicts by the first metric."""
    tables = report_tables.verdict_tables(findings)
    return (
        _environment()
        .get_template("fragment.html")
        .render(
            title=report_tables.title(findings),
            lead=report_tables.lead(findings),
            explanation=" ".join(report_tables.explanation(findings)) if findings.comparisons else "",
            table=tables[0] if tables else None,
        )
    )


@cache
def _vega_embed() -> str:
    """Return the script that draws live plots. Bundling it takes a second; `--watch` writes many pages."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


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
