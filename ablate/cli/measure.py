"""`ablate measure`: judge one set of images against another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.cli.app import DeviceOption, WeightsOption, app, tell_missing


@app.command()
def measure(
    real: Annotated[Path, typer.Argument(help="The reference: a folder, zip or .npz of images.", show_default=False)],
    fake: Annotated[
        Path | None,
        typer.Argument(
            help="The images to judge. Default: one random half of REAL against the other (the floor).",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Only this metric; its weights may be downloaded. Repeatable. Default: all whose weights are here.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", help="Use this many images of FAKE, chosen at random. Default: all.", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", help="Crop to the central square and resize to this many pixels.", show_default=False),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            help="Images that pair with those of FAKE, one by one: adds the paired difference.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The seed of random halves, subsets and resamples.")] = 0,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document with a key for each metric.")] = False,
) -> None:
    """Judge any set of images against another, with the metrics of a run.

    Example: ablate measure photos.zip samples/ --metric fd --metric kid --weights weights/
    """
    from contextlib import ExitStack

    from ablate.study.metric_names import choose

    asked = choose(metric or [])
    from ablate.base.machine import pick_device
    from ablate.base.progress import Progress
    from ablate.data.image_files import ImageFiles
    from ablate.metrics.image_sets import default_metrics, measure_sets
    from ablate.metrics.networks import load_networks
    from ablate.report.render import measure as measure_tables

    target = pick_device(device)
    with ExitStack() as opened:
        paths = {"real": real, "fake": fake, "baseline": baseline}
        images = {k: opened.enter_context(ImageFiles(p, size=size)) for k, p in paths.items() if p is not None}
        metric_networks = load_networks(asked, weights, target)
        wanted = asked or default_metrics(metric_networks)
        with Progress() as progress:
            values = measure_sets(
                images["real"],
                images.get("fake"),
                wanted,
                metric_networks,
                n=n,
                seed=seed,
                baseline=images.get("baseline"),
                progress=progress,
            )
    for some in images.values():
        for kind in sorted(some.converted):
            what = "laid on white" if kind == "transparent" else "read as RGB"
            typer.echo(f"note: {some.where}: {kind} images {what}", err=True)
    if not asked:
        for network, why in metric_networks.missing.items():
            tell_missing(network, why)
    if as_json:
        typer.echo(measure_tables.to_json(values))
        return
    from rich.console import Console

    Console().print(measure_tables.render(values))
