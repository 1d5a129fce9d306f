"""The results folder: one Parquet file per table, each row keyed by its `run_id`.

    <results>/<table>.parquet        the tables of `SCHEMAS`, readable by `pandas.read_parquet`
    <results>/.lock, .lock.json      held by the one writer, and who that is

A table of an older schema version is migrated as it is read, and written in the present one by the next run; a newer one is refused.
A table is replaced as a whole: written beside the old file, flushed to the disk, renamed over it. So a reader sees the
old table or the new one, never half of one, and a process that is killed loses no row that was saved before.
"""

from __future__ import annotations

import base64
import json
import math
import numbers
import os
import socket
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ablate.errors import ResultsError, did_you_mean
from ablate.files import sync_folder

SCHEMA_VERSION = 1
# Version n -> what makes a table (its name, its content) of that version one of n + 1. The number is raised only where a column's meaning
# or type changes, or one goes: a column that is added is null in the rows of before, and needs nothing.
MIGRATIONS: dict[int, Callable[[str, pa.Table], pa.Table]] = {}
VERSION_KEY = b"ablate_schema_version"
STATUSES = ("done", "diverged", "failed", "interrupted")

_TEXT, _INT, _FLOAT, _BOOL, _TIME = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us", tz="UTC")
_WANTED = {
    _TEXT: "text",
    _INT: "a whole number",
    _FLOAT: "a number",
    _BOOL: "true or false",
    _TIME: "a time with its zone",
}
_DTYPES = {_TEXT: "string", _INT: "Int64", _FLOAT: "float64", _BOOL: "boolean", _TIME: "datetime64[us, UTC]"}

_COLUMNS: dict[str, list[tuple[pa.DataType, str]]] = {
    "runs": [
        (_TEXT, "run_id variant axis preset"),
        (_INT, "seed"),
        (_TEXT, "status error data data_digest"),
        (_INT, "n_train n_held_out duplicates"),
        (_TEXT, "budget config config_hash"),
        (_FLOAT, "fd"),
        (_INT, "fd_n fd_ref_n"),
        (_FLOAT, "fd_floor"),
        (_INT, "fd_floor_n"),
        (_FLOAT, "fd_inf kd fid fid_floor fid_inf kid"),
        (_FLOAT, "pd psnr_db lpips lpips_vgg"),
        (_FLOAT, "diversity_pd nearest_pd memorised_pd diversity_lpips nearest_lpips memorised_lpips"),
        (_BOOL, "memorised"),
        (_INT, "params macs"),
        (_FLOAT, "drift_params_share drift_macs_share"),
        (_INT, "nfe decode_macs steps images_seen train_macs"),
        (_FLOAT, "autoencoder_psnr_db autoencoder_pd autoencoder_fd"),
        (_FLOAT, "load_wall_s autoencoder_wall_s train_wall_s sample_wall_s measure_wall_s quantize_wall_s wall_s"),
        (_FLOAT, "images_per_s peak_memory_mb latency_step_ms latency_image_ms"),
        (_TEXT, "device precision"),
        (_BOOL, "compiled"),
        (_INT, "threads world_size"),
        (_TEXT, "environment git_commit"),
        (_BOOL, "git_dirty"),
        (_TEXT, "weights_digest samples_digest autoencoder_digest nondeterministic_ops"),
        (_TIME, "started_at finished_at"),
    ],
    "curves": [
        (_TEXT, "run_id"),
        (_INT, "step images_seen"),
        (_FLOAT, "loss loss_l2 loss_perceptual grad_norm lr images_per_s"),
    ],
    "denoising": [(_TEXT, "run_id"), (_FLOAT, "t"), (_INT, "n"), (_FLOAT, "psnr_db pd lpips lpips_vgg")],
    "fidelity": [
        (_TEXT, "run_id extractor metric"),
        (_FLOAT, "value"),
        (_INT, "n ref_n"),
        (_FLOAT, "error low high"),
        (_TEXT, "weights_digest"),
    ],
    "latency": [
        (_TEXT, "run_id"),
        (_INT, "batch"),
        (_TEXT, "scope scheme engine session"),
        (_INT, "sample position"),
        (_FLOAT, "latency_ms device_ms peak_memory_mb first_call_ms"),
        (_TEXT, "device processor"),
        (_INT, "threads"),
        (_TEXT, "governor"),
    ],
    "quantized": [
        (_TEXT, "run_id scheme scope engine engine_version"),
        (_BOOL, "simulated"),
        (_INT, "weight_bits activation_bits n fd_ref_n"),
        (_FLOAT, "psnr_db pd lpips lpips_vgg"),
        (_FLOAT, "fd fd_change fd_change_low fd_change_high fid fid_change fid_change_low fid_change_high"),
        (_INT, "file_bytes weight_bytes"),
        (_FLOAT, "macs_share latency_step_ms"),
        (_INT, "calibration_n"),
        (_TEXT, "calibration_digest"),
    ],
}
_KEYS = {  # what there is one row per
    "runs": ("run_id",),
    "curves": ("run_id", "step"),
    "denoising": ("run_id", "t"),
    "fidelity": ("run_id", "extractor", "metric"),
    "latency": ("run_id", "batch", "scope", "scheme", "engine", "session", "sample"),
    "quantized": ("run_id", "scheme", "scope"),
}
_REQUIRED = {  # never null
    **_KEYS,
    "runs": ("run_id", "variant", "preset", "seed", "status"),
    "latency": ("run_id", "batch", "scope", "scheme", "engine", "sample"),  # the session came later
}


