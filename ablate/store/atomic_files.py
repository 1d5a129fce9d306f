"""Files that are replaced whole: a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ablate.base.errors import ResultsError
from ablate.base.text import printable

_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Give a temporary path to write to; flush it to the disk and put it in place of `path` when the block ends well.

    Args:
        path: What is written.
        previous: Where to keep what stood at `path`. Between the two renames it is the only one of the two that is there.

    Raises:
        OSError: The folder or the file cannot be written; what stood at `path` is as it was, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by the process's number alone: two containers that share a folder may both have it.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # safetensors writes for the owner alone
        if previous is not None and path.is_file():
            path.replace(previous)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, as `replacing` does.

    Raises:
        ResultsError: The folder or the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise ResultsError(
            f"{printable(path)}: cannot be written ({error}); free some space or choose another folder"
        ) from error


def is_temporary(path: Path) -> bool:
    """Tell whether a file is one that a process is writing, or was when it was killed: `replacing`'s, or `.tmp...` of safetensors."""
    return path.suffix == ".tmp" or path.name.startswith(".tmp")


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder survive a power cut themselves."""
    if os.name == "nt":  # no handle on a folder there; the rename is journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
