"""Variants on a terminal: `ablate list`, `ablate show`, and the plan of `ablate run`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ablate.base.text import duration
from ablate.study.config import RunConfig
from ablate.study.plan import Planned
from ablate.study.program import ProgramConfig
from ablate.study.variants import Variant


def render_list(variants: Sequence[Variant], presets: Sequence[str]) -> RenderableType:
    """Return a table of variants: name, axis, and what each changes."""
    table = Table("variant", "axis", "about", caption=f"presets: {', '.join(presets)}", caption_justify="left")
    for v in variants:
        table.add_row(*map(Text, (v.name, v.axis, v.about)))  # brackets are no markup
    return table


def render_variant(
    variant: Variant,
    preset: str,
    config: RunConfig,
    baseline: RunConfig,
    cost: RenderableType | None = None,
) -> RenderableType:
    """Return one variant: its description, its configuration with the differences in bold, its cost.

    Args:
        variant: The variant.
        preset: The preset of the configuration.
        config: Its configuration.
        baseline: The baseline's at the same preset.
        cost: As `render_cost` returns it; None: it is not known.
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
            other = theirs.get(section, {}).get(key)
            differs = value != other
            settings.add_row(
                f"{section}.{key}",
                Text(_text(value)),
                Text(_text(other) if differs else ""),
                style="bold" if differs else None,
            )
        settings.add_section()
    return Group(head, settings, *([] if cost is None else [cost]))


def render_cost(params: dict[str, int], macs: dict[str, int], decode_macs: int) -> RenderableType:
    """Return a table of a model's cost.

    Args:
        params: Parameters by module group.
        macs: Multiply-accumulates (MACs) of one network evaluation of one image, by module group.
        decode_macs: MACs of the decoder, which runs once per image.
    """
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
    return costs


def render_plan(planned: Sequence[Planned]) -> RenderableType:
    """Return a table of planned runs: variant, seed, steps, status and estimated time; below it time and disk."""
    steps = [None if isinstance(run.spec.config, ProgramConfig) else run.spec.config.train.steps for run in planned]
    shown = any(count is not None for count in steps)
    table = Table("variant", "seed", *["steps"] * shown, "status", "estimate")
    for column in (*range(1, 2 + shown), 3 + shown):
        table.columns[column].justify = "right"
    for run, count in zip(planned, steps, strict=True):
        estimate = "" if run.finished else duration(run.wall_s)
        status = "done" if run.finished else "to run"
        own = ["" if count is None else f"{count:,}"] * shown
        table.add_row(Text(run.spec.variant), str(run.spec.seed), *own, status, estimate)
    to_run = [run for run in planned if not run.finished]
    known = [run.wall_s for run in to_run if run.wall_s is not None]
    lines = [f"{len(to_run)} of {len(planned)} to run: {duration(sum(known) if known or not to_run else None)}"]
    if 0 < len(known) < len(to_run):
        lines[0] += f", and {len(to_run) - len(known)} of unknown length"
    if to_run:
        kept, more = sum(run.disk_bytes for run in to_run), max(run.more_disk_bytes for run in to_run)
    if to_run and kept:
        lines.append(f"disk: {decimal(kept)}, and {decimal(more)} while a run is made")
    return Group(table, *map(Text, lines))


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
