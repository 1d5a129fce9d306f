"""Progress bars on stderr: the work's name, how far, how fast, how long still, and a note such as the loss."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress


class Task:
    """One bar; does nothing where there are no bars."""

    def __init__(self, bars: rich.progress.Progress | None, name: str, total: int) -> None:
        self._bars = bars
        self._id = None if bars is None else bars.add_task(name, total=total, note="")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more as done; an empty `note` leaves the last one standing."""
        if self._bars is not None and self._id is not None:
            self._bars.advance(self._id, n)
            if note:
                self._bars.update(self._id, note=note)

    def remove(self) -> None:
        """Take the bar off the screen, so that a long study does not pile them up."""
        if self._bars is not None and self._id is not None:
            self._bars.remove_task(self._id)


class Progress:
    """Shows the bars of running tasks between `__enter__` and `__exit__`.

    Args:
        enabled: Draw bars at all; None: only where stderr is a terminal.
    """

    def __init__(self, *, enabled: bool | None = None) -> None:
        self._bars = _bars() if (sys.stderr.isatty() if enabled is None else enabled) else None

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Write a line to stderr, above the bars where there are some."""
        if self._bars is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """Show a bar for `total` units of work; it goes when the block ends."""
        task = Task(self._bars, name, total)
        try:
            yield task
        finally:
            task.remove()


def _bars() -> rich.progress.Progress:
    from rich import progress as rp
    from rich.console import Console
    from rich.text import Text

    class Rate(rp.ProgressColumn):
        def render(self, task: rp.Task) -> Text:
            speed = task.speed or 0.0
            return Text(f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s" if speed else "", style="cyan")

    name = rp.TextColumn("{task.description}", markup=False)
    note = rp.TextColumn("{task.fields[note]}", markup=False, style="dim")
    columns = (name, rp.BarColumn(bar_width=24), rp.MofNCompleteColumn(), Rate(), rp.TimeRemainingColumn(), note)
    # stdout carries the result: it may pass through the bars' console only where both are the same screen.
    console = Console(stderr=True, force_terminal=True)
    return rp.Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty(), transient=True)
