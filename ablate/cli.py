"""The command line: parse, call one function, render. Nothing here imports torch until a command needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ablate import __version__, variant
from ablate.errors import AblateError
from ablate.files import printable

INTERRUPTED = 130

app = typer.Typer(
    name="ablate",
    help="Which parts of a small image generator earn their place? Train variants under fixed seeds, measure, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ResultsOption = Annotated[Path, typer.Option("--results", help="The results folder: tables and artifacts.")]
PresetOption = Annotated[str, typer.Option("--preset", help="The budget: smoke, quick, standard or paper.")]


MetricOption = Annotated[
    list[str] | None,
    typer.Option("--metric", "-m", help="A metric asked for by name; its weights may be downloaded. Repeatable."),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="A folder of weights (also ABLATE_WEIGHTS).", show_default=False)
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


class Budget(StrEnum):
    """What the variants have in common with the baseline."""

    steps = "steps"
    macs = "macs"


class Scope(StrEnum):
    """What `ablate bench` times."""

    step = "step"
    image = "image"


class Engine(StrEnum):
    """What computes the network."""

    torch = "torch"
    onnx = "onnx"


class Format(StrEnum):
    """How a report is written."""

    rich = "rich"
    json = "json"
    markdown = "markdown"


def main() -> NoReturn:
    """Run the command line; a user's error is one line on stderr and exit code 1."""
    try:
        app()
    except AblateError as error:
        # A message may quote a file's name or content: nothing in it may steer the terminal.
        typer.echo(f"error: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(1)
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ablate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_variants(as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """List the variants: name, axis and what each changes.

    Example: ablate list
    """
    loaded = [variant.load(name) for name in variant.names()]
    if as_json:
        rows = [
            {"name": v.name, "axis": v.axis, "about": v.about, "source": v.source, "delta": dict(v.delta)}
            for v in loaded
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console

    from ablate.report.variants import render_list

    Console().print(render_list(loaded, variant.presets()))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A variant, or several joined by +.")],
    preset: PresetOption = variant.DEFAULT_PRESET,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show a variant: the resolved configuration, what differs from the baseline, parameters and MACs by module.

    Example: ablate show no_drift --preset standard
    """
    chosen = variant.load(name)
    config = variant.resolve(chosen, preset)
    from ablate.model.cost import cost

    spent = cost(config)
    if as_json:
        document = {
            "name": chosen.name,
            "axis": chosen.axis,
            "about": chosen.about,
            "source": chosen.source,
            "claims": [dict(claim) for claim in chosen.claims],
            "preset": preset,
            "config_hash": config.hash,
            "delta": dict(chosen.delta),
            "config": json.loads(config.to_json()),
            "params": spent.params,
            "macs": spent.macs,
            "decode_macs": spent.decode_macs,
            "train_macs": spent.train_macs(config.train.steps),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console

    from ablate.report.variants import render_variant

    baseline = variant.resolve(variant.load(variant.BASELINE), preset)
    Console().print(render_variant(chosen, preset, config, baseline, spent.params, spent.macs, spent.decode_macs))


@app.command()
def run(
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", "-v", help="A variant; a+b combines; all: every one. Repeatable. Default: baseline."),
    ] = None,
    factors: Annotated[
        str | None, typer.Option("--factors", help="Axes, as in drift,prediction: every combination of their variants.")
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, as in 0, 0-4 or 0,3,7-9.")] = "0",
    preset: PresetOption = variant.DEFAULT_PRESET,
    budget: Annotated[
        Budget,
        typer.Option("--budget", help="Train each variant for equal steps, or for the baseline's training MACs."),
    ] = Budget.steps,
    data: Annotated[
        str, typer.Option("--data", help="cats (embedded), or a folder, zip or .npz of pictures.")
    ] = "cats",
    folder: ResultsOption = Path("results"),
    metric: MetricOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    schemes: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            help="Number formats: bf16, fp8, int8, int4, with commas; all; none. Finished runs get what they lack.",
            show_default=False,
        ),
    ] = None,
    scopes: Annotated[
        str | None,
        typer.Option(
            "--scopes",
            help="What is quantised: kpn (all but drift), a module group, all (the whole network); each.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make finished runs again; their rows are replaced.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Make failed and diverged runs again, and no others.")
    ] = False,
    save_every_s: Annotated[
        float, typer.Option("--save-every", help="Seconds between checkpoints; the last two are kept.", min=0)
    ] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs, with an estimate of their time from past ones.")
    ] = False,
) -> None:
    """Train, sample, measure and record variants under fixed seeds. Finished runs are skipped, interrupted ones resume.

    Several of these on one results folder share the runs.

    Example: ablate run --variant no_drift --seeds 0-2
    """
    from ablate import results
    from ablate.measure.metrics import choose
    from ablate.study import factor_combinations, parse_seeds, plan

    if force and failed:
        raise AblateError("--force --failed: --force makes finished runs again, --failed only failed ones; choose one")
    metrics = choose(metric or [])

    match: Callable[[variant.Config, variant.Config], variant.Config] | None = None
    if budget is Budget.macs:
        from ablate.model.cost import match_training_macs

        match = match_training_macs
    names = [*(variants or []), *(factor_combinations(factors) if factors is not None else [])]
    specs = plan(names or [variant.BASELINE], parse_seeds(seeds), preset, match)
    quantizing = schemes is not None or scopes is not None
    if quantizing:
        from ablate.quantize import parse

        chosen = parse(schemes, scopes, specs[0].config.quantize)
        specs = [replace(spec, config=replace(spec.config, quantize=chosen)) for spec in specs]
    if not dry_run:
        results.check_folder(folder)
    past = results.read(folder, "runs")
    from ablate.launch.local import Again, forecast, launch

    again = Again.all if force else Again.failed if failed else Again.unfinished

    if dry_run:
        from rich.console import Console

        from ablate.report.variants import render_plan

        Console().print(render_plan(forecast(specs, data, past, again=again)))
        return
    try:
        launch(
            specs,
            data,
            folder,
            device=device,
            metrics=metrics,
            weights=weights,
            again=again,
            quantize_finished=quantizing,
            save_every_s=save_every_s,
            on_row=_tell,
            on_missing=_tell_missing,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None
    shown = printable(folder)
    typer.echo(f"tables and pictures: {shown}; next: ablate report --results {shown}", err=True)


def _tell(row: dict[str, Any], how: str) -> None:
    """Say in one line how a run ended, or why it was skipped."""
    if how == "quantised":
        typer.echo(f"{row['run_id']}: done before; {row['rows']} rows of number formats added")
    elif how != "made":
        typer.echo(f"{row['run_id']}: {how}")
    elif row["status"] == "done":
        found = (
            f"fd {row['fd']:.1f} (N = {row['fd_n']}; real against real {row['fd_floor']:.1f} at {row['fd_floor_n']})"
        )
        typer.echo(
            f"{row['run_id']}: done in {row['wall_s']:.0f} s; {found}, pd {row['pd']:.4f}, {row['psnr_db']:.2f} dB"
        )
    else:
        typer.echo(f"{row['run_id']}: {row['status']}: {row['error']}")


def _tell_missing(network: str, why: str) -> None:
    """Say in one line which metrics stay empty, and why."""
    from ablate.measure.metrics import METRICS

    first = next(name for name, metric in METRICS.items() if metric.network == network)
    typer.echo(f"note: no {first} and what else needs {network}: {why}", err=True)


@app.command()
def measure(
    real: Annotated[Path, typer.Argument(help="The reference: a folder, zip or .npz of pictures.", show_default=False)],
    fake: Annotated[
        Path | None,
        typer.Argument(help="What is judged. Without it: two random halves of REAL, the floor.", show_default=False),
    ] = None,
    metric: MetricOption = None,
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

    from ablate.measure.metrics import choose

    asked = choose(metric or [])
    from ablate.data.images import Pictures
    from ablate.machine import pick_device
    from ablate.measure.sets import default_metrics, measure_sets
    from ablate.measure.suite import assemble
    from ablate.progress import Progress
    from ablate.report import sets

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
            _tell_missing(network, why)
    if as_json:
        typer.echo(sets.to_json(found))
        return
    from rich.console import Console

    Console().print(sets.render(found))


@app.command()
def sample(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run's name, or a beginning of it.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .png (a grid) or an .npz (an array).", show_default=False)
    ],
    n: Annotated[int, typer.Option("-n", help="How many pictures.", min=1)] = 64,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the noise. Default: the run's own.", show_default=False)
    ] = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="What computes: torch, or ONNX Runtime on the processor.")
    ] = Engine.torch,
    scheme: Annotated[str, typer.Option("--scheme", help="With --engine onnx: fp32 or int8.")] = "fp32",
    folder: ResultsOption = Path("results"),
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
) -> None:
    """Draw pictures from a finished run. Picture i depends on (seed, i) alone: the run's seed draws the run's own samples again.

    Example: ablate sample no_drift-quick -n 64 -o cats.png
    """
    from ablate.files import check_output

    check_output(output, (".png", ".npz"), force=force)
    from ablate.export import build, check_scheme
    from ablate.finished import load
    from ablate.machine import pick_device, threads
    from ablate.progress import Progress
    from ablate.report.figures import save_array, save_grid
    from ablate.sample import draw, to_uint8

    check_scheme(scheme)
    if engine is Engine.torch and scheme != "fp32":
        raise AblateError(f"--scheme {scheme}: torch draws in the run's own precision; add --engine onnx")
    done = load(folder, run_id, pick_device(device if engine is Engine.torch else "cpu"))
    noise = done.row["seed"] if seed is None else seed
    with Progress() as progress, progress.task(f"{done.row['run_id']}: sample", n) as bar:
        if engine is Engine.onnx:
            from ablate.edge import in_engine

            _, graphs = build(done, scheme, done.config.quantize.calibration)
            drawn = in_engine(graphs, threads()).draw(done.config, noise, range(n), on_batch=bar.advance)
        else:
            precision, codec = done.row["precision"], done.codec
            drawn = draw(
                done.model, done.config, noise, range(n), precision=precision, codec=codec, on_batch=bar.advance
            )
    pictures = to_uint8(drawn)
    (save_grid if output.suffix.lower() == ".png" else save_array)(output, pictures)
    typer.echo(f"{output}: {n} pictures of {done.row['run_id']}", err=True)


@app.command()
def replay(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run's name, or a beginning of it.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", help="The run's pictures, where they are not the embedded cats.", show_default=False),
    ] = None,
    folder: ResultsOption = Path("results"),
    device: Annotated[
        str | None, typer.Option("--device", help="Default: the kind that the row names.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Default: as many as the row says.", min=1, show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Train a run again from its row alone, and say whether the outcome is the same.

    Exits with 0 where it is bit-exact, with 1 where it is equal within tolerance, differs by an environment mismatch, or is not reproduced.

    Example: ablate replay no_drift-quick --results results
    """
    from ablate import replay as replays
    from ablate.progress import Progress

    def tell(part: str, then: object, here: object) -> None:
        typer.echo(f"note: {part} differs: {printable(then)} in the row, {printable(here)} here", err=True)

    with Progress() as progress:
        outcome = replays.replay(
            folder, run_id, data=data, device=device, threads=threads, progress=progress, on_difference=tell
        )
    if as_json:
        typer.echo(outcome.to_json())
    else:
        from ablate.report.replay import lines

        typer.echo("\n".join(lines(outcome)))
    raise typer.Exit(0 if outcome.verdict == "bit_exact" else 1)


@app.command()
def export(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run's name, or a beginning of it.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file.", show_default=False)],
    scheme: Annotated[str, typer.Option("--scheme", help="fp32, or int8: 8-bit weights and activations.")] = "fp32",
    folder: ResultsOption = Path("results"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
) -> None:
    """Write a finished run as an ONNX file for phones, browsers and servers, checked against PyTorch before it is kept.

    Example: ablate export no_drift-quick --scheme int8 -o cats.onnx
    """
    from ablate.files import check_output

    check_output(output, (".onnx",), force=force)
    from ablate import export as exports
    from ablate.finished import load
    from ablate.machine import pick_device

    exports.check_scheme(scheme)
    run = load(folder, run_id, pick_device("cpu"), precision="fp32")
    if run.codec.decoder is not None:
        check_output(exports.decoder_path(output), (".onnx",), force=force)
    for path, said in exports.write(run, output, scheme):
        typer.echo(f"{path}: {path.stat().st_size:,} bytes, {scheme}; {said}")


@app.command()
def bench(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Finished runs' names, or beginnings of them; all: every one. The first is what others are compared to.",
            show_default=False,
        ),
    ],
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, as in 1,8,64.")] = "1,8,64",
    rounds: Annotated[
        int, typer.Option("--rounds", help="Timed calls of each. p90 needs 20, p99 needs 200.", min=5, max=100_000)
    ] = 30,
    schemes: Annotated[
        str | None,
        typer.Option(
            "--schemes",
            help="Number formats, as in fp32,bf16 or fp32/torch. Default: what the device computes runs in.",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        Scope, typer.Option("--scope", help="Time one network evaluation, or the drawing of whole images.")
    ] = Scope.step,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Default: as torch chooses.", min=1, max=1024, show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of calls and the intervals.", min=0)] = 0,
    folder: ResultsOption = Path("results"),
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Time finished runs again, side by side, interleaved in rounds; raw times are added to latency.parquet.

    Example: ablate bench baseline no_drift --batch 1,8 --rounds 50
    """
    from ablate import bench as benches
    from ablate.machine import pick_device, pick_precision
    from ablate.progress import Progress
    from ablate.report import bench as pages

    target, sizes = pick_device(device), benches.parse_batches(batch)
    chosen = benches.parse_schemes(pick_precision(target) if schemes is None else schemes)
    try:
        with Progress() as progress:
            found = benches.bench(
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
        typer.echo("interrupted; the batch sizes that were finished are saved", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(pages.to_json(found))
        return
    from rich.console import Console

    Console().print(pages.render(found))


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
    from ablate import doctor as doctors

    if clear is not None:
        files, freed = doctors.clear(clear)
        typer.echo(f"{files} files deleted, {freed / 1e6:.1f} MB freed")
        return
    found = doctors.examine(weights, folder)
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from ablate.report.doctor import render

    Console().print(render(found))


@app.command()
def report(
    folder: ResultsOption = Path("results"),
    preset: Annotated[str | None, typer.Option("--preset", help="Only this preset.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Only this data set's name.")] = None,
    budget: Annotated[
        Budget, typer.Option("--budget", help="Compare runs of equal steps, or of the baseline's training MACs.")
    ] = Budget.steps,
    format_: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.rich,
) -> None:
    """Summarise a study: metrics by variant, differences to the baseline, costs.

    Example: ablate report --format markdown
    """
    from ablate import results
    from ablate.report import forms, tables

    if not folder.is_dir():
        raise AblateError(f"--results {folder}: no such folder; make a run first: ablate run")
    runs, quantized = (results.read(folder, table) for table in ("runs", "quantized"))
    built = tables.build(runs, quantized, preset=preset, data=data, budget=budget)
    if format_ is Format.rich:
        from rich.console import Console

        Console().print(forms.render_rich(built))
    else:
        typer.echo(forms.to_json(built) if format_ is Format.json else forms.to_markdown(built))
