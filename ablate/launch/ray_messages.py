"""What Ray workers send to the launcher while they run: progress, notes and checkpoints. No torch.

`ProgressActor` is an actor on the launcher's machine. `RemoteProgress` is a run's `Progress` that
writes to it. The launcher empties it several times a second.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ablate.base.progress import Phase, Progress, at_most_every

REPORT_EVERY_S = 0.5


class Updates(NamedTuple):
    """What came since the last `take`."""

    progress: dict[str, Phase]  # run -> its newest
    messages: list[str]
    files: dict[tuple[str, str], bytes]  # (run, file name) -> its newest content


class ProgressActor:
    """Keeps the newest updates until the launcher takes them."""

    def __init__(self) -> None:
        self._updates = Updates({}, [], {})

    def report(self, run_id: str, progress: Phase) -> None:
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
        self._actor = actor
        self._report = at_most_every(
            REPORT_EVERY_S, lambda phase: actor.report.remote(run_id, phase._replace(host=host))
        )

    def say(self, text: str, *, once: bool = False) -> None:
        """Send a line for the user."""
        self._actor.say.remote(text)
