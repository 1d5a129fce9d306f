"""Numbers as text: rounded, with signs and units, and a dash for no value."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ablate.report.findings import Design, Value

COUNTS = ("params", "macs", "train_macs", "macs_image", "bytes", "file_bytes")
UNITS = ((" T", 1e12), (" G", 1e9), (" M", 1e6), (" k", 1e3))


def number(value: float | None) -> str:
    """Return a number with three digits: `0.0123`, `9.87`, `123`, `12,346`."""
    if value is None or not math.isfinite(value):
        return "-"
    size = math.floor(math.log10(abs(value))) if value else 0
    if size < -4:
        return f"{value:.1e}"
    return f"{value:,.{min(6, max(0, 2 - size))}f}"


def change(value: float | None) -> str:
    """Return a difference with three digits and its sign."""
    text = number(value)
    return text if value is None or text == "-" or value < 0 else f"+{text}"


def rounded(value: float | None, decimals: int) -> str:
    """Return a number with fixed decimals."""
    return "-" if value is None else f"{value:,.{decimals}f}"


def signed(value: float | None, decimals: int) -> str:
    """Return a difference with fixed decimals and its sign."""
    return "-" if value is None else f"{round(value, decimals) + 0.0:+,.{decimals}f}"  # + 0.0: no negative zero


def interval(low: float | None, high: float | None, decimals: int) -> str:
    """Return `[low, high]`."""
    return "-" if low is None or high is None else f"[{signed(low, decimals)}, {signed(high, decimals)}]"


def mean_sd(value: Value, decimals: int, plus_minus: str, *, sign: bool = False) -> str:
    """Return mean and standard deviation, joined by `plus_minus`.

    Args:
        value: Of one row.
        decimals: Of both numbers.
        plus_minus: Text between them.
        sign: Whether the mean is a difference that shows its sign.
    """
    if value.mean is None:
        return "-"
    mean = signed(value.mean, decimals) if sign else rounded(value.mean, decimals)
    return f"{mean}{plus_minus}{rounded(value.sd, decimals)}"


def p_value(p: float | None) -> str:
    """Return a p-value with two digits."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def evidence(value: float | None, design: Design) -> str:
    """Return p (of a planned study) or e (of a grown one)."""
    if value is None or design == "planned":
        return p_value(value)
    return f"{value:.0e}" if value >= 1e6 else number(value) if value < 100 else f"{value:,.0f}"


def percent(fraction: float | None) -> str:
    """Return a fraction in percent."""
    return "-" if fraction is None else f"{fraction:.0%}"


def quantity(name: str, value: float | None) -> str:
    """Return a cost: counts with a unit (`3.56 M`), times with three digits."""
    if value is None:
        return "-"
    if name in COUNTS:
        for unit, size in UNITS:
            if value >= size:
                return number(value / size) + unit
    return f"{value:,.0f}" if name in COUNTS or name == "nfe" or not value else number(value)


def decimals_of(values: Iterable[float | None]) -> int:
    """Return the decimals of a column: four digits for its largest number, at most four decimals."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 4 if largest < 1 else max(0, 3 - math.floor(math.log10(largest)))


def decimals_of_interval(half_width: float) -> int:
    """Return the decimals that show two digits of half an interval."""
    return max(0, min(6, 1 - math.floor(math.log10(half_width)))) if half_width > 0 else 0
