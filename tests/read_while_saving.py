"""How often a read of `runs.parquet` fails while rows are saved without a pause: python tests/read_while_saving.py [SECONDS]

Readers: pandas, pyarrow, and polars and DuckDB if they are installed; each reads for that many seconds.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Process
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import synthetic

from ablate.store import tables


def save(folder: Path) -> None:
    """Save runs, and save some of them again with texts of other lengths, until the process is ended."""
    rows = synthetic.rows({f"variant_{i}": 0.0 for i in range(10)}, range(30))["runs"]
    saved = 0
    while True:
        for row in rows:
            saved += 1
            tables.append(
                folder, {"runs": [row | {"run_id": f"{row['run_id']}{saved % 7}", "about": "x" * (saved % 977)}]}
            )


def readers(path: Path) -> dict[str, Callable[[], Any]]:
    ways: dict[str, Callable[[], Any]] = {
        "pd.read_parquet(path)": lambda: pd.read_parquet(path),
        "pq.read_table(path)": lambda: pq.read_table(path),
        "tables.read": lambda: tables.read(path.parent, "runs"),
    }
    with suppress(ImportError):
        polars = importlib.import_module("polars")
        ways["polars.read_parquet(path)"] = lambda: polars.read_parquet(path)
    with suppress(ImportError):
        duckdb = importlib.import_module("duckdb")
        ways["duckdb.sql('from path')"] = lambda: duckdb.sql(f"from '{path}'").fetchall()
    return ways


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.parquet"
        writer = Process(target=save, args=(path.parent,))
        writer.start()
        try:
            while not path.exists() or len(tables.read(path.parent, "runs")) < 100:
                time.sleep(0.1)
            for name, read in readers(path).items():
                reads = failed = 0
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    reads += 1
                    try:
                        read()
                    except Exception as error:  # polars and DuckDB have their own kinds
                        failed, last = failed + 1, error
                print(f"{name:26} {failed} of {reads} failed", *([repr(last)[:100]] if failed else []), flush=True)
        finally:
            writer.terminate()
            writer.join()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
