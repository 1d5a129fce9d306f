"""The first commands of an own study: init, check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.prompt import Prompt

from ablate.base.errors import AblateError
from ablate.base.text import printable
from ablate.cli import console
from ablate.cli.app import DeviceOption, OwnVariantsOption, PluginOption, app, preset_names, variant_names
from ablate.study import variants

if TYPE_CHECKING:
    from ablate.runs.checked import Checked


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
    model: Annotated[bool, typer.Option("--model", help="A study of your own torch model.")] = False,
) -> None:
    """Write the files of a study of your own into the current folder.

    Example: ablate init --program python train.py --lr 0.1 --epochs 10
    """
    from ablate.study.new_model import model_files
    from ablate.study.new_program import program_files, write_new

    if model and (program or command):
        raise AblateError("ablate init --model: a model is no program and has no command; choose one")
    if not (model or program) and sys.stdin.isatty():
        answer = Prompt.ask("A torch model (z, t) -> output, or a program that you run?", choices=["model", "program"])
        model, program = answer == "model", answer == "program"
    if not (model or program):
        raise AblateError("ablate init: of what? --program: a study of your own program; --model: of a torch model")
    for path in write_new(Path(), model_files() if model else program_files(command or [])):
        console.echo(printable(path))
    plugin = " --plugin model.py" if model else ""
    console.echo(f"next: ablate check{plugin}; then: ablate run{plugin} --preset smoke --variant all", err=True)


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
    plugin: PluginOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Run your own program or model for a moment and say what is wrong with it.

    A program runs three times: with one seed twice, where the numbers should be the same, and with
    another, where they should not. A model is trained for two steps, twice with one seed.

    Example: ablate check
    """
    from ablate.base.progress import Progress

    for name in variants.names():  # a mistake in any file is better known now
        variants.resolve(variants.load(name), variants.DEFAULT_PRESET)
    small = preset or ("smoke" if "smoke" in variants.presets() else variants.DEFAULT_PRESET)
    found: Checked
    if variants.is_program():
        from ablate.launch.program_check import check_program

        with Progress() as progress:
            found = check_program(variant, small, progress)
    else:
        from ablate.base.machine import pick_device
        from ablate.runs.model_check import check_model
        from ablate.study.config import Config

        config = variants.resolve(variants.load(variant), small)
        assert isinstance(config, Config)
        found = check_model(config, pick_device(device))
    for line in found.seen:
        console.echo(line)
    for problem in found.problems:
        console.echo(f"problem: {printable(' '.join(problem.split()))}")
    console.echo("ok" if not found.problems else "not ok")
    raise typer.Exit(1 if found.problems else 0)
