"""The commands that judge a study: `ablate report`, `ablate compare`, `ablate gate`."""

from __future__ import annotations

import importlib
from contextlib import nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.base.errors import AblateError, ResultsError, VariantError
from ablate.base.text import printable
from ablate.cli import console
from ablate.cli.app import INTERRUPTED, Budget, JsonDocumentOption, ResultsOption, app, preset_names, variant_names
from ablate.study.variants import BASELINE, load

if TYPE_CHECKING:
    from ablate.report.findings import Findings
    from ablate.report.selection import Choice

PresetChoice = Annotated[
    str | None,
    typer.Option("--preset", help="Only runs of this preset.", show_default=False, autocompletion=preset_names),
]
DataChoice = Annotated[
    str | None,
    typer.Option("--data", help="Only runs on this data set: any name it had, its path or digest.", show_default=False),
]
BudgetChoice = Annotated[
    Budget, typer.Option("--budget", help="Compare runs of equal steps, or of the baseline's training MACs.")
]
SamplesChoice = Annotated[
    str | None,
    typer.Option(
        "--samples",
        help="Only runs measured with this many samples: 512, or with real images 512/2048.",
        show_default=False,
    ),
]
ExtractorChoice = Annotated[
    str | None,
    typer.Option("--extractor", help="Only runs measured with extractor weights of this digest.", show_default=False),
]
AgainstChoice = Annotated[
    str,
    typer.Option("--against", help="The variant to compare the others with.", autocompletion=variant_names),
]
JudgedBy = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", "-m", help="Show these metrics, as in fd,pd. Repeatable. Default: fid, else fd; lpips, else pd."
    ),
]
JudgedWhere = Annotated[
    str | None,
    typer.Option(
        "--where",
        help="Judge only runs that fit a condition on columns of runs, as in \"axis == 'drift' and seed < 3\", and the "
        "runs that they are compared with.",
        show_default=False,
    ),
]
WithoutSeedOption = Annotated[
    list[int] | None,
    typer.Option("--without-seed", help="Leave out the runs of this seed. Repeatable.", show_default=False),
]
SameWithinOption = Annotated[
    str | None,
    typer.Option(
        "--same-within",
        help="Differences up to this size are the same: 2% of the other's mean, or a number in the metric's unit.",
        show_default=False,
    ),
]
FullOption = Annotated[bool, typer.Option("--full", help="Show every section on the terminal, not only verdicts.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write to this file: .html, .md, .tex, .csv or .json.", show_default=False),
]
VariantChoice = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        "-v",
        help="Show only these variants, as in a,b. Repeatable. Default: all.",
        autocompletion=variant_names,
    ),
]


class Format(StrEnum):
    """The forms of a report."""

    rich = "rich"
    json = "json"
    markdown = "markdown"
    html = "html"
    latex = "latex"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="The form of the report.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the output.")]
ENDINGS = {
    ".html": Format.html,
    ".htm": Format.html,
    ".md": Format.markdown,
    ".json": Format.json,
    ".tex": Format.latex,
    ".csv": Format.csv,
}


@app.command()
def report(
    folder: ResultsOption = Path("results"),
    preset: PresetChoice = None,
    data: DataChoice = None,
    budget: BudgetChoice = Budget.steps,
    metrics: JudgedBy = None,
    against: AgainstChoice = BASELINE,
    variants: VariantChoice = None,
    samples: SamplesChoice = None,
    extractor: ExtractorChoice = None,
    where: JudgedWhere = None,
    without_seeds: WithoutSeedOption = None,
    same_within: SameWithinOption = None,
    format_: FormatOption = Format.rich,
    as_json: JsonOption = False,
    full: FullOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again whenever the tables change, until Ctrl-C.")
    ] = False,
) -> None:
    """Say which changes help, which hurt, and which are undecided.

    Files (-o report.html, .md, .json) and --full also show quality, costs, trade-offs and number formats.
    .tex is the table for a paper, .csv one row per variant and metric.

    Example: ablate report -o report.html
    """
    from ablate.report.selection import Choice

    choice = Choice.of(locals())
    format_ = choose_form(format_, as_json, output, force)
    if output is None and watch and format_ is not Format.rich:
        raise AblateError(f"--watch --format {format_}: needs a file to write to, as in -o report{_ending(format_)}")
    if not watch:
        write_report(folder, choice, format_, output, full)
        return
    try:
        _watch(folder, choice, format_, output, full)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def choose_form(asked: Format, as_json: bool, output: Path | None, force: bool) -> Format:
    """Return the form of a report by its options.

    Raises:
        AblateError: Two forms were asked for, a page without a file, or a file that cannot be written.
    """
    if as_json:
        if asked not in (Format.rich, Format.json):
            raise AblateError(f"--json --format {asked}: two forms; choose one of the two")
        asked = Format.json
    if output is not None:
        return _format_of(output, asked, force)
    if asked is Format.html:
        raise AblateError("--format html: needs a file to write to, as in -o report.html")
    return asked


def write_report(folder: Path, choice: Choice, format_: Format, output: Path | None, full: bool) -> None:
    """Write one report to a file or to stdout."""
    from ablate.report.builder import build, read

    findings = build(read(folder), choice)
    _note_edited_files(findings)
    if format_ is Format.rich:
        from ablate.report.render import terminal

        console.show(terminal.render(findings, full=full))
        return
    if format_ is Format.json:
        text = findings.to_json()
    else:
        # Each form is a module of its own: images and plots need libraries that the others do without.
        module = importlib.import_module(f"ablate.report.render.{format_}")
        text = (
            module.to_html(findings, folder) if format_ is Format.html else getattr(module, f"to_{format_}")(findings)
        )
    if format_ is Format.csv:
        for note in findings.notes:  # a table of data has no place for them
            console.note(note)
    if output is None:
        (console.echo_json if format_ is Format.json else console.echo)(text.removesuffix("\n"))
        return
    from ablate.store.atomic_files import output_file

    with output_file(output) as temporary:
        temporary.write_text(text, "utf-8")
    console.echo(f"{printable(output)}: written", err=True)


