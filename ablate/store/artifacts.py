"""The folders of finished runs: `<results>/artifacts/<run_id>/`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ablate.base.errors import ResultsError
from ablate.base.text import printable

REMOVED = ".removed"  # folder in a results folder: files of removed runs, on their way out


def folders_without_row(results: Path, run_ids: Collection[str]) -> list[Path]:
    """Return the folders of finished runs that the table `runs` does not hold, by name.

    A run writes its row after its folder, and deletes its working folder `<run_id>.part` last. So a
    folder beside such a working folder is not returned: its run is being made, or will be resumed.

    Args:
        results: The results folder.
        run_ids: The runs that the table holds.
    """
    folders = {path.name: path for path in (results / "artifacts").glob("*") if path.is_dir()}
    return [
        folders[name]
        for name in sorted(folders)
        if name not in run_ids and not name.endswith(".part") and f"{name}.part" not in folders
    ]


def run_folder(results: Path, run_id: str) -> Path:
    """Return the folder of a finished run.

    Raises:
        ResultsError: The run's name leads elsewhere: a table may come from anyone.
    """
    if run_id in ("", "..") or Path(run_id).name != run_id or "\\" in run_id:
        raise ResultsError(f"{results / 'runs'}.parquet: {printable(run_id)!r} cannot be a run: it is no file name")
    return results / "artifacts" / run_id
