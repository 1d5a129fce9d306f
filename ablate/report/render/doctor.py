"""What `ablate doctor` found, for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

BYTES_PER_MB, BYTES_PER_GB = 10**6, 10**9


def render(found: dict[str, Any]) -> RenderableType:
    """Return the document of `ablate.launch.doctor.examine` as tables."""
    environment = found["environment"]
    where = environment["gpu"] or environment["cpu"]
    head = [
        f"ablate {environment['ablate']}, Python {environment['python']}, torch {environment['torch']}",
        f"device {found['device']} ({where}), precision {found['precision']}, threads {found['threads']}",
        f"network: {'never (ABLATE_OFFLINE)' if found['offline'] else 'only for metrics that are asked for by name'}",
    ]
    free = "; ".join(
        f"{folder}: {'unknown' if count is None else f'{count / BYTES_PER_GB:,.1f} GB'}"
        for folder, count in found["free_bytes"].items()
    )
    head += [f"compiler: {found['compiler'] or 'none (needed by torch.compile alone)'}", f"free disk: {free}"]
    have = Table(title="weights", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("name", "digest", "where"):
        have.add_column(name, overflow="fold")
    for name, entry in found["weights"].items():
        have.add_row(name, (entry["digest"] or "-")[:12], Text(entry["source"] or entry["problem"]))
    cache = found["cache"]
    kept = Table(
        title=f"cache: {cache['folder']}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    kept.add_column("part")
    kept.add_column("files", justify="right")
    kept.add_column("MB", justify="right")
    kept.add_column("holds")
    for kind, entry in cache["kinds"].items():
        kept.add_row(kind, f"{entry['files']:,}", f"{entry['bytes'] / BYTES_PER_MB:,.1f}", entry["holds"])
    return Group(*map(Text, head), Text(""), have, Text(""), kept, *_health(found["results"]))


def _health(checked: dict[str, Any] | None) -> list[RenderableType]:
    """What was found in a results folder, each with its repair."""
    if checked is None:
        return []
    findings = checked["findings"]
    title = (
        f"results: {checked['folder']}: {len(findings)} to mend" if findings else f"results: {checked['folder']}: well"
    )
    found = [Text(""), Text(title)]
    for finding in findings:
        found += [Text(f"- {finding['kind']}: {finding['what']}"), Text(f"  mend: {finding['mend']}")]
    return list(found)
