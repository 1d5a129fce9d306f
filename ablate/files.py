"""Files that a reader never meets half written, the folder of what can be computed again, and what is safe to show and to allocate."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from ablate.errors import AblateError, ResultsError

# Read by numpy's and torch's libraries when they are first imported.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

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
def written(path: Path) -> Iterator[Path]:
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


def half_written(path: Path) -> bool:
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


def read_text(path: Path, most: int) -> str:
    """Read a small UTF-8 file.

    Raises:
        OSError: It cannot be read, or is not a regular file: a pipe would be waited for.
        ValueError: It has more than `most` bytes, or is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.stat().st_size:,} bytes; allowed: {most:,}")
    return content.decode()


def printable(text: object) -> str:
    """Return a text as one line that a terminal shows as it stands: what would steer it (escape, newline, bidi marks) is escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def host_bytes() -> int | None:
    """Return what this machine, or the container's limit, has of memory in all, in bytes; None where the system does not tell."""
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found, default=None)


def cache_folder() -> Path:
    """Return where shrunk layers, reference statistics and autoencoders are kept: `ABLATE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ABLATE_CACHE") or platformdirs.user_cache_dir("ablate"))


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
