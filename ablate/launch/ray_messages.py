"""What Ray workers send to the launcher while they run: progress, notes and checkpoints. No torch.

`ProgressActor` is an actor on the launcher's machine. `RemoteProgress` is a run's `Progress` that
writes to it. The launcher empties it several times a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ablate.base.progress import Progress, Task

REPORT_EVERY_S = 0.5


class PhaseProgress(NamedTuple):
    """The progress of a run: `done` of `total` units of a phase such as `baseline s0: train`."""

    name: str
    total: int
    done: int
    note: str
    host: str


class Updates(NamedTuple):
    """What came since the last `take`."""

    progress: dict[str, PhaseProgress]  # run -> its newest
    messages: list[str]
    files: dict[tuple[str, str], bytes]  # (run, file name) -> its newest content


class ProgressActor:
    """Keeps the newest updates until the launcher takes them."""

    def __init__(self) -> None:
        self._updates = Updates({}, [], {})

    def report(self, run_id: str, progress: PhaseProgress) -> None:
        """Record the progress of a run."""
        self._updates.progress[run_id] = progress

    def say(self, text: str, *, once: bool = False) -> None:
        """Record a line for the user."""
        self._updates.messages.append(text)

    def keep_file(self, run_id: str, name: str, content: bytes) -> None:
        """Record a checkpoint's file."""
        self._updates.files[run_id, name] = content

    def take(self) -> Updates:
        """Return what came since the last call."""
        updates, self._updates = self._updates, Updates({}, [], {})
        return updates


class RemoteProgress(Progress):
    """The progress of a run on another machine. It sends its newest phase to the actor."""

    def __init__(self, actor: Any, run_id: str, host: str) -> None:
        """Report as a run on a host to an actor (its handle)."""
        super().__init__(enabled=False)
        self._actor, self._run_id, self._host, self._sent_s = actor, run_id, host, 0.0

    def say(self, text: str, *, once: bool = False) -> None:
        """Send a line for the user."""
        self._actor.say.remote(text)

    def report(self, name: str, total: int, done: int, note: str) -> None:
        """Send the progress of a phase, at most once every `REPORT_EVERY_S` seconds."""
        if time.monotonic() - self._sent_s > REPORT_EVERY_S or not done:
            self._sent_s = time.monotonic()
            self._actor.report.remote(self._run_id, PhaseProgress(name, total, done, note, self._host))

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """Report the progress of a phase while the block runs."""
        yield _RemoteTask(self, name, total)


class _RemoteTask(Task):
    def __init__(self, progress: RemoteProgress, name: str, total: int) -> None:
        super().__init__(None, name, total)
        self._progress, self._name, self._total, self._done, self._note = progress, name, total, 0, ""
        progress.report(name, total, 0, "")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units as done."""
        self._done, self._note = self._done + n, note or self._note
        self._progress.report(self._name, self._total, self._done, self._note)
