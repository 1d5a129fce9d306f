"""The SLURM launcher with submitit's local executor: jobs are processes of this machine."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import CHEAP, ablate

from ablate.base.errors import AblateError
from ablate.base.progress import Progress
from ablate.launch.study import run_study
from ablate.store import tables
from ablate.study.request import StudyRequest

pytest.importorskip("submitit")
LOCAL = ("cluster=local", "timeout_min=10")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants/cheap.toml").write_text(f'about = "a"\nsource = "s"\naxis = "x"\n{CHEAP}')
    return tmp_path


class Told(Progress):
    """Keeps what was said, and calls `then` after each line."""

    def __init__(self, then: Any = lambda: None) -> None:
        super().__init__(enabled=False)
        self.said: list[str] = []
        self.then = then

    def say(self, text: str, *, once: bool = False) -> None:
        self.said.append(text)
        self.then()


def launch(progress: Progress, on_row: Any, **options: Any) -> None:
    study = {"variant": "cheap", "baseline": False, "seeds": "0,1", "preset": "smoke", "quantize": "none"}
    where = {"launcher": "slurm", "slurm": LOCAL, "data": "set.npz", "device": "cpu", "threads": 1}
    run_study(StudyRequest(**study, **where, **options), progress=progress, on_row=on_row, on_missing=lambda *_: None)


@pytest.mark.slow
def test_jobs_share_the_runs_and_go_on_when_the_command_is_interrupted(user: Path) -> None:
    rows: list[dict[str, Any]] = []

    def interrupt(row: dict[str, Any], how: str) -> None:
        rows.append(row | {"how": how})
        raise KeyboardInterrupt

    told = Told()
    with pytest.raises(KeyboardInterrupt):
        launch(told, interrupt, jobs=2)
    assert [(row["status"], row["how"]) for row in rows] == [("done", "made")]
    assert told.said[0].startswith("jobs ")
    assert "go on and record their runs; `scancel" in told.said[1]
    end = time.monotonic() + 120
    while len(runs := tables.read(Path("results"), "runs")) < 2 and time.monotonic() < end:
        time.sleep(0.5)
    assert runs["seed"].tolist() in ([0, 1], [1, 0])
    assert runs["plan_id"].nunique() == 1
    study = ("--variant", "cheap", "--no-baseline", "--seeds", "0,1", "--preset", "smoke", "--quantize", "none")
    again = ablate("run", "--launcher", "slurm", "--slurm", "cluster=local", "--data", "set.npz", *study, cwd=user)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before; skipped") == 2
    assert "submitted" not in again.stderr


@pytest.mark.slow
def test_jobs_that_end_early_are_an_error_that_names_the_cause(user: Path) -> None:
    told = Told(then=lambda: Path("set.npz").unlink(missing_ok=True))  # before the job has started
    with pytest.raises(
        AblateError, match=r"2 runs were not made: job \d+\S*: set.npz: no such file .*; fix that"
    ) as error:
        launch(told, lambda *_: None, jobs=1)
    assert "\n" not in str(error.value)
    assert len(tables.read(Path("results"), "runs")) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), "--launcher slurm: no sbatch here; .* or try it with --slurm cluster=local"),
        (("cluster=pbs",), "--slurm cluster=pbs: allowed: slurm, local"),
        (
            ("cluster=local", "partitoin=gpu"),
            r"--slurm partitoin: unknown; did you mean partition\? Allowed: account, .*",
        ),
        (("cluster=local", "timeout_min=long"), "--slurm: .*timeout_min"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(
    settings: tuple[str, ...], message: str, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    words = [word for setting in settings for word in ("--slurm", setting)]
    shown = ablate("run", "--launcher", "slurm", "--data", "set.npz", "--preset", "smoke", *words, cwd=user)
    assert shown.returncode == 1
    (line,) = shown.stderr.splitlines()
    assert re.search(message, line), line
