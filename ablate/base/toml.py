"""Parse TOML, but refuse numbers of thousands of digits: Python cannot print them."""

from __future__ import annotations

import re
import tomllib
from typing import Any

_HUGE = re.compile(r"0[xob]\w{1000}")  # tomllib refuses decimal numbers of such a length itself


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: It is not TOML, or has a number of thousands of digits.
        RecursionError: It is nested too deeply.
    """
    if _HUGE.search(text):
        raise ValueError("a number of more than 1,000 digits")
    return tomllib.loads(text)
