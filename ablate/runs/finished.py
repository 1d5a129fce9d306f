"""Finished runs of a results folder, found by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablate.base.errors import ResultsError, did_you_mean
from ablate.store import tables

ALL = "all"  # instead of a name: every finished run


def find_run(folder: Path, name: str) -> dict[str, Any]:
    """Return the row of a finished run.

    Args:
        folder: The results folder.
        name: A run's name, or the beginning of one finished run's name, as in
            `tables.match_run_ids`.

    Raises:
        ResultsError: No run matches, several do, or the run has not finished.
    """
    rows = _rows(folder)
    run_ids = tables.match_run_ids([row["run_id"] for row in rows], name)
    matching = [row for row in rows if row["run_id"] in run_ids]
    done = [row for row in matching if row["status"] == "done"]
    if len(done) == 1:
        return done[0]
    if done:
        listed = ", ".join(row["run_id"] for row in done[:5]) + (", ..." if len(done) > 5 else "")
        raise ResultsError(f"run {name!r}: {len(done)} finished runs begin with this: {listed}; type more of the name")
    if matching:
        row = matching[0]
        raise ResultsError(f"run {row['run_id']}: {row['status']} ({row['error']}); only a finished run has a model")
    known = [row["run_id"] for row in rows if row["status"] == "done"]
    raise ResultsError(
        f"run {name!r}: not in {folder}{did_you_mean(name, known)} Finished runs: {', '.join(known[:5]) or 'none'}"
        f"{', ...' if len(known) > 5 else ''}"
    )


def find_runs(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of finished runs, in the order of their names and without repetitions.

    Args:
        folder: The results folder.
        names: Names as for `find_run`, or `all` for every finished run of the folder.

    Raises:
        ResultsError: As for `find_run`, or `all` matches no run.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for name in names:
        rows = [row for row in _rows(folder) if row["status"] == "done"] if name == ALL else [find_run(folder, name)]
        if not rows:
            raise ResultsError(f"{folder}: no finished runs; make one first: ablate run")
        by_id |= {row["run_id"]: row for row in rows if row["run_id"] not in by_id}
    return list(by_id.values())


def _rows(folder: Path) -> list[dict[str, Any]]:
    tables.check_exists(folder)
    return tables.to_records(tables.read(folder, "runs"))
