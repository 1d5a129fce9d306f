"""The command line in this process: starting one that imports torch takes seconds, and a test run has hundreds."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO
from unittest import mock

import pytest

from ablate.cli import main

# Of a variant's file: what makes a run at `smoke` cost least.
CHEAP = """[train]
perceptual = "none"
batch = 2
[measure]
fd_samples = 8
fd_reference = 8
denoise_images = 1
nearest_train = 8
latency_batches = [1]
latency_samples = 2
"""

# A preset that costs a third of `smoke`.
TINY = """extends = "smoke"
[train]
steps = 4
perceptual_stages = 1
perceptual_share = 0.25
batch = 4
[sample]
num_steps = 2
[measure]
fd_samples = 8
fd_reference = 8
denoise_images = 1
nearest_train = 8
latency_batches = [1]
latency_samples = 2
"""


def add_tiny_preset(folder: Path) -> None:
    """Write the preset `tiny` where `ablate` looks for a user's own presets."""
    presets = folder / "variants" / "presets"
    presets.mkdir(parents=True, exist_ok=True)
    (presets / "tiny.toml").write_text(TINY)


def ablate(
    *words: str, cwd: Path, terminal: TextIO | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `ablate WORDS` in a folder; return its exit code and what it printed, as a process of its own would leave them.

    What is written to `terminal` is not returned.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100", **environment}),
        mock.patch.object(sys, "argv", ["ablate", *words]),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(terminal or out),
        contextlib.redirect_stderr(terminal or err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return subprocess.CompletedProcess(words, int(ended.value.code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def when(seen: Callable[[], object], act: Callable[[], object]) -> Iterator[list[bool]]:
    """Act once, as soon as something is seen, from a thread; yield a list that is not empty after that."""
    acted, over = list[bool](), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if seen():
                act()
                acted.append(True)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield acted
    finally:
        over.set()
        thread.join()
