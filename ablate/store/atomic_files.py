"""Files replaced atomically: a reader sees the old or the new content, never a part of one.

Also the check of the output files that a user names.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ablate.base.errors import AblateError, ResultsError, how_to_fix
from ablate.base.text import printable

WORKING = ".part"  # suffix of the working folder of a run


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary file to write to.

    When the block ends without an error, flush it to the disk and rename it to `path`.

    Args:
        path: The file to replace. Its folder is created, unless it is the working folder of a run:
            one that is gone belongs to another process now.
        previous: Where to keep the old file. It is the only one of the two that exists between the
            two renames.

    Yields:
        The path of an empty file beside `path`.

    Raises:
        OSError: The folder or the file cannot be written. The old file is unchanged, and no
            temporary file is left.
    """
    if path.parent.suffix != WORKING:
        path.parent.mkdir(parents=True, exist_ok=True)
    # The process id alone is not unique: two containers that share a folder may have the same one.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # as the umask allows; safetensors replaces the file with one of mode 0600
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
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
    """Yield a temporary file to write to, as `replacing` does, with an error for the user.

    Raises:
        ResultsError: The folder or the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise ResultsError(
            f"{printable(path)}: cannot be written ({error}); {how_to_fix(error)}, or choose another folder"
        ) from error


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


def is_temporary(path: Path) -> bool:
    """Return whether a file is a temporary one: of `replacing`, or `.tmp...` of safetensors.

    A killed process leaves it.
    """
    return path.suffix == ".tmp" or path.name.startswith(".tmp")


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk: renames in it then survive a power cut."""
    if os.name == "nt":  # folders have no handle there; renames are journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
