"""The runs of a study that are still to be made, shared with other processes that work in the same results folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

from ablate.base.signals import handled
from ablate.data.datasets import ImageSet
from ablate.launch.leases import Claims
from ablate.runs.job import Row
from ablate.runs.pipeline import clean, working_folder
from ablate.store import tables
from ablate.study.plan import RunSpec

POLL_S = 2.0  # between two looks at what other processes make
AS_FAILED = ("failed", "diverged")


class Again(StrEnum):
    """Which runs of a study are made."""

    unfinished = "unfinished"  # all but finished ones
    failed = "failed"  # failed and diverged ones only
    all = "all"  # finished ones too


@dataclass
class Turn:
    """A run that this process holds the claim of, and what is to be done with it; leaving the block gives the claim back."""

    run_id: str
    spec: RunSpec
    quantise: bool  # it has finished: measure the schemes and scopes that it lacks; else make it
    finished_before: bool
    claim: ExitStack

    @property
    def row(self) -> Row:
        """The run's name and seed: what can be told of it before it is made."""
        return {"run_id": self.run_id, "variant": self.spec.variant, "seed": self.spec.seed}

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *exception: object) -> None:
        self.claim.close()


class Share:
    """Deals out the runs of a study, one after another, as their claims can be had.

    Attributes:
        session: Names the latencies that are measured of finished runs.
        total: The runs of the study.
        settled: How many of them were skipped, with why told.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        data: ImageSet,
        folder: Path,
        *,
        again: Again,
        quantize_finished: bool,
        on_row: Callable[[Row, str], None],
        say: Callable[[str], None],
    ) -> None:
        """Look at the results folder as it is now.

        Args:
            specs: The study.
            data: Its pictures.
            folder: The results folder.
            again: Which runs are made, by how they ended before.
            quantize_finished: Finished runs are measured in the schemes and scopes that they lack.
            on_row: Called with the name and seed of a run that is skipped, and why.
            say: Called with a line for the user.
        """
        self._folder, self._again, self._quantize_finished = folder, again, quantize_finished
        self._on_row, self._say = on_row, say
        self._claims, self._at_start = Claims(folder), endings(folder)
        self._waiting = {spec.run_id(data.name, data.digest): spec for spec in specs}
        self.session = f"quantize-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self.total, self.settled = len(self._waiting), 0

    def turns(self) -> Iterator[Turn | None]:
        """Yield the runs that this process is to make, until every run is settled or was yielded.

        None comes after a look at all that are left, where other processes hold every one: wait before the next.
        """
        told: set[str] = set()
        while self._waiting:
            took_one = False
            for run_id, spec in list(self._waiting.items()):
                why = self._settled(run_id)
                if (
                    why is not None
                    and not self._quantize_finished
                    and (self._again is Again.failed or not working_folder(self._folder, run_id).exists())
                ):
                    self._skip(run_id, why)
                    continue
                with ExitStack() as stack:
                    holder = stack.enter_context(self._claims.take(run_id))
                    if holder is not None:
                        if run_id not in told:
                            self._say(f"{run_id}: {holder.describe()} is making it")
                            told.add(run_id)
                        continue
                    took_one = True
                    # Between the first look and the claim another process may have finished it.
                    why = self._settled(run_id)
                    if why is not None and not (clean(self._folder, run_id) and self._quantize_finished):
                        self._skip(run_id, why)
                        continue
                    del self._waiting[run_id]
                    before = self._at_start.get(run_id, ("",))[0] == "done"
                    yield Turn(run_id, spec, why is not None, before, stack.pop_all())
            if self._waiting and not took_one:
                yield None

    def _skip(self, run_id: str, why: str) -> None:
        spec = self._waiting.pop(run_id)
        self.settled += 1
        self._on_row({"run_id": run_id, "variant": spec.variant, "seed": spec.seed}, why)

    def _settled(self, run_id: str) -> str | None:
        """Why a run is not to be made, by the table as it is now, or None where it is."""
        now, before = endings(self._folder).get(run_id), self._at_start.get(run_id)
        # Times are compared for being the same, never for order: a clock may have been set back between the two.
        if now is not None and now != before and now[0] != "interrupted":
            return f"{now[0]} meanwhile by another process"
        if self._again is Again.failed and (before is None or before[0] not in AS_FAILED):
            return f"{'not run yet' if before is None else before[0]}; --failed leaves it"
        if self._again is Again.unfinished and before is not None and before[0] == "done":
            return "done before; skipped (--force makes it again)"
        return None


def endings(folder: Path) -> dict[str, tuple[str, Any]]:
    """Return how each run of a results folder ended, and when."""
    runs = tables.read(folder, "runs")
    return {
        run_id: (status, moment)
        for run_id, status, moment in zip(runs["run_id"], runs["status"], runs["finished_at"], strict=True)
    }


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that what was begun is recorded."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled(interrupt, signal.SIGTERM):
        yield
