"""The results folder: one Parquet file per table, each row with its key.

    <results>/<table>.parquet      the tables of `schema.SCHEMAS`, readable by `pandas.read_parquet`
    <results>/.lock, .lock.json    the lock of the one writer, and who holds it

Tables are replaced as a whole: written to files beside the old ones, flushed to the disk, renamed
over them, and all of one call at one moment, whatever dies. A reader sees the old table or the new
one, never a part of one, even if it opens the path twice (`ablate.store.parquet_files`), and a
killed process loses no saved row.

A table of an older schema version is migrated when it is read, and written in the current version
by the next run. A newer one is refused, and so is a table that holds a key twice. Columns that this
version does not know are read, and kept when rows are added or replaced; new rows are null there.
"""

from __future__ import annotations

import json
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from shlex import quote
from typing import Any

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ablate.base.errors import ResultsError, how_to_fix, is_out_of_memory
from ablate.store import parquet_files, schema
from ablate.store.owners import Owner

LOCK_FILE = ".lock"  # in a results folder; the first writer creates it, and it stays

_check_right: ContextVar[Callable[[], None]] = ContextVar("check_right", default=lambda: None)


@contextmanager
def append_only_if(check: Callable[[], None]) -> Iterator[None]:
    """Let `append` call a function in the block before it writes, while the results folder is locked.

    A process takes a run over while it holds that lock too (`ablate.launch.leases`). So no row is
    written by one that has lost its run, however long it was suspended.

    Args:
        check: Raises an error if this process may not write rows any more.
    """
    token = _check_right.set(check)
    try:
        yield
    finally:
        _check_right.reset(token)


def append(
    results: Path, rows: Mapping[str, Sequence[Mapping[str, object]]], *, replace: bool = True, timeout: float = 60.0
) -> None:
    """Save the rows of runs: replace those runs' rows in the named tables, or add to them.

    All tables are written before any is put in place, and `runs` is put in place last: a run is
    visible only when its other rows are.

    Args:
        results: The results folder; created if it is missing.
        rows: Table name -> its rows, column -> value. Columns left out are null, and so are numbers
            that are not finite. A table that is named with no row for a run of this call loses the
            rows it had of that run. A run keeps its tags if its new row has none.
        replace: False keeps the rows that the named tables held of those runs.
        timeout: Seconds to wait for another writer.

    Raises:
        ResultsError: Rows that do not fit the schema or, with `replace` off, that are there
            already; a folder or table that cannot be read or written, a full disk, or a folder that
            stayed locked. The tables are then as they were.
        Exception: What `append_only_if` raises.
    """
    new = {table: schema.to_arrow(table, rows[table]) for table in sorted(rows, key=lambda name: name == "runs")}
    owners: dict[str, set[str]] = {}  # of rows: a column such as `run_id` -> its values in this call
    for table in rows:
        owner = schema.KEYS[table][0]
        owners.setdefault(owner, set()).update(str(row[owner]) for row in rows[table])
    check_folder(results)
    with lock(results, timeout):
        _check_right.get()()
        content: dict[str, pa.Table] = {}
        for table, added in new.items():
            kept, owner = load(results, table, encoded=True), schema.KEYS[table][0]
            ids = pa.array(sorted(owners[owner]), pa.string())
            if not replace:
                _check_new(table, added, kept)
            elif pc.any(replaced := pc.is_in(kept[owner], value_set=ids)).as_py():
                if table == "runs":
                    added = _with_tags(added, kept.filter(replaced))
                kept = kept.filter(pc.invert(replaced))
            content[table] = pa.concat_tables([kept, schema.fit(added, kept.schema)])
        put(results, content)


