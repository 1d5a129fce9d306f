"""Progress on stderr: a bar for each task, and a last line for the study.

A small terminal gets one line in place of the bars. What a run is doing can also be reported to a
function, with or without bars: `Progress.reporting`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ablate.base.errors import AblateError
from ablate.base.text import duration, message, printable, printable_lines

if TYPE_CHECKING:
    import rich.progress
    from rich.console import RenderableType
    from rich.text import Text

UPDATE_EVERY_S = 2.0  # between two looks at the state of a study
LEAST_WIDTH = 80  # columns of a terminal that gets a bar for each task


class Phase(NamedTuple):
    """How far a run is: `done` of `total` units of a phase such as `baseline s0: train`.

    Attributes:
        name: The phase.
        total: Its units, such as steps or images.
        done: Those that are done.
        note: A few words, such as the loss.
        unit_s: Mean seconds of a unit in this process; None: not known yet.
        host: The machine that makes the run; empty: the one that reports it.
    """

    name: str
    total: int
    done: int = 0
    note: str = ""
    unit_s: float | None = None
    host: str = ""


class StudyState(NamedTuple):
    """How far a study is.

    Attributes:
        total: Its runs.
        ended: Runs that have ended.
        running: Runs that are being made now, by any process.
        left_s: Estimated seconds until all have ended; None: unknown.
        at_most: Whether some of the runs may turn out not to be needed.
    """

    total: int
    ended: int
    running: int
    left_s: float | None
    at_most: bool = False

    def __str__(self) -> str:
        """Return the state in a few words: `runs 7 of 40 · 1 h 12 min left`."""
        most = "at most " if self.at_most else ""
        words = f"runs {self.ended:,} of {most}{self.total:,}"
        return words if self.left_s is None else f"{words} · {most}{duration(self.left_s)} left"


def at_most_every(seconds: float, send: Callable[[Phase], None]) -> Callable[[Phase], None]:
    """Return a function that sends the first report of each phase, and others no more often than that."""
    name: str | None = None
    sent_s = 0.0

    def report(phase: Phase) -> None:
        nonlocal name, sent_s
        if phase.name != name or time.monotonic() - sent_s >= seconds:
            name, sent_s = phase.name, time.monotonic()
            send(phase)

    return report


class Task:
    """One bar. Without bars it only reports."""

    def __init__(
        self,
        bars: rich.progress.Progress | None,
        name: str,
        total: int,
        report: Callable[[Phase], None] = lambda phase: None,
    ) -> None:
        self._bars, self._report, self._phase = bars, report, Phase(name, total)
        # Moment and units of the first advance: a run may be resumed, or compile in its first step.
        self._first: tuple[float, int] | None = None
        self._id = None if bars is None else bars.add_task(name, total=total, note="")
        report(self._phase)

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units as done; an empty `note` keeps the last one."""
        done, now, unit_s = self._phase.done + n, time.monotonic(), None
        if self._first is not None and done > self._first[1]:
            unit_s = (now - self._first[0]) / (done - self._first[1])
        elif self._first is None and n:
            self._first = (now, done)
        self._phase = self._phase._replace(done=done, note=note or self._phase.note, unit_s=unit_s)
        if self._bars is not None and self._id is not None:
            self._bars.advance(self._id, n)
            if note:
                self._bars.update(self._id, note=note)
        self._report(self._phase)

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


class Study:
    """The line of a study. Without bars, or for a single run, there is none."""

    def __init__(self, state: Callable[[], StudyState] | None = None) -> None:
        """Show what `state` returns; None: nothing."""
        self._state, self._looked_s, self._shown = state, 0.0, StudyState(0, 0, 0, None)

    def update(self, *, now: bool = False) -> None:
        """Refresh the line of the study, at most every few seconds unless `now` is set."""
        if self._state is not None and (now or time.monotonic() - self._looked_s >= UPDATE_EVERY_S):
            with suppress(AblateError):  # what is wrong with a table is said by who needs it
                self._shown = self._state()
            self._looked_s = time.monotonic()

    def __str__(self) -> str:
        """Return the line; empty: there is none."""
        state = self._shown
        if state.total < 2:
            return ""
        if state.left_s is not None:  # the clock goes on between two looks
            state = state._replace(left_s=max(0.0, state.left_s - (time.monotonic() - self._looked_s)))
        return f"{state} · {state.running} under way" if state.running else str(state)


