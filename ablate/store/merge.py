"""Merging results folders: every run once, with its rows in all tables and its files.

Files are copied before rows are written. A process that is killed in between leaves files without
rows, and the same merge finishes the work. A run that has not ended keeps its working folder
(`artifacts/<run_id>.part`) where it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ablate.base.errors import ResultsError
from ablate.base.text import plural, some_of
from ablate.store import schema, tables
from ablate.store.artifacts import all_folders, run_folder
from ablate.store.atomic_files import is_temporary, output_file

Content = dict[str, pa.Table]  # table -> its rows


class UnequalRowsError(ResultsError):
    """Two folders hold different rows of one run, and no option says which to take."""


@dataclass(frozen=True)
class Merged:
    """The result of a merge.

    Attributes:
        runs: The number of runs in the output.
        added: How many of them it did not hold before.
        replaced: How many of its own it replaced by those of the preferred folder.
    """

    runs: int
    added: int
    replaced: int


def merge(
    folders: Sequence[Path],
    output: Path,
    *,
    prefer: Path | None = None,
    refuse_running: Callable[[Collection[str]], None] = lambda run_ids: None,
) -> Merged:
    """Put the runs of several results folders into one.

    Two folders may hold the same run. Equal rows are written once, and rows that one of them lacks
    (as of `ablate bench`) are added. If a row differs, `prefer` says which folder's run is taken. An
    interrupted run gives way to one that ended. Of equal plans the earliest record is kept.

    Args:
        folders: The folders to read. They are not changed.
        output: The folder to write. It may exist: its runs take part as those of the others.
        prefer: One of these folders, or the output.
        refuse_running: Raises an error if one of these runs is being made in the output.

    Raises:
        ResultsError: A folder or table cannot be read, runs differ and `prefer` does not choose, or
            the output cannot be written. Nothing is written before all tables have been checked.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ResultsError(f"merge {folder}: no such folder; name results folders, as in ablate merge A B -o OUT")
        if not any((folder / f"{table}.parquet").exists() for table in schema.SCHEMAS):
            raise ResultsError(f"merge {folder}: no results folder: it has no runs.parquet")
    others = {folder.resolve(): folder for folder in folders if folder.resolve() != output.resolve()}
    sources = [output, *others.values()]
    preferred = _place(prefer, sources)
    read = [read_tables(folder) for folder in sources]
    union = _Union(read, sources, preferred)
    new, own = union.new_runs(), set(read[0]["runs"]["run_id"].to_pylist())
    replaced = {run_id for run_id in new & own if 0 not in union.places(run_id)}
    refuse_running(new)
    for run_id in union.run_ids:
        run_folder(output, run_id)  # refuses names that lead elsewhere
    tables.check_folder(output)
    # The folder that each kept row names. A version of a run is equal in all folders that hold it.
    places = {run_id: run_folder(sources[union.places(run_id)[0]], run_id).name for run_id in union.run_ids}
    if replaced:  # their rows go first: no row may stand beside the files of another run
        tables.remove(output, replaced)
    for run_id in union.run_ids:
        fresh = run_id in replaced or run_id not in own
        if run_id in replaced:
            for path in all_folders(output, run_id):
                shutil.rmtree(path, ignore_errors=True)
        for place in union.places(run_id):
            if place != 0:
                target = output / "artifacts" / places[run_id]
                _copy_files(run_folder(sources[place], run_id), target, replace=fresh)
                fresh = False  # the other folders add files that the first one lacks
    refuse_running(new)
    with tables.lock(output):
        read[0] = {table: tables.load(output, table) for table in schema.SCHEMAS}  # others may have added runs
        union = _Union(read, sources, preferred)
        if union.new_runs() - new:
            raise ResultsError(f"{output}: another process removed runs from it meanwhile; run the same merge again")
        tables.put(output, union.changed_tables())
    return Merged(len(union.run_ids), len(new - own), len(replaced))


