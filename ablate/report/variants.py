"""What `ablate list` and `ablate show` print: variants, and one variant resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablate.variant import Config, Variant


def render_list(variants: Sequence[Variant], presets: Sequence[str]) -> RenderableType:
    """Return a table of variants: name, axis and what each changes."""
    table = Table("variant", "axis", "about", caption=f"presets: {', '.join(presets)}", caption_justify="left")
    for v in variants:
        table.add_row(v.name, v.axis, v.about)
    return table


def render_variant(
    variant: Variant, preset: str, config: Config, baseline: Config, params: dict[str, int], macs: dict[str, int]
) -> RenderableType:
    """Return a variant's page: what it is, its configuration with the differences marked, and its cost by module.

    Args:
        variant: The variant.
        preset: The preset that it is resolved at.
        config: The resolved configuration.
        baseline: The baseline's at the same preset.
        params: Parameters by module group.
        macs: Multiply-accumulates of one network evaluation of one picture, by module group.
    """
    head = Text(f"{variant.name}", style="bold")
    head.append(f"  (axis: {variant.axis}; preset {preset}; config {config.hash})\n{variant.about}\n", style="not bold")
    if variant.claim:
        head.append(
            f"claim: {variant.claim['metric']} {variant.claim['expect']}, {variant.claim['because']}\n",
            style="not bold",
        )
    head.append(f"source: {variant.source}", style="not bold")
    settings = Table("setting", "value", "baseline")
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(baseline)
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
    costs = Table("module", "parameters", "MACs", "share of MACs")
    for column in costs.columns[1:]:
        column.justify = "right"
    total = sum(macs.values())
    for group, count in macs.items():
        costs.add_row(group, f"{params[group]:,}", f"{count:,}", f"{count / total:.1%}")
    costs.add_section()
    costs.add_row("all", f"{sum(params.values()):,}", f"{total:,}", "")
    return Group(head, settings, costs)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
