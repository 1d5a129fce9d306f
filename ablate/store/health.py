"""The health of a results folder: what is damaged, missing or left over, and how to fix each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.base.errors import ResultsError
from ablate.base.text import printable
from ablate.store import tables as results
from ablate.store.artifacts import (
    REMOVED,
    delete_removed,
    folders_without_row,
    is_of_a_run,
    run_folder,
    run_of,
)
from ablate.store.atomic_files import WORKING
from ablate.store.schema import RUN_TABLES, SCHEMAS
from ablate.store.weight_checks import weights_fault

DIGESTS = {"model.safetensors": "weights_digest", "autoencoder.safetensors": "autoencoder_digest"}
CLEAR_ORPHANS = "ablate doctor --results FOLDER --clear orphans"
NO_WEIGHTS = "weights are not kept in this folder: sample, bench and export need them"


@dataclass(frozen=True)
class Finding:
    """A fault of a results folder: its kind, where and what it is, and how to fix it.

    `kind` is one of table, missing, digest, leftover, orphan, unfinished.
    """

    kind: str
    what: str
    fix: str


@dataclass(frozen=True)
class Health:
    """The faults of a results folder, tables first, and notes on what is not a fault."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def examine(folder: Path, running: Collection[str]) -> Health:
    """Look for faults in a results folder. Nothing is changed.

    Args:
        folder: The results folder.
        running: The runs that are being made now. Their working folders are not faults.

    Raises:
        ResultsError: There is no such folder.
    """
    results.check_exists(folder)
    findings: list[Finding] = []
    notes: list[str] = []
    tables: dict[str, pd.DataFrame] = {}
    for table in SCHEMAS:
        try:
            tables[table] = results.read(folder, table)
        except ResultsError as error:
            findings.append(Finding("table", printable(error), "do that, or restore the file from a copy"))
    if "runs" in tables:
        runs = tables["runs"]
        weights = _weight_files(folder, runs)
        if weights and not any(path.exists() for path in weights):
            notes.append(NO_WEIGHTS)
        else:
            findings += [fault for path, digest in weights.items() if (fault := _weights_fault(path, digest))]
        findings += _orphan_rows(tables) + _artifact_folders(folder, runs, running)
    for path in sorted(folder.glob(".*.parquet.tmp")):
        findings.append(
            Finding("leftover", f"{path}: of a process that was killed", "the next run finishes it, or writes over it")
        )
    if (waste := folder / REMOVED).is_dir():
        findings.append(Finding("leftover", f"{waste}: files of removed runs", f"delete it: {CLEAR_ORPHANS}"))
    return Health(tuple(findings), tuple(notes))


def clear_orphans(folder: Path, running: Collection[str]) -> tuple[int, int]:
    """Delete what belongs to no run: rows and finished folders without a row in `runs`.

    Working folders stay: their runs can go on.

    Args:
        folder: The results folder.
        running: The runs that are being made now. What belongs to them stays.

    Returns:
        The number of rows and of folders.

    Raises:
        ResultsError: There is no such folder, or a table cannot be read or written.
    """
    results.check_exists(folder)
    rows = results.remove_orphans(folder, running)
    known = {*results.read(folder, "runs")["run_id"], *running}
    folders = folders_without_row(folder, known)
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
    return rows, len(folders) + delete_removed(folder)


def _weight_files(folder: Path, runs: pd.DataFrame) -> dict[Path, str]:
    """Return the weight files of finished runs, each with the digest in the run's row."""
    done = runs[runs["status"] == "done"].to_dict("records")
    return {
        run_folder(folder, str(row["run_id"])) / name: str(row[column])
        for row in done
        for name, column in DIGESTS.items()
        if not pd.isna(row[column])
    }


def _weights_fault(path: Path, digest: str) -> Finding | None:
    """Return the fault of a weight file: missing, unreadable, or not the file of the run's row."""
    fault = weights_fault(path, digest)
    if fault is None:
        return None
    what, fix = fault
    return Finding("digest" if os.access(path, os.R_OK) else "missing", f"{path}: {what}", fix)


def _orphan_rows(tables: dict[str, pd.DataFrame]) -> list[Finding]:
    """Return the runs that have rows in other tables but none in `runs`."""
    known, findings = set(tables["runs"]["run_id"]), []
    for table, frame in tables.items():
        if table not in RUN_TABLES:
            continue
        orphans = frame.loc[~frame["run_id"].isin(known), "run_id"]
        for run_id, count in orphans.value_counts().sort_index().items():
            what = f"{table}.parquet: {count} rows of {printable(run_id)}, which runs.parquet does not hold"
            findings.append(Finding("orphan", what, f"make the run again, or delete them: {CLEAR_ORPHANS}"))
    return findings


def _artifact_folders(folder: Path, runs: pd.DataFrame, running: Collection[str]) -> list[Finding]:
    """Return what lies in `artifacts` and belongs to no finished run and to no run being made."""
    status: dict[Any, Any] = dict(zip(runs["run_id"], runs["status"], strict=True))
    findings = []
    for path in sorted((folder / "artifacts").glob("*")):
        where, run_id = printable(path), run_of(path.name)
        if not path.is_dir():
            findings.append(Finding("orphan", f"{where}: a file among the folders of runs", "delete it"))
        elif path.suffix == WORKING and run_id in running:
            continue
        elif path.suffix == WORKING and status.get(run_id) == "done":
            fix = "the same ablate run deletes it (or goes on with --force, if that was interrupted)"
            findings.append(Finding("leftover", f"{where}: the working folder of a finished run", fix))
        elif path.suffix == WORKING:
            what = f"{where}: of a run that is {status.get(run_id, 'not in the table')}"
            findings.append(Finding("unfinished", what, "the same ablate run goes on from there; or delete the folder"))
        elif run_of(path.name) not in status and not is_of_a_run(path):
            findings.append(
                Finding("orphan", f"{where}: a folder that no run wrote", "move it elsewhere, or delete it")
            )
    fix = f"make the run again, restore the table from a copy, or delete the folder: {CLEAR_ORPHANS}"
    return findings + [
        Finding("orphan", f"{printable(path)}: of a run that runs.parquet does not hold", fix)
        for path in folders_without_row(folder, status)
    ]
