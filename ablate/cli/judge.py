"""The commands for scores that another program wrote: `ablate judge`, `ablate import`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.base.text import printable, split_names
from ablate.cli import console
from ablate.cli.app import ResultsOption, app
from ablate.cli.verdicts import (
    ForceOption,
    Format,
    FormatOption,
    FullOption,
    JsonOption,
    OutputOption,
    SameWithinOption,
    choose_form,
    write_report,
)

if TYPE_CHECKING:
    from ablate.scores.reading import Scores

ScoresArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="CSV, TSV, JSON, JSON lines or Parquet, or results of lm-evaluation-harness.",
        show_default=False,
    ),
]
VariantColumn = Annotated[
    str | None,
    typer.Option(
        "--variant", "-v", help="The column of the variant. Default: guessed by its name.", show_default=False
    ),
]
SeedColumn = Annotated[
    str | None,
    typer.Option("--seed", help="The column of the seed. Default: guessed by its name.", show_default=False),
]
MetricNames = Annotated[
    list[str] | None,
    typer.Option("--metric", "-m", help="Judge by these metrics, as in acc,loss. Default: those of a usual name."),
]
Better = Annotated[
    list[str] | None,
    typer.Option("--better", help="higher or lower, if the metric's name does not say it; also as in loss=lower."),
]
AgainstName = Annotated[
    str | None,
    typer.Option("--against", help="The variant to compare the others with. Default: baseline, base or control."),
]


@app.command()
def judge(
    scores: ScoresArgument,
    variant: VariantColumn = None,
    seed: SeedColumn = None,
    metric: MetricNames = None,
    better: Better = None,
    against: AgainstName = None,
    same_within: SameWithinOption = None,
    format_: FormatOption = Format.rich,
    as_json: JsonOption = False,
    full: FullOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Judge scores of your own: a table of variants, seeds and metrics from anywhere.

    A row is one variant at one seed, with a column for each metric; or one value, with columns metric
    and value. Exports of Weights & Biases, MLflow and lm-evaluation-harness are read as they are.

    Example: ablate judge scores.csv --against base -o report.html
    """
    from ablate.report.selection import Choice
    from ablate.scores.rows import to_rows
    from ablate.store import tables

    form = choose_form(format_, as_json, output, force)
    read = _read(scores, variant, seed, metric, better, against)
    with tempfile.TemporaryDirectory() as folder:
        tables.append(Path(folder), to_rows(read))
        write_report(Path(folder), Choice(against=read.against, same_within=same_within), form, output, full)


@app.command("import")
def import_(
    scores: ScoresArgument,
    folder: ResultsOption = Path("results"),
    variant: VariantColumn = None,
    seed: SeedColumn = None,
    metric: MetricNames = None,
    better: Better = None,
    against: AgainstName = None,
    force: Annotated[bool, typer.Option("--force", help="Replace other values of the same runs.")] = False,
) -> None:
    """Write scores of your own into a results folder, for `ablate report`, `compare` and `gate`.

    Scores that the folder holds already are not written again.

    Example: ablate import scores.csv --results results/mine
    """
    from ablate.scores.rows import import_scores

    read = _read(scores, variant, seed, metric, better, against)
    runs, written = import_scores(read, folder, force=force)
    console.echo(f"{printable(folder)}: {runs} runs of {read.name}, {written} written", err=True)


def _read(
    files: list[Path],
    variant: str | None,
    seed: str | None,
    metric: list[str] | None,
    better: list[str] | None,
    against: str | None,
) -> Scores:
    """Read files of scores, and say on stderr what was guessed."""
    from ablate.scores.reading import Options, read_scores

    options = Options(variant, seed, split_names(metric), split_names(better), against)
    read = read_scores(files, options)
    for note in read.notes:
        console.note(note)
    return read
