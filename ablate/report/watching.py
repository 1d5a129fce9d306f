"""Watching a results folder: what changed, and what is being made now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ablate.base.text import printable
from ablate.report.render.run_images import sketches

POLL_S = 2.0
WORKING = ".part"  # ends the names of the folders of runs that have not finished


def changes(folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Yield at once, and again whenever a table, or what is being made, is another than at the time before.

    Args:
        folder: The results folder.
        sleep: Waits so many seconds.
    """
    seen = None
    while True:
        now = _stamp(folder)
        if now != seen:
            seen = now
            yield
        sleep(POLL_S)


def _stamp(folder: Path) -> tuple[object, ...]:
    found: list[object] = [making(folder)]
    for path in sorted(folder.glob("*.parquet")):
        with suppress(OSError):  # replaced at this moment: the next look sees the new one
            state = path.stat()
            found.append((path.name, state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(found)


def making(folder: Path) -> tuple[str, ...]:
    """Return a line for each run that has begun and not finished, with the newest pictures that it has drawn."""
    lines = []
    for path in sorted((folder / "artifacts").glob(f"*{WORKING}")):
        line = printable(path.name.removesuffix(WORKING))
        drawn = sketches(path)
        lines.append(
            f"{line}: pictures of step {max(drawn)}: {printable(drawn[max(drawn)])}" if drawn else f"{line}: begun"
        )
    return tuple(lines)
