"""The commands that manage results folders: `ablate ls`, `ablate rm`, `ablate tag`, `ablate merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.base.errors import AblateError
from ablate.base.text import plural, printable, split_names
from ablate.cli import console
from ablate.cli.app import JsonDocumentOption, ResultsOption, WhereOption, app, run_ids

if TYPE_CHECKING:
    import pandas as pd

RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN...",
        help="Names of runs, or the first letters if only one run begins so.",
        show_default=False,
        autocompletion=run_ids,
    ),
]


@app.command("ls")
def show_runs(
    folder: ResultsOption = Path("results"),
    where: WhereOption = None,
    as_json: JsonDocumentOption = False,
) -> None:
    """List the runs of a results folder, also those that are being made now.

    Status: done, diverged, failed, interrupted; running: a process makes it; killed: it can go on;
    lost: its files are there, its row is not.

    Example: ablate ls --where "variant == 'no_drift' and seed < 3"
    """
    from ablate.launch.run_list import list_runs
    from ablate.report.render.run_list import run_documents

    runs = list_runs(folder, where)
    if as_json:
        console.echo_json(run_documents(runs))
    else:
        _show(runs)


@app.command("rm")
def remove(
    runs: RunsArgument = None,
    where: WhereOption = None,
    folder: ResultsOption = Path("results"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs: their rows in all tables, and their files.

    Runs that are being made are refused. A study from which runs are removed counts as grown. If the
    command is killed, run it again.

    Example: ablate rm --where "status == 'failed'"
    """
    from ablate.launch.leases import Leases
    from ablate.launch.removal import remove_runs
    from ablate.launch.run_list import choose_runs

    chosen = choose_runs(folder, runs or [], where)
    names = chosen["run_id"].tolist()
    Leases(folder).refuse_held(names)
    _show(chosen)
    what = plural(len(names), "run")
    if not yes:
        try:
            yes = typer.confirm(f"Remove {what} from {printable(folder)}?", err=True)
        except typer.Abort:  # there is nobody to ask
            console.echo("", err=True)
        if not yes:
            raise AblateError("rm: nothing is removed; answer y, or give --yes")
    size = remove_runs(folder, names)
    console.echo(f"{what} removed, {size / 1e6:,.1f} MB freed", err=True)


@app.command()
def tag(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... NAME", help="Runs, and the tag last. With --where: the tag alone.", show_default=False
        ),
    ],
    where: WhereOption = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    folder: ResultsOption = Path("results"),
) -> None:
    """Give runs a tag, by which `ablate ls` and --where find them.

    Example: ablate tag no_drift-quick-cats-s0 baseline-quick-cats-s0 paper
    """
    from ablate.launch.run_list import choose_runs
    from ablate.store.tags import check_tags, tag_runs

    *runs, name = words
    check_tags([name])
    if not runs and where is None:
        raise AblateError(
            f"tag {name}: which runs get this tag? Name them before it, or give --where CONDITION; ablate ls shows them"
        )
    chosen = set(choose_runs(folder, runs, where)["run_id"])
    changed = tag_runs(folder, chosen, **{"remove" if remove else "add": split_names(name)})
    console.echo(f"{name}: {'taken from' if remove else 'given to'} {changed} of {len(chosen)} runs", err=True)


def _show(runs: pd.DataFrame) -> None:
    """Print runs and how many there are."""
    from ablate.report.render.run_list import run_table, summary
    from ablate.report.render.text_table import columns_that_fit, to_rich

    table = run_table(runs)
    if len(runs):
        console.show(to_rich(table, columns_that_fit(table, console.terminal().width)))
    console.show(summary(runs), highlight=False)


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
    console.echo(f"{printable(output)}: {done.runs} runs, {done.added} added{replaced}", err=True)
