"""What `ablate bench` found, as a terminal's tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablate.report.render.number_text import number

HEADS = ("p50 ms", "p90 ms", "noise", "ratio", "interval", "img/s")


def to_json(found: Mapping[str, Any]) -> str:
    """Return one strict JSON document."""
    return json.dumps(found, indent=2, allow_nan=False)


def render(found: Mapping[str, Any]) -> RenderableType:
    """Return a table for each batch size, what its columns mean, and a warning where the machine was not idle.

    Args:
        found: The document of `ablate.runs.side_by_side.bench`.
    """
    labels = _labels(found["runs"])
    parts: list[RenderableType] = [Text(line) for line in _head(found)]
    for group in found["groups"]:
        parts += [Text(""), _table(group, labels)]
        noisy = [row["noise"] for row in group["rows"] if row["noisy"]]
        if noisy:
            warning = (
                f"! batch {group['batch']}: noise above {found['noise_threshold']:g} in {len(noisy)} of {len(group['rows'])} "
                f"(up to {max(noisy):.2f}): measure on an idle machine"
            )
            parts.append(Text(warning, style="yellow"))
    parts += [Text(""), *map(Text, _agreement(found["agreement"], labels))]
    return Group(*parts, *(Text(line, style="dim") for line in _legend(found, labels)))


def _agreement(agreement: Mapping[str, Any] | None, labels: Mapping[str, str]) -> list[str]:
    if agreement is None:
        return []
    where = f"{_name(agreement['furthest'], labels)}, batch {agreement['furthest']['batch']}"
    return [
        f"earlier session {agreement['session']}: {agreement['compared']} ratios,",
        f"at most {100 * agreement['largest_change']:.1f} % apart ({where})",
        "",
    ]


def _head(found: Mapping[str, Any]) -> list[str]:
    what = {"step": "one network evaluation", "image": "the drawing of a batch of images"}[found["scope"]]
    threads = f"{found['threads']} thread{'' if found['threads'] == 1 else 's'}"
    return [
        f"{what}, {found['rounds']} rounds, session {found['session']}",
        f"{found['device']} ({found['processor']}), {threads}, governor {found['governor'] or 'unknown'}",
    ]


def _legend(found: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    lines = [
        f"noise: IQR / median. ratio: of medians, to {_name(found['reference'], labels)};",
        "interval: 95 %, whole rounds resampled. -: too few rounds for that quantile.",
    ]
    return lines + (["img/s: pictures through one network evaluation."] if found["scope"] == "step" else [])


def _table(group: Mapping[str, Any], labels: Mapping[str, str]) -> Table:
    table = Table(
        title=f"batch {group['batch']}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,
    )
    for head in ("run", "scheme", "engine"):
        table.add_column(head, overflow="fold")
    for head in HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for row in group["rows"]:
        interval = "-" if row["ratio"] is None else f"{row['ratio_low']:.3f}-{row['ratio_high']:.3f}"
        table.add_row(
            Text(labels[row["run_id"]]),
            row["scheme"],
            row["engine"],
            number(row["p50_ms"]),
            number(row["p90_ms"]),
            _noise(row),
            "-" if row["ratio"] is None else f"{row['ratio']:.3f}",
            interval,
            number(row["images_per_s"]),
        )
    return table


def _noise(row: Mapping[str, Any]) -> Text:
    if row["noise"] is None:
        return Text("-")
    return Text(f"{'!' if row['noisy'] else ''}{row['noise']:.2f}", style="yellow" if row["noisy"] else "")


def _name(row: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    return f"{labels[row['run_id']]} {row['scheme']}/{row['engine']}"


def _labels(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The shortest of these names that tells every run from the others: variant, with its seed, with its preset, the whole name."""
    forms = [
        {run_id: row["variant"] for run_id, row in runs.items()},
        {run_id: f"{row['variant']} s{row['seed']}" for run_id, row in runs.items()},
        {run_id: f"{row['variant']} {row['preset']}" for run_id, row in runs.items()},
        {run_id: f"{row['variant']} {row['preset']} s{row['seed']}" for run_id, row in runs.items()},
        {run_id: run_id for run_id in runs},
    ]
    return next(form for form in forms if len(set(form.values())) == len(runs))
