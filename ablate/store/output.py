"""Checks of the output files that a user names on the command line."""

from __future__ import annotations

import os
from pathlib import Path

from ablate.base.errors import AblateError


def check_output(path: Path, suffixes: tuple[str, ...], *, force: bool) -> None:
    """Refuse an output file that cannot be written, before any work is done.

    Args:
        path: The file.
        suffixes: The allowed endings, lower case, with their dots.
        force: Whether an existing file may be overwritten.

    Raises:
        AblateError: The ending is not allowed, the file exists and `force` is off, or its folder
            cannot be written.
    """
    if path.suffix.lower() not in suffixes:
        raise AblateError(f"--output {path}: ends in {path.suffix or 'nothing'}; allowed: {', '.join(suffixes)}")
    if path.is_dir() or (path.exists() and not force):
        raise AblateError(f"--output {path}: exists already; choose another name, or overwrite it with --force")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise AblateError(f"--output {path}: {path.parent} is not a writable folder; choose another")