def _note_edited_files(findings: Findings) -> None:
    """Say which variants' files no longer say what the rows recorded. The report judges the rows."""
    stated: dict[str, list[tuple[str, ...]]] = {}
    for claim in findings.claims:
        stated.setdefault(claim.variant, []).append((claim.metric, claim.expect, claim.margin or "", claim.because))
    edited = []
    for row in findings.rows:
        with suppress(VariantError):  # the file is gone, or cannot be read: no matter to a report
            file = load(row.variant)
            claims = [(one.metric, one.expect, one.margin or "", one.because) for one in file.claims]
            other_claims = row.variant in stated and claims != stated[row.variant]
            if row.about and (printable(file.about) != row.about or other_claims):
                edited.append(row.variant)
    if edited:
        names = ", ".join(dict.fromkeys(edited))
        console.note(f"the files of {names} say something else now; judged is what the rows recorded")


def _watch(folder: Path, choice: Choice, format_: Format, output: Path | None, full: bool) -> None:
    """Write the report at every change, to the file or in place on the terminal.

    If the first report fails, so does the command. Later errors are printed, and watching goes on.
    """
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    from ablate.report.builder import build, read
    from ablate.report.render import terminal
    from ablate.report.watching import changes, in_progress

    succeeded = False
    screen = Live(console=console.terminal(), auto_refresh=False, vertical_overflow="crop")
    with screen if output is None else nullcontext() as live:
        for _ in changes(folder):
            report: RenderableType = ""
            try:
                if live is None:
                    write_report(folder, choice, format_, output, full)
                else:
                    report = terminal.render(build(read(folder), choice), full=full)
                succeeded = True
            except ResultsError as error:
                if not succeeded or not folder.is_dir():
                    raise
                if live is None:
                    console.error(error)
                report = Text(f"error: {printable(error)}")
            if live is not None:
                lines = [Text(f"now: {line}", style="dim") for line in in_progress(folder)]
                live.update(Group(*lines, report), refresh=True)


def _format_of(output: Path, asked: Format, force: bool) -> Format:
    """Return the form of a file's ending, and refuse another one that was asked for."""
    from ablate.store.atomic_files import check_output

    check_output(output, tuple(ENDINGS), force=force)
    of_ending = ENDINGS[output.suffix.lower()]
    if asked not in (Format.rich, of_ending):
        raise AblateError(f"--format {asked} --output {output}: the ending says {of_ending}; choose one of the two")
    return of_ending


def _ending(format_: Format) -> str:
    return next(ending for ending, of_ending in ENDINGS.items() if of_ending is format_)


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
        typer.Argument(
            metavar="B", help="The same. Verdicts are on B.", show_default=False, autocompletion=variant_names
        ),
    ],
    folder: ResultsOption = Path("results"),
    preset: PresetChoice = None,
    data: DataChoice = None,
    budget: BudgetChoice = Budget.steps,
    metrics: JudgedBy = None,
    samples: SamplesChoice = None,
    extractor: ExtractorChoice = None,
    where: JudgedWhere = None,
    without_seeds: WithoutSeedOption = None,
    as_json: JsonDocumentOption = False,
) -> None:
    """Compare two variants, or two runs: the verdict on B, and the values of both seed by seed.

    Example: ablate compare baseline no_drift
    """
    from ablate.report import pair_report
    from ablate.report.builder import read
    from ablate.report.selection import Choice

    pair, findings = pair_report.compare(read(folder), folder, a, b, Choice.of(locals()))
    if as_json:
        console.echo_json(pair.to_json())
        return
    console.show(pair_report.render(pair, findings))


@app.command()
def gate(
    metric: Annotated[str, typer.Option("--metric", "-m", help="The metric, or a cost as in latency_image_ms.")],
    max_regression: Annotated[
        str,
        typer.Option("--max-regression", help="The regression that is allowed: 5%, or a number in the metric's unit."),
    ],
    against: AgainstChoice = BASELINE,
    variants: VariantChoice = None,
    folder: ResultsOption = Path("results"),
    preset: PresetChoice = None,
    data: DataChoice = None,
    budget: BudgetChoice = Budget.steps,
    samples: SamplesChoice = None,
    extractor: ExtractorChoice = None,
    where: JudgedWhere = None,
    without_seeds: WithoutSeedOption = None,
    allow_diverged: Annotated[
        bool, typer.Option("--allow-diverged", help="Judge by the finished seeds though others diverged.")
    ] = False,
    as_json: JsonDocumentOption = False,
) -> None:
    """Fail (exit code 1) if a metric of a variant got worse by more than is allowed.

    A variant fails if the whole 95 % interval of its regression is worse than the tolerance, if one of
    its seeds diverged, or if none has finished.

    Example: ablate gate --metric fd --max-regression 5% --variant no_drift
    """
    from ablate.report import gate as gates
    from ablate.report.builder import read
    from ablate.report.selection import Choice

    tolerance = gates.parse_tolerance(max_regression)
    outcome = gates.gate(read(folder), metric, tolerance, Choice.of(locals()), allow_diverged=allow_diverged)
    if as_json:
        console.echo_json(outcome.to_json())
    else:
        console.show(outcome)
    if outcome.failed:
        raise typer.Exit(1)