def _place(prefer: Path | None, sources: Sequence[Path]) -> int | None:
    """Return the place of the preferred folder among the sources."""
    if prefer is None:
        return None
    places = [place for place, folder in enumerate(sources) if folder.resolve() == prefer.resolve()]
    if not places:
        raise ResultsError(f"--prefer {prefer}: not one of the merged folders: {', '.join(map(str, sources))}")
    return places[0]


def read_tables(folder: Path) -> Content:
    """Read all tables of a folder as they are at one moment. No file is added to the folder.

    Raises:
        ResultsError: A table cannot be read.
    """
    lock_file = folder / tables.LOCK_FILE
    # A folder without a lock file has had no writer yet: the first one creates the file.
    had_writer = lock_file.exists()
    # A folder that this user cannot write cannot be locked, and rarely has another writer.
    with tables.lock(folder) if had_writer and os.access(folder, os.W_OK) else nullcontext():
        content = {table: tables.load(folder, table) for table in schema.SCHEMAS}
    return read_tables(folder) if lock_file.exists() and not had_writer else content


class _Union:
    """The rows of several folders, each once.

    Attributes:
        run_ids: The runs that a table `runs` holds, each with its row in `_holds`.
    """

    def __init__(self, contents: Sequence[Content], folders: Sequence[Path], preferred: int | None) -> None:
        """Choose the rows.

        Args:
            contents: The tables of each folder.
            folders: Their paths, for errors.
            preferred: The place of the folder whose version of a run is taken if versions differ.

        Raises:
            ResultsError: Versions of a run differ, and the preferred folder does not hold one of it.
        """
        self._content = {table: _stack(table, contents, folders) for table in schema.SCHEMAS}
        sizes = {table: [len(content[table]) for content in contents] for table in schema.SCHEMAS}
        self._place = {table: np.repeat(np.arange(len(folders)), sizes[table]) for table in schema.SCHEMAS}
        self._cells = {table: _comparable(rows) for table, rows in self._content.items()}
        ids = {
            table: pd.Index(self._content[table]["run_id"].to_pylist(), dtype="object") for table in schema.RUN_TABLES
        }
        every = ids["runs"].unique()
        self.run_ids: dict[str, int] = {run_id: row for row, run_id in enumerate(every)}
        self._run = {table: every.get_indexer(ids[table]) for table in ids}  # -1: not in `runs`
        # (runs, folders): whether the folder holds the version of the run that is kept
        self._holds = np.zeros((len(every), len(folders)), bool)
        ended = np.array(self._content["runs"]["status"].to_pylist(), object) != "interrupted"
        for rows in (ended, ~ended & ~np.isin(self._run["runs"], self._run["runs"][ended])):
            self._holds[self._run["runs"][rows], self._place["runs"][rows]] = True
        differing = self._differing()
        if preferred is not None:
            chosen = [run for run in differing if self._holds[run, preferred]]
            alone, held = np.arange(len(folders)) == preferred, self._holds[chosen, 0]
            self._holds[chosen] = alone
            self._holds[chosen, 0] |= held  # the output's rows stay if they are those of the preferred folder
            self._holds[[run for run in self._differing() if run in chosen]] = alone
            differing = self._differing()
        if differing:
            names = [run_id for run_id, run in self.run_ids.items() if run in differing]
            holders = np.flatnonzero(self._holds[sorted(differing)].any(axis=0))
            where = ", ".join(str(folders[int(place)]) for place in holders)
            raise UnequalRowsError(
                f"merge: {plural(len(differing), 'run')} with unequal rows in {where}: "
                f"{some_of(names)}; "
                f"{self._digests(differing)}choose whose are taken with --prefer FOLDER, or remove the others with "
                "ablate rm"
            )

    def _digests(self, differing: set[int]) -> str:
        """Say whether the versions of these runs have the same weights and samples, if their rows tell."""
        rows = self._versions("runs")
        rows = rows[np.isin(self._run["runs"][rows], sorted(differing))]
        cells = self._cells["runs"].iloc[rows][["weights_digest", "samples_digest"]].astype(object)
        if cells.isna().any(axis=None):
            return ""
        equal = cells.groupby(self._run["runs"][rows]).nunique().le(1).all(axis=None)
        return "their weights and samples are equal; " if equal else "their weights or samples differ; "

    def places(self, run_id: str) -> list[int]:
        """Return the places of the folders that hold the version of a run that is kept."""
        return [int(place) for place in np.flatnonzero(self._holds[self.run_ids[run_id]])]

    def new_runs(self) -> set[str]:
        """Return the runs with rows that the first folder does not hold."""
        new = [self._run[table][rows[self._place[table][rows] > 0]] for table, rows in self._chosen().items()]
        added = set(np.concatenate(new).tolist())
        return {run_id for run_id, run in self.run_ids.items() if run in added}

    def changed_tables(self) -> Content:
        """Return the tables that get rows which the first folder does not hold, `runs` last."""
        plans = self._cells["plans"].sort_values("created_at", kind="stable")
        chosen = {"plans": np.sort(plans.index[~plans["plan_id"].duplicated()].to_numpy()), **self._chosen()}
        order = sorted(chosen, key=lambda table: table == "runs")
        changed = [table for table in order if (self._place[table][chosen[table]] > 0).any()]
        return {table: self._content[table].take(pa.array(chosen[table])) for table in changed}

    def _chosen(self) -> dict[str, np.ndarray]:
        """Return the rows to keep of each table of runs."""
        chosen = {}
        for table in schema.RUN_TABLES:
            rows = self._versions(table)
            repeated = self._cells[table].iloc[rows].duplicated(list(schema.KEYS[table]))
            chosen[table] = rows[~repeated.to_numpy()]
        return chosen

    def _versions(self, table: str) -> np.ndarray:
        """Return the rows of the versions of runs that are kept."""
        known = np.flatnonzero(self._run[table] >= 0)
        return known[self._holds[self._run[table][known], self._place[table][known]]]

    def _differing(self) -> set[int]:
        """Return the runs of which two kept versions have unequal rows with one key."""
        differing: set[int] = set()
        for table in schema.RUN_TABLES:
            rows = self._versions(table)
            cells = self._cells[table].iloc[rows]
            distinct = ~cells.duplicated().to_numpy()
            unequal = cells[distinct].duplicated(list(schema.KEYS[table])).to_numpy()
            differing |= set(self._run[table][rows[distinct][unequal]].tolist())
        return differing