def remove(results: Path, run_ids: Collection[str]) -> None:
    """Remove all rows of some runs.

    `runs` is put in place first: a process that is killed in between leaves rows of runs that are
    gone, which no command uses.

    Args:
        results: The results folder.
        run_ids: The runs; those that have no row are ignored.

    Raises:
        ResultsError: A table cannot be read or written, or the folder stayed locked.
    """
    ids = pa.array(sorted(run_ids), pa.string())
    with lock(results):
        _keep(results, lambda of_row: pc.invert(pc.is_in(of_row, value_set=ids)))


def remove_orphans(results: Path, keep: Collection[str]) -> int:
    """Remove rows of runs that `runs` does not hold, and return how many.

    Args:
        results: The results folder.
        keep: Runs whose rows stay: those that are being made.

    Raises:
        ResultsError: As `remove`.
    """
    with lock(results):
        ids = pa.array(sorted({*load(results, "runs")["run_id"].to_pylist(), *keep}), pa.string())
        return _keep(results, lambda of_row: pc.is_in(of_row, value_set=ids))


def _keep(results: Path, is_kept: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> int:
    """Remove the rows of runs that are not kept, and return how many. Hold the folder's lock."""
    content, removed = {}, 0
    for table in schema.RUN_TABLES:
        rows = load(results, table, encoded=True)
        kept = rows.filter(is_kept(rows["run_id"]))
        if len(kept) < len(rows):
            content[table] = kept
            removed += len(rows) - len(kept)
    put(results, content)
    return removed


def put(results: Path, content: Mapping[str, pa.Table]) -> None:
    """Write whole tables, then put them in place in the order given. Hold the folder's lock.

    Raises:
        ResultsError: A table cannot be written. The tables are then as they were.
    """
    try:
        parquet_files.replace_tables(results, content)
    except OSError as error:
        raise ResultsError(
            f"{results}: the rows could not be saved: {_reason(error)}; earlier rows are kept; "
            f"{how_to_fix(error)} and run again, or choose another --results folder"
        ) from error


def read(results: Path, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read one table.

    Args:
        results: The results folder; one that does not exist holds empty tables.
        table: A name in `schema.SCHEMAS`.
        columns: The columns to return; None: all. Few of them take half of the time.

    Returns:
        One row per the table's key, columns as in `schema.SCHEMAS[table]`, then those that this
        version does not know; dtypes `string`, `Int64`, `float64`, `boolean` and
        `datetime64[us, UTC]`.

    Raises:
        ResultsError: An unknown table, or a file that is damaged, foreign, unreadable, written by
            a newer version, or that holds a key twice.
    """
    schema.check_table(table)
    content = load(results, table)
    repeated = repeated_keys(table, content)
    if len(repeated):
        key = ", ".join(f"{name} = {value}" for name, value in repeated.slice(0, 1).to_pylist()[0].items())
        more = f" (and {len(repeated) - 1:,} more)" if len(repeated) > 1 else ""
        raise ResultsError(
            f"{results / table}.parquet: two rows with {key}{more}, as after gluing tables of two folders; "
            f"ablate merge {quote(str(results))} -o NEW_FOLDER keeps one of equal rows"
        )
    frame: pd.DataFrame = (content if columns is None else content.select(list(columns))).to_pandas()
    return frame


def repeated_keys(table: str, content: pa.Table) -> pa.Table:
    """Return the keys of the rows whose key an earlier row of the table has."""
    keys = content.select(list(schema.KEYS[table]))
    if not len(keys) or (keys.num_columns == 1 and pc.count_distinct(keys.column(0)).as_py() == len(keys)):
        return keys.slice(0, 0)
    # As dictionary codes: pandas is slow with texts.
    codes = [column.dictionary_encode() if pa.types.is_string(column.type) else column for column in keys.columns]
    repeated = pa.table(codes, keys.column_names).to_pandas().duplicated()
    return keys.filter(pa.array(repeated, pa.bool_()))


def stamp(results: Path, table: str) -> tuple[int, ...] | None:
    """Return what changes whenever a table is written; None: there is none, or it is being replaced."""
    try:
        stat = (results / f"{table}.parquet").stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def check_exists(results: Path) -> None:
    """Refuse a results folder that is not there.

    Raises:
        ResultsError: There is no such folder.
    """
    if not results.is_dir():
        raise ResultsError(f"--results {results}: no such folder; make a run first: ablate run")


def check_folder(results: Path) -> None:
    """Create the results folder if it is missing, and check that a file can be written in it.

    Raises:
        ResultsError: The path or one of its parents is a file, or the folder cannot be created or
            written.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        file = next((path for path in (results, *results.parents) if path.exists() and not path.is_dir()), results)
        raise ResultsError(f"{results}: {file} is a file, not a folder; choose another --results folder") from error
    except OSError as error:
        fix = f"{how_to_fix(error)} or choose another --results folder"
        raise ResultsError(f"{results}: cannot write in this folder: {_reason(error)}; {fix}") from error


def to_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a results table as plain dictionaries, null as None."""
    names = [str(name) for name in table.columns]
    series: list[Any] = [table.iloc[:, i] for i in range(len(names))]  # the stubs lack `na_value=None`
    columns = [column.to_numpy(object, na_value=None).tolist() for column in series]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def match_run_ids(run_ids: Iterable[str], name: str) -> set[str]:
    """Return the runs that a name selects.

    That is the run with this name; else those whose name goes on after it with a hyphen; else those
    that begin with it. So `no_drift` does not select runs of `no_drift_matched`.
    """
    found = {run_id for run_id in run_ids if run_id.startswith(name)}
    return found & {name} or {run_id for run_id in found if run_id.startswith(f"{name}-")} or found


def _with_tags(added: pa.Table, replaced: pa.Table) -> pa.Table:
    """Return new rows of `runs` with the tags of the rows that they replace."""
    old = dict(zip(replaced["run_id"].to_pylist(), replaced["tags"].to_pylist(), strict=True))
    pairs = zip(added["run_id"].to_pylist(), added["tags"].to_pylist(), strict=True)
    return set_tags(added, [new if new is not None else old.get(run_id) for run_id, new in pairs])


def set_tags(rows: pa.Table, tags: Sequence[str | None]) -> pa.Table:
    """Return rows of `runs` with these tags."""
    place = rows.column_names.index("tags")
    return rows.set_column(place, rows.schema.field(place), pa.array(tags, pa.string()))


def _check_new(table: str, added: pa.Table, kept: pa.Table) -> None:
    """Refuse rows whose key is already in the table."""
    unique = list(schema.KEYS[table])
    kept = kept.filter(pc.is_in(kept[unique[0]], value_set=pc.unique(added[unique[0]])))
    here = set(zip(*(kept[name].to_pylist() for name in unique), strict=True))
    for key in zip(*(added[name].to_pylist() for name in unique), strict=True):
        if key in here:
            raise ResultsError(
                f"{table}: there is a row with {', '.join(unique)} = {key} already; "
                "only rows that replace it may repeat it"
            )


def _renamed(table: str, found: pa.Schema) -> list[str]:
    """Return unknown columns of a file that lacks others which it lists: a name is damaged.

    Raises:
        ValueError: The list is damaged.
    """
    try:
        listed = json.loads((found.metadata or {}).get(b"pandas", b"{}")).get("columns", [])
        lacking = {str(column["name"]) for column in listed} - {*found.names}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("its list of columns cannot be read") from error
    return [name for name in found.names if name not in schema.SCHEMAS[table].names] if lacking else []


def load(results: Path, table: str, *, encoded: bool = False) -> pa.Table:
    """Read one table as it is, with texts as dictionary codes if `encoded`; a key may be there twice.

    Raises:
        ResultsError: As `read`.
    """
    path = results / f"{table}.parquet"
    wanted = schema.dictionary_encoded(schema.SCHEMAS[table]) if encoded else schema.SCHEMAS[table]
    fix = "restore it from a copy, or move it away to start an empty table"
    try:
        with parquet_files.open_table(results, table) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            metadata = parquet.schema_arrow.metadata or {}
            version = metadata.get(schema.VERSION_KEY, b"").decode(errors="replace")
            if not version.isdecimal():
                raise ResultsError(f"{path}: not a table of ablate (no schema version); {fix}")
            if int(version) > schema.SCHEMA_VERSION:
                raise ResultsError(
                    f"{path}: written with schema version {version}, this ablate reads up to {schema.SCHEMA_VERSION}; "
                    "upgrade ablate, or choose another --results folder"
                )
            if encoded:
                texts = [field.name for field in parquet.schema_arrow if field.type == pa.string()]
                parquet = pq.ParquetFile(file, page_checksum_verification=True, read_dictionary=texts)
            found = parquet.read()
            found.validate(full=True)  # a damaged file may hold texts that are no UTF-8
            for older in range(int(version), schema.SCHEMA_VERSION):
                if older not in schema.MIGRATIONS:
                    raise ResultsError(
                        f"{path}: written with schema version {version}, which this ablate cannot read; {fix}"
                    )
                found = schema.MIGRATIONS[older](table, found)
            kinds = {field.name: field.type for field in found.schema}
            # Columns that were added later are null in older rows.
            wrong = [f.name for f in wanted if (f.name in kinds or not f.nullable) and kinds.get(f.name) != f.type]
            wrong += [name for name, count in Counter(found.column_names).items() if count > 1]
            wrong += _renamed(table, found.schema)
            if wrong:
                names = ", ".join(map(repr, wrong))
                raise ResultsError(f"{path}: its columns are not those of schema version {version}: {names}; {fix}")
            empty = [f.name for f in wanted if not f.nullable and found[f.name].null_count]
            if empty:
                raise ResultsError(f"{path}: damaged (empty cells in {', '.join(map(repr, empty))}); {fix}")
            kept = schema.with_unknown(table, found.schema)
            return schema.fit(found, schema.dictionary_encoded(kept) if encoded else kept)
    except FileNotFoundError:
        return wanted.empty_table()
    except (OSError, ValueError, pa.ArrowException) as error:
        if is_out_of_memory(error):  # the file may be whole
            raise
        # System errors have an errno; a parser's errors do not.
        if isinstance(error, NotADirectoryError):
            raise ResultsError(
                f"{path}: {path.parent} is a file, not a folder; choose another --results folder"
            ) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise ResultsError(
                f"{path}: cannot be read: {_reason(error)}; fix that or choose another --results folder"
            ) from error
        raise ResultsError(f"{path}: damaged ({_reason(error)}); {fix}") from error


@contextmanager
def lock(results: Path, timeout: float = 60.0) -> Iterator[None]:
    """Let no other process write tables of a results folder in the block.

    Raises:
        ResultsError: The folder cannot be locked, or another process held it for `timeout` seconds.
    """
    holder = results / ".lock.json"
    file_lock = filelock.FileLock(results / LOCK_FILE, timeout=timeout)
    try:
        file_lock.acquire()
        parquet_files.finish_replacing(results)
    except filelock.Timeout as error:
        raise ResultsError(
            f"{results}: locked by {Owner.read(holder).describe()}, waited {timeout:g} s; "
            "wait for it or end it, then run again"
        ) from error
    except OSError as error:
        file_lock.release()
        raise ResultsError(
            f"{results}: cannot be locked: {_reason(error)}; {how_to_fix(error)} or choose another --results folder"
        ) from error
    try:
        with suppress(OSError):  # for information only; writing the tables reports a full disk
            Owner.here().write(holder)
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        file_lock.release()


def _reason(error: Exception) -> str:
    """Return the error in one printable line: a parser may quote the bytes it read."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = textwrap.shorten(text, 200) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in line)
