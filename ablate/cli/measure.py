"""`ablate measure`: judge one set of images against another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.cli import console
from ablate.cli.app import DeviceOption, OfflineOption, WeightsOption, app, missing_note


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
            help="Only these metrics, as in fd,pd. Repeatable. Default: all of the embedded network, of fid and of "
            "lpips. Missing weights are downloaded.",
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
            help="Images that pair with those of FAKE by their names: adds the paired difference.",
            show_default=False,
        ),
    ] = None,
    array: Annotated[
        str | None,
        typer.Option("--array", help="The array of an .npz that holds the images.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The seed of random halves, subsets and resamples.")] = 0,
    weights: WeightsOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document with a key for each metric.")] = False,
) -> None:
    """Judge any set of images against another, with the metrics of a run.

    lpips, pd and psnr_db compare images in pairs, and so does --baseline. Two images are a pair if
    their names are equal (without suffix), or else the numbers in their names. Rows of an .npz are
    numbered from 0. If an image has no partner, the command refuses.

    Example: ablate measure photos.zip samples/ --metric fd --metric kid --weights weights/
    """
    from contextlib import ExitStack

    from ablate.base.text import split_names
    from ablate.study.metric_names import choose

    asked = choose(split_names(metric))
    from ablate.base.errors import DataError
    from ablate.base.machine import pick_device
    from ablate.base.progress import Progress
    from ablate.data.image_files import ImageFiles
    from ablate.metrics.image_sets import copies_of_reference, default_metrics, measure_sets
    from ablate.metrics.networks import load_networks
    from ablate.metrics.weights import networks_of
    from ablate.report.render.measure import render

    if array is not None and not any(path.suffix.lower() == ".npz" for path in (real, fake, baseline) if path):
        raise DataError(f"--array {array}: none of these is an .npz file; fix: leave it out")
    target = pick_device(device)
    with ExitStack() as opened:
        paths = {"real": real, "fake": fake, "baseline": baseline}
        images = {
            role: opened.enter_context(ImageFiles(path, size=size, array=array))
            for role, path in paths.items()
            if path is not None
        }
        metric_networks = load_networks(networks_of(asked), weights, target, offline=offline)
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
            notes = {some.where: some.notes(copies=True) for some in images.values()}
            if "fake" in images:
                notes[images["fake"].where] += copies_of_reference(images["real"], images["fake"])
    for where, lines in notes.items():
        for line in lines:
            console.note(f"{where}: {line}")
    if not asked:
        for network, why in metric_networks.missing.items():
            console.echo(missing_note(network, why), err=True)
    if as_json:
        console.echo_json(values)
        return
    console.show(render(values))
