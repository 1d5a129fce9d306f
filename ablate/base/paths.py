"""Names from tables as parts of paths: a table may come from anyone."""

from __future__ import annotations

import os
from pathlib import Path

from ablate.base.errors import ResultsError
from ablate.base.text import printable

MAX_BYTES = 230  # of a name: file systems allow 255, and a working folder adds 17


def path_component(name: object, what: str, table: Path) -> str:
    """Return a name that is one plain component of a path.

    Args:
        name: The name, as a table holds it.
        what: What it names, for the error: "a run".
        table: The table, for the error.

    Raises:
        ResultsError: It is no text, empty, `.` or `..`, too long, or holds a separator, a drive or
            an unprintable character.
    """
    plain = isinstance(name, str) and name.isprintable() and not set(name) & {"/", "\\", ":"}
    if not isinstance(name, str) or not plain or name in ("", ".", ".."):
        raise ResultsError(f"{table}: {printable(repr(name))} cannot be {what}: it is no plain file name")
    if len(os.fsencode(name)) > MAX_BYTES:
        raise ResultsError(f"{table}: {name!r} cannot be {what}: its name has more than {MAX_BYTES} bytes")
    return name
