"""The files of a run: a working folder while it is made, and the folder of a finished run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ablate.base.errors import ResultsError, how_to_fix, lease_lost
from ablate.runs.rows import Row
from ablate.store import tables
from ablate.store.artifacts import (
    all_folders,
    folder_column,
    new_folder,
    new_working_folder,
    remove_other_folders,
    run_folder,
    working_folders,
)
from ablate.store.atomic_files import is_temporary, output_file, replacing, sync_folder

FILES = "files"  # in a working folder: what a finished run keeps, on its way to its place
MOVED = "moved.txt"  # there too: the name of that place
STATE = "state.json"  # there too: how far a program has come
_NOT_KEPT = ("checkpoint.safetensors", FILES, MOVED, STATE)


def open_working_folder(folder: Path, run_id: str, still_ours: Callable[[], bool] = lambda: True) -> Path:
    """Return the folder that a run is made in, with what an earlier attempt left there.

    What an attempt moved to its place before it died without a row comes back. Call this while the
    run's lease is held.

    Args:
        folder: The results folder.
        run_id: The run.
        still_ours: Returns False once another process has taken the run over.

    Raises:
        LeaseLostError: Another process has taken the run over.
        ResultsError: The folder cannot be written.
    """
    tables.check_folder(folder)
    with tables.lock(folder):
        if not still_ours():  # else the folder that is there now could be the other process's
            raise lease_lost(run_id)
        working = working_folders(folder, run_id).get(run_id) or new_working_folder(folder, run_id)
        recorded = run_folder(folder, run_id).name if is_done(folder, run_id) else None
        moved = (working / MOVED).read_text("utf-8") if (working / MOVED).is_file() else None
        try:
            if moved is not None and moved == recorded:  # the attempt wrote its row, and died before it cleaned up
                _delete(working)
                working, moved = new_working_folder(folder, run_id), None
            working.mkdir(parents=True, exist_ok=True)
            for path in all_folders(folder, run_id):
                if path.name == moved:
                    _move(path, working / FILES)
                elif path.name != recorded:
                    shutil.rmtree(path, ignore_errors=True)
            for path in (working / FILES).glob("*"):
                _move(path, working / path.name)
            for path in working.glob("*"):
                if is_temporary(path):  # a killed process was writing it
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise ResultsError(f"{working}: cannot be written ({error}); {how_to_fix(error)} and run again") from error
    return working


def clean_up_finished(folder: Path, run_id: str, still_ours: Callable[[], bool] = lambda: True) -> bool:
    """Delete what the attempts of a finished run have left. Call this while the run's lease is held.

    Return whether the run is finished.
    """
    with tables.lock(folder):
        done = is_done(folder, run_id)
        if done and still_ours():
            for path in working_folders(folder, run_id).values():
                _delete(path)
            remove_other_folders(folder, run_id)
    return done


def is_done(folder: Path, run_id: str) -> bool:
    """Return whether a run has a finished row."""
    runs = tables.read(folder, "runs", ("run_id", "status"))
    return bool(((runs["run_id"] == run_id) & (runs["status"] == "done")).any())


def record_remote_run(
    folder: Path,
    run_id: str,
    files: Mapping[str, bytes],
    rows: Mapping[str, Sequence[Row]],
    still_ours: Callable[[], bool] = lambda: True,
) -> None:
    """Record a run from another machine as `execute_run` records its own: the files, then the rows.

    Args:
        folder: The results folder.
        run_id: The run.
        files: Name -> content: the artifacts of a finished run, or the checkpoints of an unfinished
            one.
        rows: Table -> its rows; empty if only checkpoints arrived.
        still_ours: Returns False once another process has taken the run over.

    Raises:
        LeaseLostError: Another process has taken the run over.
        ResultsError: A file or a table cannot be written.
    """
    working = open_working_folder(folder, run_id, still_ours)
    try:
        for name, content in files.items():
            with output_file(working / name) as temporary:
                temporary.write_bytes(content)
        statuses = [row["status"] for row in rows.get("runs", ())]
        if "done" in statuses:
            artifacts = move_artifacts(working, folder, run_id)
            rows = {**rows, "runs": [{**row, "artifacts": artifacts} for row in rows["runs"]]}
    except ResultsError:
        if not still_ours():
            raise lease_lost(run_id) from None
        raise
    if "done" in statuses or (statuses and not is_done(folder, run_id)):
        tables.append(folder, rows)
    if "diverged" in statuses:
        shutil.rmtree(working, ignore_errors=True)
    if "done" in statuses:
        clean_up_finished(folder, run_id, still_ours)


def move_artifacts(working: Path, folder: Path, run_id: str) -> str | None:
    """Move the files of a run that ends now to their place, beside those of a finished row.

    They are gathered inside the working folder, then moved all at once. Checkpoints stay until the
    row is written.

    Returns:
        The column `artifacts` of the run's row.

    Raises:
        ResultsError: They cannot be moved.
    """
    artifacts = new_folder(folder, run_id)
    try:
        with replacing(working / MOVED) as temporary:
            temporary.write_text(artifacts.name, "utf-8")
        files = working / FILES
        files.mkdir(exist_ok=True)
        for path in working.iterdir():
            if not path.name.endswith(_NOT_KEPT):
                _move(path, files / path.name)
        sync_folder(files)
        os.replace(files, artifacts)
        sync_folder(artifacts.parent)
    except OSError as error:
        raise ResultsError(f"{artifacts}: cannot be written ({error}); {how_to_fix(error)} and run again") from error
    return folder_column(artifacts, run_id)


def _delete(working: Path) -> None:
    (working / STATE).unlink(missing_ok=True)  # first: it may say that the program has finished
    shutil.rmtree(working, ignore_errors=True)


def _move(path: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(path, target)
