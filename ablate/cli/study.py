"""The commands of a study: list, show, run."""

from __future__ import annotations

import json
import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.base.host import THREAD_VARIABLES
from ablate.base.text import printable
from ablate.cli import console
from ablate.cli.app import (
    INTERRUPTED,
    Budget,
    DeviceOption,
    JsonDocumentOption,
    OfflineOption,
    OwnVariantsOption,
    PluginOption,
    PresetOption,
    ResultsOption,
    WeightsOption,
    app,
    missing_note,
    variant_names,
)
from ablate.study import variants

if TYPE_CHECKING:
    from ablate.study.request import StudyRequest


class Launcher(StrEnum):
    """Where the runs of a study are made."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


class Compile(StrEnum):
    """Whether a training compiles its transformer blocks."""

    auto = "auto"
    on = "on"
    off = "off"


@app.command("list")
def list_variants(
    own_variants: OwnVariantsOption = None,
    plugin: PluginOption = None,
    as_json: JsonDocumentOption = False,
) -> None:
    """List the variants: name, axis and what each changes.

    Example: ablate list
    """
    loaded = [variants.load(name) for name in variants.names()]
    if as_json:
        rows = [
            {"name": v.name, "axis": v.axis, "about": v.about, "source": v.source, "delta": dict(v.delta)}
            for v in loaded
        ]
        console.echo_json(rows)
        return
    from ablate.report.render.variants import render_list

    console.show(render_list(loaded, variants.presets()))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A variant, or several joined by +.", autocompletion=variant_names)],
    preset: PresetOption = variants.DEFAULT_PRESET,
    own_variants: OwnVariantsOption = None,
    plugin: PluginOption = None,
    as_json: JsonDocumentOption = False,
) -> None:
    """Show a variant: its configuration, its parameters and its MACs by module.

    Example: ablate show no_drift --preset standard
    """
    chosen = variants.load(name)
    config = variants.resolve(chosen, preset)
    from ablate.study.program import ProgramConfig

    document: dict[str, Any] = {
        "name": chosen.name,
        "axis": chosen.axis,
        "about": chosen.about,
        "source": chosen.source,
        "claims": [claim.model_dump(exclude_none=True) for claim in chosen.claims],
        "preset": preset,
        "config_hash": config.hash,
        "delta": dict(chosen.delta),
        "config": json.loads(config.to_json()),
    }
    spent = None
    if not isinstance(config, ProgramConfig):  # what a program computes is not known
        from ablate.models.cost import cost

        spent = cost(config)
        document |= {
            "params": spent.params,
            "macs": spent.macs,
            "decode_macs": spent.decode_macs,
            "train_macs": spent.train_macs(config.train.steps),
        }
    if as_json:
        console.echo_json(document)
        return
    from ablate.report.render.variants import render_cost, render_variant

    baseline = variants.resolve(variants.load(variants.BASELINE), preset)
    cost_table = None if spent is None else render_cost(spent.params, spent.macs, spent.decode_macs)
    console.show(render_variant(chosen, preset, config, baseline, cost_table))


# What makes a plan: the options of `run` that `plan` has too.
VariantsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        "-v",
        help="A variant, several as in a,b, a combination as in a+b, or all. Repeatable. Default: baseline.",
        show_default=False,
        autocompletion=variant_names,
    ),
]
FactorsOption = Annotated[
    str | None,
    typer.Option("--factors", help="Axes, as in drift,prediction: run every combination of their variants."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Set a key of the configuration, as in train.lr=3e-4. train.lr=1e-3,3e-4: one variant per value. "
        "Repeatable.",
        show_default=False,
    ),
]
BaselineOption = Annotated[
    bool,
    typer.Option(
        "--baseline/--no-baseline",
        help="Also run the baseline at the same seeds, to compare with. The default.",
        show_default=False,
    ),
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds, as in 0, 0-4 or 0,3,7-9.")]
BudgetOption = Annotated[
    Budget,
    typer.Option("--budget", help="Train each variant for equal steps, or for the baseline's training MACs."),
]
DataOption = Annotated[str, typer.Option("--data", help="cats (embedded), or a folder, zip or .npz of images.")]
ArrayOption = Annotated[
    str, typer.Option("--array", help="The array of an .npz that holds the images.", show_default=False)
]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        "-m",
        help="Measure these, as in fd,pd or fid,lpips_vgg. Repeatable. Default: fid,kid,lpips. "
        "fd and pd are always measured. Missing weights are downloaded.",
        show_default=False,
    ),
]


@app.command()
def run(
    variant: VariantsOption = None,
    factors: FactorsOption = None,
    set: SetOption = None,
    variants: OwnVariantsOption = None,
    plugin: PluginOption = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            "--tune",
            help="First choose each variant's own best setting, as in train.lr=1e-3,2e-3. Repeatable: a grid.",
            show_default=False,
        ),
    ] = None,
    tune_seeds: Annotated[
        str, typer.Option("--tune-seeds", help="With --tune: the seeds that choose. They are never judged.")
    ] = "1000-1001",
    at_steps: Annotated[
        str | None,
        typer.Option(
            "--at-steps",
            help="Also train every variant with these numbers of steps, as in 500,1500. Shown as curves, not judged.",
            show_default=False,
        ),
    ] = None,
    nfe: Annotated[
        str | None,
        typer.Option(
            "--nfe",
            help="Also draw every run's samples with these numbers of network evaluations, as in 4,8,16,32.",
            show_default=False,
        ),
    ] = None,
    tune_metric: Annotated[str, typer.Option("--tune-metric", help="With --tune: the metric that chooses.")] = "pd",
    baseline: BaselineOption = True,
    seeds: SeedsOption = "0",
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided",
            help="Then add seeds one by one to each variant, until it is decided or has --max-seeds.",
        ),
    ] = False,
    max_seeds: Annotated[
        int | None,
        typer.Option("--max-seeds", help="With --until-decided: seeds at most. Default: 16.", show_default=False),
    ] = None,
    preset: PresetOption = variants.DEFAULT_PRESET,
    budget: BudgetOption = Budget.steps,
    data: DataOption = "cats",
    array: ArrayOption = "",
    results: ResultsOption = Path("results"),
    metrics: MetricsOption = None,
    weights: WeightsOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    launcher: Annotated[
        Launcher,
        typer.Option("--launcher", help="local: one run after another, here. ray, slurm: on a cluster."),
    ] = Launcher.local,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            help="With ray: the cluster's address (also RAY_ADDRESS). Default: a cluster on this machine.",
            show_default=False,
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            help="With slurm: a setting of each job, as in partition=gpu, gpus_per_node=1 or timeout_min=600. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            help="With ray: runs at once. Default: as many as fit. With slurm: jobs. Default: one per run.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads of a run. Default: torch's choice; 1 with ray.", show_default=False),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus", help="With ray: GPUs of a run, as in 0.5. Default: 1 if there are any.", show_default=False
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            help="Number formats to measure: bf16,fp8,int8,int4 or some of them; all; none. "
            "Finished runs get those they lack. Default: the preset's.",
            show_default=False,
        ),
    ] = None,
    scopes: Annotated[
        str | None,
        typer.Option(
            "--scopes",
            help="What is quantised: kpn (all but drift), a module group, all (the whole network), or each of these. "
            "Default: the preset's.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Seconds that your own program may take for a run.", show_default=False),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first failed run. Default: make the others first.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Make finished runs again and replace their rows.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Make failed and diverged runs again, and no others.")
    ] = False,
    stale: Annotated[bool, typer.Option("--stale", help="Also remake finished runs that other code computed.")] = False,
    steal: Annotated[
        bool, typer.Option("--steal", help="Take runs from another process that hangs while it makes them.")
    ] = False,
    compile: Annotated[
        Compile,
        typer.Option("--compile", help="torch.compile the transformer blocks. auto: if the training is long enough."),
    ] = Compile.auto,
    save_every_s: Annotated[
        float, typer.Option("--save-every", help="Seconds between checkpoints. The last two are kept.")
    ] = 60.0,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            help="Also record finished runs with tensorboard, mlflow, wandb (offline) or trackio. Repeatable.",
            show_default=False,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="A tag for all runs of the study, to find them by. Repeatable.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and estimate their time from past runs. Run nothing.")
    ] = False,
) -> None:
    """Train, sample and measure variants and their baseline, and record the results.

    Finished runs are skipped, interrupted ones resume. Several of these commands can work on one
    results folder at once: each makes some of the runs.

    Example: ablate run --variant no_drift --seeds 0-2
    """
    options = dict(locals())  # the parameters are named after the fields of StudyRequest
    del options["dry_run"], options["variants"], options["plugin"]
    from ablate.study.request import StudyRequest, as_options

    request = StudyRequest.of(as_options, options)
    _set_threads(request.threads or (1 if request.launcher == "ray" else None))
    from ablate.base.progress import Progress
    from ablate.launch.study import described, forecast_study, measuring_lines

    if dry_run:
        from ablate.planning import family_line
        from ablate.report.render.variants import render_plan

        planned = forecast_study(request)
        console.show(render_plan(planned))
        console.echo(family_line(request, planned))
        for line in measuring_lines(request, planned):
            console.echo(line)
        if request.until_decided:
            console.echo("these are the most runs there may be: a variant gets no more seeds once it is decided")
        return
    from ablate.studies import make_study

    progress = Progress()
    try:
        make_study(
            request,
            progress=progress,
            on_row=lambda row, how: progress.result(described(row, how)),
            on_missing=lambda network, why: progress.say(missing_note(network, why)),
            say=progress.result,
        )
    except KeyboardInterrupt:
        console.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None
    console.echo(printable(f"tables and images: {shlex.quote(str(results))}; next: {_next_step(request)}"), err=True)


def _next_step(request: StudyRequest) -> str:
    """Return the command whose report shows what was run, or what to run for one."""
    from ablate.store import tables

    runs = tables.read(request.results, "runs")
    here = runs[runs["preset"] == request.preset]
    if set(here["variant"]) <= {variants.BASELINE}:
        other = next((name for name in variants.names() if name != variants.BASELINE), None)
        if other is None:
            return f"write a variant into {variants.own_folder()}, and run it with --variant"
        example = "no_drift" if "no_drift" in variants.names() else other
        return f"the same command with --variant {example}, which compares it with the baseline"
    words = ["ablate", "report", "--results", str(request.results)]
    # The report compares runs of one preset, data set and budget. Name what it cannot choose.
    if runs["preset"].nunique() > 1:
        words += ["--preset", request.preset]
    if here["data_digest"].nunique() > 1:
        words += ["--data", request.data]
    if request.budget == "macs":
        words += ["--budget", "macs"]
    return shlex.join(words)


def _set_threads(threads: int | None) -> None:
    """Set the threads of libraries that are imported later: a run's last bits depend on them."""
    if threads is not None:
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
