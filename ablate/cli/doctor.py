"""`ablate doctor`: show the state of the machine and of a results folder, or delete what is left over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.base.errors import AblateError
from ablate.cli import console
from ablate.cli.app import JsonDocumentOption, WeightsOption, app


@app.command()
def doctor(
    clear: Annotated[
        str | None,
        typer.Option(
            "--clear",
            help="Empty a part of the cache: cats, statistics, autoencoders, weights or all. "
            "orphans, with --results: delete rows and files that belong to no run.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--results", help="Also look for faults in this results folder.", show_default=False),
    ] = None,
    weights: WeightsOption = None,
    full: Annotated[bool, typer.Option("--full", help="List each fault, not one line for each kind.")] = False,
    as_json: JsonDocumentOption = False,
) -> None:
    """Show versions, device, compiler, disk, weights and the cache.

    With --results: the faults of a results folder, and which process makes which run now.

    Example: ablate doctor --results results
    """
    if clear == "orphans":
        from ablate.launch.leases import Leases
        from ablate.store.health import clear_orphans

        if folder is None:
            raise AblateError("--clear orphans: in which folder? Add --results FOLDER")
        rows, folders = clear_orphans(folder, Leases(folder).held())
        console.echo(f"{rows} rows and {folders} folders deleted")
        return
    if clear is not None:
        from ablate.store.cache import clear_cache

        files, freed = clear_cache(clear)
        console.echo(f"{files} files deleted, {freed / 1e6:.1f} MB freed")
        return
    from ablate.launch.diagnosis import diagnose

    diagnosis = diagnose(weights, folder)
    if as_json:
        console.echo_json(diagnosis)
        return
    from ablate.report.render.doctor import render

    console.show(render(diagnosis, full=full))
