"""The results of `ablate bench` on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablate.base.text import plural
from ablate.report.render.number_text import number, rounded
from ablate.report.render.text_table import TextTable, to_rich

HEADS = ("run", "scheme", "engine", "p50 ms", "p90 ms", "noise", "ratio", "interval", "img/s")
SCOPES = {"step": "one network evaluation", "image": "drawing a batch of images"}


def render(document: Mapping[str, Any]) -> RenderableType:
    """Return a table per batch size, the meaning of its columns, and a warning if the machine was busy.

    Args:
        document: The result of `ablate.runs.side_by_side.bench`.
    """
    labels = _labels(document["runs"])
    threads = plural(document["threads"], "thread")
    parts: list[RenderableType] = [
        Text(f"{SCOPES[document['scope']]}, {document['rounds']} rounds, session {document['session']}"),
        Text(
            f"{document['device']} ({document['processor']}), {threads}, governor {document['governor'] or 'unknown'}"
        ),
    ]
    for group in document["groups"]:
        parts += [Text(""), Text(f"batch {group['batch']}", style="bold"), _table(group, labels)]
        if "source" in document["energy"]:
            joules = [f"{_name(row, labels)} {number(row['joules_per_image'])}" for row in group["rows"]]
            parts.append(Text(f"joules per image: {', '.join(joules)}"))
        noisy = [row["noise"] for row in group["rows"] if row["noisy"]]
        if noisy:
            how = f"noise above {document['noise_threshold']:g} in {len(noisy)} of {len(group['rows'])}"
            warning = f"! batch {group['batch']}: {how} (up to {max(noisy):.2f}): measure on an idle machine"
            parts.append(Text(warning, style="yellow"))
    parts.append(Text(""))
    if (agreement := document["agreement"]) is not None:
        where = f"{_name(agreement['furthest'], labels)}, batch {agreement['furthest']['batch']}"
        parts += [
            Text(f"earlier session {agreement['session']}: {agreement['compared']} ratios,"),
            Text(f"at most {100 * agreement['largest_change']:.1f} % apart ({where})\n"),
        ]
    legend = [
        f"noise: IQR / median. ratio: of medians, to {_name(document['reference'], labels)};",
        "interval: 95 %, by resampling whole rounds. -: too few rounds for that quantile.",
        *(["img/s: images through one network evaluation."] if document["scope"] == "step" else []),
        f"energy: {document['energy'].get('source') or 'not measured, ' + document['energy']['note']}.",
    ]
    return Group(*parts, *(Text(line, style="dim") for line in legend))


def _table(group: Mapping[str, Any], labels: Mapping[str, str]) -> Table:
    lines = []
    for row in group["rows"]:
        noise = rounded(row["noise"], 2)
        interval = "-" if row["ratio"] is None else f"{row['ratio_low']:.3f}-{row['ratio_high']:.3f}"
        lines.append(
            (
                labels[row["run_id"]],
                row["scheme"],
                row["engine"],
                number(row["p50_ms"]),
                number(row["p90_ms"]),
                f"!{noise}" if row["noisy"] else noise,
                rounded(row["ratio"], 3),
                interval,
                number(row["images_per_s"]),
            )
        )
    table = to_rich(TextTable("", HEADS, tuple(lines), (0, 1, 2)))
    table.padding = 0  # one space between columns: nine of them fit 80 columns
    return table


def _name(row: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    return f"{labels[row['run_id']]} {row['scheme']}/{row['engine']}"


def _labels(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the shortest names that differ between runs: variant, then with seed or preset, then run."""
    forms = [
        {run_id: row["variant"] for run_id, row in runs.items()},
        {run_id: f"{row['variant']} s{row['seed']}" for run_id, row in runs.items()},
        {run_id: f"{row['variant']} {row['preset']}" for run_id, row in runs.items()},
        {run_id: f"{row['variant']} {row['preset']} s{row['seed']}" for run_id, row in runs.items()},
        {run_id: run_id for run_id in runs},
    ]
    return next(form for form in forms if len(set(form.values())) == len(runs))
