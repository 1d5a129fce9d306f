"""Reading files of scores: CSV, TSV, JSON, JSON lines, Parquet, and results of lm-evaluation-harness.

Cells of a text file stay texts here, and each row keeps its file and its number, so that an error can
name the place. Numbers are read by `ablate.scores.cells`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ablate.base.errors import ResultsError
from ablate.base.text import one_line
from ablate.scores import lm_eval

ENDINGS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
FRAME = "the data frame"  # what a pandas.DataFrame is called in messages


@dataclass(frozen=True)
class RawScores:
    """The rows of one or several files, as they were read.

    Attributes:
        name: What they are called in titles.
        frame: The cells; the index counts from 0.
        file: The file of each row.
        number: The number of each row in its file, as a spreadsheet counts: the header is row 1.
        better: Metric -> `higher` or `lower`, where the file says so.
        notes: What was noticed while reading.
        commas: Whether a comma in a number is a decimal one: columns are separated by something else.
    """

    name: str
    frame: pd.DataFrame
    file: pd.Series
    number: pd.Series
    better: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    commas: bool = False

    def place(self, row: int) -> str:
        """Return where a row is, for an error: `scores.csv: row 5`."""
        return f"{self.file.iloc[row]}: row {self.number.iloc[row]}"


def read(paths: Sequence[Path] | pd.DataFrame) -> RawScores:
    """Read files of scores that have the same columns.

    Args:
        paths: Files, or folders of results of lm-evaluation-harness; or a data frame.

    Raises:
        ResultsError: A file cannot be read, or is not a table.
    """
    if isinstance(paths, pd.DataFrame):
        return _of_frame(paths)
    files = [file for path in paths for file in _files(path)]
    parts = [_read_one(file) for file in files]
    if len(parts) == 1:
        return parts[0]
    first = list(parts[0].frame.columns)
    for file, part in zip(files, parts, strict=True):
        if set(part.frame.columns) != set(first):
            odd = sorted(set(part.frame.columns) ^ set(first), key=str)
            raise ResultsError(
                f"{one_line(file)}: other columns than {one_line(files[0])} ({one_line(odd[0])}); "
                "files that are judged together need the same columns"
            )
    shared = paths[0] if len(paths) == 1 else Path(os.path.commonpath([file.resolve().parent for file in files]))
    return RawScores(
        name=one_line(shared.resolve().name) or "scores",
        frame=pd.concat([part.frame for part in parts], ignore_index=True),
        file=pd.concat([part.file for part in parts], ignore_index=True),
        number=pd.concat([part.number for part in parts], ignore_index=True),
        better={name: better for part in parts for name, better in part.better.items()},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        commas=all(part.commas for part in parts),
    )


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        files = sorted(path.rglob(lm_eval.PATTERN))
        if not files:
            raise ResultsError(
                f"{one_line(path)}: a folder without {lm_eval.PATTERN} of lm-evaluation-harness; name the files"
            )
        return files
    if not path.exists():
        raise ResultsError(f"{one_line(path)}: no such file")
    if path.suffix.lower() not in ENDINGS:
        hint = "; save the sheet as CSV" if path.suffix.lower() in (".xlsx", ".xls", ".ods") else ""
        raise ResultsError(f"{one_line(path)}: unknown ending {path.suffix!r}{hint}. Allowed: {', '.join(ENDINGS)}")
    return [path]


def _read_one(path: Path) -> RawScores:
    name, ending = one_line(path), path.suffix.lower()
    notes: list[str] = []
    better: dict[str, str] = {}
    commas = False
    try:
        if ending == ".parquet":
            table = pq.read_table(path)
            table.validate(full=True)  # a damaged file may hold texts that are no UTF-8
            try:
                frame, first = table.to_pandas(), 1
            except (KeyError, TypeError, ValueError):  # what pandas noted about its columns is damaged
                frame, first = table.replace_schema_metadata(None).to_pandas(), 1
        else:
            text = _decode(path.read_bytes(), name, notes)
            if not text.strip():
                raise ResultsError(f"{name}: empty; it needs a header and rows of variant, seed and metric")
            if ending in (".json", ".jsonl", ".ndjson"):
                frame, better, first = *_json(text, name), 1
            else:
                frame, commas = _csv(text, name, notes)
                first = 2
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(f"{name}: cannot be read: {one_line(error)[:200]}") from error
    frame.columns = pd.Index([str(column).strip() for column in frame.columns])
    number = pd.Series(range(first, first + len(frame)))
    frame = _with_plain_cells(frame.reset_index(drop=True))
    texts = frame.select_dtypes(["object", "string"])
    empty = frame.isna() | (
        frame[texts.columns].apply(lambda c: c.astype(str).str.strip() == "") if len(texts) else False
    )
    kept = ~empty.all(axis=1) if len(frame.columns) else pd.Series(dtype=bool)
    frame, number = frame[kept].reset_index(drop=True), number[kept].reset_index(drop=True)
    if not len(frame):
        raise ResultsError(f"{name}: a header without rows; it needs rows of variant, seed and metric")
    return RawScores(one_line(path.name), frame, pd.Series(name, frame.index), number, better, tuple(notes), commas)


def _of_frame(frame: pd.DataFrame) -> RawScores:
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    if not len(frame):
        raise ResultsError(f"{FRAME}: no rows; it needs rows of variant, seed and metric")
    frame = _with_plain_cells(frame.reset_index(drop=True))
    frame = frame.set_axis([str(name).strip() for name in frame.columns], axis=1)
    _check_heads(list(frame.columns), FRAME)
    return RawScores("scores", frame, pd.Series(FRAME, frame.index), pd.Series(range(len(frame))))


def _with_plain_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose lists and other cells that cannot be compared are texts."""
    for place, kind in enumerate(frame.dtypes):
        if pd.api.types.is_object_dtype(kind):
            cells = [cell if isinstance(cell, Hashable) else str(cell) for cell in frame.iloc[:, place]]
            frame.isetitem(place, pd.Series(cells, dtype=object).to_numpy())
    return frame


