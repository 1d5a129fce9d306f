"""The commands on finished runs: sample, export, bench, replay."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ablate.base.errors import AblateError
from ablate.base.text import printable
from ablate.cli import console
from ablate.cli.app import (
    INTERRUPTED,
    DeviceOption,
    JsonDocumentOption,
    OwnVariantsOption,
    PluginOption,
    ResultsOption,
    RunArgument,
    app,
    run_ids,
)


class Engine(StrEnum):
    """What computes the network."""

    torch = "torch"
    onnx = "onnx"


class Scope(StrEnum):
    """What `ablate bench` times."""

    step = "step"
    image = "image"


@app.command()
def sample(
    run_id: RunArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .png (a grid) or an .npz (an array).", show_default=False)
    ],
    n: Annotated[int, typer.Option("-n", help="How many images.", min=1)] = 64,
    seed: Annotated[
        int | None, typer.Option("--seed", help="The seed of the noise. Default: the run's own.", show_default=False)
    ] = None,
    engine: Annotated[Engine, typer.Option("--engine", help="torch, or onnx: ONNX Runtime on the CPU.")] = Engine.torch,
    scheme: Annotated[str, typer.Option("--scheme", help="With --engine onnx: fp32 or int8.")] = "fp32",
    folder: ResultsOption = Path("results"),
    plugin: PluginOption = None,
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
) -> None:
    """Sample images from a finished run.

    Image i depends only on the seed and i. The run's own seed gives the run's own samples.

    Example: ablate sample no_drift-quick-cats-s0 -n 64 -o cats.png
    """
    from ablate.store.atomic_files import check_output

    check_output(output, (".png", ".npz"), force=force)
    from ablate.base.machine import pick_device, threads
    from ablate.base.progress import Progress
    from ablate.diffusion.sampling import to_uint8
    from ablate.inference.export import build_graphs, check_scheme
    from ablate.runs.loading import load_run
    from ablate.store.image_grids import save_array, save_grid

    check_scheme(scheme)
    if engine is Engine.torch and scheme != "fp32":
        raise AblateError(f"--scheme {scheme}: torch samples in the run's own precision; add --engine onnx")
    done = load_run(folder, run_id, pick_device(device if engine is Engine.torch else "cpu"))
    noise = done.row["seed"] if seed is None else seed
    with Progress() as progress, progress.task(f"{done.row['run_id']}: sample", n) as bar:
        if engine is Engine.onnx:
            from ablate.inference.onnx import onnx_network

            _, graphs = build_graphs(done, scheme, done.config.quantize.calibration)
            drawn = onnx_network(graphs, threads(), done.config).draw(
                done.config, noise, range(n), on_batch=bar.advance
            )
        else:
            drawn = done.draw(n, noise, bar.advance)
    images = to_uint8(drawn)
    (save_grid if output.suffix.lower() == ".png" else save_array)(output, images)
    console.echo(f"{printable(output)}: {n} images of {done.row['run_id']}", err=True)


@app.command()
def export(
    run_id: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file.", show_default=False)],
    scheme: Annotated[str, typer.Option("--scheme", help="fp32, or int8: 8-bit weights and activations.")] = "fp32",
    folder: ResultsOption = Path("results"),
    plugin: PluginOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
) -> None:
    """Write a finished run as an ONNX file for phones, browsers and servers.

    The file is checked against PyTorch before it is kept.

    Example: ablate export no_drift-quick-cats-s0 --scheme int8 -o cats.onnx
    """
    from ablate.store.atomic_files import check_output

    check_output(output, (".onnx",), force=force)
    from ablate.base.machine import pick_device
    from ablate.inference import export as exports
    from ablate.runs.loading import load_run

    exports.check_scheme(scheme)
    run = load_run(folder, run_id, pick_device("cpu"), precision="fp32")
    if run.codec.decoder is not None:
        check_output(exports.decoder_path(output), (".onnx",), force=force)
    for path, said in exports.write_onnx(run, output, scheme):
        console.echo(f"{printable(path)}: {path.stat().st_size:,} bytes, {scheme}; {said}")


@app.command()
def bench(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...",
            help="Names of finished runs, or their first letters; all: every one. The first is the reference. "
            "With --ops: names of cases. Default: all cases.",
            show_default=False,
            autocompletion=run_ids,
        ),
    ] = None,
    ops: Annotated[
        bool,
        typer.Option("--ops", help="Time the operations of a run against their published formulation. Needs no run."),
    ] = False,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, as in 1,8,64.")] = "1,8,64",
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", help="Timed calls of each. The quantile p90 needs 20, p99 needs 200.", min=5, max=100_000
        ),
    ] = 30,
    schemes: Annotated[
        str | None,
        typer.Option(
            "--schemes",
            help="Number formats, as in fp32,bf16 or fp32/openvino. all: each on every installed engine. Default: the "
            "precision that runs have on the device.",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        Scope, typer.Option("--scope", help="Time one network evaluation, or the sampling of whole images.")
    ] = Scope.step,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads. Default: torch's choice.", min=1, max=1024, show_default=False),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="The seed of the order of calls and of the intervals.", min=0)
    ] = 0,
    folder: ResultsOption = Path("results"),
    plugin: PluginOption = None,
    device: DeviceOption = "auto",
    as_json: JsonDocumentOption = False,
) -> None:
    """Time finished runs side by side, in interleaved rounds.

    The raw times are added to latency.parquet.

    Example: ablate bench baseline-quick-cats-s0 no_drift-quick-cats-s0 --batch 1,8 --rounds 50
    """
    if ops:
        _bench_ops(runs or [], device, rounds=rounds, threads=threads, as_json=as_json)
        return
    if not runs:
        raise typer.BadParameter("name some runs, or all; or time the operations of a run: --ops", param_hint="RUN...")
    from ablate.base.machine import pick_device, pick_precision
    from ablate.base.progress import Progress
    from ablate.report.render import bench as pages
    from ablate.runs import side_by_side as benches

    target, sizes = pick_device(device), benches.parse_batches(batch)
    chosen = benches.parse_schemes(pick_precision(target) if schemes is None else schemes)
    try:
        with Progress() as progress:
            found = benches.time_runs(
                folder,
                runs,
                batches=sizes,
                rounds=rounds,
                schemes=chosen,
                scope=scope,
                device=target,
                threads=threads,
                seed=seed,
                progress=progress,
            )
    except KeyboardInterrupt:
        console.echo("interrupted; the batch sizes that were finished are saved", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        console.echo_json(found)
        return
    console.show(pages.render(found))


def _bench_ops(names: list[str], device: str, *, rounds: int, threads: int | None, as_json: bool) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler logs its starts and stops

    import ablate

    checkout = Path(ablate.__file__).resolve().parents[1]
    if not (checkout / "benchmarks" / "operations.py").is_file():
        raise AblateError("--ops: the benchmarks are in a checkout of the repository, not in an installed package")
    sys.path.insert(0, str(checkout))
    from ablate.base.machine import pick_device
    from ablate.base.progress import Progress
    from benchmarks import speed_table as pages
    from benchmarks.operations import choose
    from benchmarks.speed import measure

    chosen, target = choose(names), pick_device(device)
    try:
        with Progress() as progress:
            rows = measure(chosen, target, rounds=rounds, threads=threads, progress=progress)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        console.echo_json(rows)
        return
    console.show(pages.render(rows))


@app.command()
def replay(
    run_id: RunArgument,
    data: Annotated[
        str | None,
        typer.Option("--data", help="The run's images, unless it used the embedded cats.", show_default=False),
    ] = None,
    folder: ResultsOption = Path("results"),
    own_variants: OwnVariantsOption = None,
    plugin: PluginOption = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Device. Default: the kind recorded in the row.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads. Default: the number recorded in the row.", min=1, show_default=False),
    ] = None,
    as_json: JsonDocumentOption = False,
) -> None:
    """Train a run again from its row alone, and compare the results; run a program again.

    Exit code 0: bit-exact. Exit code 1: equal within tolerance, different in another environment,
    or not reproduced.

    Example: ablate replay no_drift-quick-cats-s0 --results results
    """
    from ablate.base.progress import Progress
    from ablate.runs import replay as replays

    with Progress() as progress:

        def note(part: str, then: object, here: object) -> None:
            progress.say(f"note: {part} differs: {printable(then)} in the row, {printable(here)} here")

        outcome = replays.replay_run(
            folder, run_id, data=data, device=device, threads=threads, progress=progress, on_difference=note
        )
    if as_json:
        console.echo_json(asdict(outcome))
    else:
        from ablate.report.render.replay import lines

        console.echo("\n".join(lines(asdict(outcome))))
    raise typer.Exit(0 if outcome.verdict == "bit_exact" else 1)
