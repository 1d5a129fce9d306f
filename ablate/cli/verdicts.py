"""The commands that judge a study: report, compare, gate."""

from __future__ import annotations

import importlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.base.errors import AblateError, ResultsError
from ablate.base.text import printable
from ablate.cli.app import INTERRUPTED, Budget, ResultsOption, app, preset_names, variant_names
from ablate.study.variants import BASELINE, canonical

if TYPE_CHECKING:
    from ablate.report.selection import Choice

PresetChoice = Annotated[
    str | None,
    typer.Option(
        "--preset", help="Only this preset: several do not compare.", show_default=False, autocompletion=preset_names
    ),
]
DataChoice = Annotated[
    str | None, typer.Option("--data", help="Only this data set: its name, path or digest.", show_default=False)
]
BudgetChoice = Annotated[
    Budget, typer.Option("--budget", help="Compare runs of equal steps, or of the baseline's training MACs.")
]
SamplesChoice = Annotated[
    str | None,
    typer.Option(
        "--samples", help="Only runs measured with so many samples, as in 512 or 512/2048.", show_default=False
    ),
]
ExtractorChoice = Annotated[
    str | None,
    typer.Option("--extractor", help="Only runs measured with weights of this digest.", show_default=False),
]
AgainstChoice = Annotated[
    str,
    typer.Option("--against", help="The variant that the others are compared with.", autocompletion=variant_names),
]
JudgedBy = Annotated[
    list[str] | None,
    typer.Option("--metric", "-m", help="Judge by this metric. Repeatable. Default: fid, else fd; lpips, else pd."),
]
VariantChoice = Annotated[
    list[str] | None,
    typer.Option("--variant", "-v", help="Only this variant. Repeatable. Default: all.", autocompletion=variant_names),
]


class Format(StrEnum):
    """How a report is written."""

    rich = "rich"
    json = "json"
    markdown = "markdown"
    html = "html"


ENDINGS = {Format.rich: "md", Format.json: "json", Format.markdown: "md", Format.html: "html"}


@app.command()
def report(
    folder: ResultsOption = Path("results"),
    preset: PresetChoice = None,
    data: DataChoice = None,
    budget: BudgetChoice = Budget.steps,
    metric: JudgedBy = None,
    against: AgainstChoice = BASELINE,
    variants: VariantChoice = None,
    samples: SamplesChoice = None,
    extractor: ExtractorChoice = None,
    format_: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.rich,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file: .html, .md or .json.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it anew whenever the tables change, until Ctrl-C.")
    ] = False,
) -> None:
    """Say what helps, what hurts and what is undecided; then claims, quality and costs, trade-offs, number formats.

    Example: ablate report --format html -o report.html
    """
    from ablate.report.selection import Choice

    if output is not None:
        format_ = _format_of(output, format_, force)
    elif format_ is Format.html:
        raise AblateError("--format html: needs a file to write to, as in -o report.html")
    elif watch and format_ is not Format.rich:
        raise AblateError(f"--watch --format {format_}: needs a file to write to, as in -o report.{ENDINGS[format_]}")
    only = tuple(map(canonical, variants or ()))
    choice = Choice(preset, data, budget.value, canonical(against), tuple(metric or ()), samples, extractor, only)
    if not watch:
        _write(folder, choice, format_, output)
        return
    try:
        _watch(folder, choice, format_, output)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _write(folder: Path, choice: Choice, format_: Format, output: Path | None) -> None:
    """Write one report to a file or to stdout."""
    from ablate.report.builder import build, read
    from ablate.report.render import markdown

    findings = build(read(folder), choice)
    if format_ is Format.rich:
        from rich.console import Console

        from ablate.report.render import terminal

        Console().print(terminal.render(findings))
        return
    if format_ is Format.html:
        # Pictures and plots need libraries that the other forms do without.
        text = str(importlib.import_module("ablate.report.render.html").to_html(findings, folder))
    else:
        text = markdown.to_json(findings) if format_ is Format.json else markdown.to_markdown(findings)
    if output is None:
        typer.echo(text)
        return
    from ablate.store.atomic_files import written

    with written(output) as temporary:
        temporary.write_text(text, "utf-8")
    typer.echo(f"{printable(output)}: written", err=True)


