"""`ablate ls`, `rm` and `tag`: what a folder holds is listed, removed as a whole, and found by its tags."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import synthetic
from command import ablate
from typer.testing import CliRunner

from ablate import cli
from ablate.launch.leases import Lease, Leases
from ablate.store import plans, tables

NAME = "{}-quick-cats-s{}-00000000"


def study(path: Path) -> Path:
    """Two variants at seven seeds, planned; with curves and files, one of them failed."""
    made = synthetic.planned(synthetic.rows({"baseline": 0.0, "no_drift": 5.0}, range(7)))
    made["curves"] = [{"run_id": run["run_id"], "step": 1} for run in made["runs"]]
    made["runs"][-1] |= {"status": "failed", "finished_at": datetime.now(UTC) - timedelta(hours=3)}
    synthetic.save(path / "results", made)
    for run in made["runs"][:-1]:
        image = path / "results/artifacts" / run["run_id"] / "samples.png"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"x" * 1000)
    return path / "results"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return study(tmp_path)


def listed(folder: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = ablate("ls", "--json", *words, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return {run["run_id"]: run for run in json.loads(done.stdout)}


def traces(folder: Path, run_id: str) -> list[str]:
    """Where something of a run is left."""
    rows = [t for t in ("runs", "curves", "fidelity") if run_id in set(tables.read(folder, t)["run_id"])]
    return rows + [str(path.relative_to(folder)) for path in folder.rglob(f"*{run_id}*")]


def test_runs_are_listed_with_what_tells_them_apart(folder: Path) -> None:
    done = ablate("ls", "--where", "seed == 6", cwd=folder.parent, COLUMNS="140")
    head, _, *rows = done.stdout.splitlines()
    assert head.split() == ["run", "status", "variant", "preset", "data", "seed", "age", "code", "tags"]
    assert rows[0].split()[:6] == [NAME.format("baseline", 6), "done", "baseline", "quick", "cats", "6"]
    assert rows[1].split()[1:3] == ["failed", "no_drift"]
    assert "3 h 0 min" in rows[1]
    assert rows[2] == "2 runs: 1 done, 1 failed"
    narrow = ablate("ls", cwd=folder.parent, COLUMNS="80").stdout.splitlines()
    assert max(map(len, narrow)) <= 80
    assert narrow[-1] == "14 runs: 13 done, 1 failed"
    run = listed(folder, "--where", "status == 'failed'")[NAME.format("no_drift", 6)]
    assert (run["variant"], run["seed"], run["tags"]) == ("no_drift", 6, [])
    assert 3 * 3600 <= run["age_s"] < 3 * 3600 + 600


def test_runs_without_a_row_are_listed_too(folder: Path) -> None:
    plan = plans.Plan(
        preset="quick", data="cats", data_digest="d", budget="steps", variants=[("v_pred", "h")], seeds=[0, 1], metrics=[],
        level=0.05,
    )  # fmt: skip
    plans.record(folder, plan, "code")
    for seed in (0, 1):
        (folder / "artifacts" / f"{NAME.format('v_pred', seed)}.part").mkdir()
    (folder / "artifacts" / NAME.format("v_pred", 2)).mkdir()
    leases = [Leases(folder).take(NAME.format(*run)) for run in (("v_pred", 0), ("baseline", 0))]
    runs = listed(folder)
    assert [runs[NAME.format("v_pred", seed)]["status"] for seed in range(3)] == ["running", "killed", "lost"]
    running = runs[NAME.format("v_pred", 0)]
    assert (running["variant"], running["preset"], running["data"], running["seed"]) == ("v_pred", "quick", "cats", 0)
    assert running["owner"].startswith("process ")
    assert running["age_s"] < 600
    assert set(listed(folder, "--where", "status == 'running'")) == {NAME.format(v, 0) for v in ("v_pred", "baseline")}
    for lease in leases:
        assert isinstance(lease, Lease)
        lease.give_back()
    assert (
        listed(folder, "--where", "variant == 'baseline' and seed == 0")[NAME.format("baseline", 0)]["status"] == "done"
    )
    for seed in (1, 2):
        assert ablate("rm", NAME.format("v_pred", seed), "-y", cwd=folder.parent).returncode == 0
        assert traces(folder, NAME.format("v_pred", seed)) == []


def test_removed_runs_leave_nothing_and_their_study_is_grown(folder: Path) -> None:
    def design() -> str:
        return str(json.loads(ablate("report", "--json", cwd=folder.parent).stdout)["compared"]["design"])

    assert design() == "planned"
    one = NAME.format("no_drift", 3)
    done = ablate("rm", one, "--yes", cwd=folder.parent)
    assert (done.returncode, done.stderr) == (0, "1 run removed, 0.0 MB freed\n")
    assert traces(folder, one) == []
    assert len(listed(folder)) == 13
    assert design() == "grown"


def test_it_lists_what_goes_and_asks(folder: Path) -> None:
    words = ["rm", "--where", "seed in (4, 5)", "--results", str(folder)]
    refused = CliRunner().invoke(cli.app, words, input="n\n")
    assert NAME.format("no_drift", 4) in refused.stdout
    assert "4 runs: 4 done" in refused.stdout
    assert "Remove 4 runs from" in refused.stderr
    assert len(listed(folder)) == 14
    unanswered = CliRunner().invoke(cli.app, words, input="").exception
    assert str(unanswered) == "rm: nothing is removed; answer y, or give --yes"
    assert len(listed(folder)) == 14
    assert CliRunner().invoke(cli.app, words, input="y\n").exit_code == 0
    assert len(listed(folder)) == 10


def test_a_run_that_is_being_made_is_not_removed(folder: Path) -> None:
    name = NAME.format("no_drift", 2)
    lease = Leases(folder).take(name)
    done = ablate("rm", "--where", "variant == 'no_drift'", "-y", cwd=folder.parent)
    assert done.stderr.startswith(f"error: {name}: process ")
    assert len(listed(folder)) == 14
    assert isinstance(lease, Lease)
    lease.give_back()


# A removal is killed before its nth rename or deletion, for each folder in the command line.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from ablate.launch.removal import remove_runs
left = 0
def dying(real):
    def call(*words, **options):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words, **options)
    return call
os.replace, os.unlink, Path.replace = dying(os.replace), dying(os.unlink), dying(Path.replace)
shutil.rmtree = dying(shutil.rmtree)
name, *folders = sys.argv[1:]
for nth, folder in enumerate(folders, 1):
    if not os.fork():
        left = nth
        remove_runs(Path(folder), [name])
        os._exit(0)
    assert os.WTERMSIG(os.wait()[1]) == signal.SIGKILL, folder
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder for each place at which a removal was killed. One process kills all: its imports take a second."""
    folders = [study(tmp_path_factory.mktemp("killed")) for _ in range(5)]
    words = [sys.executable, "-c", KILLED, NAME.format("no_drift", 3), *map(str, folders)]
    subprocess.run(words, check=True)
    return folders


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_killed_removal_shows_the_run_whole_or_not_at_all_and_is_finished_by_the_next(
    killed: list[Path], nth: int
) -> None:
    """Killed before the nth rename or deletion: three tables, the folder, its file."""
    folder, name = killed[nth - 1], NAME.format("no_drift", 3)
    left = traces(folder, name)
    whole = ["runs", "curves", "fidelity", f"artifacts/{name}"]
    assert left == whole or "runs" not in left
    if "runs" not in left:
        report = json.loads(ablate("report", "--json", cwd=folder.parent).stdout)
        (row,) = [row for row in report["rows"] if row["variant"] == "no_drift"]
        assert row["seeds"] == [0, 1, 2, 4, 5]
    again = ablate("rm", name, "--yes", cwd=folder.parent)
    if again.returncode:  # only its files were left, on their way out
        assert left == [f".removed/{name}"]
        assert ablate("doctor", "--results", "results", "--clear", "orphans", cwd=folder.parent).returncode == 0
    assert traces(folder, name) == []