class Progress:
    """Shows bars inside its `with` block.

    Args:
        enabled: Draw bars; None: only on a terminal, and in a notebook that has ipywidgets.
    """

    def __init__(self, *, enabled: bool | None = None) -> None:
        self._said_once: set[str] = set()
        self._study = Study()
        self._report: Callable[[Phase], None] = lambda phase: None
        drawn = _is_terminal(sys.stderr) or _in_notebook() if enabled is None else enabled
        self._bars = _bars(lambda: str(self._study)) if drawn else None

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
    def study(self, state: Callable[[], StudyState]) -> Iterator[Study]:
        """Show the line of a study below the bars until the block ends; none for a single run.

        Args:
            state: Returns how far the study is. It is called every few seconds while a task
                advances, and only if there are bars.
        """
        self._study = Study(state if self._bars is not None else None)
        self._study.update()
        try:
            yield self._study
        finally:
            self._study = Study()

    @contextmanager
    def reporting(self, report: Callable[[Phase], None]) -> Iterator[None]:
        """Call `report` in the block whenever a task starts or advances."""
        before, self._report = self._report, report
        try:
            yield
        finally:
            self._report = before

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """Show a bar for `total` units of work until the block ends."""
        task = Task(self._bars, name, total, self._reported)
        try:
            yield task
        finally:
            task.remove()

    def _reported(self, phase: Phase) -> None:
        self._report(phase)
        self._study.update()


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: it was closed before the program began


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None


def is_small(width: int, height: int, lines: int) -> bool:
    """Return whether a terminal is too small for a table of so many lines. It gets one line instead."""
    return width < LEAST_WIDTH or height <= lines


def _bars(study: Callable[[], str]) -> rich.progress.Progress:
    from rich import progress as rp
    from rich.console import Console
    from rich.text import Text

    class Rate(rp.ProgressColumn):
        def render(self, task: rp.Task) -> Text:
            return Text(_rate(task.speed), style="cyan")

    class Cut(rp.ProgressColumn):
        """A text that is cut to leave room for the other columns."""

        def __init__(self, read: Callable[[rp.Task], str], most: int, style: str = "") -> None:
            super().__init__()
            self.read, self.most, self.style = read, most, style

        def render(self, task: rp.Task) -> Text:
            text = Text(printable(self.read(task)), style=self.style, no_wrap=True)
            text.truncate(self.most, overflow="ellipsis")
            return text

    class Bars(rp.Progress):
        """A line for each task, then the line of the study."""

        def get_renderables(self) -> Iterable[RenderableType]:
            line, tasks = study(), self.tasks
            if is_small(console.width, console.height, len(tasks) + bool(line)):
                yield _one_line(line, tasks)
                return
            yield self.make_tasks_table(tasks)
            if line:
                yield Text(line)

    # stdout carries results: print() may go through the console only if both are a terminal.
    console = Console(stderr=True, force_terminal=None if _in_notebook() else True)
    narrow = console.width < 110
    name = Cut(lambda task: task.description, 28 if narrow else 60)
    note = Cut(lambda task: str(task.fields["note"]), 18 if narrow else 60, "dim")
    bar = rp.BarColumn(bar_width=8 if narrow else 24)
    columns = (name, bar, rp.MofNCompleteColumn(), Rate(), rp.TimeRemainingColumn(), note)
    return Bars(*columns, console=console, redirect_stdout=_is_terminal(sys.stdout), transient=True)


def _rate(speed: float | None) -> str:
    if not speed:
        return ""
    return f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s"


def _one_line(study: str, tasks: Iterable[rich.progress.Task]) -> Text:
    """Return the line of the study and the newest task, cut at the terminal's width."""
    from rich.text import Text

    parts = [study] if study else []
    for task in list(tasks)[-1:]:
        parts.append(f"{task.description} {task.completed:,.0f}/{task.total or 0:,.0f}")
        parts += [_rate(task.speed)] if task.speed else []
        if not study and task.time_remaining is not None:
            parts.append(f"{duration(task.time_remaining)} left")
    return Text(printable(" · ".join(parts)), no_wrap=True, overflow="ellipsis")
