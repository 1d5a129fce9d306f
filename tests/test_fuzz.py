"""A minute of hostile input to every command (`fuzz.py`, which goes on for any time)."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch; limits memory")
def test_hostile_input() -> None:
    words = [sys.executable, str(Path(__file__).parent / "fuzz.py"), "60"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(": 0 with a fault")
