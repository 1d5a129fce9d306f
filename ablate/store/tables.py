"""The results folder: one Parquet file per table, each row with its key.

    <results>/<table>.parquet      the tables of `schema.SCHEMAS`, readable by `pandas.read_parquet`
    <results>/.lock, .lock.json    the lock of the one writer, and who holds it

A table of an older schema version is migrated when it is read, and written in the current version
by the next run. A newer one is refused. A table is replaced as a whole: written to a file beside
the old one, flushed to the disk, renamed over it. A reader sees the old table or the new one, never
a part of one, and a killed process loses no saved row.
"""

from __future__ import annotations

import base64
import os
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ablate.base.errors import ResultsError, how_to_fix
from ablate.store import schema
from ablate.store.atomic_files import sync_folder
from ablate.store.owners import Owner


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
            rows it had of that run.
        replace: False keeps the rows that the named tables held of those runs.
        timeout: Seconds to wait for another writer.

    Raises:
        ResultsError: Rows that do not fit the schema or, with `replace` off, that are there
            already; a folder or table that cannot be read or written, a full disk, or a folder that
            stayed locked. The tables are then as they were.
    """
    new = {table: schema.to_arrow(table, rows[table]) for table in sorted(rows, key=lambda name: name == "runs")}
    owners: dict[str, set[str]] = {}  # of rows: a column such as `run_id` -> its values in this call
    for table in rows:
        owner = schema.KEYS[table][0]
        owners.setdefault(owner, set()).update(str(row[owner]) for row in rows[table])
    check_folder(results)
    with _lock(results, timeout):
        staged: dict[Path, Path] = {}
        try:
            for table, added in new.items():
                path = results / f"{table}.parquet"
                kept, owner = _load(path, table, encoded=True), schema.KEYS[table][0]
                ids = pa.array(sorted(owners[owner]), pa.string())
                if not replace:
                    _check_new(table, added, kept)
                elif pc.any(replaced := pc.is_in(kept[owner], value_set=ids)).as_py():
                    kept = kept.filter(pc.invert(replaced))
                # A fixed name: the next writer overwrites what a killed process left.
                staged[path] = results / f".{table}.parquet.tmp"
                _write(staged[path], pa.concat_tables([kept, added.cast(schema.dictionary_encoded(added.schema))]))
            for path, written in staged.items():
                os.replace(written, path)
            sync_folder(results)
        except OSError as error:
            raise ResultsError(
                f"{results}: the rows could not be saved: {_reason(error)}; earlier rows are kept; "
                f"{how_to_fix(error)} and run again, or choose another --results folder"
            ) from error
        finally:
            for written in staged.values():
                with suppress(OSError):
                    written.unlink(missing_ok=True)


def read(results: Path, table: str) -> pd.DataFrame:
    """Read one table.

    Args:
        results: The results folder; one that does not exist holds empty tables.
        table: A name in `schema.SCHEMAS`.

    Returns:
        One row per the table's key, columns as in `schema.SCHEMAS[table]`; dtypes `string`,
        `Int64`, `float64`, `boolean` and `datetime64[us, UTC]`.

    Raises:
        ResultsError: An unknown table, or a file that is damaged, foreign, unreadable or written by
            a newer version.
    """
    schema.check_table(table)
    frame: pd.DataFrame = _load(results / f"{table}.parquet", table).to_pandas()
    return frame


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
    found = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(k): v for k, v in row.items()} for row in found]


def match_run_ids(run_ids: Iterable[str], name: str) -> set[str]:
    """Return the runs that a name selects.

    That is the run with this name; else those whose name goes on after it with a hyphen; else those
    that begin with it. So `no_drift` does not select runs of `no_drift_matched`.
    """
    found = {run_id for run_id in run_ids if run_id.startswith(name)}
    return found & {name} or {run_id for run_id in found if run_id.startswith(f"{name}-")} or found


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


def _load(path: Path, table: str, *, encoded: bool = False) -> pa.Table:
    """Read a table, with texts as dictionary codes if `encoded`."""
    wanted = schema.dictionary_encoded(schema.SCHEMAS[table]) if encoded else schema.SCHEMAS[table]
    fix = "restore it from a copy, or move it away to start an empty table"
    try:
        with path.open("rb") as file:
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
            for older in range(int(version), schema.SCHEMA_VERSION):
                if older not in schema.MIGRATIONS:
                    raise ResultsError(
                        f"{path}: written with schema version {version}, which this ablate cannot read; {fix}"
                    )
                found = schema.MIGRATIONS[older](table, found)
            kinds = {field.name: field.type for field in found.schema}
            # Columns that were added later are null in older rows.
            wrong = [f.name for f in wanted if (f.name in kinds or not f.nullable) and kinds.get(f.name) != f.type]
            wrong += [name for name in kinds if name not in wanted.names]
            if wrong:
                names = ", ".join(map(repr, wrong))
                raise ResultsError(f"{path}: its columns are not those of schema version {version}: {names}; {fix}")
            columns = {f.name: found[f.name] if f.name in kinds else pa.nulls(len(found), f.type) for f in wanted}
            return pa.table(columns, schema=wanted)
    except FileNotFoundError:
        return wanted.empty_table()
    except (OSError, ValueError, pa.ArrowException) as error:
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


def _write(path: Path, table: pa.Table) -> None:
    with path.open("wb") as file:
        texts = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]  # numbers rarely repeat
        options = {"compression": "lz4", "use_dictionary": texts, "write_statistics": False, "store_schema": False}
        with pq.ParquetWriter(file, table.schema, write_page_checksum=True, **options) as writer:
            # The stored schema has plain texts: readers would otherwise see categories.
            plain = schema.plain_text(table.schema)
            arrow = base64.b64encode(plain.serialize().to_pybytes())
            writer.add_key_value_metadata({**plain.metadata, "ARROW:schema": arrow})
            writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _lock(results: Path, timeout: float) -> Iterator[None]:
    holder = results / ".lock.json"
    lock = filelock.FileLock(results / ".lock", timeout=timeout)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ResultsError(
            f"{results}: locked by {Owner.read(holder).describe()}, waited {timeout:g} s; "
            "wait for it or end it, then run again"
        ) from error
    except OSError as error:
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
        lock.release()


def _reason(error: Exception) -> str:
    """Return the error in one printable line: a parser may quote the bytes it read."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = textwrap.shorten(text, 200) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in line)
