"""A run of a program: what it reads, records and refuses, and that nothing of it is left running."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ablate.base.errors import AblateError, LeaseLostError, ResultsError
from ablate.base.progress import Progress
from ablate.runs.processes import MARK
from ablate.runs.program import execute_program
from ablate.runs.program_outputs import read_metrics
from ablate.store import tables
from ablate.study.plan import RunSpec
from ablate.study.program import ProgramConfig, ProgramData

GOOD = "open(out + '/metrics.json', 'w').write('{\"acc\": 0.5}')"


def spec_of(folder: Path, code: str, seed: int = 0, **program: Any) -> RunSpec:
    """Write a program of a line and return a run of it; the line knows `out` and `seed`."""
    (folder / "work").mkdir(exist_ok=True)
    start = "import json, os, subprocess, sys, time\nseed, out = int(sys.argv[1]), sys.argv[2]\n"
    (folder / "work" / "program.py").write_text(start + code)
    settings = {"command": [sys.executable, "program.py", "{seed}", "{out}"], "workdir": str(folder / "work")}
    config = ProgramConfig.model_validate({"program": settings | program})
    return RunSpec("baseline", "baseline", "quick", seed, config)  # type: ignore[arg-type]


def execute(folder: Path, spec: RunSpec, **options: Any) -> dict[str, Any]:
    data = ProgramData.of(spec.config.program)  # type: ignore[attr-defined]

    def networks() -> Any:
        return None

    return execute_program(spec, data, folder, networks=networks, progress=Progress(enabled=False), **options)


def marked(folder: Path) -> list[int]:
    """Return the processes that programs of a folder have left."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={folder}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_run_is_recorded(tmp_path: Path) -> None:
    code = """
print("hello", os.getcwd())
json.dump({"acc": 0.75, "nll": {"value": 2, "unit": "nats", "better": "lower"}, "depth": 3}, open(out + "/metrics.json", "w"))
open(out + "/curve.csv", "w").write("step, loss, mine\\n1,0.5,2\\n2,nan,3\\n2,0.25,3\\n")
os.mkdir(out + "/sub"); open(out + "/sub/model.bin", "w").write("x")
"""
    row = execute(tmp_path, spec_of(tmp_path, code))
    assert row["metrics"] == {"acc": 0.75, "nll": 2.0}
    metrics = tables.read(tmp_path, "metrics")
    assert metrics[["metric", "value", "better"]].to_numpy().tolist() == [
        ["acc", 0.75, "higher"],
        ["nll", 2.0, "lower"],
    ]
    assert metrics["unit"].fillna("").tolist() == ["", "nats"]
    assert tables.read(tmp_path, "curves")[["step", "loss"]].to_numpy().tolist() == [[1, 0.5], [2, 0.25]]
    (run,) = tables.to_records(tables.read(tmp_path, "runs"))
    assert (run["status"], run["steps"], run["variant"]) == ("done", 2, "baseline")
    assert run["wall_s"] >= run["train_wall_s"] > 0
    assert json.loads(run["environment"])["python"]
    assert json.loads(run["code"])[0]["source"]
    kept = tmp_path / "artifacts" / run["run_id"]
    assert (kept / "out" / "sub" / "model.bin").read_text() == "x"
    assert (kept / "log.txt").read_text() == f"hello {(tmp_path / 'work').resolve()}\n"
    assert [path.name for path in kept.parent.iterdir()] == [run["run_id"]]


def test_a_row_that_cannot_be_written_costs_no_second_run_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path, f"print('started', flush=True); {GOOD}")

    def full(*_: object, **__: object) -> None:
        raise ResultsError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "append", full)
        with pytest.raises(ResultsError):
            execute(tmp_path, spec)
    row = execute(tmp_path, spec)
    assert row["metrics"] == {"acc": 0.5}
    assert (tmp_path / "artifacts" / row["run_id"] / "log.txt").read_text() == "started\n"


