"""The Parquet files of tables: several are replaced at one moment, and each may be opened again and again.

New tables are written to `.<table>.parquet.tmp`. Then `.commit.json` names them: from that moment on
they count, whatever dies. They are renamed over the old files, and `.commit.json` is deleted. After
a death in between, `open_table` opens the new file, and the next writer finishes the renames.

pandas, polars and DuckDB read the footer from one handle, and from another the rows that it points
to. If the file is replaced in between, the footer is the old file's and the rows are the new file's.
So the new file also holds the old rows, where the old footer expects them:

    in front:  PAR1 | new rows | zeros | old rows | footer of the new rows    if the new rows fit
    behind:    PAR1 | zeros | old rows | new rows | footer of the new rows    otherwise

A file is at most about three times as long as its rows. Rows from before the old ones are not kept:
a read may overlap with one replacement, not with two.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ablate.store import schema
from ablate.store.atomic_files import sync_folder

MAGIC = b"PAR1"  # the first bytes of every Parquet file
COMMIT = ".commit.json"  # in a results folder: the names of tables whose new files count


def replace_tables(results: Path, content: Mapping[str, pa.Table]) -> None:
    """Replace several tables at one moment. Hold the folder's lock.

    Raises:
        OSError: A table cannot be written. The tables are as they were, or the next writer finishes.
    """
    try:
        for table, rows in content.items():
            # Fixed names: the next writer overwrites what a killed process left.
            write(_staged(results, table), rows, replaced=_place(results, table))
        if len(content) > 1:
            with _commit_file(results).open("w", encoding="utf-8") as file:
                file.write(json.dumps(list(content)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(_commit_file(results), results / COMMIT)
            sync_folder(results)
        _finish(results, content)
    finally:
        if not (results / COMMIT).exists():
            for table in content:
                with suppress(OSError):
                    _staged(results, table).unlink(missing_ok=True)


def finish_replacing(results: Path) -> None:
    """Finish the renames of a writer that died after it wrote `.commit.json`. Hold the folder's lock.

    Raises:
        OSError: A file cannot be renamed.
    """
    _commit_file(results).unlink(missing_ok=True)  # of one that died before that
    if (results / COMMIT).exists():
        _finish(results, _committed(results))


def open_table(results: Path, table: str) -> BinaryIO:
    """Open the file of a table.

    Raises:
        OSError: There is none, or it cannot be read.
    """
    if table in _committed(results):
        with suppress(FileNotFoundError):  # it is in place already
            return _staged(results, table).open("rb")
    return _place(results, table).open("rb")


def _finish(results: Path, names: Iterable[str]) -> None:
    for table in names:
        with suppress(FileNotFoundError):
            os.replace(_staged(results, table), _place(results, table))
    sync_folder(results)
    (results / COMMIT).unlink(missing_ok=True)


def _committed(results: Path) -> list[str]:
    try:
        names = json.loads((results / COMMIT).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in names if name in schema.SCHEMAS] if isinstance(names, list) else []


def _commit_file(results: Path) -> Path:
    """Return where `.commit.json` is written, before it gets its name."""
    return results / f"{COMMIT}.tmp"


def _place(results: Path, table: str) -> Path:
    return results / f"{table}.parquet"


def _staged(results: Path, table: str) -> Path:
    return results / f".{table}.parquet.tmp"


def write(path: Path, table: pa.Table, *, replaced: Path) -> None:
    """Write a table to a new file and flush it to the disk.

    Args:
        path: The new file.
        table: The rows, with texts as dictionary codes.
        replaced: The file that will be replaced by the new one; it may be missing.

    Raises:
        OSError: The file cannot be written.
    """
    begin, old = _rows_of(replaced)
    fits = begin > len(MAGIC) and _size(table) <= begin
    with path.open("wb") as file:
        sink = pa.PythonFile(file, "w")
        # The writer starts with `MAGIC`, and puts the footer where `sink` is when it is closed.
        with _writer(sink, table.schema) as writer:
            if fits:
                writer.write_table(table)
            sink.write(bytes(begin - sink.tell()) + old)
            if not fits:
                writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())


def _size(table: pa.Table) -> int:
    """Return how many bytes the table takes in a file of its own."""
    size = pa.MockOutputStream()
    with _writer(size, table.schema) as writer:
        writer.write_table(table)
    return int(size.size())


def _writer(sink: object, encoded: pa.Schema) -> pq.ParquetWriter:
    texts = [field.name for field in encoded if pa.types.is_dictionary(field.type)]  # numbers rarely repeat
    options = {"compression": "lz4", "use_dictionary": texts, "write_statistics": False, "store_schema": False}
    writer = pq.ParquetWriter(sink, encoded, write_page_checksum=True, **options)
    # The stored schema has plain texts: readers would otherwise see categories.
    plain = schema.plain_text(encoded)
    arrow = base64.b64encode(plain.serialize().to_pybytes())
    writer.add_key_value_metadata({**plain.metadata, "ARROW:schema": arrow})
    return writer


def _rows_of(path: Path) -> tuple[int, bytes]:
    """Return where the rows of a file begin, and their bytes; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            metadata = pq.read_metadata(file)
            if metadata.num_rows:
                first = metadata.row_group(0).column(0)
                last = metadata.row_group(metadata.num_row_groups - 1).column(metadata.num_columns - 1)
                begin, end = _first_page(first), _first_page(last) + last.total_compressed_size
                file.seek(begin)
                return begin, file.read(max(0, end - begin))
    except (OSError, pa.ArrowException):
        pass
    return len(MAGIC), b""


def _first_page(column: pq.ColumnChunkMetaData) -> int:
    return int(column.dictionary_page_offset or column.data_page_offset)
