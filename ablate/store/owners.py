"""The process that holds a lock, in a JSON file beside it."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ablate.base.text import printable

MAX_BYTES = 4096  # of a file beside a lock
Note = TypeVar("Note", bound=BaseModel)


def read_note(path: Path, kind: type[Note]) -> Note | None:
    """Return what a small JSON file says; None if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            return kind.model_validate_json(file.read(MAX_BYTES))
    except (OSError, ValidationError):
        return None


class Owner(BaseModel, frozen=True, strict=True):
    """The process that holds a lock, and since when (ISO 8601, UTC). `pid` None: unknown."""

    pid: int | None = None
    host: str = ""
    since: str = ""

    @classmethod
    def here(cls) -> Owner:
        """Return this process, from now."""
        return cls(pid=os.getpid(), host=socket.gethostname(), since=datetime.now(UTC).isoformat())

    @classmethod
    def read(cls, path: Path) -> Owner:
        """Return the owner that a file names; an unknown one if it is missing or damaged."""
        return read_note(path, cls) or cls()

    def write(self, path: Path) -> None:
        """Write the owner to a file."""
        path.write_text(self.model_dump_json(), encoding="utf-8")

    def is_named_in(self, path: Path) -> bool:
        """Return whether a file names this owner."""
        return Owner.read(path) == self

    def may_live(self) -> bool:
        """Return whether the owner may be alive: no only for a process of this machine that has ended."""
        if self.pid is None or os.name == "nt" or self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True

    def describe(self) -> str:
        """Return the owner in a few printable words."""
        known = f"process {self.pid} on {printable(self.host)} since {printable(self.since[:19])} UTC"
        return "another process" if self.pid is None else known
