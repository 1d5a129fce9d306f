"""The command that shows and records the plan of a study: `ablate plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.cli import console
from ablate.cli.app import Budget, JsonDocumentOption, OwnVariantsOption, PluginOption, PresetOption, ResultsOption, app
from ablate.cli.study import (
    ArrayOption,
    BaselineOption,
    BudgetOption,
    DataOption,
    FactorsOption,
    MetricsOption,
    SeedsOption,
    SetOption,
    VariantsOption,
)
from ablate.study import variants


@app.command()
def plan(
    variant: VariantsOption = None,
    factors: FactorsOption = None,
    set: SetOption = None,
    variants: OwnVariantsOption = None,
    plugin: PluginOption = None,
    baseline: BaselineOption = True,
    seeds: SeedsOption = "0",
    preset: PresetOption = variants.DEFAULT_PRESET,
    budget: BudgetOption = Budget.steps,
    data: DataOption = "cats",
    array: ArrayOption = "",
    results: ResultsOption = Path("results"),
    metrics: MetricsOption = None,
    sd: Annotated[
        list[str] | None,
        typer.Option(
            "--sd",
            help="Standard deviation of the paired differences, as in fd=5. Repeatable. "
            "Default: that of runs in the folder.",
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record the plan now, as the first run would. Run nothing.")
    ] = False,
    as_json: JsonDocumentOption = False,
) -> None:
    """Show what a study will judge, which differences it can detect, and how long it takes.

    `ablate run` with the same options goes by this plan.

    Example: ablate plan --variant no_drift,v_pred --seeds 0-7
    """
    options = dict(locals())  # those named after the fields of StudyRequest, and five more
    for name in ("variants", "plugin", "sd", "record", "as_json"):
        del options[name]
    from ablate.planning import preview_plan
    from ablate.study.request import StudyRequest, as_options

    preview = preview_plan(StudyRequest.of(as_options, options), sd or (), record=record)
    if as_json:
        console.echo_json(preview.to_json())
        return
    from ablate.report.render.plan import render

    console.show(render(preview))
