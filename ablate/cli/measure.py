"""The commands beside a study: measure any pictures, look after the machine and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ablate.cli.app import DeviceOption, WeightsOption, app, tell_missing


@app.command()
def measure(
    real: Annotated[Path, typer.Argument(help="The reference: a folder, zip or .npz of pictures.", show_default=False)],
    fake: Annotated[
        Path | None,
        typer.Argument(help="What is judged. Without it: two random halves of REAL, the floor.", show_default=False),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="This metric alone; its weights may be downloaded. Repeatable. Default: all whose weights are at hand.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", help="Use so many of FAKE, chosen at random. Default: all.", show_default=False)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", help="Crop to the central square and resize to so many pixels.", show_default=False),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            help="Pictures that belong to FAKE's one by one: adds the paired difference.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of halves, parts and resamples.")] = 0,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: a key a metric.")] = False,
) -> None:
    """Judge any set of pictures against another, with the metrics of a run.

    Example: ablate measure photos.zip samples/ --metric fd --metric diversity_lpips --weights weights/
    """
    from contextlib import ExitStack

    from ablate.study.metric_names import choose

    asked = choose(metric or [])
    from ablate.base.machine import pick_device
    from ablate.base.progress import Progress
    from ablate.data.image_files import Pictures
    from ablate.metrics.image_sets import default_metrics, measure_sets
    from ablate.metrics.suite import assemble
    from ablate.report.render import measure as measure_tables

    target = pick_device(device)
    with ExitStack() as opened:
        paths = {"real": real, "fake": fake, "baseline": baseline}
        pictures = {k: opened.enter_context(Pictures(p, size=size)) for k, p in paths.items() if p is not None}
        suite = assemble(asked, weights, target)
        wanted = asked or default_metrics(suite)
        with Progress() as progress:
            found = measure_sets(
                pictures["real"],
                pictures.get("fake"),
                wanted,
                suite,
                n=n,
                seed=seed,
                baseline=pictures.get("baseline"),
                progress=progress,
            )
    for some in pictures.values():
        for kind in sorted(some.converted):
            what = "laid on white" if kind == "transparent" else "read as RGB"
            typer.echo(f"note: {some.where}: {kind} pictures {what}", err=True)
    if not asked:
        for network, why in suite.missing.items():
            tell_missing(network, why)
    if as_json:
        typer.echo(measure_tables.to_json(found))
        return
    from rich.console import Console

    Console().print(measure_tables.render(found))


@app.command()
def doctor(
    clear: Annotated[
        str | None,
        typer.Option(
            "--clear",
            help="Empty a part of the cache: cats, statistics, autoencoders, weights or all.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--results", help="A results folder, to be looked through as well.", show_default=False),
    ] = None,
    weights: WeightsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show versions, device, compiler, disk, weights and the cache, and the health of a results folder; or empty the cache.

    Example: ablate doctor --results results
    """
    from ablate.launch import doctor as doctors

    if clear is not None:
        files, freed = doctors.clear(clear)
        typer.echo(f"{files} files deleted, {freed / 1e6:.1f} MB freed")
        return
    found = doctors.examine(weights, folder)
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from ablate.report.render.doctor import render

    Console().print(render(found))
