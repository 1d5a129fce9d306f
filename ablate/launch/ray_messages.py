"""What runs on other machines tell the launcher: how far they are, notes, and their checkpoints. No torch.

`Board` is an actor beside the launcher, which empties it several times a second; `Relay` is a run's `Progress`, which writes to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ablate.base.progress import Progress, Task

EVERY_S = 0.5  # between two reports of a run


class State(NamedTuple):
    """How a run stands: `done` of `total` units of a phase such as `baseline s0: train`, and where."""

    name: str
    total: int
    done: int
    note: str
    place: str


class News(NamedTuple):
    """What came since the last look."""

    states: dict[str, State]  # of runs, the newest
    said: list[str]
    files: dict[tuple[str, str], bytes]  # (run, name) -> its newest content


class Board:
    """Keeps the newest of everything until it is taken."""

    def __init__(self) -> None:
        self._news = News({}, [], {})

    def tell(self, run_id: str, state: State) -> None:
        """Note how a run stands."""
        self._news.states[run_id] = state

    def say(self, text: str) -> None:
        """Note a line for the user."""
        self._news.said.append(text)

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Hold a checkpoint's file."""
        self._news.files[run_id, name] = content

    def take(self) -> News:
        """Return what came since the last call."""
        news, self._news = self._news, News({}, [], {})
        return news


class Relay(Progress):
    """The progress of a run that is made elsewhere: its newest phase goes to the board, not too often."""

    def __init__(self, board: Any, run_id: str, place: str) -> None:
        """Write to the board (an actor's handle) as a run, made at a place."""
        super().__init__(enabled=False)
        self._board, self._run_id, self._place, self._told_s = board, run_id, place, 0.0

    def say(self, text: str) -> None:
        """Send a line for the user."""
        self._board.say.remote(text)

    def tell(self, name: str, total: int, done: int, note: str) -> None:
        """Send how the run stands, unless it was sent just now."""
        if time.monotonic() - self._told_s > EVERY_S or not done:
            self._told_s = time.monotonic()
            self._board.tell.remote(self._run_id, State(name, total, done, note, self._place))

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """Send the phase's name, and how far it is."""
        yield _RelayTask(self, name, total)


class _RelayTask(Task):
    def __init__(self, relay: Relay, name: str, total: int) -> None:
        super().__init__(None, name, total)
        self._relay, self._name, self._total, self._done, self._note = relay, name, total, 0, ""
        relay.tell(name, total, 0, "")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more as done."""
        self._done, self._note = self._done + n, note or self._note
        self._relay.tell(self._name, self._total, self._done, self._note)
