"""Five kills at random moments, and two processes side by side: nothing is lost (`kill.py`, which takes any number)."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_five_kills() -> None:
    # A process of its own: one in which torch has computed a gradient may not be forked.
    words = [sys.executable, str(Path(__file__).parent / "kill.py"), "5"]
    done = subprocess.run(words, capture_output=True, text=True)
    *_, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(last.partition(" kills (")[0]) >= 5
    assert "rows lost 0, wrong weights 0, damaged files 0, resumed runs not bit-equal 0, runs made twice 0" in last