def test_doctor_clears_what_belongs_to_no_run(folder: Path) -> None:
    tables.append(folder, {"curves": [{"run_id": "gone", "step": 1}]})
    for name in ("lost", "unfinished.part"):
        (folder / "artifacts" / name).mkdir()
    before = listed(folder)
    assert (
        "error: --clear orphans: in which folder?" in ablate("doctor", "--clear", "orphans", cwd=folder.parent).stderr
    )
    done = ablate("doctor", "--clear", "orphans", "--results", "results", cwd=folder.parent)
    assert done.stdout == "1 rows and 1 folders deleted\n"
    assert traces(folder, "gone") == traces(folder, "lost") == []
    assert traces(folder, "unfinished") == ["artifacts/unfinished.part"]
    assert listed(folder).keys() == before.keys() - {"lost"}


def test_tags_are_given_found_kept_and_taken_away(folder: Path) -> None:
    runs = [NAME.format(name, 1) for name in ("baseline", "no_drift")]
    done = ablate("tag", *runs, "paper", cwd=folder.parent)
    assert done.stderr == "paper: given to 2 of 2 runs\n"
    ablate("tag", "draft", "--where", "seed < 2 and variant == 'baseline'", cwd=folder.parent)
    assert set(listed(folder, "--where", "'paper' in tags")) == set(runs)
    assert listed(folder)[runs[0]]["tags"] == ["paper", "draft"]
    assert tables.read(folder, "runs")["tags"].dropna().tolist() == ["draft", "paper,draft", "paper"]
    again = [row for row in synthetic.rows({"baseline": 1.0}, [1])["runs"] if row["run_id"] == runs[0]]
    tables.append(folder, {"runs": again})  # the run is made again
    assert listed(folder)[runs[0]]["tags"] == ["paper", "draft"]
    ablate("tag", runs[0], "paper", "--remove", cwd=folder.parent)
    assert listed(folder)[runs[0]]["tags"] == ["draft"]
    assert set(listed(folder, "--where", "'paper' in tags")) == {runs[1]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ls --results absent", "--results absent: no such folder"),
        ("ls --where sed<3", "no column 'sed'; did you mean seed?"),
        ("rm", "which runs? Name them, or give --where CONDITION"),
        ("rm x --where seed<3", "which runs? Name them, or give --where CONDITION"),
        ("rm no_drfit-quick-cats-s1-00000000", "no such run in results; did you mean no_drift-quick-cats-s1-00000000?"),
        ("rm no_drift -y", "no_drift: 7 runs begin with this: no_drift-quick-cats-s0-00000000, "),
        ("rm --where seed>99 -y", "--where seed>99: no run in results fits"),
        ("tag paper", "tag paper: which runs get this tag? Name them before it"),
        ("tag no_drift-quick-cats-s1 a,b", "tag 'a,b': allowed are up to 60 letters"),
        ("run --tag a/b --dry-run", "tag 'a/b': allowed are up to 60 letters"),
    ],
)
def test_bad_input_is_one_line(folder: Path, words: str, message: str) -> None:
    done = ablate(*words.split(), cwd=folder.parent)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert len(listed(folder)) == 14
