"""One run of a user's own program, from its command to rows.

The program runs with {out} = `out` in the run's working folder, and its output goes to `log.txt`
beside that folder. When it has ended with exit code 0, what it wrote is read, images are measured,
and all moves to `artifacts/<run_id>/`. A run that is repeated after an interruption gets the same
{out}, so a program that can resume does.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate import __version__
from ablate.base.errors import AblateError, LeaseLostError, ResultsError, check_lease, how_to_fix
from ablate.base.host import cpu_name, gpu_name, vector_units
from ablate.base.progress import Progress
from ablate.base.source_code import code_of_command
from ablate.base.text import printable
from ablate.runs.processes import Ended, log_tail, run_program
from ablate.runs.program_outputs import METRICS, DirectionError, read_curve, read_metrics
from ablate.runs.rows import Row, RunRows, columns_of
from ablate.runs.run_files import STATE, open_working_folder, recorded
from ablate.store.artifacts import run_of
from ablate.store.atomic_files import replacing
from ablate.study.plan import RunSpec
from ablate.study.program import ProgramConfig, ProgramData, command_words

if TYPE_CHECKING:
    from ablate.metrics.networks import MetricNetworks

OUT = "out"
LOG = "log.txt"
SAVE_EVERY_S = 10.0  # between two notes of the time that the program has taken


@dataclass
class _State:
    """What is known of the tries of a run so far, kept in its working folder."""

    wall_s: float = 0.0
    code: tuple[str, ...] = ()  # versions of the program's code that took part
    finished: bool = False  # the program has ended with exit code 0

    @classmethod
    def read(cls, path: Path) -> _State:
        try:
            table = json.loads(path.read_text("utf-8"))
            return cls(float(table["wall_s"]), tuple(map(str, table["code"])), table["finished"] is True)
        except (OSError, ValueError, LookupError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)), "utf-8")


def execute_program(
    spec: RunSpec,
    data: ProgramData,
    folder: Path,
    *,
    networks: Callable[[], MetricNetworks],
    progress: Progress,
    device: str = "auto",
    timeout_s: float | None = None,
    finished_before: bool = False,
    still_ours: Callable[[], bool] = lambda: True,
) -> Row:
    """Run a program and write the rows of its run.

    Args:
        spec: What to run; its configuration is a `ProgramConfig`.
        data: The label of its data.
        folder: The results folder.
        networks: Returns what images are measured with; called if there are images.
        progress: Bars to show.
        device: `auto`, `cpu`, `cuda` or `cuda:N`: which GPUs the program sees.
        timeout_s: Seconds that the program may take; None: as its settings say.
        finished_before: The run has a finished row, which only another finished row replaces.
        still_ours: Returns False once another process has taken the run over.

    Returns:
        The row of `runs`, with status `done` or `diverged`, and `metrics`: name -> value. A diverged
        row is not written if there is a finished one.

    Raises:
        KeyboardInterrupt: Interrupted, after the program was ended.
        LeaseLostError: Another process has taken the run over; the program was ended.
        AblateError: The program failed, or what it wrote cannot be used.
    """
    config = config_of(spec)
    run_id = spec.run_id(data.name, data.digest)
    working = open_working_folder(folder, run_id, still_ours).resolve()
    workdir = Path(config.program.workdir or ".")
    code = code_of_command(workdir, config.program.command)
    state = _State.read(working / STATE)
    state.finished &= code in state.code[-1:]  # a program that was changed since runs again
    state.code = tuple(dict.fromkeys([*state.code, code]))
    rows = RunRows(columns_of(spec, data, run_id) | _machine_columns(config, device))
    version = json.loads(code)
    rows.run |= {"git_commit": version["commit"], "git_dirty": version["dirty"], "code": f"[{', '.join(state.code)}]"}

    options: dict[str, Any] = {"finished_before": finished_before, "still_ours": still_ours}
    with recorded(rows, working, folder, goes_on="goes on in the same {out}", keep_diverged=True, **options):
        _prepare(working, state)
        if not state.finished:
            limit_s = config.program.timeout_s if timeout_s is None else timeout_s
            _run(spec, working, rows, state, program_environment(config, device), limit_s, progress, still_ours)
        rows.run["train_wall_s"] = state.wall_s
        try:
            _read(working, workdir, config, rows, progress)
            check_lease(run_id, still_ours)
            with rows.timed("measure_wall_s"):
                if config.program.images is not None:
                    from ablate.runs.program_images import measure_images

                    measure_images(rows, config, working / OUT, workdir, networks(), working, progress)
        except (DirectionError, LeaseLostError):
            raise
        except AblateError:
            state.finished = False  # the program must write something else
            state.write(working / STATE)
            raise
        rows.run["wall_s"] = state.wall_s + rows.run["measure_wall_s"]
    return rows.run | {"metrics": {row["metric"]: row["value"] for row in rows.others["metrics"]}}


def config_of(spec: RunSpec) -> ProgramConfig:
    """Return the configuration of a run of a program."""
    assert isinstance(spec.config, ProgramConfig)
    return spec.config


def program_environment(config: ProgramConfig, device: str) -> dict[str, str]:
    """Return the whole environment of a program: this process's, with what the settings add."""
    environment = {"PYTHONUNBUFFERED": "1", **os.environ}  # the log shows what was printed so far
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        environment["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
    return environment | dict(config.program.environment)


def environment_of(config: ProgramConfig, device: str) -> str:
    """Return JSON with the platform, the CPU and the GPU that a program runs on."""
    gpu = "" if program_environment(config, device).get("CUDA_VISIBLE_DEVICES") == "" else gpu_name() or ""
    values = {"ablate": __version__, "python": platform.python_version(), "platform": platform.platform()}
    values |= {"cpu": cpu_name(), "gpu": gpu, "cpu_features": vector_units()}
    return json.dumps(values, sort_keys=True)


def _machine_columns(config: ProgramConfig, device: str) -> Row:
    environment, threads = environment_of(config, device), os.environ.get("OMP_NUM_THREADS", "")
    return {
        "device": "cuda" if json.loads(environment)["gpu"] else "cpu",
        "environment": environment,
        "threads": int(threads) if threads.isdigit() else None,
        "started_at": datetime.now(UTC),
    }


def _prepare(working: Path, state: _State) -> None:
    try:
        (working / OUT).mkdir(exist_ok=True)
        state.write(working / STATE)
    except OSError as error:
        raise ResultsError(f"{working}: cannot be written ({error}); {how_to_fix(error)} and run again") from error


def _run(
    spec: RunSpec,
    working: Path,
    rows: RunRows,
    state: _State,
    environment: dict[str, str],
    limit_s: float | None,
    progress: Progress,
    still_ours: Callable[[], bool],
) -> None:
    """Run the program to its end; keep the seconds that it took, also of a try that is interrupted."""
    config, log, before, saved_s = config_of(spec), working / LOG, state.wall_s, 0.0
    words = command_words(config, seed=spec.seed, out=str(working / OUT), preset=spec.preset)
    with progress.task(f"{spec.variant} s{spec.seed}: program", 1) as bar:

        def on_poll(seconds: float) -> None:
            nonlocal saved_s
            check_lease(rows.run["run_id"], still_ours)
            if seconds - saved_s >= SAVE_EVERY_S:
                saved_s, state.wall_s = seconds, before + seconds
                state.write(working / STATE)
            bar.advance(0, f"{seconds:.0f} s {''.join(log_tail(log, 1))}")

        ended = run_program(
            words,
            folder=Path(config.program.workdir or "."),
            environment=environment,
            run=working.with_name(run_of(working.name)),  # the folder may have another name in the next try
            log=log,
            timeout_s=limit_s,
            on_poll=on_poll,
        )
    state.wall_s, state.finished = before + ended.wall_s, ended.problem is None
    rows.run["train_wall_s"] = state.wall_s
    state.write(working / STATE)
    if ended.problem is not None:
        raise _failure(rows.run["run_id"], ended, log, progress)


def _failure(run_id: str, ended: Ended, log: Path, progress: Progress) -> AblateError:
    """Show the end of the log, and return the error of a program that failed."""
    tail = log_tail(log)
    for line in tail:
        progress.say(f"{run_id} | {line}")
    last = f": {tail[-1]}" if tail else ", and it printed nothing"
    return ResultsError(f"{ended.problem}{last}; its log: artifacts/{log.parent.name}/{log.name}")


def _read(working: Path, workdir: Path, config: ProgramConfig, rows: RunRows, progress: Progress) -> None:
    out = working / OUT
    try:
        metrics, notes = read_metrics(out, config.program.metrics)
    except ResultsError as error:
        astray = workdir / METRICS
        if not (out / METRICS).exists() and astray.is_file():
            raise ResultsError(f"{error}; there is one in {printable(workdir)}: write it to {{out}} instead") from None
        raise
    curve, curve_notes = read_curve(out)
    for row in metrics:
        rows.add("metrics", row)
    rows.others["curves"] = [{"run_id": rows.run["run_id"], **row} for row in curve]
    if curve:
        rows.run["steps"] = curve[-1]["step"]
    for note in (*notes, *curve_notes):
        progress.say(f"note: {note}", once=True)
