"""One live table on stderr: the study, and of each running piece of work its name, how far, how fast, how long still, and a note."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress


STUDY = "study"  # the name of its bar


class Task:
    """One bar; does nothing where there are no bars."""

    def __init__(self, bars: rich.progress.Progress | None, name: str, total: int) -> None:
        self._bars = bars
        self._id = None if bars is None else bars.add_task(name, total=total, note="", left="")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more as done; an empty `note` leaves the last one standing."""
        if self._bars is not None and self._id is not None:
            self._bars.advance(self._id, n)
            if note:
                self._bars.update(self._id, note=note)

    def show(self, name: str, total: int, done: int, note: str) -> None:
        """Show how work stands that is done elsewhere; another name starts the bar anew."""
        if self._bars is not None and self._id is not None:
            if name != self._bars.tasks[self._bars.task_ids.index(self._id)].description:
                self._bars.reset(self._id, total=total, description=name)
            self._bars.update(self._id, total=total, completed=done, note=note)

    def remove(self) -> None:
        """Take the bar off the screen, so that a long study does not pile them up."""
        if self._bars is not None and self._id is not None:
            self._bars.remove_task(self._id)


class Study(Task):
    """The bar of a whole study: how many of its runs are settled, how many under way, and about how long it takes still."""

    def __init__(self, bars: rich.progress.Progress | None, total: int) -> None:
        super().__init__(bars, STUDY, total)
        self._total, self._made, self._skipped, self._start = total, 0, 0, time.monotonic()

    def left_to(self, skipped: int, under_way: int) -> None:
        """Tell how many runs were skipped so far, and how many are under way."""
        self._skipped = skipped
        if self._bars is not None and self._id is not None and self._made:
            left = self._total - self._made - self._skipped
            left_s = (time.monotonic() - self._start) / self._made * left
            self._bars.update(self._id, left=str(timedelta(seconds=round(left_s))))
        self.show(STUDY, self._total, self._made + self._skipped, f"{under_way} under way")

    def made_one(self, under_way: int = 0) -> None:
        """Count a run as made."""
        self._made += 1
        self.left_to(self._skipped, under_way)


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
            self._print(text)

    def result(self, text: str) -> None:
        """Write a line to stdout, above the bars if both are on one terminal."""
        if self._bars is None or not sys.stdout.isatty():
            print(text, flush=True)
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        """Write a line above the bars; anything else that writes to the terminal would mix with them."""
        assert self._bars is not None
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def study(self, total: int) -> Iterator[Study]:
        """Show a bar for a study of `total` runs above theirs; none for a single run."""
        study = Study(self._bars if total > 1 else None, total)
        try:
            yield study
        finally:
            study.remove()

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
            speed = (task.speed or 0.0) if task.description != STUDY else 0.0  # a study's runs are too few for one
            return Text(f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s" if speed else "", style="cyan")

    class Left(rp.TimeRemainingColumn):
        def render(self, task: rp.Task) -> Text:
            return Text(task.fields["left"], style="cyan") if task.description == STUDY else super().render(task)

    class Cut(rp.ProgressColumn):
        """A text that leaves room for the numbers on a narrow screen."""

        def __init__(self, read: Callable[[rp.Task], str], most: int, style: str = "") -> None:
            super().__init__()
            self.read, self.most, self.style = read, most, style

        def render(self, task: rp.Task) -> Text:
            text = Text(self.read(task), style=self.style, no_wrap=True)
            text.truncate(self.most, overflow="ellipsis")
            return text

    # stdout carries the result: it may pass through the bars' console only where both are the same screen.
    console = Console(stderr=True, force_terminal=True)
    narrow = console.width < 110
    name = Cut(lambda task: task.description, 28 if narrow else 60)
    note = Cut(lambda task: str(task.fields["note"]), 18 if narrow else 60, "dim")
    columns = (name, rp.BarColumn(bar_width=8 if narrow else 24), rp.MofNCompleteColumn(), Rate(), Left(), note)
    return rp.Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty(), transient=True)
