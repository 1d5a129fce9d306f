"""Files that a reader never meets half written, and the folder of what can be computed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; flush it to the disk and put it in place of `path` when the block ends well.

    Raises:
        OSError: The folder or the file cannot be written; what stood at `path` is as it was, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Return where shrunk layers, reference statistics and autoencoders are kept: `ABLATE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ABLATE_CACHE") or platformdirs.user_cache_dir("ablate"))
