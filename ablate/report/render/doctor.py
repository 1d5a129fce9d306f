"""The diagnosis of `ablate doctor` as terminal text."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablate.base.errors import install
from ablate.base.text import plural

BYTES_PER_MB, BYTES_PER_GB = 10**6, 10**9
EXAMPLES = 3  # of findings of one kind


def render(diagnosis: dict[str, Any], *, full: bool = False) -> RenderableType:
    """Return a diagnosis as terminal text.

    Args:
        diagnosis: The document of `ablate.launch.diagnosis.diagnose`.
        full: List each finding, instead of a line for each kind.
    """
    environment = diagnosis["environment"]
    where = environment["gpu"] or environment["cpu"]
    free = "; ".join(
        f"{folder}: {'unknown' if count is None else f'{count / BYTES_PER_GB:,.1f} GB'}"
        for folder, count in diagnosis["free_bytes"].items()
    )
    head = [f"ablate {environment['ablate']}, Python {environment['python']}"]
    if diagnosis["device"] is None:
        head.append(f"torch: not installed, so nothing can be trained or measured here; fix: {install('train')}")
    else:
        network = "never (ABLATE_OFFLINE)" if diagnosis["offline"] else "downloads weights that a metric needs"
        head[0] += f", torch {environment['torch']}"
        how = f"precision {diagnosis['precision']}, threads {diagnosis['threads']}"
        head += [
            f"device {diagnosis['device']} ({where}), {how}",
            f"network: {network}",
            f"compiler: {diagnosis['compiler'] or 'none (only torch.compile needs one)'}",
        ]
    head.append(f"free disk: {free}")
    weights = _table("weights", "name", "digest", "where")
    for name, entry in diagnosis["weights"].items():
        weights.add_row(name, (entry["digest"] or "-")[:12], Text(entry["source"] or entry["problem"]))
    cache = _table(f"cache: {diagnosis['cache']['folder']}", "part", "files", "MB", "holds")
    for part, entry in diagnosis["cache"]["kinds"].items():
        cache.add_row(part, f"{entry['files']:,}", f"{entry['bytes'] / BYTES_PER_MB:,.1f}", entry["holds"])
    results = [] if diagnosis["results"] is None else [Text(""), *map(Text, _results(diagnosis["results"], full))]
    shown: list[RenderableType] = [weights, Text("")] if diagnosis["weights"] else []
    return Group(*map(Text, head), Text(""), *shown, cache, *results)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in ("files", "MB") else "left")
    return table


def _results(results: dict[str, Any], full: bool) -> list[str]:
    """Return the health of a results folder: runs being made, notes, then faults by kind."""
    findings = results["findings"]
    lines = [f"results: {results['folder']}: {plural(len(findings), 'fault') if findings else 'no faults'}"]
    for run in results["running"]:
        idle = "" if run["idle_s"] is None else f"; its working folder last changed {run['idle_s']:,.0f} s ago"
        lines.append(f"- being made now: {run['run_id']}: {run['owner']}{idle}")
    if results["running"]:
        lines += [
            "  If a folder has not changed for much longer than the time between two checkpoints,",
            "  its process may hang: end it, or take its run with ablate run --steal.",
        ]
    lines += [f"- {note}" for note in results["notes"]]
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        groups.setdefault((finding["kind"], finding["fix"]), []).append(finding["what"])
    for (kind, fix), whats in groups.items():
        if full:
            lines += [f"- {kind}: {what}" for what in whats]
        else:
            more = f"; and {len(whats) - EXAMPLES} more (--full lists all)" if len(whats) > EXAMPLES else ""
            lines.append(f"- {kind}, {len(whats)}: {'; '.join(whats[:EXAMPLES])}{more}")
        lines.append(f"  fix: {fix}")
    return lines
