"""The claims in a variant's file: what should happen to a metric, stated before it is measured.

claim = { metric = "fd", expect = "same", margin = "5%", because = "..." }      or a list of such tables
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, model_validator

from ablate.study.validation import Settings


def read_margin(text: str, whole: float) -> float:
    """Return the size of `5%` (of `whole`) or of `2.5`; NaN where it is neither."""
    number = text.strip()
    try:
        size = float(number.removesuffix("%"))
    except ValueError:
        return math.nan
    return size / 100 * abs(whole) if number.endswith("%") else size


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be one line without control characters")
    return text


def _margin(value: Any) -> str:
    if isinstance(value, bool) or not 0 < read_margin(str(value), 1.0) < math.inf:
        raise ValueError("it must be a positive number, or a percentage as in '5%'")
    return str(value).strip()


Line = Annotated[str, AfterValidator(_one_line)]


class Claim(Settings):
    """What a variant's file says of one metric."""

    metric: Line
    expect: Literal["better", "worse", "same"]
    because: Line
    margin: Annotated[str, BeforeValidator(_margin)] | None = None  # with `same`: a size, or a percentage

    @model_validator(mode="after")
    def _margin_belongs_to_same(self) -> Self:
        if self.margin is not None and self.expect != "same":
            raise ValueError(f"margin belongs to expect = 'same'; a claim of {self.expect!r} has none")
        return self
