"""Removing runs from a results folder: all of their rows, and their files.

Rows go first, `runs` before the other tables, and then the files. A process that is killed in between
leaves files and rows that no report uses; the same command, or `ablate doctor --clear orphans`,
removes them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ablate.base.errors import ResultsError
from ablate.launch.leases import Leases
from ablate.store import tables
from ablate.store.artifacts import REMOVED, all_folders, delete_removed, working_folders


def folders_of(results: Path, run_id: str) -> list[Path]:
    """Return the folders of a run that exist: its files, and its working folder."""
    return [*all_folders(results, run_id), *working_folders(results, run_id).values()]


def remove_runs(results: Path, run_ids: Collection[str]) -> int:
    """Remove runs from a results folder, and return how many bytes their files had.

    Args:
        results: The results folder.
        run_ids: The runs.

    Raises:
        ResultsError: A run is being made (nothing is removed then), or something cannot be removed.
    """
    folders = [folder for run_id in run_ids for folder in folders_of(results, run_id)]
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    waste = results / REMOVED
    with Leases(results).none_held(run_ids):
        tables.remove(results, run_ids)
        try:
            delete_removed(results)  # of a process that was killed
            waste.mkdir(exist_ok=True)
            for folder in folders:  # moved at once: a run that is made again finds no old files
                folder.replace(waste / folder.name)
        except OSError as error:
            raise ResultsError(f"{results}: files cannot be removed ({error}); fix that and run again") from error
    delete_removed(results)
    return size
