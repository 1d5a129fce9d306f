"""The folders of finished runs: `<results>/artifacts/<run_id>/`, or the one that the run's row names.

A run that is made again puts its new files into a folder of another name, `<run_id>~2`. Its new row
names that folder, and only then the old one is removed. So at every moment the files of a finished
row are those that it was written with, whatever dies.
"""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from itertools import chain, count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ablate.base.errors import ResultsError
from ablate.base.paths import path_component
from ablate.base.text import printable

REMOVED = ".removed"  # folder in a results folder: files of removed runs, on their way out
# The name of the folder of a run, or of its working folder. No run is called otherwise since its first version.
_RUN = re.compile(r".+-s\d+-[0-9a-f]{8}(~[1-9]\d{0,5})?(\.part)?")
_WRITTEN = {"model.safetensors", "samples.png", "samples.webp", "log.txt"}  # one of them is in each folder of a run
_AGAIN = re.compile(r"(.+)~[1-9]\d{0,5}")  # the folder of a run that was made again


def folders_without_row(results: Path, run_ids: Collection[str]) -> list[Path]:
    """Return the folders of finished runs that the table `runs` does not hold, by name.

    A run writes its row after its folder, and deletes its working folder `<run_id>.part` last. So a
    folder beside such a working folder is not returned: its run is being made, or will be resumed.
    Nor is another folder of a run that the table holds: `remove_other_folders` removes it. Nor is a
    folder that ablate did not write: see `is_of_a_run`.

    Args:
        results: The results folder.
        run_ids: The runs that the table holds.
    """
    folders = {path.name: path for path in (results / "artifacts").glob("*") if path.is_dir()}

    def belongs(name: str) -> bool:
        return name in run_ids or name.endswith(".part") or f"{name}.part" in folders

    unknown = [path for name, path in sorted(folders.items()) if not belongs(name) and not belongs(run_of(name))]
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


def new_folder(results: Path, run_id: str, *, finished: bool) -> Path:
    """Return the folder for the files of a run that ends now.

    Args:
        results: The results folder.
        run_id: The run.
        finished: It has a finished row, whose folder stays until the new row is written.
    """
    folder = results / "artifacts" / path_component(run_id, "a run", results / "runs.parquet")
    if not finished:
        return folder
    paths = chain([folder], (folder.with_name(f"{run_id}~{n}") for n in count(2)))
    return next(path for path in paths if not path.exists())


def folder_column(folder: Path, run_id: str) -> str | None:
    """Return the column `artifacts` of a run's row for its folder; None: the folder has the run's name."""
    return None if folder.name == run_id else folder.name


def all_folders(results: Path, run_id: str) -> list[Path]:
    """Return the folders of a run that exist: the one that its row names, and those of other attempts."""
    run_folder(results, run_id)  # refuses a name that leads elsewhere
    here = (results / "artifacts").glob(f"{glob.escape(run_id)}*")
    return [path for path in sorted(here) if path.is_dir() and run_id in (path.name, run_of(path.name))]


def remove_other_folders(results: Path, run_id: str) -> None:
    """Remove the folders of a run that its row does not name. Call this while the run's lease is held."""
    kept = run_folder(results, run_id)
    for path in all_folders(results, run_id):
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)


def run_of(name: str) -> str:
    """Return the run of a folder `<run_id>` or `<run_id>~2`."""
    match = _AGAIN.fullmatch(name)
    return match[1] if match else name


def _named_folders(results: Path) -> dict[str, str]:
    """Return the runs whose row names a folder, and that folder."""
    path = results / "runs.parquet"
    try:
        stat = path.stat()
    except OSError:
        return {}
    return _read_names(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=16)
def _read_names(path: Path, stamp: tuple[int, ...]) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file)
            if "artifacts" not in table.schema_arrow.names:
                return {}
            rows = table.read(columns=["run_id", "artifacts"]).to_pylist()
    except (OSError, pa.ArrowException):
        return {}  # the table's own reader says what is wrong with it
    return {row["run_id"]: row["artifacts"] for row in rows if row["artifacts"]}