def _decode(data: bytes, name: str, notes: list[str]) -> str:
    """Return the text of a file in UTF-8, UTF-16 (with its mark) or Windows-1252."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        notes.append(f"{name}: read as Windows-1252, as it is not UTF-8; save it as UTF-8 if names look wrong")
    if "\0" in text:
        raise ResultsError(f"{name}: not a text file, although it ends so. Allowed: {', '.join(ENDINGS)}")
    return text


def _csv(text: str, name: str, notes: list[str]) -> tuple[pd.DataFrame, bool]:
    """Return a table of texts, and whether its columns are separated by something else than commas."""
    lines = text.lstrip("\r\n").splitlines()
    counts = {mark: len(next(csv.reader([lines[0]], delimiter=mark), [])) for mark in DELIMITERS}
    mark = max(counts, key=lambda one: counts[one])
    heads = next(csv.reader([lines[0]], delimiter=mark))
    if len(heads) == 1:
        raise ResultsError(f"{name}: row 1: one column only, {one_line(heads[0])!r}; separate columns by commas")
    if len(lines) > 1 and len(second := next(csv.reader(lines[1:2], delimiter=mark), [])) > len(heads):
        raise ResultsError(
            f"{name}: row 2: {len(second)} cells, but the header has {len(heads)}; add a name or a quote"
        )
    if mark != "," and not name.lower().endswith(".tsv"):
        notes.append(f"{name}: columns are separated by {DELIMITERS[mark]}")
    _check_heads([head.strip() for head in heads], name)
    try:
        frame = pd.read_csv(
            io.StringIO(text.lstrip("\r\n")),
            sep=mark,
            dtype=str,
            keep_default_na=False,
            na_values=[],
            index_col=False,
            skip_blank_lines=False,
        )
    except (pd.errors.ParserError, ValueError) as error:
        why = one_line(error).removeprefix("Error tokenizing data. C error: ")
        raise ResultsError(f"{name}: not a table: {why}; correct that line") from error
    return frame, mark != ","


def _check_heads(heads: Sequence[str], name: str) -> None:
    twice = next((head for head in heads if head and heads.count(head) > 1), None)
    if twice is not None:
        raise ResultsError(f"{name}: row 1: two columns are called {one_line(twice)!r}; rename one")


def _json(text: str, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a list of objects, an object of lists, JSON lines, or results of lm-evaluation-harness."""
    rows: Any
    try:
        rows = json.loads(text, parse_int=_whole_number)
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise ResultsError(f"{name}: not JSON: {one_line(error)[:100]}; correct that line") from error
        rows = [_line(line, number, name) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    except RecursionError as error:
        raise ResultsError(f"{name}: nested too deeply for a table of scores") from error
    if lm_eval.is_result(rows):
        return lm_eval.read(rows, name)
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        if len(lists) == len(rows) > 0 and len({len(value) for value in lists}) == 1:
            return pd.DataFrame(rows), {}
        rows = [rows]
    odd = next((i for i, row in enumerate(rows) if not isinstance(row, dict)), None) if isinstance(rows, list) else 0
    if odd is not None:
        raise ResultsError(f'{name}: row {odd + 1}: not an object with column names, as in {{"variant": "a", ...}}')
    return pd.DataFrame([_flat(row) for row in rows]), {}


def _line(line: str, number: int, name: str) -> Any:
    try:
        return json.loads(line, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{name}: row {number}: not JSON: {one_line(error)[:100]}; correct that line") from error


def _whole_number(digits: str) -> int | float:
    """Return a whole number of JSON; one beyond 64 bits is a float, infinite if need be."""
    return int(digits) if len(digits) < 19 else float(digits)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return an object with the members of inner objects as columns, as in `config.lr`."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            flat[key] = value
    return flat