def _schema(table: str) -> pa.Schema:
    kinds = {name: kind for kind, names in _COLUMNS[table] for name in names.split()}
    fields = [pa.field(name, kind, nullable=name not in _REQUIRED[table]) for name, kind in kinds.items()]
    # With pandas' own metadata a plain `pd.read_parquet` restores nullable integers instead of making them floats.
    frame = pd.DataFrame({name: pd.Series(dtype=_DTYPES[kind]) for name, kind in kinds.items()})
    pandas_metadata = pa.Schema.from_pandas(frame, preserve_index=False).metadata[b"pandas"]
    return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode(), b"pandas": pandas_metadata})


SCHEMAS: dict[str, pa.Schema] = {table: _schema(table) for table in _COLUMNS}


def append(
    results: Path, rows: Mapping[str, Sequence[Mapping[str, object]]], *, replace: bool = True, timeout: float = 60.0
) -> None:
    """Save the rows of one or more runs, replacing what the named tables held of those runs, or adding to it.

    All tables are written before any is put in place, and `runs` is put in place last: a run is visible only when its
    other rows are.

    Args:
        results: The results folder; created if it is missing.
        rows: Table name -> its rows, column -> value. Columns left out are null, and so are numbers that are not
            finite. A table that is named with no row for a run of this call loses the rows it had of that run.
        replace: False keeps the rows that the named tables held of those runs.
        timeout: Seconds to wait for another writer.

    Raises:
        ResultsError: Rows that do not fit the schema or, with `replace` off, that are there already; a folder or table
            that cannot be read or written, a full disk, or a folder that stayed locked. The tables are then as they were.
    """
    new = {table: _to_arrow(table, rows[table]) for table in sorted(rows, key=lambda name: name == "runs")}
    run_ids = pa.array(sorted({str(row["run_id"]) for table in rows.values() for row in table}), _TEXT)
    check_folder(results)
    with _lock(results, timeout):
        staged: dict[Path, Path] = {}
        try:
            for table, added in new.items():
                path = results / f"{table}.parquet"
                kept = _load(path, table, encoded=True)
                if not replace:
                    _check_new(table, added, kept)
                elif pc.any(replaced := pc.is_in(kept["run_id"], value_set=run_ids)).as_py():
                    kept = kept.filter(pc.invert(replaced))
                # A fixed name: what a killed process left behind is overwritten by the next writer.
                staged[path] = results / f".{table}.parquet.tmp"
                _write(staged[path], pa.concat_tables([kept, added.cast(_encode(added.schema))]))
            for path, written in staged.items():
                os.replace(written, path)
            sync_folder(results)
        except OSError as error:
            raise ResultsError(
                f"{results}: the rows could not be saved: {_reason(error)}; earlier rows are kept; free the disk or "
                "mend the folder and run again, or choose another --results folder"
            ) from error
        finally:
            for written in staged.values():
                with suppress(OSError):
                    written.unlink(missing_ok=True)


