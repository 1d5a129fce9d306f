"""Settings in a variant's name, as in `baseline[train.lr=0.0003]`, and the sweeps of `--set`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ablate.base.errors import VariantError
from ablate.base.text import split_outside_brackets
from ablate.base.toml import parse_toml

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_EXACT = 2**53  # up to here a float is written as a whole number


def parse_name(name: str) -> tuple[list[str], dict[str, Any]]:
    """Return the parts of a variant's name that are joined by `+`, and its settings.

    Raises:
        VariantError: Settings that cannot be read, or one key with two values.
    """
    parts, settings = [], dict[str, Any]()
    for part in split_outside_brackets(name, "+"):
        base, bracket, inner = part.strip().partition("[")
        parts.append(base.strip())
        if not bracket:
            continue
        if not inner.endswith("]"):
            raise VariantError(f"unknown variant {name!r}: its bracket is not closed; write baseline[train.lr=0.0003]")
        for setting in split_outside_brackets(inner[:-1], ","):
            key, value = _parse_setting(setting)
            if settings.setdefault(key, value) != value:
                raise VariantError(f"{name}: {key} is set to {settings[key]!r} and to {value!r}; choose one")
    return parts, settings


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as they end a variant's name, keys sorted; nothing if there are none."""
    return f"[{','.join(f'{key}={_text(settings[key])}' for key in sorted(settings))}]" if settings else ""


def joined(name: str, end: str) -> str:
    """Return a variant's name with further settings, as `sweep` returns them.

    Raises:
        VariantError: A key that the name sets already.
    """
    parts, settings = parse_name(name)
    _, more = parse_name(end)
    for key in sorted(settings.keys() & more.keys()):
        raise VariantError(f"{name}: {key} is set already, so it cannot be varied")
    return "+".join(parts) + settings_text(settings | more)


def sweep(texts: Iterable[str]) -> list[str]:
    """Return every combination of the values of `--set`, as the ends of variants' names.

    Args:
        texts: Each `key=value`, or `key=a,b` for one variant per value.

    Raises:
        VariantError: Not of that form, or a key that is given twice.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        first, *others = split_outside_brackets(text, ",")
        key, value = _parse_setting(first)
        if key in values:
            raise VariantError(f"{key} is given twice; write its values as in {key}=1,2")
        values[key] = [value, *(_parse_setting(f"{key}={other}")[1] for other in others)]
    combinations = itertools.product(*values.values())
    ends = (settings_text(dict(zip(values, combination, strict=True))) for combination in combinations)
    return list(dict.fromkeys(ends))


def _parse_setting(text: str) -> tuple[str, Any]:
    key, equals, given = (part.strip() for part in text.partition("="))
    if not (key and equals and given):
        raise VariantError(f"{text.strip()!r} is not a setting; write it as in train.lr=3e-4")
    return key, _parse_value(key, given)


def _parse_value(key: str, given: str) -> Any:
    """Parse a number, a word without quotes, or else a value of TOML."""
    if _NUMBER.fullmatch(given):
        number = float(given)
        return int(number) if number.is_integer() and abs(number) < _EXACT else number
    try:
        table = parse_toml(f"value = {given}")
    except (ValueError, RecursionError):
        table = {"value": given} if _WORD.fullmatch(given) else {}
    if set(table) != {"value"} or not isinstance(table["value"], bool | int | float | str | list):
        raise VariantError(f"{key}={given!a}: not a number, true, false, a word, a quoted string or a list")
    value = table["value"]
    if isinstance(value, str) and not _WORD.fullmatch(value):
        raise VariantError(f"{key}={given!a}: a string may have letters, digits, _ and - only")
    return value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("e+", "e")  # a + joins variants