def _watch(folder: Path, choice: Choice, format_: Format, output: Path | None) -> None:
    """Write the report again and again: to the file, or in place on the terminal; what cannot be compared later on is said."""
    from ablate.report.watching import changes, making

    shown = False
    if output is not None:
        for _ in changes(folder):
            try:
                _write(folder, choice, format_, output)
                shown = True
            except ResultsError as error:
                if not shown or not folder.is_dir():
                    raise
                typer.echo(f"error: {printable(error)}", err=True)
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from ablate.report.builder import build, read
    from ablate.report.render import terminal

    with Live(auto_refresh=False, vertical_overflow="crop") as live:
        for _ in changes(folder):
            lines = [Text(f"now: {line}", style="dim") for line in making(folder)]
            try:
                report = terminal.render(build(read(folder), choice))
                shown = True
            except ResultsError as error:
                if not shown or not folder.is_dir():
                    raise
                report = Text(f"error: {printable(error)}")
            live.update(Group(*lines, report), refresh=True)


def _format_of(output: Path, asked: Format, force: bool) -> Format:
    """The form that a file's ending asks for, unless another was asked for that it can hold."""
    from ablate.store.output import check_output

    endings = {".html": Format.html, ".htm": Format.html, ".md": Format.markdown, ".json": Format.json}
    check_output(output, tuple(endings), force=force)
    found = endings[output.suffix.lower()]
    if asked not in (Format.rich, found):
        raise AblateError(f"--format {asked} --output {output}: the ending says {found}; choose one of the two")
    return found


@app.command()
def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A variant, or a run's name.", show_default=False, autocompletion=variant_names
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(metavar="B", help="The same; what is judged.", show_default=False, autocompletion=variant_names),
    ],
    folder: ResultsOption = Path("results"),
    preset: PresetChoice = None,
    data: DataChoice = None,
    budget: BudgetChoice = Budget.steps,
    metric: JudgedBy = None,
    samples: SamplesChoice = None,
    extractor: ExtractorChoice = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Compare two variants seed by seed, or two runs: each value, the pictures' paths and the verdict on B.

    Example: ablate compare baseline no_drift
    """
    from ablate.report import pair_report as versus
    from ablate.report.builder import read
    from ablate.report.selection import Choice

    choice = Choice(preset, data, budget.value, metrics=tuple(metric or ()), samples=samples, extractor=extractor)
    found, findings = versus.compare(read(folder), folder, a, b, choice)
    if as_json:
        typer.echo(versus.to_json(found))
        return
    from rich.console import Console

    Console().print(versus.render(found, findings))


@app.command()
def gate(
    metric: Annotated[str, typer.Option("--metric", "-m", help="The metric, or a cost as in latency_image_ms.")],
    max_regression: Annotated[
        str, typer.Option("--max-regression", help="What may be lost: 5%, or a number in the metric's unit.")
    ],
    against: AgainstChoice = BASELINE,
    variants: VariantChoice = None,
    folder: ResultsOption = Path("results"),
    preset: PresetChoice = None,
    data: DataChoice = None,
    budget: BudgetChoice = Budget.steps,
    samples: SamplesChoice = None,
    extractor: ExtractorChoice = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Fail (exit code 1) where the whole interval of a variant is worse than is allowed; say where that is undecided.

    Example: ablate gate --metric fd --max-regression 5% --variant no_drift
    """
    from ablate.report import gate as gates
    from ablate.report.builder import read
    from ablate.report.selection import Choice

    tolerance = gates.parse_tolerance(max_regression)
    only = tuple(map(canonical, variants or ()))
    choice = Choice(preset, data, budget.value, canonical(against), samples=samples, extractor=extractor, variants=only)
    found = gates.gate(read(folder), metric, tolerance, choice)
    if as_json:
        typer.echo(gates.to_json(found))
    else:
        from rich.console import Console

        Console().print(gates.render(found))
    if found.failed:
        raise typer.Exit(1)
