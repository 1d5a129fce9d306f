"""The rows of the tables that one run gathers, and writes when it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ablate.store import tables
from ablate.store.schema import RUN_TABLES
from ablate.study.plan import RunSpec

Row = dict[str, Any]


class Data(Protocol):
    """What runs are compared on: a data set, or the label of a program's data."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


def columns_of(spec: RunSpec, data: Data, run_id: str) -> Row:
    """Return the columns of a run's row that are known before it is made."""
    return {
        "run_id": run_id,
        "variant": spec.variant,
        "axis": spec.axis,
        "preset": spec.preset,
        "seed": spec.seed,
        "data": data.name,
        "data_digest": data.digest,
        "budget": spec.budget,
        "plan_id": spec.plan_id,
        "purpose": spec.purpose,
        "tuned": spec.tuned,
        "about": spec.about,
        "claims": spec.claims,
        "config": spec.config.to_json(),
        "config_hash": spec.config.hash,
    }


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
