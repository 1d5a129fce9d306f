"""The commands of a study: list, show, run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ablate.base.errors import AblateError
from ablate.base.host import THREAD_VARIABLES
from ablate.base.text import printable
from ablate.cli.app import (
    INTERRUPTED,
    Budget,
    DeviceOption,
    PresetOption,
    ResultsOption,
    WeightsOption,
    app,
    tell_missing,
    variant_names,
)
from ablate.study import variants as variant
from ablate.study.config import Config


class Launcher(StrEnum):
    """Where the runs of a study are made."""

    local = "local"
    ray = "ray"


class Compile(StrEnum):
    """Whether a training compiles its transformer blocks."""

    auto = "auto"
    on = "on"
    off = "off"


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

    from ablate.report.render.variants import render_list

    Console().print(render_list(loaded, variant.presets()))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A variant, or several joined by +.", autocompletion=variant_names)],
    preset: PresetOption = variant.DEFAULT_PRESET,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show a variant: the resolved configuration, what differs from the baseline, parameters and MACs by module.

    Example: ablate show no_drift --preset standard
    """
    chosen = variant.load(name)
    config = variant.resolve(chosen, preset)
    from ablate.models.cost import cost

    spent = cost(config)
    if as_json:
        document = {
            "name": chosen.name,
            "axis": chosen.axis,
            "about": chosen.about,
            "source": chosen.source,
            "claims": [claim.model_dump(exclude_none=True) for claim in chosen.claims],
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

    from ablate.report.render.variants import render_variant

    baseline = variant.resolve(variant.load(variant.BASELINE), preset)
    Console().print(render_variant(chosen, preset, config, baseline, spent.params, spent.macs, spent.decode_macs))


@app.command()
def run(
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            "-v",
            help="A variant; a+b combines; all: every one. Repeatable. Default: baseline.",
            autocompletion=variant_names,
        ),
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
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Measure this too; its weights may be downloaded. Repeatable.",
            show_default=False,
        ),
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    launcher: Annotated[
        Launcher,
        typer.Option("--launcher", help="Where runs are made: here, one by one, or as tasks of a Ray cluster."),
    ] = Launcher.local,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            help="The cluster's address; without one, a cluster of this machine for the time of the study.",
            envvar="RAY_ADDRESS",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", help="With ray: runs at once. Default: as many as fit.", min=1, show_default=False),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            help="Threads of a run. Default: as torch chooses; 1 with ray.",
            min=1,
            max=1024,
            show_default=False,
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus",
            help="With ray: a run's share of GPUs, as in 0.5. Default: 1 where there are any.",
            min=0,
            show_default=False,
        ),
    ] = None,
    schemes: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            help="Number formats: bf16, fp8, int8, int4, with commas; all; none. Finished runs get what they lack. Default: the preset's.",
            show_default=False,
        ),
    ] = None,
    scopes: Annotated[
        str | None,
        typer.Option(
            "--scopes",
            help="What is quantised: kpn (all but drift), a module group, all (the whole network); each. Default: the preset's.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make finished runs again; their rows are replaced.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Make failed and diverged runs again, and no others.")
    ] = False,
    steal: Annotated[
        bool, typer.Option("--steal", help="Take runs that another process is making, where that process hangs.")
    ] = False,
    compile: Annotated[
        Compile,
        typer.Option(
            "--compile", help="torch.compile for the transformer's blocks. auto: where the training is long enough."
        ),
    ] = Compile.auto,
    save_every_s: Annotated[
        float, typer.Option("--save-every", help="Seconds between checkpoints; the last two are kept.", min=0)
    ] = 60.0,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            help="Also record finished runs as tensorboard or mlflow files in the results folder. Repeatable.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs, with an estimate of their time from past ones.")
    ] = False,
) -> None:
    """Train, sample, measure and record variants under fixed seeds. Finished runs are skipped, interrupted ones resume.

    Several of these on one results folder share the runs.

    Example: ablate run --variant no_drift --seeds 0-2
    """
    _fix_threads(threads or (1 if launcher is Launcher.ray else None))
    from ablate.inference.number_formats import with_formats
    from ablate.store import tables
    from ablate.study.metric_names import choose
    from ablate.study.plan import factor_combinations, parse_seeds, plan

    if force and failed:
        raise AblateError("--force --failed: --force makes finished runs again, --failed only failed ones; choose one")
    if launcher is Launcher.local and (only_ray := _first_given({"--jobs": jobs, "--gpus": gpus})):
        raise AblateError(f"{only_ray}: the local launcher makes one run at a time; add --launcher ray")
    if launcher is Launcher.local and ray_address and ray_address != os.environ.get("RAY_ADDRESS"):
        raise AblateError("--ray-address: the local launcher needs no cluster; add --launcher ray")
    if gpus is not None and (gpus % 1 if gpus > 1 else round(gpus, 4) != gpus):
        raise AblateError(f"--gpus {gpus:g}: not a share from 0.0001 to 1, nor a whole number")
    metrics = choose(metric or [])

    match: Callable[[Config, Config], Config] | None = None
    if budget is Budget.macs:
        from ablate.models.cost import match_training_macs

        match = match_training_macs
    names = [*(variants or []), *(factor_combinations(factors) if factors is not None else [])]
    specs = plan(names or [variant.BASELINE], parse_seeds(seeds), preset, match)
    specs, quantize_finished = with_formats(specs, schemes, scopes)
    from ablate.runs.trackers import open_trackers, record

    trackers = open_trackers(log or [], folder)
    if not dry_run:
        tables.check_folder(folder)
    past = tables.read(folder, "runs")
    from ablate.launch.local import forecast, launch
    from ablate.launch.queue import Rerun

    rerun = Rerun.all if force else Rerun.failed if failed else Rerun.unfinished

    if dry_run:
        from rich.console import Console

        from ablate.report.render.variants import render_plan

        Console().print(render_plan(forecast(specs, data, past, rerun=rerun, device=device)))
        return

    def on_row(row: dict[str, Any], how: str) -> None:
        _tell(row, how)
        # One that was done before is recorded too: it may have been made without --log.
        if trackers and (row["status"] == "done" if how == "made" else how.startswith(("done", "quantised"))):
            record(trackers, folder, row["run_id"])

    make = partial(launch, device=device, threads=threads)
    if launcher is Launcher.ray:
        from ablate.launch import ray

        make = partial(
            ray.launch, device=device, address=ray_address, resources=ray.Resources(threads or 1, gpus, jobs)
        )
    try:
        make(
            specs,
            data,
            folder,
            metrics=metrics,
            weights=weights,
            rerun=rerun,
            quantize_finished=quantize_finished,
            steal=steal,
            save_every_s=save_every_s,
            compile=compile,
            on_row=on_row,
            on_missing=tell_missing,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None
    shown = printable(folder)
    typer.echo(f"tables and pictures: {shown}; next: ablate report --results {shown}", err=True)


def _first_given(options: Mapping[str, object]) -> str | None:
    """Return how the first option that was given was written, or None."""
    return next((f"{name} {value}" for name, value in options.items() if value is not None), None)


def _fix_threads(threads: int | None) -> None:
    """Let every library that comes now compute with so many threads: a run's numbers depend on it in their last bits."""
    if threads is not None:
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))


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
