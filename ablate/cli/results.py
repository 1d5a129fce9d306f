"""The commands that manage a results folder: `ablate merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.base.text import printable
from ablate.cli.app import app


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Results folders.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The folder to write: a new one, or one to add to.", show_default=False),
    ],
    prefer: Annotated[
        Path | None,
        typer.Option(
            "--prefer", help="If two folders hold unequal rows of a run, take this one's.", show_default=False
        ),
    ] = None,
) -> None:
    """Put the runs of several results folders into one: rows of all tables, plans, and files.

    A run that several folders hold is written once. Unequal rows of one run are refused, unless
    --prefer says whose are taken. Interrupted by a kill, the same command finishes the work. Reports
    and the working folders of unfinished runs are not copied.

    Example: ablate merge machine1 machine2 -o results
    """
    from ablate.launch.leases import Leases
    from ablate.store import merge as merging

    done = merging.merge(folders, output, prefer=prefer, refuse_running=Leases(output).refuse_held)
    replaced = f", {done.replaced} replaced" if done.replaced else ""
    typer.echo(f"{printable(output)}: {done.runs} runs, {done.added} added{replaced}", err=True)
