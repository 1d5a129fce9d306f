"""Eight processes append to one results folder at once: every row that was written is read, and readers never see half a table.

`ABLATE_APPEND_S=60 pytest tests/test_appenders.py -s` does so for a minute and says how many rows there were.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest

from ablate.store import tables

SECONDS = float(os.environ.get("ABLATE_APPEND_S", "1"))
PROCESSES = 8
WRITERS = """
    import os, sys, time
    from pathlib import Path
    from ablate.store import tables
    folder, processes, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    def write(process):
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end or not count:
            run_id = f"{process}-{count}"
            row = dict(run_id=run_id, variant="v", preset="smoke", seed=count, status="done")
            curves = [dict(run_id=run_id, step=step, loss=float(count)) for step in range(3)]
            tables.append(folder, {"runs": [row], "curves": curves})
            count += 1
            print(run_id, flush=True)

    for process in range(processes):  # forked: each would import the tables for a second
        if not os.fork():
            write(process)
            os._exit(0)
    sys.exit(any([os.wait()[1] for _ in range(processes)]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
@pytest.mark.slow
def test_rows_written_are_rows_read(tmp_path: Path) -> None:
    words = [sys.executable, "-c", textwrap.dedent(WRITERS), str(tmp_path), str(PROCESSES), str(SECONDS)]
    with (tmp_path / "written").open("w") as file:
        writers = subprocess.Popen(words, stdout=file)
    reads = 0
    while writers.poll() is None:
        # A run is put in place last: whoever reads `runs` first and `curves` then finds the curves of every run.
        runs = set(tables.read(tmp_path, "runs")["run_id"])
        curves = tables.read(tmp_path, "curves").groupby("run_id").size()
        assert runs <= set(curves.index)
        assert (curves == 3).all()
        reads += 1
        time.sleep(0.05)
    written = (tmp_path / "written").read_text().split()
    assert writers.returncode == 0
    assert sorted(tables.read(tmp_path, "runs")["run_id"]) == sorted(written)
    assert len(pd.read_parquet(tmp_path / "curves.parquet")) == 3 * len(written)
    assert len({line.split("-")[0] for line in written}) == PROCESSES
    print(f"{PROCESSES} processes, {SECONDS:g} s: {len(written)} runs written and read, {reads} reads meanwhile")
