"""Numbers as people read them."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Return three digits of a number, `-` for none: `0.0123`, `9.87`, `123`, `12,346`."""
    if value is None or not math.isfinite(value):
        return "-"
    size = math.floor(math.log10(abs(value))) if value else 0
    if size < -4:
        return f"{value:.1e}"
    return f"{value:,.{min(6, max(0, 2 - size))}f}"


def signed(value: float | None) -> str:
    """Return a difference as `number` does, with its sign."""
    shown = number(value)
    return shown if value is None or shown == "-" or value < 0 else f"+{shown}"
