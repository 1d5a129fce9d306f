"""The application and what its commands share: options, shell completion, errors in one line."""

from __future__ import annotations

import inspect
import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

from ablate import __version__
from ablate.base.errors import AblateError, how_to_fix, is_out_of_memory, not_installed
from ablate.cli import console

INTERRUPTED = 130  # exit code
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])  # typer exports no base class


class _PlainTypes:
    """Help with plain types: no `<bool>` beside a flag, no `<int range>`, no `<list[str]>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
            elif hasattr(param, "display_type"):  # not in older versions, which write TEXT and INTEGER
                plain = re.sub(r"^<(?:list\[(.*)\]|(.*) range)>$", r"<\1\2>", param.display_type(ctx))
                param.display_type = partial(_constant, plain)
        return params


def _constant(text: str, ctx: Any) -> str:
    return text


class _Command(_PlainTypes, TyperCommand):
    pass


class _Group(_PlainTypes, TyperGroup):
    pass


class _App(typer.Typer):
    """An application whose commands all show plain types, and paragraphs that fill the terminal."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        def register(function: CommandFunctionType) -> CommandFunctionType:
            # typer keeps the docstring's line breaks, which are wrong for a terminal of another width.
            paragraphs = (inspect.getdoc(function) or "").split("\n\n")
            text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
            return super(_App, self).command(name, **{"cls": _Command, "help": text, **options})(function)

        return register


app = _App(
    cls=_Group,
    name="ablate",
    help="Which parts of an image generator earn their place? Train variants under fixed seeds, measure, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _offering(names: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Let a shell offer these names where they are printable; none if a file cannot be read.

    The command reports what is wrong with the file.
    """

    @wraps(names)
    def offered(*values: Any, **named: Any) -> list[str]:
        with suppress(AblateError):
            return [name for name in names(*values, **named) if name.isprintable()]
        return []

    return offered


@_offering
def variant_names(incomplete: str) -> list[str]:
    """Return what a shell offers for a variant, and for the next part of `a+b` or `a,b`."""
    from ablate.study import variants

    before = re.sub(r"[^+,]*$", "", incomplete)
    return [before + name for name in variants.names()]


@_offering
def preset_names() -> list[str]:
    """Return what a shell offers for a preset."""
    from ablate.study import variants

    return variants.presets()


@_offering
def run_ids(context: typer.Context) -> list[str]:
    """Return what a shell offers for a run: the finished ones of the results folder."""
    from ablate.store import tables

    runs = tables.read(Path(context.params.get("folder") or "results"), "runs")
    return sorted(runs[runs["status"] == "done"]["run_id"])


ResultsOption = Annotated[Path, typer.Option("--results", help="The results folder.")]
PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="The preset: smoke, quick, standard, published, paper or your own.",
        autocompletion=preset_names,
    ),
]


def _use_registry(context: typer.Context, folder: Path | None) -> None:
    from ablate.study.variants import registry

    context.with_resource(registry(folder))


OwnVariantsOption = Annotated[
    Path | None,
    typer.Option(
        "--variants",
        help="The folder of your own variants and presets (also ABLATE_VARIANTS). Default: variants.",
        show_default=False,
        callback=_use_registry,
        is_eager=True,
    ),
]


def _load_plugins(files: list[Path] | None) -> list[Path] | None:
    for path in files or ():
        from ablate.study.plugins import load_file

        load_file(path)
    return files


PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help="A Python file with a model, metric, data set, objective or solver of your own; repeatable "
        "(also ABLATE_PLUGIN). Its code is run.",
        show_default=False,
        envvar="ABLATE_PLUGIN",
        show_envvar=False,
        callback=_load_plugins,
        is_eager=True,
    ),
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A finished run's name, or the first letters of it.",
        show_default=False,
        autocompletion=run_ids,
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        help="Only runs that fit a condition on columns of runs, as in \"variant == 'no_drift' and seed < 3\".",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="A folder of weights (also ABLATE_WEIGHTS).", show_default=False)
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Download no weights (also ABLATE_OFFLINE=1).")]
JsonDocumentOption = Annotated[bool, typer.Option("--json", help="One JSON document.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


class Budget(StrEnum):
    """What each variant has in common with the baseline."""

    steps = "steps"
    macs = "macs"


def main() -> NoReturn:
    """Run the command line; an error is one line on stderr and exit code 1, or 2 if the words are wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an encoding may lack letters of ours
    for name in ("COLUMNS", "LINES"):
        if len(os.environ.get(name, "")) > 6:  # Rich may fail on thousands of digits
            del os.environ[name]
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except Exception as error:
        code, text = _explained(error)
        if text is None:
            raise
        with suppress(OSError):  # of a closed or full stderr: there is nowhere to say it
            console.error(text)
    sys.exit(code if isinstance(code, int) else 0)


def _explained(error: Exception) -> tuple[int, str | None]:
    """Return the exit code and the line of an error; no line for a defect of ablate, whose traceback helps."""
    text = " ".join(str(error).split())
    if isinstance(error, AblateError):
        return 1, text
    if isinstance(error, UsageError):
        command = error.ctx.command_path if error.ctx is not None else "ablate"
        return 2, f"{command}: {' '.join(error.format_message().split()).rstrip('.')}; see {command} --help"
    if isinstance(error, ModuleNotFoundError):
        missing = not_installed(" ".join(["ablate", *sys.argv[1:2]]), error.name)
        return 1, None if missing is None else str(missing)
    if is_out_of_memory(error):
        fix = "use fewer or smaller images (measure: --size, --n) or a smaller batch, or close other programs"
        return 1, f"out of memory: {text or 'this machine has no more'}; fix: {fix}"
    if isinstance(error, OSError):
        reason = error.strerror or text or type(error).__name__
        if error.filename is None:
            return 1, f"the output cannot be written: {reason}; {how_to_fix(error)}"
        return 1, f"{error.filename!s}: {reason}; {how_to_fix(error)} and run again"
    return 1, None


def _version(wanted: bool) -> None:
    if wanted:
        console.echo(f"ablate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def missing_note(network: str, why: str) -> str:
    """Return one line that says which metrics are not measured, and why."""
    from ablate.study.metric_names import headline_of

    return f"note: {headline_of(network)} and the other metrics of {network} are not measured: {why}"
