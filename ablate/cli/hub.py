"""The commands that share finished runs: `ablate push`, `ablate pull`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ablate.base.text import plural, printable
from ablate.cli import console
from ablate.cli.app import ResultsOption, RunArgument, app


def _no_bars_in_logs() -> None:
    """Let the hub's library show progress bars on a terminal only. It reads this when it is imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@app.command()
def push(
    run_id: RunArgument,
    repository: Annotated[
        str,
        typer.Argument(
            metavar="REPO",
            help="A folder, as in ./cats, or a repository of the Hugging Face Hub, as in user/cats.",
            show_default=False,
        ),
    ],
    licence: Annotated[
        str | None,
        typer.Option("--license", help="The licence in the model card, as in mit. Default: none.", show_default=False),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private, if it is created now.")
    ] = False,
    folder: ResultsOption = Path("results"),
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network: folders only (also ABLATE_OFFLINE=1).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
) -> None:
    """Share a finished run: its weights, a model card, its samples and its rows.

    No image of the training data is written. The rows name the CPU, the versions of libraries and
    the commit. A repository that holds the same run is replaced; one that holds other things is
    refused. The hub needs the extra hub of this package, and hf auth login.

    Example: ablate push no_drift-quick-cats-s0 ./cats
    """
    _no_bars_in_logs()
    from ablate.hub import sharing

    done = sharing.push(folder, run_id, repository, licence=licence, private=private, offline=offline, dry_run=dry_run)
    if dry_run:
        for name, size in done.sizes.items():
            console.echo(f"{size:>12,} bytes  {printable(name)}")
    total = sum(done.sizes.values()) / 1e6
    verb = "would hold" if dry_run else "holds"
    console.echo(f"{printable(done.where)} {verb} {done.run_id}: {len(done.sizes)} files, {total:,.1f} MB", err=True)


@app.command()
def pull(
    repository: Annotated[
        str,
        typer.Argument(
            metavar="REPO",
            help="A folder that ablate push wrote, or a repository of the Hugging Face Hub, as in user/cats.",
            show_default=False,
        ),
    ],
    folder: ResultsOption = Path("results"),
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network: folders and the hub's cache (also ABLATE_OFFLINE=1).")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace other rows of the run in the results folder.")
    ] = False,
) -> None:
    """Add the run of a repository to a results folder: rows of all tables, weights, samples.

    The weights are checked against the row. Other runs of the folder stay as they are.

    Example: ablate pull user/cats
    """
    _no_bars_in_logs()
    from ablate.hub import sharing

    run_id, done = sharing.pull(repository, folder, offline=offline, force=force)
    how = "added" if done.added else "replaced" if done.replaced else "is there already"
    console.echo(f"{printable(folder)}: {run_id} {how}; {plural(done.runs, 'run')}", err=True)
