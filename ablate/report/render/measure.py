"""The results of `ablate measure` on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ablate.report.render.text_table import TextTable, to_rich

HEADS = ("metric", "value", "± / interval", "N", "ref N", "real/real", "its ref N")


def render(document: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Return a table of values, their uncertainty, and the value of real against real; then notes."""
    notes: dict[str, list[str]] = {}
    lines = []
    for name, entry in document.items():
        if entry.get("note"):
            notes.setdefault(entry["note"], []).append(name)
        floor = (_value(entry["floor"]) if "floor" in entry else "", _count(entry.get("floor_ref_n")))
        counts = (_count(entry.get("n")), _count(entry.get("ref_n")))
        lines.append((name, _value(entry["value"]), _uncertainty(entry), *counts, *floor))
    warnings = (Text(f"! {', '.join(names)}: {note}", style="yellow") for note, names in notes.items())
    return Group(to_rich(TextTable("", HEADS, tuple(lines), (0,))), *warnings)


def _uncertainty(entry: Mapping[str, Any]) -> str:
    if entry.get("low") is not None:
        return f"{_value(entry['low'])} to {_value(entry['high'])}"
    return f"± {_value(entry['error'])}" if entry.get("error") is not None else ""


def _value(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"
