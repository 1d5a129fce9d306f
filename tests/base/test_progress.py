"""Progress bars: on stderr only, and only where somebody watches."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console
from rich.table import Table

from ablate.base.progress import Phase, Progress, StudyState, at_most_every


def work(progress: Progress) -> None:
    with progress, progress.task("train baseline", 3) as task:
        for step in range(3):
            task.advance(note=f"loss [0.{step}]" if step < 2 else "")
        if progress._bars is not None:
            progress._bars.refresh()
        print("the result")


def test_bars_show_the_work_its_share_and_the_last_note(capsys: pytest.CaptureFixture[str]) -> None:
    work(Progress(enabled=True))
    shown = capsys.readouterr()
    assert shown.out == "the result\n"
    for part in ("train baseline", "3/3", "loss [0.1]"):
        assert part in shown.err


def screen(progress: Progress, width: int, height: int = 24) -> list[str]:
    assert progress._bars is not None
    lines = Table.grid()
    lines.add_row(progress._bars.get_renderable())
    console = Console(width=width, height=height)
    with console.capture() as shown:
        console.print(lines)
    return shown.get().rstrip().splitlines()


@pytest.mark.parametrize("width", [80, 140])
def test_a_study_of_runs_made_elsewhere_fits_the_screen(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    progress = Progress(enabled=True)
    state = StudyState(16, 3, 1, 4330.0)
    with progress, progress.study(lambda: state), progress.task("baseline s0: train", 1500) as run:
        run.show("no_drift+v_pred+latent s10: neighbours", 1500, 700, "a-machine-with-a-long-name loss 0.312")
        first, last = screen(progress, width)
    for part in ("no_drift+v_pred+latent s10:", "700/1500", "a-machine-with-a-"):
        assert part in first
    assert last.rstrip() == "runs 3 of 16 · 1 h 12 min left · 1 under way"
    assert max(len(first), len(last)) <= width


@pytest.mark.parametrize(("width", "height"), [(60, 24), (100, 2)])
def test_a_small_terminal_gets_one_line(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", str(height))
    progress = Progress(enabled=True)
    with progress, progress.task("baseline s0: train", 1500) as run:
        run.advance(700)
        alone = screen(progress, width, height)
        with progress.study(lambda: StudyState(16, 3, 1, 4330.0, at_most=True)):
            (line,) = screen(progress, width, height)
    assert width == 100 or alone == ["baseline s0: train 700/1,500"]
    assert line.startswith("runs 3 of at most 16 · at most 1 h 12 min left")
    assert "· baseline s0: train 700/1,500" in line if width == 100 else line.endswith("…")
    assert len(line) <= width


def test_the_time_left_goes_on_between_two_looks_at_the_study() -> None:
    progress = Progress(enabled=True)
    with progress.study(lambda: StudyState(2, 1, 0, 90.0)) as study:
        study._looked_s -= 30
        assert str(study) == "runs 1 of 2 · 60 s left"


def test_a_single_run_has_no_line_of_a_study_nor_has_one_without_bars() -> None:
    progress = Progress(enabled=True)
    with progress.study(lambda: StudyState(1, 0, 1, 90.0)) as study:
        assert str(study) == ""
    silent = Progress(enabled=False)
    with silent.study(lambda: pytest.fail("nobody sees it")) as study:
        study.update(now=True)


def test_what_a_run_does_is_reported_with_the_pace_of_this_process() -> None:
    progress, said = Progress(enabled=False), list[Phase]()
    with progress.reporting(said.append), progress.task("train", 100) as task:
        task.advance(40, "loss 1")  # a run that was resumed
        assert task._first is not None
        task._first = (task._first[0] - 20, 40)
        task.advance(10)
    assert [(one.done, one.note) for one in said] == [(0, ""), (40, "loss 1"), (50, "loss 1")]
    assert [one.unit_s for one in said[:2]] == [None, None]
    assert said[2].unit_s == pytest.approx(2.0, rel=0.01)
    limited = list[Phase]()
    report = at_most_every(60, limited.append)
    for phase in (Phase("a", 1), Phase("a", 1, 1), Phase("b", 1)):
        report(phase)
    assert [one.name for one in limited] == ["a", "b"]


@pytest.mark.parametrize("enabled", [False, None])
def test_silent_when_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str], enabled: bool | None) -> None:
    work(Progress(enabled=enabled))
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("the result\n", "")


def test_a_terminal_turns_the_bars_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    work(Progress())
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_with_widgets_turns_the_bars_on(monkeypatch: pytest.MonkeyPatch, widgets: bool) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr("ablate.base.progress.find_spec", lambda name: object() if widgets else None)
    assert (Progress()._bars is not None) == widgets


@pytest.mark.parametrize(
    ("speed", "text"), [(None, ""), (0.01234, "0.0123/s"), (12.34, "12.3/s"), (12345.6, "12,346/s")]
)
def test_rate(speed: float | None, text: str) -> None:
    bars = Progress(enabled=True)._bars
    assert bars is not None
    (column,) = (column for column in bars.columns if type(column).__name__ == "Rate")
    assert str(column.render(SimpleNamespace(speed=speed, description="train"))) == text  # type: ignore[union-attr, arg-type]


def test_a_bar_goes_when_its_work_fails() -> None:
    progress = Progress(enabled=True)
    with pytest.raises(ValueError, match="broken"), progress, progress.task("train", 3):
        raise ValueError("broken")
    assert progress._bars is not None
    assert progress._bars.tasks == []
    assert not progress._bars.live.is_started


ON_A_TERMINAL = """
import time
from ablate.base.progress import Phase, Progress, StudyState, at_most_every

progress = Progress()
with progress, progress.task("train", 20) as task:
    for step in range(20):
        task.advance()
        time.sleep(0.05)
        if step % 5 == 4:
            progress.result(f"run-{step}-" + "x" * 100 + ": done")
            progress.say(f"note {step} of " + "y" * 100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_lines_come_out_whole_above_the_bars_of_a_terminal() -> None:
    import pty

    here, there = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stdin=there, stdout=there, stderr=there)
    os.close(there)
    shown = b""
    with suppress(OSError):  # raised when the process has closed the terminal
        while content := os.read(here, 65536):
            shown += content
    assert process.wait() == 0
    lines = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode().replace("\r", "\n").splitlines()
    assert any("train" in line for line in lines)
    assert [line for line in lines if "xx" in line] == [f"run-{step}-{'x' * 100}: done" for step in (4, 9, 14, 19)]
    assert [line for line in lines if "yy" in line] == [f"note {step} of {'y' * 100}" for step in (4, 9, 14, 19)]


def test_results_go_to_stdout_and_notes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for enabled in (False, True):
        with Progress(enabled=enabled) as progress:
            progress.result("[a] result")
            progress.say("[a] note")
        shown = capsys.readouterr()
        assert shown.out == "[a] result\n"
        assert "[a] note\n" in shown.err


def test_importing_imports_neither_torch_nor_rich() -> None:
    code = "import sys, ablate.base.progress; sys.exit(bool({'torch', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
