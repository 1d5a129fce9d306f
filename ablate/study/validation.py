"""Frozen pydantic models, and their errors in one line: what was given, what is allowed."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ablate.base.errors import did_you_mean

Location = tuple[int | str, ...]

WANTED = {  # kind of pydantic's error -> what the value must be
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a table",
    "string_type": "a string",
    "tuple_type": "a list",
}


class Settings(BaseModel):
    """A frozen, strict model without unknown keys: 2 becomes 2.0 for a float, nothing else converts.

    Attributes:
        newer: Keys that are newer than the first rows. A run's name leaves them out at their default.
    """

    newer: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def replaced(self, **changes: Any) -> Self:
        """Return a validated copy with other values.

        Args:
            changes: Field -> value; of a field that is itself a model, a dictionary of its changes.

        Raises:
            ValidationError: An unknown field, or a value that is not allowed.
        """
        values = dict(self)
        for name, change in changes.items():
            old = values.get(name)
            values[name] = old.replaced(**change) if isinstance(old, Settings) and isinstance(change, dict) else change
        return type(self).model_validate(values)


def explain(error: ValidationError, model: type[BaseModel], subject: Callable[[Location, Any], str]) -> str:
    """Return the first error in one line.

    Args:
        error: What pydantic raised.
        model: The model that was validated.
        subject: Names a location and the value given there, as in `model.width is 2.5;`.
    """
    first = error.errors(include_url=False)[0]
    at, given, kind, context = first["loc"], first["input"], first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _fields(model, at[:-1])
        near = did_you_mean(str(at[-1]), allowed)
        if near.endswith("?"):  # the whole key, as it is to be written
            near = near.replace("mean ", f"mean {dotted(at[:-1])}." if at[:-1] else "mean ")
        return f"unknown key {dotted(at)}{near} Allowed: {', '.join(allowed)}"
    if kind == "missing":
        return f"{dotted(at)} is missing"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        near, listed = did_you_mean(str(given), allowed)[1:].strip(), ", ".join(allowed)
        why = f"{near} Allowed: {listed}" if near else f"it must be one of: {listed}"
    elif kind in ("too_short", "too_long"):
        why = f"it must have {context.get('min_length', context.get('max_length'))} entries"
    elif kind in WANTED:
        why = f"it must be {WANTED[kind]}"
    else:  # our own validators' words, or pydantic's: "Input should be greater than 0"
        why = first["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
        why = why.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return f"{subject(at, given)} {why}".strip()


def dotted(at: Location) -> str:
    """Return a location as it is written in TOML: `model.head_channels[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def _fields(model: type[BaseModel], at: Location) -> list[str]:
    """Return the names of the fields of the model at a location."""
    for part in at:
        if isinstance(part, str) and part in model.model_fields:  # else the key of a dictionary
            model = _inner_model(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _inner_model(part))), None)