def _stack(table: str, contents: Sequence[Content], folders: Sequence[Path]) -> pa.Table:
    """Return the rows of all folders in one table, with the columns of all."""
    fields: dict[str, pa.Field] = {}
    for folder, content in zip(folders, contents, strict=True):
        for field in content[table].schema:
            known = fields.setdefault(field.name, field)
            if known.type != field.type:
                raise ResultsError(
                    f"{folder / table}.parquet: column {field.name!r} is {field.type}, in another folder {known.type}; "
                    "rename it in one of the folders"
                )
    wanted = schema.with_unknown(table, pa.schema(fields.values()))
    return pa.concat_tables([schema.fit(content[table], wanted) for content in contents])


def _comparable(rows: pa.Table) -> pd.DataFrame:
    """Return the cells of a table in types that pandas compares fast: texts as categories, lists as texts."""
    columns = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_nested(column.type):
            column = pa.array([repr(value) for value in column.to_pylist()], pa.string())
        columns[name] = column.dictionary_encode() if pa.types.is_string(column.type) else column
    return pa.table(columns).to_pandas()


def _copy_files(source: Path, target: Path, *, replace: bool) -> None:
    """Copy the files of a run that are not there yet.

    Args:
        source: The run's folder; it may be missing.
        target: Its folder in the output.
        replace: Also copy files that are there with another size or time: those of another version.
    """
    for path in target.rglob("*"):
        if is_temporary(path):  # of a merge that was killed
            path.unlink(missing_ok=True)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / path.relative_to(source)
        if copy.exists() and not (replace and _stamp(copy) != _stamp(path)):
            continue
        with output_file(copy) as temporary:
            shutil.copy2(path, temporary)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
