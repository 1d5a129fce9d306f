"""The folders of runs, in `<results>/artifacts/`.

    <run_id>/                 the files of a finished run
    <run_id>~2/               the same, after the run was made again: the column `artifacts` names it
    <run_id>~<time>.part/     the working folder of a run that is being made

A new row names its folder, and only then the old folder is removed. So at every moment the files of
a finished row are those that it was written with, whatever dies.
A process that takes a run over from one that may still live renames the working folder. The other
process knows the old name alone, so nothing that it still writes can reach the new owner's files.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ablate.base.errors import ResultsError
from ablate.base.paths import path_component
from ablate.base.text import printable
from ablate.store.atomic_files import WORKING
from ablate.store.parquet_files import open_table

REMOVED = ".removed"  # folder in a results folder: files of removed runs, on their way out
# The name of the folder of a run, or of its working folder. No run is called otherwise since its first version.
_RUN = re.compile(r".+-s\d+-[0-9a-f]{8}(~[0-9a-f]{1,11})?(\.part)?")
FOLDERS = 16  # whose names are kept
_names: dict[tuple[int, ...], dict[str, str]] = {}  # by the file of the table `runs`
_NAME = re.compile(r"(?P<run_id>.+?)(~[1-9]\d{0,5}|(~[0-9a-f]{11})?\.part)?")
_WRITTEN = {"model.safetensors", "samples.png", "samples.webp", "log.txt"}  # one of them is in each folder of a run


def folders_without_row(results: Path, run_ids: Collection[str]) -> list[Path]:
    """Return the folders of finished runs that the table `runs` does not hold, by name.

    A run writes its row after its folder, and deletes its working folder last. So a folder beside a
    working folder is not returned: its run is being made, or will be resumed. Nor is another folder
    of a run that the table holds: `remove_other_folders` removes it. Nor is a folder that ablate did
    not write: see `is_of_a_run`.

    Args:
        results: The results folder.
        run_ids: The runs that the table holds.
    """
    known = {*run_ids, *working_folders(results)}
    folders = (path for path in sorted((results / "artifacts").glob("*")) if path.is_dir())
    unknown = [path for path in folders if path.name not in known and run_of(path.name) not in known]
    return [path for path in unknown if is_of_a_run(path)]


def is_of_a_run(folder: Path) -> bool:
    """Return whether a folder is one that ablate wrote for a run: by its name and its files, or empty."""
    names = {path.name for path in folder.iterdir()}
    return not names or (_RUN.fullmatch(folder.name) is not None and bool(names & _WRITTEN))


def delete_removed(results: Path) -> bool:
    """Delete what is left of removed runs, and return whether there was something."""
    waste = results / REMOVED
    if not waste.is_dir():
        return False
    for path in waste.iterdir():
        if _RUN.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # it holds something that is not ablate's
        waste.rmdir()
    return True


def run_of(name: str) -> str:
    """Return the run that a folder of `artifacts/` belongs to, by the folder's name."""
    match = _NAME.fullmatch(name)
    return match["run_id"] if match else name


def working_folders(results: Path, run_id: str | None = None) -> dict[str, Path]:
    """Return the working folder of each run that has one; of several, the newest.

    Args:
        results: The results folder.
        run_id: Look for this run's alone.
    """
    pattern = f"{'' if run_id is None else glob.escape(run_id)}*{WORKING}"
    paths = {run_of(path.name): path for path in sorted((results / "artifacts").glob(pattern))}
    return paths if run_id is None else {name: path for name, path in paths.items() if name == run_id}


def new_working_folder(results: Path, run_id: str) -> Path:
    """Return a path that no process has used for this run.

    Raises:
        ResultsError: The run's name cannot be a folder's: a table may come from anyone.
    """
    path_component(run_id, "a run", results / "runs.parquet")
    names = (f"{run_id}~{ms:011x}{WORKING}" for ms in count(time.time_ns() // 10**6))
    return next(path for path in map((results / "artifacts").joinpath, names) if not path.exists())


def rename_working_folder(results: Path, run_id: str) -> None:
    """Give the working folder of a run a new name, so that a process that knows the old one cannot write there.

    Raises:
        OSError: It cannot be renamed.
    """
    for path in working_folders(results, run_id).values():
        path.replace(new_working_folder(results, run_id))


def run_folder(results: Path, run_id: str) -> Path:
    """Return the folder of a finished run.

    Raises:
        ResultsError: The run's name, or that of its folder, leads elsewhere: a table may come from anyone.
    """
    name = _named_folders(results).get(run_id, run_id)
    for given in (run_id, name):
        path_component(given, "a run", results / "runs.parquet")
    if name != run_id and run_of(name) != run_id:
        of = f"the folder of {printable(run_id)}"
        raise ResultsError(f"{results / 'runs'}.parquet: {printable(name)!r} cannot be {of}")
    return results / "artifacts" / name


def new_folder(results: Path, run_id: str) -> Path:
    """Return the folder for the files of a run that ends now. It does not exist yet."""
    folder = results / "artifacts" / path_component(run_id, "a run", results / "runs.parquet")
    paths = chain([folder], (folder.with_name(f"{run_id}~{n}") for n in count(2)))
    return next(path for path in paths if not path.exists())


def folder_column(folder: Path, run_id: str) -> str | None:
    """Return the column `artifacts` of a run's row for its folder; None: the folder has the run's name."""
    return None if folder.name == run_id else folder.name


def all_folders(results: Path, run_id: str) -> list[Path]:
    """Return the folders of a run that exist: the one that its row names, and those of other attempts.

    Working folders are not among them.
    """
    run_folder(results, run_id)  # refuses a name that leads elsewhere
    here = (results / "artifacts").glob(f"{glob.escape(run_id)}*")
    folders = (path for path in sorted(here) if path.is_dir() and path.suffix != WORKING)
    return [path for path in folders if run_id in (path.name, run_of(path.name))]


def remove_other_folders(results: Path, run_id: str) -> None:
    """Remove the folders of a run that its row does not name. Call this while the run's lease is held."""
    kept = run_folder(results, run_id)
    for path in all_folders(results, run_id):
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)


def _named_folders(results: Path) -> dict[str, str]:
    """Return the runs whose row names a folder, and that folder."""
    try:
        with open_table(results, "runs") as file:
            stat = os.fstat(file.fileno())
            stamp = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp not in _names:
                if len(_names) == FOLDERS:
                    _names.clear()
                _names[stamp] = _read_names(file)
    except (OSError, pa.ArrowException):
        return {}  # the table's own reader says what is wrong with it
    return _names[stamp]


def _read_names(file: BinaryIO) -> dict[str, str]:
    table = pq.ParquetFile(file)
    if "artifacts" not in table.schema_arrow.names:
        return {}
    rows = table.read(columns=["run_id", "artifacts"]).to_pylist()
    return {row["run_id"]: row["artifacts"] for row in rows if row["artifacts"]}
