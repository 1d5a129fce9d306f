"""Watching: once at the start, then at every change, and what is being made."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pages
import pytest
from typer.testing import CliRunner

from ablate import cli
from ablate.report import watching
from ablate.store import tables
from ablate.store.image_grids import save_grid


def test_it_yields_at_the_start_and_at_every_change(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    slept: list[float] = []
    working = folder / "artifacts" / "no_drift-smoke-cats-s0-00000000.part"
    working.mkdir(parents=True)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            pages.make(folder, {"baseline": 0.0}, [0], images=False)
        elif len(slept) == 6:
            save_grid(working / "samples_20.png", pages.discs(16, 0.5))
        elif len(slept) == 8:
            raise KeyboardInterrupt

    seen = []
    with suppress(KeyboardInterrupt):
        for _ in watching.changes(folder, sleep=sleep):
            seen.append(len(slept))
    assert seen == [0, 3, 6]
    save_grid(working / "samples_100.png", pages.discs(16, 0.5))
    (line,) = watching.in_progress(folder)
    assert line.startswith("no_drift-smoke-cats-s0-00000000: preview of step 100")


@pytest.mark.slow
def test_it_writes_the_file_again_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    folder, output = pages.make(tmp_path / "results", {"baseline": 0.0}, [0], images=False), tmp_path / "report.md"
    words = [sys.executable, "-m", "ablate", "report", "--results", str(folder), "--watch", "-o", str(output)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "written" in process.stderr.readline()
        first = output.stat().st_mtime_ns
        pages.make(tmp_path / "more", {"baseline": 0.0}, range(2), images=False)
        (tmp_path / "more" / "runs.parquet").replace(folder / "runs.parquet")
        assert "written" in process.stderr.readline()
        assert output.stat().st_mtime_ns > first
        mixed = tables.read(folder, "runs")
        tables.append(
            folder, {"runs": [mixed.iloc[0].dropna().to_dict() | {"run_id": "x", "preset": "smoke", "seed": 0}]}
        )
        assert "presets that do not compare" in process.stderr.readline()  # and it goes on watching
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(10) == 130
        finally:
            process.kill()  # or the block would wait for ever
        assert process.stderr.read() == ""


def test_forms_without_a_file_are_refused(tmp_path: Path) -> None:
    found = CliRunner().invoke(cli.app, ["report", "--results", str(tmp_path), "--watch", "--format", "json"])
    assert "needs a file to write to, as in -o report.json" in str(found.exception)