def read(results: Path, table: str) -> pd.DataFrame:
    """Read one table.

    Args:
        results: The results folder; one that does not exist holds empty tables.
        table: A name in `SCHEMAS`.

    Returns:
        One row per the table's key, columns as in `SCHEMAS[table]`; dtypes `string`, `Int64`, `float64`, `boolean` and
        `datetime64[us, UTC]`.

    Raises:
        ResultsError: An unknown table, or a file that is damaged, foreign, unreadable or written by a newer version.
    """
    _check_table(table)
    frame: pd.DataFrame = _load(results / f"{table}.parquet", table).to_pandas()
    return frame


def check_folder(results: Path) -> None:
    """Create the results folder if it is missing, and try that a file can be written in it.

    Raises:
        ResultsError: The path or one of its parents is a file, or the folder cannot be created or written.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        file = next((path for path in (results, *results.parents) if path.exists() and not path.is_dir()), results)
        raise ResultsError(f"{results}: {file} is a file, not a folder; choose another --results folder") from error
    except OSError as error:
        raise ResultsError(
            f"{results}: cannot write in this folder: {_reason(error)}; mend that or choose another --results folder"
        ) from error


def _check_table(table: str) -> None:
    if table not in SCHEMAS:
        near = did_you_mean(table, SCHEMAS)
        raise ResultsError(f"unknown results table {table!r}{near} Allowed: {', '.join(SCHEMAS)}")


def _check_new(table: str, added: pa.Table, kept: pa.Table) -> None:
    """Refuse rows whose key the table holds already."""
    unique = list(_KEYS[table])
    kept = kept.filter(pc.is_in(kept["run_id"], value_set=pc.unique(added["run_id"])))
    here = set(zip(*(kept[name].to_pylist() for name in unique), strict=True))
    for key in zip(*(added[name].to_pylist() for name in unique), strict=True):
        if key in here:
            raise ResultsError(
                f"{table}: there is a row with {', '.join(unique)} = {key} already; only rows that replace it may repeat it"
            )


def _to_arrow(table: str, rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Check every value against the schema: pyarrow alone would cut 1.5 to 1 and take True for 1.0."""
    _check_table(table)
    schema, needed, unique = SCHEMAS[table], _REQUIRED[table], _KEYS[table]
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        for column in row:
            if column not in schema.names:
                near = did_you_mean(str(column), schema.names)
                raise ResultsError(f"{table}: unknown column {column!r}{near} Allowed: {', '.join(schema.names)}")
        for column in needed:
            if row.get(column) in (None, ""):
                raise ResultsError(
                    f"{table}: a row of run {row.get('run_id')!r} has no {column}; every row needs {', '.join(needed)}"
                )
        if table == "runs" and row["status"] not in STATUSES:
            raise ResultsError(
                f"runs.status of run {row['run_id']!r} is {row['status']!r}. Allowed: {', '.join(STATUSES)}"
            )
        key = tuple(row.get(column) for column in unique)
        if key in seen:
            raise ResultsError(
                f"{table}: two rows with {', '.join(unique)} = {key}; there is one per {' x '.join(unique)}"
            )
        seen.add(key)
    columns = {field.name: [_value(table, field, row.get(field.name), row) for row in rows] for field in schema}
    return pa.table(columns, schema=schema)


