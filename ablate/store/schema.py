"""The tables of a results folder: columns, keys, versions, and the check of rows."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from ablate.base.errors import ResultsError, did_you_mean

SCHEMA_VERSION = 1
# Version n -> a function (name, table) -> table that migrates a table of that version to n + 1. The
# version is raised only if a column's meaning or type changes, or a column goes. A new column is
# null in older rows and needs nothing.
MIGRATIONS: dict[int, Callable[[str, pa.Table], pa.Table]] = {}
VERSION_KEY = b"ablate_schema_version"
RUN_SESSION = "run"  # of latencies measured during a run; null before sessions had names
BENCH_SESSION = "bench-"  # prefix of the sessions of `ablate bench`; the time follows
STATUSES = ("done", "diverged", "failed", "interrupted")
DIRECTIONS = ("higher", "lower")  # of `metrics.better`
IMPORTED = "imported"  # preset of runs whose scores were read from a table

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
        (_TEXT, "device precision mixed_arithmetic"),
        (_BOOL, "compiled"),
        (_INT, "threads world_size"),
        (_TEXT, "environment git_commit"),
        (_BOOL, "git_dirty"),
        (_TEXT, "weights_digest samples_digest autoencoder_digest nondeterministic_ops"),
        (_TIME, "started_at finished_at"),
        (_BOOL, "unstable"),
        (_TEXT, "plan_id about claims code data_notes tags"),
        (_TEXT, "purpose tuned baseline plugins artifacts"),
        (_FLOAT, "held_out_twins"),
        (_TEXT, "perceptual_digest"),
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
    "metrics": [
        (_TEXT, "run_id metric"),
        (_FLOAT, "value"),
        (_TEXT, "unit better"),
    ],
    "latency": [
        (_TEXT, "run_id"),
        (_INT, "batch"),
        (_TEXT, "scope scheme engine session"),
        (_INT, "sample position"),
        (_FLOAT, "latency_ms device_ms peak_memory_mb first_call_ms joules_per_image"),
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
        (_FLOAT, "macs_share latency_step_ms float_latency_step_ms"),
        (_INT, "calibration_n"),
        (_TEXT, "calibration_digest"),
    ],
    "sampling": [
        (_TEXT, "run_id solver"),
        (_INT, "nfe n ref_n"),
        (_FLOAT, "fd fid wall_s"),
        (_TEXT, "samples_digest"),
    ],
    "plans": [
        (_TEXT, "plan_id preset data data_digest budget"),
        (_TEXT, "variants seeds metrics"),  # JSON lists
        (_FLOAT, "level"),
        (_TEXT, "code"),
        (_TIME, "created_at"),
        (_INT, "max_seeds"),
        (_TEXT, "tuning"),  # a JSON list
    ],
}
KEYS = {  # the columns that identify a row
    "runs": ("run_id",),
    "curves": ("run_id", "step"),
    "denoising": ("run_id", "t"),
    "fidelity": ("run_id", "extractor", "metric"),
    "metrics": ("run_id", "metric"),
    "latency": ("run_id", "batch", "scope", "scheme", "engine", "session", "sample"),
    "quantized": ("run_id", "scheme", "scope"),
    "sampling": ("run_id", "solver", "nfe"),
    "plans": ("plan_id",),
}
RUN_TABLES = tuple(table for table, key in KEYS.items() if key[0] == "run_id")
_REQUIRED = {  # never null
    **KEYS,
    "runs": ("run_id", "variant", "preset", "seed", "status"),
    "metrics": ("run_id", "metric", "better"),
    "latency": ("run_id", "batch", "scope", "scheme", "engine", "sample"),  # the session came later
}


def _schema(table: str, unknown: Sequence[pa.Field] = ()) -> pa.Schema:
    kinds = {name: kind for kind, names in _COLUMNS[table] for name in names.split()}
    fields = [pa.field(name, kind, nullable=name not in _REQUIRED[table]) for name, kind in kinds.items()]
    fields += [field.with_nullable(True).remove_metadata() for field in unknown]
    # With pandas' metadata, a plain `pd.read_parquet` reads nullable integers as such, not as
    # floats.
    dtypes = {field.name: _DTYPES[field.type] for field in fields if field.type in _DTYPES}
    frame = pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in dtypes.items()})
    pandas_metadata = pa.Schema.from_pandas(frame, preserve_index=False).metadata[b"pandas"]
    return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode(), b"pandas": pandas_metadata})


SCHEMAS: dict[str, pa.Schema] = {table: _schema(table) for table in _COLUMNS}


def with_unknown(table: str, found: pa.Schema) -> pa.Schema:
    """Return the schema of a table, followed by the columns of a file that this version does not know."""
    known = set(SCHEMAS[table].names)  # pyarrow makes the list anew each time
    unknown = [field for field in found if field.name not in known]
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in unknown]
    return _schema(table, plain) if plain else SCHEMAS[table]


def check_table(table: str) -> None:
    """Refuse an unknown table.

    Raises:
        ResultsError: It is not a key of `SCHEMAS`.
    """
    if table not in SCHEMAS:
        near = did_you_mean(table, SCHEMAS)
        raise ResultsError(f"unknown results table {table!r}{near} Allowed: {', '.join(SCHEMAS)}")


def to_arrow(table: str, rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Return rows in the schema of a table, every value checked: pyarrow would cut 1.5 to 1.

    Args:
        table: A name in `SCHEMAS`.
        rows: Column -> value. Columns left out are null, and so are numbers that are not finite.

    Raises:
        ResultsError: An unknown table or column, a value of another type, a missing value, or two
            rows with one key.
    """
    check_table(table)
    schema, needed, unique = SCHEMAS[table], _REQUIRED[table], KEYS[table]
    names = dict.fromkeys(schema.names)  # pyarrow makes the list anew each time
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        for column in row:
            if column not in names:
                near = did_you_mean(str(column), names)
                raise ResultsError(f"{table}: unknown column {column!r}{near} Allowed: {', '.join(names)}")
        for column in needed:
            if row.get(column) in (None, ""):
                raise ResultsError(
                    f"{table}: a row of {unique[0].removesuffix('_id')} {row.get(unique[0])!r} has no {column}; "
                    f"every row needs {', '.join(needed)}"
                )
        if table == "runs" and row["status"] not in STATUSES:
            raise ResultsError(
                f"runs.status of run {row['run_id']!r} is {row['status']!r}. Allowed: {', '.join(STATUSES)}"
            )
        if table == "metrics" and row["better"] not in DIRECTIONS:
            raise ResultsError(
                f"metrics.better of {row['metric']!r} of run {row['run_id']!r} is {row['better']!r}. "
                f"Allowed: {', '.join(DIRECTIONS)}"
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
            f"{table}.{field.name} of {KEYS[table][0].removesuffix('_id')} {row[KEYS[table][0]]!r} is {value!r} "
            f"({type(value).__name__}); "
            f"it must be {_WANTED[kind]}"
        )
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def fit(content: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table in a schema that has all of its columns; the columns that it lacks are null."""
    given = dict(zip(content.column_names, content.columns, strict=True))
    columns = []
    for field in schema:
        column = given[field.name] if field.name in given else pa.nulls(len(content), field.type)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.table(columns, schema=schema)


def dictionary_encoded(schema: pa.Schema) -> pa.Schema:
    """Return the schema with texts as dictionary codes.

    Most texts repeat, so long tables are extended faster in this form.
    """
    code = pa.dictionary(pa.int32(), _TEXT)
    fields = [field.with_type(code) if field.type == _TEXT else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def plain_text(schema: pa.Schema) -> pa.Schema:
    """Return the schema with dictionary codes as plain texts."""
    fields = [field.with_type(_TEXT) if pa.types.is_dictionary(field.type) else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)
