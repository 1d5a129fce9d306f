"""The application: what all commands share. A user's error is one line on stderr and exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ablate import __version__
from ablate.base.errors import AblateError
from ablate.base.text import printable

INTERRUPTED = 130

app = typer.Typer(
    name="ablate",
    help="Which parts of a small image generator earn their place? Train variants under fixed seeds, measure, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _offering(names: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Let a shell offer these names, or nothing where a user's file cannot be read: the command itself will say so."""

    @wraps(names)
    def offered(*values: Any, **named: Any) -> list[str]:
        with suppress(AblateError):
            return names(*values, **named)
        return []

    return offered


@_offering
def variant_names(incomplete: str) -> list[str]:
    """What a shell offers for a variant, and for the next part of `a+b`."""
    from ablate.study import variants

    before, plus, _ = incomplete.rpartition("+")
    return [before + plus + name for name in variants.names()]


@_offering
def preset_names() -> list[str]:
    """What a shell offers for a preset."""
    from ablate.study import variants

    return variants.presets()


@_offering
def run_ids(context: typer.Context) -> list[str]:
    """What a shell offers for a run: the finished ones of the results folder that the command line names."""
    from ablate.store import tables

    runs = tables.read(Path(context.params.get("folder") or "results"), "runs")
    return sorted(runs[runs["status"] == "done"]["run_id"])


ResultsOption = Annotated[Path, typer.Option("--results", help="The results folder: tables and artifacts.")]
PresetOption = Annotated[
    str, typer.Option("--preset", help="The budget: smoke, quick, standard or paper.", autocompletion=preset_names)
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A finished run's name, or a beginning of it.", show_default=False, autocompletion=run_ids
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="A folder of weights (also ABLATE_WEIGHTS).", show_default=False)
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


def split_names(values: Iterable[str] | None) -> list[str]:
    """Return the names of a repeatable option: `-v a -v b` and `-v a,b` mean the same."""
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()]


class Budget(StrEnum):
    """What the variants have in common with the baseline."""

    steps = "steps"
    macs = "macs"


def main() -> NoReturn:
    """Run the command line; a user's error is one line on stderr and exit code 1."""
    try:
        app()
    except AblateError as error:
        # A message may quote a file's name or content: nothing in it may steer the terminal.
        typer.echo(f"error: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:  # of a file, which is ours to explain where it is opened
            raise
        typer.echo(f"error: the output cannot be written: {error.strerror}", err=True)
        sys.exit(1)
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ablate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def missing_note(network: str, why: str) -> str:
    """Return one line that says which metrics stay empty, and why."""
    from ablate.study.metric_names import METRICS

    first = next(name for name, metric in METRICS.items() if metric.network == network)
    return f"note: no {first} and what else needs {network}: {why}"


def tell_missing(network: str, why: str) -> None:
    """Print a missing network's note to stderr."""
    typer.echo(missing_note(network, why), err=True)
