"""The folders of finished runs: `<results>/artifacts/<run_id>/`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


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
