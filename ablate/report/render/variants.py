"""Variants on a terminal: `ablate list`, `ablate show`, and the plan of `ablate run`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablate.study.config import Config
from ablate.study.plan import Planned
from ablate.study.variants import Variant


def render_list(variants: Sequence[Variant], presets: Sequence[str]) -> RenderableType:
    """Return a table of variants: name, axis, and what each changes."""
    table = Table("variant", "axis", "about", caption=f"presets: {', '.join(presets)}", caption_justify="left")
    for v in variants:
        table.add_row(v.name, v.axis, v.about)
    return table


def render_variant(
    variant: Variant,
    preset: str,
    config: Config,
    baseline: Config,
    params: dict[str, int],
    macs: dict[str, int],
    decode_macs: int,
) -> RenderableType:
    """Return one variant: its description, its configuration with the differences in bold, its costs.

    Args:
        variant: The variant.
        preset: The preset of the configuration.
        config: Its configuration.
        baseline: The baseline's at the same preset.
        params: Parameters by module group.
        macs: Multiply-accumulates (MACs) of one network evaluation of one image, by module group.
        decode_macs: MACs of the decoder, which runs once per image.
    """
    head = Text(f"{variant.name}", style="bold")
    head.append(f"  (axis: {variant.axis}; preset {preset}; config {config.hash})\n{variant.about}\n", style="not bold")
    for claim in variant.claims:
        head.append(f"claim: {claim.metric} {claim.expect}, {claim.because}\n", style="not bold")
    head.append(f"source: {variant.source}", style="not bold")
    settings = Table("setting", "value", "baseline")
    ours, theirs = config.settings(), baseline.model_dump()
    for section, values in ours.items():
        for key, value in values.items():
            differs = value != theirs[section][key]
            settings.add_row(
                f"{section}.{key}",
                _text(value),
                _text(theirs[section][key]) if differs else "",
                style="bold" if differs else None,
            )
        settings.add_section()
    costs = Table(
        "module", "parameters", "MACs", "share of MACs", caption="MACs of one network evaluation of one image"
    )
    for column in costs.columns[1:]:
        column.justify = "right"
    total = sum(macs.values())
    for group, count in params.items():
        work, share = (macs[group], f"{macs[group] / total:.1%}") if group in macs else (decode_macs, "once per image")
        costs.add_row(group, f"{count:,}", f"{work:,}", share)
    costs.add_section()
    costs.add_row("all", f"{sum(params.values()):,}", f"{total:,}", "")
    return Group(head, settings, costs)


def render_plan(planned: Sequence[Planned]) -> RenderableType:
    """Return a table of planned runs: variant, seed, steps, status and estimated time."""
    table = Table("variant", "seed", "steps", "status", "estimate", caption_justify="left")
    for column in (1, 2, 4):
        table.columns[column].justify = "right"
    for run in planned:
        steps, seed = f"{run.spec.config.train.steps:,}", str(run.spec.seed)
        estimate = "" if run.finished else duration(run.wall_s)
        table.add_row(run.spec.variant, seed, steps, "done" if run.finished else "to run", estimate)
    known = [run.wall_s for run in planned if not run.finished]
    total = [seconds for seconds in known if seconds is not None]
    time = duration(sum(total)) if total else "unknown" if known else "0 s"
    table.caption = f"{len(known)} of {len(planned)} to run: {time}"
    if total and len(total) < len(known):
        table.caption += f", and {len(known) - len(total)} of unknown length"
    return table


def duration(seconds: float | None) -> str:
    """Return a time in seconds, minutes or hours, or `unknown`."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