def _value(table: str, field: pa.Field, value: object, row: Mapping[str, object]) -> object:
    kind = field.type
    if value is None:
        return None
    if kind == _BOOL:
        fits = isinstance(value, bool | np.bool_)
    elif kind == _TEXT:
        fits = isinstance(value, str) and _is_utf8(value)
    elif kind == _TIME:
        fits = isinstance(value, datetime) and value.tzinfo is not None
    elif kind == _INT:
        fits = isinstance(value, numbers.Integral) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63
    else:
        fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if fits:
            number = float(value)  # type: ignore[arg-type]
            value = number if math.isfinite(number) else None
            fits = value is not None or field.nullable
    if not fits:
        raise ResultsError(
            f"{table}.{field.name} of run {row['run_id']!r} is {value!r} ({type(value).__name__}); "
            f"it must be {_WANTED[kind]}"
        )
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _load(path: Path, table: str, *, encoded: bool = False) -> pa.Table:
    """Read a table, with encoded texts where that is asked for."""
    schema = _encode(SCHEMAS[table]) if encoded else SCHEMAS[table]
    mend = "restore it from a copy, or move it away to start an empty table"
    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            metadata = parquet.schema_arrow.metadata or {}
            version = metadata.get(VERSION_KEY, b"").decode(errors="replace")
            if not version.isdecimal():
                raise ResultsError(f"{path}: not a table of ablate (no schema version); {mend}")
            if int(version) > SCHEMA_VERSION:
                raise ResultsError(
                    f"{path}: written with schema version {version}, this ablate reads up to {SCHEMA_VERSION}; "
                    "upgrade ablate, or choose another --results folder"
                )
            if encoded:
                texts = [field.name for field in parquet.schema_arrow if field.type == _TEXT]
                parquet = pq.ParquetFile(file, page_checksum_verification=True, read_dictionary=texts)
            found = parquet.read()
            for older in range(int(version), SCHEMA_VERSION):
                if older not in MIGRATIONS:
                    raise ResultsError(
                        f"{path}: written with schema version {version}, which this ablate cannot read; {mend}"
                    )
                found = MIGRATIONS[older](table, found)
            kinds = {field.name: field.type for field in found.schema}
            # Columns that came later are null in the rows of before.
            odd = [f.name for f in schema if (f.name in kinds or not f.nullable) and kinds.get(f.name) != f.type]
            odd += [name for name in kinds if name not in schema.names]
            if odd:
                names = ", ".join(map(repr, odd))
                raise ResultsError(f"{path}: its columns are not those of schema version {version}: {names}; {mend}")
            columns = {f.name: found[f.name] if f.name in kinds else pa.nulls(len(found), f.type) for f in schema}
            return pa.table(columns, schema=schema)
    except FileNotFoundError:
        return schema.empty_table()
    except (OSError, ValueError, pa.ArrowException) as error:
        # The system's errors carry a number, those of a parser that met bad bytes do not.
        if isinstance(error, NotADirectoryError):
            raise ResultsError(
                f"{path}: {path.parent} is a file, not a folder; choose another --results folder"
            ) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise ResultsError(
                f"{path}: cannot be read: {_reason(error)}; mend that or choose another --results folder"
            ) from error
        raise ResultsError(f"{path}: damaged ({_reason(error)}); {mend}") from error


def _encode(schema: pa.Schema) -> pa.Schema:
    """The schema with texts as numbers into a list of the different ones: most repeat, so in this form a long table is added to fast."""
    code = pa.dictionary(pa.int32(), _TEXT)
    fields = [field.with_type(code) if field.type == _TEXT else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _decode(schema: pa.Schema) -> pa.Schema:
    fields = [field.with_type(_TEXT) if pa.types.is_dictionary(field.type) else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _write(path: Path, table: pa.Table) -> None:
    with path.open("wb") as file:
        texts = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]  # numbers seldom repeat
        options = {"compression": "lz4", "use_dictionary": texts, "write_statistics": False, "store_schema": False}
        with pq.ParquetWriter(file, table.schema, write_page_checksum=True, **options) as writer:
            # Readers shall see plain texts, not categories: so the schema that they go by is not that of the encoded form.
            plain = _decode(table.schema)
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
            f"{results}: locked by {_describe(holder)}, waited {timeout:g} s; wait for it or end it, then run again"
        ) from error
    except OSError as error:
        raise ResultsError(f"{results}: cannot be locked: {_reason(error)}; choose another --results folder") from error
    try:
        with suppress(OSError):  # only informs; a full disk is reported by the tables themselves
            who = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            holder.write_text(json.dumps(who), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    try:
        who = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _reason(error: Exception) -> str:
    """The error in one printable line: a parser's message may quote the bytes it met."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = textwrap.shorten(text, 200) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in line)
