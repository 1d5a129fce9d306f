"""`ablate run --steal` takes the run of a process that hangs, and that one writes nothing more."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import command
import numpy as np
import pytest

from ablate.store import tables

VARIANT = f'about = "Cheap."\nsource = "test"\naxis = "test"\n[sample]\nnum_steps = 2\n{command.CHEAP}'


WORDS = ["run", "--preset", "smoke", "--data", "set.npz", "--threads", "1"]
WORDS += ["--variant", "cheap", "--no-baseline", "--save-every", "0", "--quantize", "none"]


def wait_for(seen: Callable[[], object]) -> None:
    end_s = time.monotonic() + 300
    while not seen():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a results folder, with its inode: a file that is replaced by its equal shows."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes()) for path in paths}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_the_run_of_a_suspended_process_is_stolen_and_it_stops_without_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_OFFLINE", "1")
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    np.savez(tmp_path / "set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "cheap.toml").write_text(VARIANT)
    results = tmp_path / "results"
    command_line = [sys.executable, "-m", "ablate", *WORDS]
    hung = subprocess.Popen(command_line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list(results.glob("artifacts/*.part/checkpoint.safetensors")))
        hung.send_signal(signal.SIGSTOP)
        stolen = command.ablate(*WORDS, "--steal", cwd=tmp_path)
        assert f"taken from process {hung.pid} on " in stolen.stderr
        assert ": done in " in stolen.stdout
        before = content(results)
        hung.send_signal(signal.SIGCONT)
        out, err = hung.communicate(timeout=300)
    finally:
        hung.kill()
    assert (hung.returncode, out) == (1, "")
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]
    assert "another process took this run over (ablate run --steal)" in err.splitlines()[-1]
    assert content(results) == before
    assert tables.read(results, "runs")["status"].tolist() == ["done"]
    assert [path.name for path in (results / ".leases").iterdir()] == [".lock"]
    assert not list(results.glob("artifacts/*.part"))
