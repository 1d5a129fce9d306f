"""Output files that a user names on the command line."""

from __future__ import annotations

import os
from pathlib import Path

from ablate.base.errors import AblateError


def check_output(path: Path, suffixes: tuple[str, ...], *, force: bool) -> None:
    """Refuse an output file that cannot be written, before any work is done.

    Raises:
        AblateError: Its ending is not allowed, it stands there already and `force` is not given, or its folder cannot be written.
    """
    if path.suffix.lower() not in suffixes:
        raise AblateError(f"--output {path}: ends in {path.suffix or 'nothing'}; allowed: {', '.join(suffixes)}")
    if path.is_dir() or (path.exists() and not force):
        raise AblateError(f"--output {path}: stands there already; choose another name, or overwrite it with --force")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise AblateError(f"--output {path}: {path.parent} is not a folder that can be written; choose another")
