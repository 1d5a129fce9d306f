"""What one run carries from phase to phase, and the rows that it gathers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ablate.base.errors import LeaseLostError
from ablate.base.progress import Progress, Task
from ablate.data.datasets import ImageSet
from ablate.metrics.suite import Suite
from ablate.store import tables as results
from ablate.store.schema import RUN_TABLES
from ablate.study.plan import RunSpec
from ablate.training.checkpoint import SAVE_EVERY_S

Row = dict[str, Any]


@dataclass
class Tables:
    """The rows of one run, table by table, gathered while it goes on."""

    run: Row
    others: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in RUN_TABLES if table != "runs"})

    def add(self, table: str, row: Row) -> None:
        """Add a row, keyed by the run."""
        self.others[table].append({"run_id": self.run["run_id"], **row})

    def write(self, folder: Path, status: str, error: str | None = None) -> None:
        """Append the rows to the results folder's tables with a status."""
        self.run |= {"status": status, "error": error, "finished_at": datetime.now(UTC)}
        results.append(folder, {**self.others, "runs": [self.run]})

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that the block takes to a column such as `sample_wall_s`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.run[phase] = self.run.get(phase, 0.0) + time.monotonic() - start


@dataclass(frozen=True)
class Job:
    """What every phase of a run needs."""

    spec: RunSpec
    data: ImageSet
    tables: Tables
    artifacts: Path
    suite: Suite
    device: torch.device
    precision: str
    compiled: bool
    progress: Progress
    save_every_s: float = SAVE_EVERY_S
    cache: Path | None = None  # of trained autoencoders; None: the user's
    sketches: bool = False  # draw small grids while it trains
    still_ours: Callable[[], bool] = lambda: True  # False once another process has taken the run over

    def check_lease(self) -> None:
        """Raise a LeaseLostError if another process has taken the run over. Call it before each write."""
        if not self.still_ours():
            raise LeaseLostError(
                f"{self.tables.run['run_id']}: another process took this run over (ablate run --steal), so this one "
                "stops and writes nothing more; run the same command again for the runs that are left"
            )

    def task(self, name: str, total: int) -> AbstractContextManager[Task]:
        """Show a bar for a phase of this run."""
        return self.progress.task(f"{self.spec.variant} s{self.spec.seed}: {name}", total)
