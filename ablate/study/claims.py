"""The claims in a variant's file: what should happen to a metric, stated before it is measured.

claim = { metric = "fd", expect = "same", margin = "5%", because = "..." }      a list of such tables makes several claims
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ablate.base.errors import VariantError

EXPECT = ("better", "worse", "same")


def check_claim(path: Path, claim: Any) -> None:
    """Refuse a claim that cannot be judged or shown; a margin that is a number becomes text.

    Raises:
        VariantError: Not a table of the strings metric, expect and because, or with a margin that is no size or has no place.
    """
    if not isinstance(claim, dict):
        raise VariantError(f"{path}: claim is {claim!r}; it must be a table, or a list of tables")
    words = {"metric", "expect", "because"}
    if set(claim) - {"margin"} != words or not all(isinstance(claim[key], str) for key in words):
        raise VariantError(
            f"{path}: claim has {', '.join(claim) or 'no keys'}; it needs the strings metric, expect and because"
        )
    if not all(str(value).isprintable() for value in claim.values()):
        raise VariantError(f"{path}: claim has control characters; each of its strings must be one line")
    if claim["expect"] not in EXPECT:
        raise VariantError(f"{path}: claim.expect is {claim['expect']!r}. Allowed: {', '.join(EXPECT)}")
    if "margin" in claim:
        if claim["expect"] != "same":
            raise VariantError(
                f"{path}: claim.margin belongs to expect = 'same'; a claim of {claim['expect']!r} has none"
            )
        margin = claim["margin"]
        if isinstance(margin, bool) or not 0 < read_margin(str(margin), 1.0) < math.inf:
            raise VariantError(
                f"{path}: claim.margin is {margin!r}; it must be a positive number, or a share as in '5%'"
            )
        claim["margin"] = str(margin).strip()


def read_margin(text: str, whole: float) -> float:
    """Return the size of `5%` (of `whole`) or of `2.5`; NaN where it is neither."""
    number = text.strip()
    try:
        size = float(number.removesuffix("%"))
    except ValueError:
        return math.nan
    return size / 100 * abs(whole) if number.endswith("%") else size
