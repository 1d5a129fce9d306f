"""The first commands of an own study: init, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.base.errors import AblateError
from ablate.base.text import printable
from ablate.cli.app import OwnVariantsOption, app, preset_names, variant_names
from ablate.study import variants


@app.command(context_settings={"allow_interspersed_args": False})  # options of the command are its own
def init(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND]...",
            help="With --program: your command, as in: python train.py --lr 0.1. Default: an example that is written.",
            show_default=False,
        ),
    ] = None,
    program: Annotated[bool, typer.Option("--program", help="A study of your own program, in any language.")] = False,
) -> None:
    """Write the files of a study of your own into the current folder.

    Example: ablate init --program python train.py --lr 0.1 --epochs 10
    """
    from ablate.study.new_program import program_files, write_new

    if not program:
        raise AblateError("ablate init: of what? --program: a study of your own program")
    for path in write_new(Path(), program_files(command or [])):
        typer.echo(printable(path))
    typer.echo("next: ablate check; then: ablate run --preset smoke --variant all", err=True)


@app.command()
def check(
    variant: Annotated[
        str, typer.Option("--variant", "-v", help="A variant.", autocompletion=variant_names)
    ] = variants.BASELINE,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="A preset of short runs. Default: smoke if there is one.",
            show_default=False,
            autocompletion=preset_names,
        ),
    ] = None,
    own_variants: OwnVariantsOption = None,
) -> None:
    """Run your own program three times and say what is wrong with it.

    Twice with one seed: the numbers should be the same. Once with another seed: they should not.

    Example: ablate check
    """
    if not variants.is_program():
        baseline = variants.own_folder() / "baseline.toml"
        raise AblateError(f"ablate check: {printable(baseline)} has no [program]; ablate init --program writes one")
    from ablate.base.progress import Progress
    from ablate.launch.program_check import check_program

    for name in variants.names():  # a mistake in any file is better known now
        variants.resolve(variants.load(name), variants.DEFAULT_PRESET)
    small = "smoke" if "smoke" in variants.presets() else variants.DEFAULT_PRESET
    with Progress() as progress:
        found = check_program(variant, preset or small, progress)
    for line in found.seen:
        typer.echo(line)
    for problem in found.problems:
        typer.echo(f"problem: {printable(' '.join(problem.split()))}")
    typer.echo("ok" if not found.problems else "not ok")
    raise typer.Exit(1 if found.problems else 0)
