"""The command that shows a study while it runs: `ablate watch`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.base.errors import ResultsError
from ablate.base.text import printable
from ablate.cli import console
from ablate.cli.app import INTERRUPTED, ResultsOption, app

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ablate.live_view import LiveView


@app.command()
def watch(
    results: Annotated[
        Path | None, typer.Argument(metavar="[RESULTS]", help="The same as --results.", show_default=False)
    ] = None,
    folder: ResultsOption = Path("results"),
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once. The default without a terminal.")] = False,
) -> None:
    """Show a study while it runs: its runs, the time left, and the e-values of undecided variants.

    It reads the results folder alone, so it works in another terminal, on another machine that sees
    the folder, and for every launcher. In a terminal of less than seven lines it is one line.
    Ctrl-C ends it.

    Example: ablate watch results
    """
    from ablate.live_view import LiveView

    view, terminal = LiveView(results or folder), console.terminal()
    if once or not terminal.is_terminal:
        console.show(_frame(view, results or folder))
        return
    from rich.live import Live

    try:
        with Live(console=terminal, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                try:
                    live.update(_frame(view, results or folder), refresh=True)
                except ResultsError as error:
                    live.update(f"error: {printable(error)}", refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _frame(view: LiveView, folder: Path) -> RenderableType:
    from rich.text import Text

    from ablate.report.render.watched_study import render

    study = view.now()
    return Text(f"{printable(folder)}: no runs yet; ablate run makes them") if study is None else render(study)
