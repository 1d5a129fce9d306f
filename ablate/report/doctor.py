"""What `ablate doctor` found, for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

BYTES_PER_MB = 10**6


def render(found: dict[str, Any]) -> RenderableType:
    """Return the document of `ablate.doctor.examine` as tables."""
    environment = found["environment"]
    where = environment["gpu"] or environment["cpu"]
    head = [
        f"ablate {environment['ablate']}, Python {environment['python']}, torch {environment['torch']}",
        f"device {found['device']} ({where}), precision {found['precision']}, threads {found['threads']}",
        f"network: {'never (ABLATE_OFFLINE)' if found['offline'] else 'only for metrics that are asked for by name'}",
    ]
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
    return Group(*map(Text, head), Text(""), have, Text(""), kept)
