"""`ablate check` of a program: three small runs that show whether its numbers can be compared."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.base.errors import AblateError
from ablate.base.progress import Progress
from ablate.base.text import one_line, some_of
from ablate.launch.program_runs import program_data
from ablate.runs.checked import Checked
from ablate.runs.program import config_of, execute_program
from ablate.store import tables
from ablate.study.plan import RunSpec, plan
from ablate.study.program import command_words

MAX_FILES = 20_000  # of the program's folder that are looked at
LEFT_OUT = ("__pycache__", "node_modules", ".git", ".venv")


def check_program(variant: str, preset: str, progress: Progress) -> Checked:
    """Run a program twice with one seed and once with another, in a scratch folder.

    Args:
        variant: A variant's name.
        preset: A preset, best a small one.
        progress: Bars to show.

    Raises:
        AblateError: The settings cannot be used.
    """
    first, other = plan([variant], [0, 1], preset)
    config, found = config_of(first), Checked()
    words = command_words(config, seed=0, out="OUT", preset=preset)
    found.seen.append(f"command: {one_line(shlex.join(words))}, in {one_line(config.program.workdir or '.')}")
    before = dict(_files(Path(config.program.workdir or ".")))
    scratch = Path(tempfile.mkdtemp(prefix="ablate-check-"))
    try:
        runs = [_run(scratch / name, spec, progress) for name, spec in (("0", first), ("again", first), ("1", other))]
    except AblateError as error:
        found.problems.append(f"{error}, in {scratch / '0'}")
        return found
    shutil.rmtree(scratch, ignore_errors=True)
    numbers = [run.metrics for run in runs]
    found.seen.append(f"exit code 0 three times, after {', '.join(f'{run.wall_s:.1f}' for run in runs)} s")
    for name, (value, better) in numbers[0].items():
        found.seen.append(f"{one_line(name)}: {value:.6g}, {better} is better")
    first_time, second_time = numbers[0], numbers[1]
    differing = [
        f"{one_line(name)} {value:.6g} and {second_time[name][0]:.6g}"
        for name, (value, _) in first_time.items()
        if name in second_time and second_time[name][0] != value
    ]
    if differing:
        found.seen.append(
            f"note: seed 0 twice gives other numbers: {some_of(differing)}; that adds noise to every comparison, "
            "so seed all generators of the program, or take more seeds"
        )
    else:
        found.seen.append("seed 0 twice gives the same numbers")
    if numbers[2] == first_time:
        found.problems.append(
            "seed 1 gives the numbers of seed 0: the program ignores {seed}, so its seeds say nothing"
        )
    after = dict(_files(Path(config.program.workdir or ".")))
    changed = [path for path, state in after.items() if before.get(path) != state]
    if changed:
        found.seen.append(f"note: files changed outside {{out}}: {some_of(changed)}; runs at once would share them")
    return found


@dataclass(frozen=True)
class _Run:
    metrics: Mapping[str, tuple[float, str]]  # name -> value and direction
    wall_s: float


def _run(folder: Path, spec: RunSpec, progress: Progress) -> _Run:
    def networks() -> Any:
        from ablate.base.machine import pick_device
        from ablate.metrics.networks import load_networks

        return load_networks([], None, pick_device("auto"), offline=True)

    start = time.monotonic()
    row = execute_program(spec, program_data(spec), folder, networks=networks, progress=progress)
    if row["status"] != "done":
        raise AblateError(f"{row['status']}: {row['error']}")
    rows = tables.to_records(tables.read(folder, "metrics"))
    metrics = {str(one["metric"]): (float(one["value"]), str(one["better"])) for one in rows}
    return _Run(metrics, time.monotonic() - start)


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the first files below a folder, with time and size."""
    count = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                return
            path = Path(root, name)
            with suppress(OSError):
                state = path.stat()
                yield str(path.relative_to(folder)), (state.st_mtime_ns, state.st_size)
