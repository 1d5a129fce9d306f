"""Watching a results folder: when it changes, and which runs are in progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ablate.base.text import printable
from ablate.report.render.run_images import preview_files
from ablate.store import tables
from ablate.store.artifacts import working_folders
from ablate.store.schema import SCHEMAS

POLL_S = 2.0


def changes(folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Yield at once, and again whenever a table or the progress of a run changes.

    Args:
        folder: The results folder.
        sleep: Waits for a number of seconds.
    """
    last = None
    while True:
        state = _state(folder)
        if state != last:
            last = state
            yield
        sleep(POLL_S)


def _state(folder: Path) -> tuple[object, ...]:
    return in_progress(folder), *(tables.stamp(folder, table) for table in SCHEMAS)


def in_progress(folder: Path) -> tuple[str, ...]:
    """Return a line for each run that has started and not finished, with its newest preview."""
    lines = []
    for run_id, path in sorted(working_folders(folder).items()):
        line = printable(run_id)
        previews = preview_files(path)
        if previews:
            step = max(previews)
            line += f": preview of step {step}: {printable(previews[step])}"
        else:
            line += ": started"
        lines.append(line)
    return tuple(lines)
