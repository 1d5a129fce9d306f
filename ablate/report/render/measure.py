"""What `ablate measure` found, as a terminal's table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def to_json(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one strict JSON document: a key a metric."""
    return json.dumps(found, indent=2, allow_nan=False)


def render(found: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Return a table of values, what is known of their uncertainty, and real against real; notes below it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("metric")
    for head in ("value", "± / interval", "N", "ref N", "real/real", "at N"):
        table.add_column(head, justify="right")
    notes: dict[str, list[str]] = {}
    for name, entry in found.items():
        if entry.get("note"):
            notes.setdefault(entry["note"], []).append(name)
        table.add_row(
            name,
            _number(entry["value"]),
            _interval(entry),
            _count(entry.get("n")),
            _count(entry.get("ref_n")),
            _number(entry["floor"]) if "floor" in entry else "",
            _count(entry.get("floor_n")),
        )
    return Group(table, *(Text(f"! {', '.join(names)}: {note}", style="yellow") for note, names in notes.items()))


def _interval(entry: Mapping[str, Any]) -> str:
    if entry.get("low") is not None:
        return f"{_number(entry['low'])} to {_number(entry['high'])}"
    return f"± {_number(entry['error'])}" if entry.get("error") is not None else ""


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"
