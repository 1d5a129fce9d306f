"""The health of a results folder: what is damaged, missing, left over or not what its row says, and how to mend each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ablate.base.errors import ResultsError
from ablate.base.text import printable
from ablate.store import tables as results
from ablate.store.schema import SCHEMAS

DIGESTS = {"model.safetensors": "weights_digest", "autoencoder.safetensors": "autoencoder_digest"}
REMAKE = "restore it from a copy, or make the run again: ablate run --force with its variant, seed and preset"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: a kind, what was found, and the repair."""

    kind: str  # table, missing, digest, leftover, orphan, claim or unfinished
    what: str
    mend: str


class Holder(Protocol):
    """The owner of a lease."""

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone."""

    def describe(self) -> str:
        """Return who it is, in a few words."""


def examine(folder: Path, owners: Mapping[Path, Holder]) -> list[Finding]:
    """Look through a results folder; nothing is changed.

    Args:
        folder: The results folder.
        owners: The file of each lease -> its owner.

    Returns:
        What was found, tables first; empty where all is well.

    Raises:
        ResultsError: There is no such folder.
    """
    if not folder.is_dir():
        raise ResultsError(f"--results {folder}: no such folder; make a run first: ablate run")
    found: list[Finding] = []
    tables: dict[str, pd.DataFrame] = {}
    for table in SCHEMAS:
        try:
            tables[table] = results.read(folder, table)
        except ResultsError as error:
            found.append(Finding("table", printable(error), "restore the file from a copy, or move it away"))
    if "runs" in tables:
        runs = tables["runs"]
        found += _artifacts(folder, runs) + _rows(tables) + _folders(folder, runs, owners)
    for path in sorted(folder.glob(".*.parquet.tmp")):
        found.append(Finding("leftover", f"{path}: of a process that was killed", "the next run writes over it"))
    for path, owner in owners.items():
        if not owner.has_ended:
            continue
        what = f"{path}: claimed by {owner.describe()}, which has ended"
        found.append(Finding("claim", what, "nothing: the next ablate run takes it over; or delete the file"))
    return found


def _artifacts(folder: Path, runs: pd.DataFrame) -> list[Finding]:
    """The weights of finished runs: there, whole, and those that the row names."""
    found = []
    for row in runs[runs["status"] == "done"].to_dict("records"):
        for name, column in DIGESTS.items():
            if pd.isna(row[column]):
                continue
            path = folder / "artifacts" / str(row["run_id"]) / name
            try:
                tensors = load_file(path)
                if sha256(b"".join(tensors[key].tobytes() for key in sorted(tensors))).hexdigest() != row[column]:
                    found.append(Finding("digest", f"{path}: not the weights that the run's row names", REMAKE))
            except FileNotFoundError:
                # safetensors says so of a file that may not be read, too.
                what, mend = ("may not be read", "give yourself the right to") if path.exists() else ("missing", REMAKE)
                found.append(Finding("missing", f"{path}: {what}", mend))
            except (OSError, SafetensorError) as error:
                found.append(Finding("digest", f"{path}: damaged ({printable(error)})", REMAKE))
    return found


def _rows(tables: dict[str, pd.DataFrame]) -> list[Finding]:
    """Rows of runs that the table `runs` does not know: their process was killed before it wrote that one."""
    known, found = set(tables["runs"]["run_id"]), []
    for table, frame in tables.items():
        orphans = frame.loc[~frame["run_id"].isin(known), "run_id"]
        for run_id, count in orphans.value_counts().sort_index().items():
            what = f"{table}.parquet: {count} rows of {printable(run_id)}, which runs.parquet does not hold"
            found.append(Finding("orphan", what, "make the run again: its rows are replaced"))
    return found


def _folders(folder: Path, runs: pd.DataFrame, owners: Mapping[Path, Holder]) -> list[Finding]:
    """Folders of artifacts that belong to no finished run."""
    status: dict[Any, Any] = dict(zip(runs["run_id"], runs["status"], strict=True))
    makers = {path.stem: owner for path, owner in owners.items() if not owner.has_ended}
    found = []
    for path in sorted((folder / "artifacts").glob("*")):
        if not path.is_dir():
            found.append(Finding("orphan", f"{printable(path)}: a file among the folders of runs", "delete it"))
        elif path.suffix == ".part":
            run_id = path.name.removesuffix(".part")
            if run_id in makers:
                what = f"{printable(path)}: {makers[run_id].describe()} is making this run"
                found.append(
                    Finding(
                        "unfinished", what, "nothing: wait for it; where it is dead, the next ablate run takes over"
                    )
                )
            elif status.get(run_id) == "done":
                mend = "the same ablate run deletes it (or goes on with --force, if that was interrupted)"
                found.append(Finding("leftover", f"{printable(path)}: the working folder of a finished run", mend))
            else:
                what = f"{printable(path)}: of a run that is {status.get(run_id, 'not in the table')}"
                found.append(
                    Finding("unfinished", what, "the same ablate run goes on from there; or delete the folder")
                )
        elif path.name not in status:
            what = f"{printable(path)}: of a run that runs.parquet does not hold"
            found.append(
                Finding("orphan", what, "make the run again, restore the table from a copy, or delete the folder")
            )
    return found


def to_json(findings: list[Finding]) -> list[dict[str, str]]:
    """Return the findings as plain values."""
    return [dict(vars(finding)) for finding in findings]
