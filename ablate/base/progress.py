"""Progress bars on stderr, for the study and for each task: rate, time left and a note."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from ablate.base.text import message, printable, printable_lines

if TYPE_CHECKING:
    import rich.progress


STUDY = "study"  # the name of its bar


class Task:
    """One bar. Without bars it does nothing."""

    def __init__(self, bars: rich.progress.Progress | None, name: str, total: int) -> None:
        self._bars = bars
        self._id = None if bars is None else bars.add_task(name, total=total, note="", left="")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units as done; an empty `note` keeps the last one."""
        if self._bars is not None and self._id is not None:
            self._bars.advance(self._id, n)
            if note:
                self._bars.update(self._id, note=note)

    def show(self, name: str, total: int, done: int, note: str) -> None:
        """Show the state of work in another process; a new name resets the bar."""
        if self._bars is not None and self._id is not None:
            if name != self._bars.tasks[self._bars.task_ids.index(self._id)].description:
                self._bars.reset(self._id, total=total, description=name)
            self._bars.update(self._id, total=total, completed=done, note=note)

    def remove(self) -> None:
        """Remove the bar from the screen."""
        if self._bars is not None and self._id is not None:
            self._bars.remove_task(self._id)


class Study(Task):
    """The bar of a study: runs that have ended, runs that are being made, and the time left."""

    def __init__(self, bars: rich.progress.Progress | None, total: int) -> None:
        super().__init__(bars, STUDY, total)
        self._total, self._made, self._skipped, self._start = total, 0, 0, time.monotonic()

    def left_to(self, skipped: int, under_way: int) -> None:
        """Show how many runs were skipped so far, and how many are being made."""
        self._skipped = skipped
        if self._bars is not None and self._id is not None and self._made:
            left = self._total - self._made - self._skipped
            left_s = (time.monotonic() - self._start) / self._made * left
            self._bars.update(self._id, left=str(timedelta(seconds=round(left_s))))
        self.show(STUDY, self._total, self._made + self._skipped, f"{under_way} under way")

    def made_one(self, under_way: int = 0) -> None:
        """Count one more run as made."""
        self._made += 1
        self.left_to(self._skipped, under_way)


class Progress:
    """Shows bars inside its `with` block.

    Args:
        enabled: Draw bars; None: only on a terminal, and in a notebook that has ipywidgets.
    """

    def __init__(self, *, enabled: bool | None = None) -> None:
        self._said_once: set[str] = set()
        self._bars = _bars() if (_is_terminal(sys.stderr) or _in_notebook() if enabled is None else enabled) else None

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str, *, once: bool = False) -> None:
        """Write a line to stderr, above the bars; with `once` not if it was written so before."""
        text = message(text) if text.startswith("note: ") else printable_lines(text)
        if once and text in self._said_once:
            return
        self._said_once |= {text} if once else set()
        if self._bars is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._print(text)

    def result(self, text: str) -> None:
        """Write a line to stdout, above the bars if both are on one terminal."""
        text = printable_lines(text)
        if self._bars is None or not _is_terminal(sys.stdout):
            print(text, flush=True)
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        """Write a line above the bars. Any other way to write would mix with them."""
        assert self._bars is not None
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def study(self, total: int) -> Iterator[Study]:
        """Show a bar for a study of `total` runs; none for a single run."""
        study = Study(self._bars if total > 1 else None, total)
        try:
            yield study
        finally:
            study.remove()

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """Show a bar for `total` units of work until the block ends."""
        task = Task(self._bars, name, total)
        try:
            yield task
        finally:
            task.remove()


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: it was closed before the program began


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None


def _bars() -> rich.progress.Progress:
    from rich import progress as rp
    from rich.console import Console
    from rich.text import Text

    class Rate(rp.ProgressColumn):
        def render(self, task: rp.Task) -> Text:
            speed = (task.speed or 0.0) if task.description != STUDY else 0.0  # a study has too few runs
            return Text(f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s" if speed else "", style="cyan")

    class Left(rp.TimeRemainingColumn):
        def render(self, task: rp.Task) -> Text:
            return Text(task.fields["left"], style="cyan") if task.description == STUDY else super().render(task)

    class Cut(rp.ProgressColumn):
        """A text that is cut to leave room for the other columns."""

        def __init__(self, read: Callable[[rp.Task], str], most: int, style: str = "") -> None:
            super().__init__()
            self.read, self.most, self.style = read, most, style

        def render(self, task: rp.Task) -> Text:
            text = Text(printable(self.read(task)), style=self.style, no_wrap=True)
            text.truncate(self.most, overflow="ellipsis")
            return text

    # stdout carries results: print() may go through the console only if both are a terminal.
    console = Console(stderr=True, force_terminal=None if _in_notebook() else True)
    narrow = console.width < 110
    name = Cut(lambda task: task.description, 28 if narrow else 60)
    note = Cut(lambda task: str(task.fields["note"]), 18 if narrow else 60, "dim")
    columns = (name, rp.BarColumn(bar_width=8 if narrow else 24), rp.MofNCompleteColumn(), Rate(), Left(), note)
    return rp.Progress(*columns, console=console, redirect_stdout=_is_terminal(sys.stdout), transient=True)
