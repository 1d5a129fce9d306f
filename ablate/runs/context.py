"""What every phase of a run needs, and the rows that the run gathers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ablate.base.errors import LeaseLostError
from ablate.base.progress import Progress, Task
from ablate.data.datasets import ImageSet
from ablate.metrics.networks import MetricNetworks
from ablate.store import tables
from ablate.store.schema import RUN_TABLES
from ablate.study.plan import RunSpec
from ablate.training.checkpoint import SAVE_EVERY_S

Row = dict[str, Any]


@dataclass
class RunRows:
    """The rows of one run: its row of `runs`, and its rows of the other tables by table."""

    run: Row
    others: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in RUN_TABLES if table != "runs"})

    def add(self, table: str, row: Row) -> None:
        """Add a row to a table other than `runs`, with the run's key."""
        self.others[table].append({"run_id": self.run["run_id"], **row})

    def write(self, folder: Path, status: str, error: str | None = None) -> None:
        """Append the rows to the results folder's tables, with a status.

        Raises:
            ResultsError: The tables cannot be read or written.
        """
        self.run |= {"status": status, "error": error, "finished_at": datetime.now(UTC)}
        tables.append(folder, {**self.others, "runs": [self.run]})

    def add_code(self, versions: Iterable[str]) -> None:
        """Add versions of the code, as `machine.code_version` gives them, to those that computed this run."""
        known = [json.dumps(version, sort_keys=True) for version in json.loads(self.run.get("code", "[]"))]
        self.run["code"] = f"[{', '.join(dict.fromkeys([*known, *versions]))}]"

    @contextmanager
    def timed(self, column: str) -> Iterator[None]:
        """Add the seconds that the block takes to a column such as `sample_wall_s`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.run[column] = self.run.get(column, 0.0) + time.monotonic() - start


@dataclass(frozen=True)
class RunContext:
    """The inputs, the rows and the settings of one run.

    Attributes:
        spec: What is run.
        data: The images.
        rows: The rows, filled phase by phase.
        artifacts: The folder that the run writes its files to.
        networks: What samples are measured with.
        device: Where everything computes.
        precision: `fp32` or `bf16`.
        compiled: Whether the training step is compiled.
        progress: Bars to show.
        save_every_s: Seconds between checkpoints.
        cache: Folder of trained autoencoders; None: the user's.
        previews: Draw small grids during training.
        still_ours: Returns False once another process has taken the run over.
    """

    spec: RunSpec
    data: ImageSet
    rows: RunRows
    artifacts: Path
    networks: MetricNetworks
    device: torch.device
    precision: str
    compiled: bool
    progress: Progress
    save_every_s: float = SAVE_EVERY_S
    cache: Path | None = None
    previews: bool = False
    still_ours: Callable[[], bool] = lambda: True

    def check_lease(self) -> None:
        """Stop if another process has taken the run over. Call this before each write.

        Raises:
            LeaseLostError: The run has another owner.
        """
        if not self.still_ours():
            raise LeaseLostError(
                f"{self.rows.run['run_id']}: another process took this run over (ablate run --steal), so this one "
                "stops and writes nothing more; run the same command again for the runs that are left"
            )

    def task(self, name: str, total: int) -> AbstractContextManager[Task]:
        """Show a bar for a phase of this run."""
        return self.progress.task(f"{self.spec.variant} s{self.spec.seed}: {name}", total)
