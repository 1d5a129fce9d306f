"""How far a run is that is being made, in a JSON file beside its lease. Other processes show it.

The file is for information only, and is missing where it cannot be written. A killed process leaves
it, so it means nothing without the run's lease.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field

from ablate.store.owners import read_note

NOTE = 200  # characters of the note that are kept
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=10**12)]


class RunProgress(BaseModel, frozen=True, strict=True):
    """A run that is being made, and how far it is.

    Attributes:
        variant, preset, seed, config_hash, plan_id: As in the run's row.
        started_at: When this process began to make the run, in seconds since 1970.
        written_at: When this was written, in seconds since 1970.
        host: The machine that makes it; empty: the one that holds the lease.
        phase: Such as `train`; empty: none has started.
        done: Units of the phase that are done.
        total: Units of the phase, such as steps.
        unit_s: Mean seconds of a unit; None: not known yet.
        note: A few words, such as the loss.
    """

    variant: str
    preset: str
    seed: Count
    config_hash: str
    plan_id: str | None
    started_at: Seconds
    written_at: Seconds
    host: str = ""
    phase: str = ""
    done: Count = 0
    total: Count = 0
    unit_s: Seconds | None = None
    note: str = ""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what a file says; None if it is missing or damaged."""
        return read_note(path, cls)

    def write(self, path: Path) -> None:
        """Replace a file, if that is possible. The caller holds the lock of the leases."""
        temporary = path.with_name(".new")
        shortened = self.model_copy(update={"note": self.note[:NOTE]})
        with suppress(OSError):
            try:
                temporary.write_text(shortened.model_dump_json(), encoding="utf-8")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since this process began to make the run."""
        return max(0.0, time.time() - self.started_at)

    @property
    def silent_s(self) -> float:
        """Seconds since this was written."""
        return max(0.0, time.time() - self.written_at)

    @property
    def phase_left_s(self) -> float | None:
        """Estimated seconds until the phase ends; None: unknown."""
        return None if self.unit_s is None else max(0.0, self.unit_s * (self.total - self.done) - self.silent_s)
