"""The runs of a results folder, also those that have no row: being made, killed, or lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import printable
from ablate.launch.leases import Leases
from ablate.store import tables
from ablate.store.artifacts import folders_without_row, run_of, working_folders
from ablate.store.owners import Owner
from ablate.store.plans import planned_names
from ablate.store.row_filter import rows_where

SHOWN_RUNS = 3  # in an error


def list_runs(folder: Path, where: str | None = None) -> pd.DataFrame:
    """Return the runs of a results folder, in the order of the table `runs`, then those without a row.

    Args:
        folder: The results folder.
        where: Only runs that fit a condition, as in `ablate.store.row_filter`.

    Returns:
        The columns of `runs`, and `owner` (text: the process that makes the run) and `since` (when
        the run ended; if it has not, when it started). `status` can also be `running`, `killed`
        (its working folder is left, and it has no row) or `lost` (its files are left without a row).

    Raises:
        ResultsError: There is no such folder, a table cannot be read, or `where` is no condition.
    """
    tables.check_exists(folder)
    runs, owners = tables.read(folder, "runs"), Leases(folder).held()
    known = set(runs["run_id"])
    working = working_folders(folder)
    lost = {run_of(path.name): path for path in folders_without_row(folder, known)}
    status = dict.fromkeys(lost, "lost") | dict.fromkeys(working, "killed") | dict.fromkeys(owners, "running")
    names = planned_names(folder)
    more: list[dict[str, Any]] = [
        {"run_id": run_id, "status": word, **parts_of(run_id, names)}
        for run_id, word in status.items()
        if run_id not in known
    ]
    if more:
        runs = pd.concat(
            [runs, pd.DataFrame(more).reindex(columns=runs.columns).astype(runs.dtypes)], ignore_index=True
        )
    running = runs["run_id"].isin(owners)
    ended = runs["finished_at"].fillna(runs["started_at"])
    moments = {run_id: _started(owners.get(run_id), (working | lost).get(run_id)) for run_id in status}
    since = pd.to_datetime(runs["run_id"].map(moments), utc=True).where(running | ended.isna(), ended)
    owner = runs["run_id"].map({run_id: one.describe() for run_id, one in owners.items()}).astype("string")
    runs = runs.assign(status=runs["status"].mask(running, "running"), owner=owner, since=since)
    return runs if where is None else runs[rows_where(runs, where)]


def choose_runs(folder: Path, names: Sequence[str], where: str | None) -> pd.DataFrame:
    """Return the runs that were named or that fit a condition, as `list_runs` does.

    Args:
        folder: The results folder.
        names: Names of runs, or their first letters if only one run begins so.
        where: A condition instead of names.

    Raises:
        ResultsError: As `list_runs`, no run is chosen, or a name is that of several runs.
    """
    if bool(names) == (where is not None):
        raise ResultsError("which runs? Name them, or give --where CONDITION; ablate ls shows them")
    runs = list_runs(folder, where)
    if where is not None:
        if not len(runs):
            raise ResultsError(f"--where {where}: no run in {folder} fits; ablate ls shows them")
        return runs
    chosen: set[str] = set()
    for name in names:
        found = sorted(tables.match_run_ids(runs["run_id"], name))
        if not found:
            raise ResultsError(
                f"{name}: no such run in {folder}{did_you_mean(name, runs['run_id'])} ablate ls shows them"
            )
        if len(found) > 1:
            listed = ", ".join(map(printable, found[:SHOWN_RUNS])) + ", ..." * (len(found) > SHOWN_RUNS)
            raise ResultsError(
                f"{name}: {len(found)} runs begin with this: {listed}; type more of the name, or use --where"
            )
        chosen |= set(found)
    return runs[runs["run_id"].isin(chosen)]


def _started(owner: Owner | None, folder: Path | None) -> datetime | None:
    """Return when a process began to make a run, or when a folder last changed; None: unknown."""
    with suppress(ValueError, OSError):
        if owner is not None:
            return datetime.fromisoformat(owner.since)
        if folder is not None:
            return datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    return None


def parts_of(run_id: str, planned: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Parse a run's name: its seed, and the variant, preset and data of a plan that fits."""
    seed = re.search(r"-s(\d+)-[0-9a-f]+$", run_id)
    fits = [parts for parts in planned if run_id.startswith(f"{parts[0]}-{parts[1]}-")]
    variant, preset, data = max(fits, key=lambda parts: len(parts[0]), default=(None, None, None))
    return {"variant": variant, "preset": preset, "data": data, "seed": int(seed[1]) if seed else None}
