"""`ablate init --program` and `ablate check`: from an empty folder to a verdict."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
from command import ablate

PROGRAM = """
import json, sys, random
seed, out = int(sys.argv[2]), sys.argv[4]
{line}
json.dump({{"acc": number}}, open(out + "/metrics.json", "w"))
"""


def write_program(folder: Path, line: str) -> None:
    (folder / "train.py").write_text(PROGRAM.format(line=line))
    assert ablate("init", "--program", sys.executable, "train.py", cwd=folder).returncode == 0


@pytest.mark.slow
def test_the_example_leads_to_a_verdict(tmp_path: Path) -> None:
    assert ablate("init", "--program", cwd=tmp_path).returncode == 0
    checked = ablate("check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "accuracy: " in checked.stdout
    assert "seed 0 twice gives the same numbers" in checked.stdout
    done = ablate("run", "--preset", "smoke", "--variant", "all", "--seeds", "0-5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done in") == 12
    report = json.loads(ablate("report", "--json", cwd=tmp_path).stdout)
    assert [(one["metric"], one["n"]) for one in report["comparisons"]] == [("accuracy", 6)]
    assert report["compared"]["design"] == "planned"
    again = ablate("init", "--program", cwd=tmp_path)
    assert (again.returncode, again.stderr.splitlines()) == (
        1,
        ["error: variants/baseline.toml: exists already; ablate init writes a new registry only"],
    )


def test_the_options_of_a_command_become_options(tmp_path: Path) -> None:
    words = [
        "--program",
        "--",
        "python",
        "-m",
        "mine.train",
        "--lr=0.1",
        "--output_dir",
        "runs",
        "--amp",
        "--name",
        "a",
        "--epochs",
        "100",
        "--seed",
        "5",
    ]
    assert ablate("init", *words, cwd=tmp_path).returncode == 0
    baseline = tomllib.loads((tmp_path / "variants" / "baseline.toml").read_text())
    command = ["python", "-m", "mine.train", "--seed", "{seed}", "--output_dir", "{out}", "{options}"]
    assert baseline["program"]["command"] == command
    assert baseline["options"] == {"lr": 0.1, "amp": True, "name": "a", "epochs": 100}
    assert tomllib.loads((tmp_path / "variants" / "half_lr.toml").read_text())["options"] == {"lr": 0.05}
    assert tomllib.loads((tmp_path / "variants" / "presets" / "smoke.toml").read_text())["options"] == {"epochs": 1}
    shown = json.loads(ablate("show", "half_lr", "--preset", "smoke", "--json", cwd=tmp_path).stdout)
    assert shown["config"]["options"] == {"lr": 0.05, "amp": True, "name": "a", "epochs": 1}


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("number = 0.5", 1, "problem: seed 1 gives the numbers of seed 0"),
        ("number = random.random()", 0, "note: seed 0 twice gives other numbers: acc 0."),
        ("number = seed; open('cache', 'w').write('x')", 0, "note: files changed outside {out}: cache;"),
        ("number = seed; sys.exit(4)", 1, "problem: exit code 4, and it printed nothing"),
        ("number = 'a'", 1, 'problem: metrics.json: acc is "a"; it must be a number'),
    ],
)
def test_what_check_finds(tmp_path: Path, line: str, code: int, said: str) -> None:
    write_program(tmp_path, line)
    done = ablate("check", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout


def test_nothing_to_write(tmp_path: Path) -> None:
    assert "--program: a study of your own program" in ablate("init", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("changed", "[options]\nlrr = 1", "unknown option lrr"),
        ("changed", "[program]\nimages = 'x'", "program.images is the same for all runs of a study"),
        ("changed", "[program]\nmetrics = 3", "program.metrics"),
        ("changed", "[model]\nwidth = 3", "unknown key model"),
        ("presets/smoke", "[program]\ncommand = ['x']", "program.command is the same for all runs of a study"),
        ("presets/smoke", "[program]\ntimeout_s = -1", "program.timeout_s is -1; it must be greater than 0"),
        ("presets/smoke", "[program]\ntimeot_s = 1", "did you mean program.timeout_s?"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(tmp_path: Path, file: str, text: str, said: str) -> None:
    write_program(tmp_path, "number = seed")
    path = tmp_path / "variants" / f"{file}.toml"
    head = "" if "presets" in file else 'about = "a"\nsource = "b"\naxis = "c"\n'
    path.write_text(head + text)
    done = ablate("check", cwd=tmp_path)
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"error: variants/{file}.toml: ")
    assert said in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--nfe", "4"), "--nfe 4: not for a program; ablate cannot sample from it"),
        (("--budget", "macs"), "--budget macs: not for a program"),
        (("--data", "cats2"), "--data cats2: not for a program"),
        (("--device", "tpu"), "--device tpu: unknown device"),
        (("--set", "options.lr=1"), "unknown option lr"),
    ],
)
def test_options_of_torch_models_are_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    write_program(tmp_path, "number = seed")
    done = ablate("run", *words, cwd=tmp_path)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_time_limit_is_for_programs(tmp_path: Path) -> None:
    assert "only a run of your own program" in ablate("run", "--timeout", "5", cwd=tmp_path).stderr
    write_program(tmp_path, "import time; time.sleep(60)")
    done = ablate("run", "--timeout", "0.3", cwd=tmp_path)
    assert "timed out after 0." in done.stderr
    assert done.returncode == 1
