"""What to run in nine minutes on a GPU: `python benchmarks/gpu_study.py --data cats64.zip`.

Three stages share a time budget:

1. `pytest tests/test_gpu.py`;
2. the post's program (`--preset published`), trained, drawn and measured to its row;
3. as many seeds of the post's four axes as fit, by three processes on one results folder: one
   measures while another trains.

Rows are written as runs end. What the budget cuts off is interrupted: the same command goes on from
there, and skips what is done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ablate.metrics.weights import BACKBONE_OF, Search, local_file
from ablate.store import tables

ROOT = Path(__file__).parents[1]
AXES = ("no_drift", "normalized", "v_pred", "latent")  # one variant for each of the post's axes
TESTS_S = 120.0  # of the budget at most
LEAST_S = 30.0  # a stage is not begun with less time left
GRACE_S = 20.0  # before the end of the budget runs are interrupted, and save their state
SHOWN = ["variant", "preset", "seed", "status", "fd", "fd_floor", "lpips", "lpips_vgg", "wall_s"]


@dataclass(frozen=True)
class Stage:
    """A command, how many processes of it run side by side, and the seconds that it may take."""

    name: str
    command: tuple[str, ...]
    processes: int = 1
    limit_s: float = float("inf")


def main(
    data: Annotated[str, typer.Option(help="The images: a folder, a zip or an .npz; or cats.")],
    weights: Annotated[Path | None, typer.Option(help="A folder with weights, for LPIPS.", show_default=False)] = None,
    results: Annotated[Path, typer.Option(help="The results folder.")] = Path("results/gpu"),
    budget_s: Annotated[float, typer.Option(help="Seconds for all of it.")] = 540.0,
    seeds: Annotated[str, typer.Option(help="The study's seeds, at most.")] = "0-7",
    processes: Annotated[int, typer.Option(help="Processes of the study, side by side.")] = 3,
    tests: Annotated[bool, typer.Option(help="Run the GPU tests first.")] = True,
    preset: Annotated[
        str | None, typer.Option(help="All runs at this preset, as in smoke, to try the script.", show_default=False)
    ] = None,
) -> None:
    """Test, then run the post's program and its study, within a time budget."""
    planned = stages(data, weights, results, seeds=seeds, processes=processes, tests=tests, preset=preset)
    for name, outcome in run_stages(planned, budget_s, results / "logs"):
        typer.echo(f"{name}: {outcome}")
    runs = tables.read(results, "runs")
    if not runs.empty:
        typer.echo(runs[SHOWN].sort_values(["preset", "seed", "variant"]).to_string(index=False))


def stages(
    data: str,
    weights: Path | None,
    results: Path,
    *,
    seeds: str = "0-7",
    processes: int = 3,
    tests: bool = True,
    preset: str | None = None,
) -> list[Stage]:
    """Return the stages in their order.

    Args:
        data: As for `ablate run`.
        weights: A folder with weights. Without those of VGG16 the post's program trains with the
            baseline's loss.
        results: The results folder.
        seeds: The study's seeds, as in `0-7`. Its runs are made seed by seed.
        processes: Processes of the study, side by side.
        tests: Begin with the GPU tests.
        preset: All runs at this preset; None: `published` and `quick`.
    """
    lpips = local_file(BACKBONE_OF["lpips-vgg"], Search(weights)) is not None
    program = "drift_bottleneck+lpips_loss" if lpips else "drift_bottleneck"
    ablate = (sys.executable, "-m", "ablate", "run", "--data", data, "--results", str(results))
    ablate += ("--quantize", "none", "--offline", *(("--weights", str(weights)) if weights else ()))
    pytest = (
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-v",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests/test_gpu.py"),
    )
    published = ("--preset", preset or "published", "--variant", program, "--no-baseline")
    study = ("--preset", preset or "quick", "--variant", ",".join(AXES), "--seeds", seeds)
    made = [Stage("published", (*ablate, *published)), Stage("study", (*ablate, *study), processes)]
    return [Stage("tests", pytest, limit_s=TESTS_S), *made] if tests else made


def run_stages(
    planned: Sequence[Stage], budget_s: float, logs: Path, *, least_s: float = LEAST_S, grace_s: float = GRACE_S
) -> Iterator[tuple[str, str]]:
    """Run stages one after another; yield each one's name and how it went.

    Args:
        planned: The stages.
        budget_s: Seconds for all of them.
        logs: The folder for what the processes write to standard error.
        least_s: A stage is not begun with less time left, in seconds.
        grace_s: Seconds that stopped processes get to save their state, within the budget.
    """
    logs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget_s
    for stage in planned:
        left_s = end - grace_s - time.monotonic()
        if left_s < least_s:
            yield stage.name, f"not begun: {max(left_s, 0):.0f} s left, {least_s:.0f} needed"
            continue
        begun = time.monotonic()
        files = [logs / f"{stage.name}-{i}.log" for i in range(stage.processes)]
        stopped, codes = _run(stage.command, files, min(left_s, stage.limit_s), grace_s)
        seconds = f"{time.monotonic() - begun:.0f} s"
        last = [line for file in files for line in file.read_text(errors="replace").splitlines()[-1:]]
        if stopped:
            yield stage.name, f"stopped after {seconds}; the same command goes on"
        elif any(codes):
            yield stage.name, f"failed after {seconds}: {' | '.join(dict.fromkeys(last))}"
        else:
            yield stage.name, f"done in {seconds}"


def _run(command: Sequence[str], logs: Sequence[Path], limit_s: float, grace_s: float) -> tuple[bool, list[int]]:
    """Run a command as often as there are logs, side by side.

    Returns:
        Whether the limit stopped a process, and the exit codes.
    """
    until = time.monotonic() + limit_s
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    running: list[subprocess.Popen[bytes]] = []
    stopped = False
    try:
        for log in logs:
            with log.open("wb") as errors:  # a session of its own: Ctrl-C reaches it through this process alone
                running.append(subprocess.Popen(command, stderr=errors, env=environment, start_new_session=True))
        with suppress(subprocess.TimeoutExpired):
            for process in running:
                process.wait(max(0.0, until - time.monotonic()))
    finally:
        stopped = any(process.poll() is None for process in running)
        killed_at = time.monotonic() + grace_s
        for how in (signal.SIGTERM, signal.SIGKILL):  # ablate saves a run's state on the first
            for process in running:
                if process.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, how)
            with suppress(subprocess.TimeoutExpired):
                for process in running:
                    process.wait(max(0.1, killed_at - time.monotonic()))
    return stopped, [process.returncode for process in running]


if __name__ == "__main__":
    typer.run(main)
