"""The files of a run: a working folder while it is made, and the folder of a finished run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ablate.base.errors import AblateError, DivergedError, ResultsError, check_lease, how_to_fix
from ablate.runs.rows import Row, RunRows
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
        check_lease(run_id, still_ours)  # else the folder that is there now could be the other process's
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


@contextmanager
def recorded(
    rows: RunRows,
    working: Path,
    folder: Path,
    *,
    finished_before: bool,
    still_ours: Callable[[], bool],
    goes_on: str,
    keep_diverged: bool = False,
) -> Iterator[None]:
    """Make a run in the block; then move its files to their place and write its rows, however it ended.

    A diverged run does not raise. A finished row is replaced by another finished one only.

    Args:
        rows: The rows of the run. Its row of `runs` gets a status.
        working: Its working folder.
        folder: The results folder.
        finished_before: The run had a finished row when its study began.
        still_ours: Returns False once another process has taken the run over. Nothing is written then.
        goes_on: What the same command does after an interruption, for the row.
        keep_diverged: Keep the files of a diverged run too.

    Raises:
        LeaseLostError: Another process has taken the run over.
        ResultsError: Files or rows cannot be written.
    """
    run_id = rows.run["run_id"]

    def keep_finished() -> bool:
        """Whether there is a finished row, also from a process that took this run over."""
        return finished_before or is_done(folder, run_id)

    try:
        yield
        check_lease(run_id, still_ours)
        rows.run["artifacts"] = move_artifacts(working, folder, run_id)
    except DivergedError as error:
        check_lease(run_id, still_ours)
        if keep_finished():
            rows.run |= {"status": "diverged", "error": f"{error}; the finished row stays"}
        else:
            rows.run["artifacts"] = move_artifacts(working, folder, run_id) if keep_diverged else None
            rows.write(folder, "diverged", str(error))
        shutil.rmtree(working, ignore_errors=True)  # its checkpoint would only diverge again
        return
    except KeyboardInterrupt:
        if still_ours() and not keep_finished():
            rows.write(folder, "interrupted", f"interrupted by a signal; the same command {goes_on}")
        raise
    except Exception as error:
        check_lease(run_id, still_ours)  # the new owner may have moved files that this process misses
        if not keep_finished():
            said = str(error) if isinstance(error, AblateError) else f"{type(error).__name__}: {error}"
            rows.write(folder, "failed", said)
        raise
    check_lease(run_id, still_ours)
    rows.write(folder, "done")
    clean_up_finished(folder, run_id, still_ours)


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
        check_lease(run_id, still_ours)
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
