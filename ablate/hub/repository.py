"""The files of a repository: one finished run, complete in itself.

    README.md                  the model card
    config.json                the configuration, for readers; the row holds the same
    model.safetensors          the weights; in latent space also autoencoder.safetensors
    samples.png                images that the model drew; samples_<step>.png: during the training
    tables/<table>.parquet     the run's rows in each table of its results folder, unchanged

No image of the training data is among them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ablate.base.errors import ResultsError
from ablate.base.text import printable, some_of
from ablate.report.render.model_card import model_card
from ablate.runs.finished import find_run
from ablate.store import schema, tables
from ablate.store.artifacts import run_folder
from ablate.store.atomic_files import output_file
from ablate.store.merge import read_tables
from ablate.store.weight_checks import check_weights

CARD, CONFIG, TABLES = "README.md", "config.json", "tables"
ROW = f"{TABLES}/runs.parquet"  # a folder that has it is a repository
WEIGHTS = {"model.safetensors": "weights_digest", "autoencoder.safetensors": "autoencoder_digest"}
IMAGES = ("samples.png", "samples.webp", "samples_*.png")
PATTERNS = (CARD, CONFIG, *WEIGHTS, *IMAGES, *(f"{TABLES}/{table}.parquet" for table in schema.SCHEMAS))
PUSH_AGAIN = "push the run again with ablate push, or pull another copy"

Row = dict[str, Any]
Files = dict[str, Path | bytes]  # name in the repository -> the file to copy, or its content


def files_of(results: Path, name: str, source: str, licence: str | None) -> tuple[str, Files]:
    """Return a finished run's name, and the files of its repository; the row comes first.

    Args:
        results: The results folder.
        name: A name as for `find_run`.
        source: The repository, as the card tells its readers.
        licence: The licence in the card; None: none is given.

    Raises:
        ResultsError: As for `find_run`, the run has no model, or its weights are missing, damaged
            or not those of its row.
    """
    run_id = find_run(results, name)["run_id"]
    content = _rows_of(run_id, read_tables(results))
    (row,) = content["runs"].to_pylist()
    if row["weights_digest"] is None or row["config"] is None:
        raise ResultsError(f"run {run_id}: it has no model: only a run that ablate trained itself can be pushed")
    artifacts = run_folder(results, run_id)
    files: Files = dict(_table_files(content))
    for weights in weight_files(row):
        check_weights(artifacts / weights, row[WEIGHTS[weights]])
        files[weights] = artifacts / weights
    images = [path for pattern in IMAGES for path in sorted(artifacts.glob(pattern))]
    files |= {path.name: path for path in images}
    try:
        files[CONFIG] = (json.dumps(json.loads(row["config"]), indent=2) + "\n").encode()
    except (ValueError, RecursionError) as error:
        raise ResultsError(
            f"run {run_id}: its configuration is not valid JSON; make the run again with --force"
        ) from error
    frames = {table: rows.to_pandas() for table, rows in content.items()}
    files[CARD] = model_card(frames, source, images[0].name if images else None, licence).encode()
    return run_id, files


def weight_files(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's weight files."""
    return [name for name, column in WEIGHTS.items() if name == "model.safetensors" or row[column] is not None]


def write_folder(folder: Path, run_id: str, files: Files) -> None:
    """Write a repository into a new folder, or over an older one of the same run.

    Raises:
        ResultsError: The folder holds other things, or cannot be written. Nothing is written before
            that is known.
    """
    if folder.exists() and not folder.is_dir():
        raise ResultsError(f"push {folder}: a file; name a folder")
    names = [path.name for path in folder.glob("*") if path.name != TABLES]
    names += [f"{TABLES}/{path.name}" for path in (folder / TABLES).glob("*")]
    refuse_other_content(str(folder), names, run_id, lambda: folder)
    for name, content in files.items():
        with output_file(folder / name) as temporary:
            if isinstance(content, Path):
                shutil.copyfile(content, temporary)
            else:
                temporary.write_bytes(content)
    for name in stale_names(names, files):
        (folder / name).unlink(missing_ok=True)


