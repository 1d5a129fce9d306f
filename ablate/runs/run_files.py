"""The files of a run: a working folder while it is made, and the folder of a finished run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablate.base.errors import ResultsError, how_to_fix
from ablate.base.paths import path_component
from ablate.runs.rows import Row
from ablate.store import tables
from ablate.store.artifacts import folder_column, new_folder, remove_other_folders
from ablate.store.atomic_files import is_temporary, output_file, sync_folder


def working_folder(folder: Path, run_id: str) -> Path:
    """Return the folder of an unfinished run: its checkpoints and the files that are ready.

    Raises:
        ResultsError: The run's name cannot be a folder's: a table may come from anyone.
    """
    return folder / "artifacts" / f"{path_component(run_id, 'a run', folder / 'runs.parquet')}.part"


def clean_up_finished(folder: Path, run_id: str) -> bool:
    """Delete the working folder if the run is finished: a killed process leaves it.

    Return whether the run is finished.
    """
    done = is_done(folder, run_id)
    if done:
        shutil.rmtree(working_folder(folder, run_id), ignore_errors=True)
        remove_other_folders(folder, run_id)
    return done


def is_done(folder: Path, run_id: str) -> bool:
    """Return whether a run has a finished row."""
    runs = tables.read(folder, "runs", ("run_id", "status"))
    return bool(((runs["run_id"] == run_id) & (runs["status"] == "done")).any())


def record_remote_run(folder: Path, run_id: str, files: Mapping[str, bytes], rows: Mapping[str, Sequence[Row]]) -> None:
    """Record a run from another machine as `execute_run` records its own: the files, then the rows.

    Args:
        folder: The results folder.
        run_id: The run.
        files: Name -> content: the artifacts of a finished run, or the checkpoints of an unfinished
            one.
        rows: Table -> its rows; empty if only checkpoints arrived.

    Raises:
        ResultsError: A file or a table cannot be written.
    """
    working = working_folder(folder, run_id)
    for name, content in files.items():
        with output_file(working / name) as temporary:
            temporary.write_bytes(content)
    statuses = [row["status"] for row in rows.get("runs", ())]
    if "done" in statuses:
        artifacts = move_artifacts(working, folder, run_id)
        rows = {**rows, "runs": [{**row, "artifacts": artifacts} for row in rows["runs"]]}
    if "done" in statuses or (statuses and not is_done(folder, run_id)):
        tables.append(folder, rows)
    if {"done", "diverged"} & set(statuses):
        shutil.rmtree(working, ignore_errors=True)
    if "done" in statuses:
        remove_other_folders(folder, run_id)


def delete_temporary_files(working: Path) -> None:
    """Delete the files that a killed process was writing."""
    for path in working.glob("*"):
        if is_temporary(path):
            path.unlink(missing_ok=True)


def move_artifacts(working: Path, folder: Path, run_id: str) -> str | None:
    """Move the files of a run that ends now to their place, beside those of a finished row.

    The checkpoints stay until the row is written. Files of an attempt without a row are replaced.

    Returns:
        The column `artifacts` of the run's row.

    Raises:
        ResultsError: They cannot be moved.
    """
    finished = [path for path in working.iterdir() if not path.name.endswith("checkpoint.safetensors")]
    artifacts = new_folder(folder, run_id, finished=is_done(folder, run_id))
    try:
        artifacts.mkdir(exist_ok=True)
        for path in finished:
            if path.is_dir():
                shutil.rmtree(artifacts / path.name, ignore_errors=True)
            os.replace(path, artifacts / path.name)
        sync_folder(artifacts)
        sync_folder(artifacts.parent)
    except OSError as error:
        raise ResultsError(f"{artifacts}: cannot be written ({error}); {how_to_fix(error)} and run again") from error
    return folder_column(artifacts, run_id)
