"""Numbers in the cells of a table: plain, in percent, or with a decimal comma."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_complex_dtype, is_numeric_dtype

MISSING = frozenset(["", "na", "n/a", "none", "null", "-", "--", "<na>"])
NOT_FINITE = frozenset(["nan", "inf", "+inf", "-inf", "infinity", "-infinity"])
_COMMA = r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?"
_THOUSANDS = r"[+-]?[1-9]\d{0,2}(?:,\d{3})+"


@dataclass(frozen=True)
class Numbers:
    """The cells of one column. Each cell is finite, missing, not finite, or a text.

    Attributes:
        values: (rows,) float64, NaN for all but finite cells.
        missing: (rows,) bool, empty cells.
        not_finite: (rows,) bool, a written NaN or infinity: that run diverged.
        text: (rows,) bool, what is no number.
        unit: `%` if the finite cells end so.
    """

    values: np.ndarray
    missing: np.ndarray
    not_finite: np.ndarray
    text: np.ndarray
    unit: str | None = None
    comma: bool = False  # decimal commas were read

    @property
    def any_number(self) -> bool:
        """Whether any cell is a finite number."""
        return bool(np.isfinite(self.values).any())


def read_numbers(cells: pd.Series, *, commas: bool = False) -> Numbers:
    """Read the cells of a column, which are texts or numbers.

    Args:
        cells: The cells.
        commas: Whether `1,234` has a decimal comma, as where columns are separated by something else.
            Otherwise it may be a thousand, and is a text.
    """
    none = np.zeros(len(cells), bool)
    if (is_numeric_dtype(cells) or is_bool_dtype(cells)) and not is_complex_dtype(cells):
        values = cells.astype("Float64").to_numpy(np.float64, na_value=np.nan)
        infinite = np.isinf(values)
        return Numbers(np.where(infinite, np.nan, values), np.isnan(values), infinite, none)
    null = cells.isna().to_numpy(bool)
    texts = cells.astype(str).str.strip()
    lower = texts.str.lower()
    missing = null | lower.isin(MISSING).to_numpy(bool)
    not_finite = ~missing & lower.isin(NOT_FINITE).to_numpy(bool)
    known = texts[~missing & ~not_finite]
    unit, comma = None, False
    if len(known) and known.str.endswith("%").all():
        unit, known = "%", known.str.removesuffix("%").str.strip()
    if len(known) and known.str.contains(",", regex=False).any():
        decimal = known.str.fullmatch(_COMMA) | known.str.fullmatch(r"[+-]?\d+")  # none has a point
        thousands = known.str.fullmatch(_THOUSANDS) | ~known.str.contains(",", regex=False)
        comma = bool(decimal.all() and (commas or not thousands.all()))
        known = known.str.replace(",", ".", regex=False) if comma else known
    parsed = pd.to_numeric(known, errors="coerce").to_numpy(np.float64, copy=True)
    numeric = np.isfinite(parsed)
    parsed[numeric] = [float(text) for text in known[numeric]]  # pandas below 3.1 errs in the last bit
    values = np.full(len(cells), np.nan)
    values[known.index.to_numpy()] = parsed
    overflow = np.isinf(values)
    values[overflow] = np.nan
    text = ~missing & ~not_finite & ~overflow & np.isnan(values)
    return Numbers(values, missing, not_finite | overflow, text, unit, comma)


def read_seed(cell: object) -> int | None:
    """Return the seed of a cell: a whole number, also as in `3.0` or `seed3`; None: it is none."""
    if isinstance(cell, bool):
        return None
    match = re.fullmatch(r"(?:(?:seed|fold|run|rep|split|s)[ _=-]*)?(-?\d{1,18})(?:\.0*)?", str(cell).strip().lower())
    return int(match[1]) if match else None