def refuse_other_content(where: str, names: list[str], run_id: str, copy: Callable[[], Path]) -> None:
    """Refuse to push into a repository that holds anything but the same run.

    Args:
        where: The repository, for the error.
        names: Its files.
        run_id: The run that is pushed.
        copy: Returns a folder with its file `tables/runs.parquet`.

    Raises:
        ResultsError: It holds other things.
    """
    own = [name for name in names if not name.startswith(".git")]
    if not own:
        return
    if ROW not in own:
        raise ResultsError(f"push {where}: it holds other things ({some_of(sorted(own))}); choose another name")
    other = read_row(copy())["run_id"]
    if other != run_id:
        raise ResultsError(f"push {where}: it holds the run {printable(other)}; choose another name for {run_id}")


def stale_names(names: list[str], files: Files) -> list[str]:
    """Return which files of a repository an earlier push of the run wrote, and this one does not."""
    written = {*WEIGHTS, *(f"{TABLES}/{table}.parquet" for table in schema.SCHEMAS)}
    return sorted(written.intersection(names).difference(files))


def is_repository(folder: Path) -> bool:
    """Return whether a folder holds a run that was pushed."""
    return (folder / ROW).is_file()


def read_row(folder: Path, name: str | None = None) -> Row:
    """Return the row of a repository's run.

    Args:
        folder: The folder of its files.
        name: The repository, for the error; None: the folder.

    Raises:
        ResultsError: The folder holds no run, or not one finished run, or a name in the row leads
            elsewhere.
    """
    if not is_repository(folder):
        raise ResultsError(
            f"{name or folder}: it holds no run: there is no {ROW}; name a folder that ablate push wrote"
        )
    rows = tables.to_records(tables.read(folder / TABLES, "runs"))
    if len(rows) != 1:
        raise ResultsError(f"{folder / ROW}: {len(rows)} rows, where a repository has one run; {PUSH_AGAIN}")
    (row,) = rows
    run_folder(folder / TABLES, row["run_id"])  # refuses a name that leads elsewhere
    if row["status"] != "done":
        raise ResultsError(f"{folder / ROW}: run {row['run_id']} is {row['status']}, not done; {PUSH_AGAIN}")
    return row


def check_files(folder: Path, row: Row) -> None:
    """Refuse a repository whose weights or configuration are not those of its row.

    Raises:
        ResultsError: A file is missing, damaged or another one.
    """
    for name in weight_files(row):
        check_weights(folder / name, row[WEIGHTS[name]], PUSH_AGAIN)
    path = folder / CONFIG
    try:
        equal = json.loads(path.read_text("utf-8")) == json.loads(row["config"])
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: missing; {PUSH_AGAIN}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ResultsError(f"{path}: this file or the row's configuration is not valid JSON; {PUSH_AGAIN}") from error
    if not equal:
        raise ResultsError(f"{path}: not the configuration in {ROW}, which made these weights; {PUSH_AGAIN}")


def to_results(folder: Path, row: Row, results: Path) -> None:
    """Write a repository's run into a new, empty results folder.

    Raises:
        ResultsError: A table cannot be read or written.
    """
    run_id = row["run_id"]
    content = _rows_of(run_id, read_tables(folder / TABLES))
    tables.put(results, content)
    artifacts = run_folder(results, run_id)
    artifacts.mkdir(parents=True)
    for path in [folder / name for name in weight_files(row)] + [p for one in IMAGES for p in folder.glob(one)]:
        shutil.copy2(path, artifacts / path.name)


def _rows_of(run_id: str, content: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return a run's rows in all tables, and its plan."""
    rows = {table: content[table].filter(pc.field("run_id") == run_id) for table in schema.RUN_TABLES}
    (plan_id,) = rows["runs"]["plan_id"].to_pylist()
    rows["plans"] = content["plans"].filter(pc.field("plan_id") == (plan_id or ""))
    return rows


def _table_files(content: Mapping[str, pa.Table]) -> dict[str, bytes]:
    """Return the Parquet files of tables that have rows, `runs` first."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tables.put(folder, {table: rows for table, rows in content.items() if len(rows)})
        order = sorted(schema.SCHEMAS, key=lambda table: table != "runs")
        paths = [folder / f"{table}.parquet" for table in order]
        return {f"{TABLES}/{path.name}": path.read_bytes() for path in paths if path.is_file()}