def test_the_code_is_that_of_the_programs_own_repository(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, GOOD)
    git = ["git", "-C", str(tmp_path / "work"), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    clean = execute(tmp_path, spec)
    (tmp_path / "work" / "program.py").write_text((tmp_path / "work" / "program.py").read_text() + "\n")
    changed = execute(tmp_path, spec)
    assert clean["git_commit"] == changed["git_commit"]
    assert (clean["git_dirty"], changed["git_dirty"]) == (False, True)
    assert json.loads(clean["code"])[0]["source"] != json.loads(changed["code"])[0]["source"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit(3)", "exit code 3, and it printed nothing; its log: artifacts/"),
        ("print('x'); raise ValueError('bad \\x1b[31m lr')", r"exit code 1: ValueError: bad \x1b[31m lr"),
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL (perhaps out of memory)"),
        ("os.kill(os.getpid(), 11)", "ended by SIGSEGV (a crash in native code)"),
        ("sys.exit(137)", "exit code 137, SIGKILL (perhaps out of memory)"),
        ("time.sleep(60)", "timed out after"),
        ("pass", "metrics.json is missing: the program must write it to {out}"),
        ("open('metrics.json', 'w').write('1')", "there is one in"),
    ],
)
def test_a_failure_is_one_line(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(AblateError) as error:
        execute(tmp_path, spec_of(tmp_path, code), timeout_s=0.5 if "sleep" in code else None)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    (run,) = tables.to_records(tables.read(tmp_path, "runs"))
    assert (run["status"], run["error"]) == ("failed", str(error.value))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"acc": 0.5', "cannot be read"),
        ("[0.5]", "holds a list"),
        ("0.5", "holds a float"),
        ("{}", "holds nothing"),
        ('{"acc": "0.5"}', 'acc is "0.5"; it must be a number'),
        ('{"acc": true}', "acc is true; it must be a number"),
        ('{"acc": null}', "acc is null; it must be a number"),
        ('{"acc": [1]}', "acc is [1]; it must be a number"),
        ('{"acc": 1, "acc": 2}', "acc is there twice"),
        ('{"val": {"acc": 1}}', "val has 'acc'"),
        ('{"a": {"value": 1, "better": "max"}}', "allowed: higher, lower"),
        ('{"a": {"value": 1, "unit": 2}}', "unit is 2; it must be a text"),
        ('{"depth": 1}', 'write depth = "higher"'),
        ('{"": 1}', "printable characters"),
        ('{"a\\u001b": 1}', "printable characters"),
        (" " * 2**21, "more than 1,048,576 bytes"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_metrics_that_cannot_be_used(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(AblateError) as error:
        read_metrics(tmp_path, {})
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_metric_that_is_not_finite_means_diverged(tmp_path: Path, value: str) -> None:
    row = execute(tmp_path, spec_of(tmp_path, f"open(out + '/metrics.json', 'w').write('{{\"acc\": {value}}}')"))
    assert (row["status"], row["error"][:21]) == ("diverged", "metrics.json: acc is ")
    assert not len(tables.read(tmp_path, "metrics"))
    assert (tmp_path / "artifacts" / row["run_id"] / "log.txt").exists()


def test_a_number_that_nobody_judges_may_be_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "open(out + '/metrics.json', 'w').write('{\"acc\": 1, \"noise_error\": NaN}')"
    row = execute(tmp_path, spec_of(tmp_path, code, metrics={"acc": "higher"}))
    assert (row["status"], row["metrics"]) == ("done", {"acc": 1.0})
    assert "noise_error left out: not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ({"command": ["no-such-program", "{seed}", "{out}"]}, "no-such-program cannot be started"),
        ({"workdir": "/no/such/folder"}, "/no/such/folder: no such folder"),
        ({"metrics": {"acc_top1": "higher"}}, "has no acc_top1"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, program: dict[str, Any], said: str) -> None:
    with pytest.raises(AblateError, match=said):
        execute(tmp_path, spec_of(tmp_path, GOOD, **program))


def test_a_direction_that_is_written_later_needs_no_second_run(tmp_path: Path) -> None:
    code = "open('count', 'a').write('x'); open(out + '/metrics.json', 'w').write('{\"depth\": 1}')"
    with pytest.raises(AblateError, match="without running the program again"):
        execute(tmp_path, spec_of(tmp_path, code))
    row = execute(tmp_path, spec_of(tmp_path, code, metrics={"depth": {"better": "lower", "unit": "m"}}))
    assert row["metrics"] == {"depth": 1.0}
    assert (tmp_path / "work" / "count").read_text() == "x"
    assert row["train_wall_s"] > 0


def test_a_program_that_was_changed_since_runs_again(tmp_path: Path) -> None:
    code = "open('count', 'a').write('x'); open(out + '/metrics.json', 'w').write('{\"depth\": 1}')"
    with pytest.raises(AblateError, match="without running the program again"):
        execute(tmp_path, spec_of(tmp_path, code))
    assert execute(tmp_path, spec_of(tmp_path, code.replace("depth", "acc")))["metrics"] == {"acc": 1.0}
    assert (tmp_path / "work" / "count").read_text() == "xx"
    for settings in ({"images": "samples"}, {"images": "some"}):  # missing twice: the program runs twice
        with pytest.raises(AblateError, match=r"is missing in \{out\}"):
            execute(tmp_path, spec_of(tmp_path, code.replace("depth", "acc"), **settings))
    with pytest.raises(AblateError, match=r"is missing in \{out\}"):
        execute(tmp_path, spec_of(tmp_path, code.replace("depth", "acc"), images="some"))
    assert (tmp_path / "work" / "count").read_text() == "x" * 5


def test_a_damaged_curve_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = execute(tmp_path, spec_of(tmp_path, f"{GOOD}; open(out + '/curve.csv', 'w').write('step,loss\\nx,1\\n')"))
    assert row["status"] == "done"
    assert "curve.csv is left out: line 2: step is 'x'" in capsys.readouterr().err


FORKS = """
for detach in (False, True):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=detach, stdout=subprocess.DEVNULL)
open(out + "/started", "w").close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
@pytest.mark.parametrize("end", [GOOD, "time.sleep(60)"])
def test_what_a_program_started_ends_with_it(tmp_path: Path, end: str) -> None:
    spec = spec_of(tmp_path, FORKS + end)
    if end == GOOD:
        execute(tmp_path, spec)
    else:
        with pytest.raises(AblateError, match="timed out"):
            execute(tmp_path, spec, timeout_s=0.5)
    assert not marked(tmp_path)


def when_started(folder: Path, action: Any) -> threading.Thread:
    """Call something once the program has made a file `started`."""

    def wait() -> None:
        while not list(folder.glob("artifacts/*.part/out/started")):
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_an_interrupted_run_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    code = f"""
tries = out + "/tries"
open(tries, "a").write("x")
if len(open(tries).read()) == 1:
    open(out + "/started", "w").close(); time.sleep(60)
{GOOD}
"""
    spec = spec_of(tmp_path, code)
    when_started(tmp_path, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, spec)
    assert not marked(tmp_path)
    assert tables.read(tmp_path, "runs")["status"].tolist() == ["interrupted"]
    row = execute(tmp_path, spec)
    assert row["status"] == "done"
    assert (tmp_path / "artifacts" / row["run_id"] / "out" / "tries").read_text() == "xx"


def test_a_run_that_was_taken_over_ends_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(LeaseLostError):
        execute(tmp_path, spec_of(tmp_path, "time.sleep(60)"), still_ours=lambda: False)
    assert not marked(tmp_path)
    assert not len(tables.read(tmp_path, "runs"))


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_who_takes_a_run_over_ends_its_program_and_is_left_alone(tmp_path: Path) -> None:
    code = f"""
open(out + "/pids", "a").write(f"{{os.getpid()}} ")
if len(open(out + "/pids").read().split()) == 1:
    open(out + "/started", "w").close(); time.sleep(60)
time.sleep(1)
{GOOD}
"""
    text = KILLED.format(paths=[str(Path(__file__).parent), *sys.path], folder=str(tmp_path), code=code)
    hangs = subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE)
    when_started(tmp_path, lambda: hangs.send_signal(signal.SIGSTOP)).join(30)
    wakes = threading.Timer(0.5, lambda: hangs.send_signal(signal.SIGCONT))
    wakes.start()
    assert execute(tmp_path, spec_of(tmp_path, code))["status"] == "done"
    assert hangs.wait(30) == 1  # its program was ended
    assert tables.read(tmp_path, "runs")["status"].tolist() == ["done"]
    assert not marked(tmp_path)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_program import execute, spec_of
execute(Path({folder!r}), spec_of(Path({folder!r}), {code!r}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the parent's death")
def test_a_program_ends_when_ablate_is_killed_and_a_rerun_ends_its_forks(tmp_path: Path) -> None:
    code = f"""
open(out + "/pids", "a").write(f"{{os.getpid()}} ")
if len(open(out + "/pids").read().split()) == 1:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    open(out + "/started", "w").close(); time.sleep(60)
{GOOD}
"""
    text = KILLED.format(paths=[str(Path(__file__).parent), *sys.path], folder=str(tmp_path), code=code)
    ablate = subprocess.Popen([sys.executable, "-c", text])
    when_started(tmp_path, ablate.kill).join(30)
    ablate.wait()
    (pids,) = tmp_path.glob("artifacts/*.part/out/pids")
    program = int(pids.read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{program}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert program not in (left := marked(tmp_path))
    assert len(left) == 1  # the fork in a session of its own
    assert execute(tmp_path, spec_of(tmp_path, code))["status"] == "done"
    assert not marked(tmp_path)
