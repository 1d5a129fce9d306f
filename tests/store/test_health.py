"""A results folder's health: every fault is found, with its fix; a sound folder has none."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from ablate import cli
from ablate.base.errors import ResultsError
from ablate.launch.leases import Lease, Leases
from ablate.models.weight_files import digest
from ablate.store import health, tables

WEIGHTS = {"w": torch.arange(6.0)}


def row(run_id: str, status: str = "done") -> dict[str, object]:
    given = {"run_id": run_id, "variant": "v", "preset": "smoke", "seed": 0, "status": status}
    return given | ({"weights_digest": digest(WEIGHTS)} if status == "done" else {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = [row("a"), row("d"), row("b", "interrupted")]
    tables.append(tmp_path, {"runs": runs, "curves": [{"run_id": "a", "step": 1}]})
    for name in "ad":
        (tmp_path / "artifacts" / name).mkdir(parents=True)
        save_file(WEIGHTS, tmp_path / "artifacts" / name / "model.safetensors")
    return tmp_path


def model(folder: Path) -> Path:
    return folder / "artifacts" / "a" / "model.safetensors"


FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("table", lambda f: (f / "curves.parquet").write_bytes(b"PAR1"), "curves.parquet: damaged"),
    ("missing", lambda f: model(f).unlink(), "model.safetensors: missing"),
    ("digest", lambda f: save_file({"w": torch.zeros(6)}, model(f)), "not the weights that the run's row names"),
    ("digest", lambda f: model(f).write_bytes(b"\xff" * 40), "model.safetensors: damaged"),
    ("orphan", lambda f: tables.append(f, {"curves": [{"run_id": "z", "step": 1}]}), "curves.parquet: 1 rows of z"),
    ("orphan", lambda f: (f / "artifacts" / "c").mkdir(), "c: of a run that runs.parquet does not hold"),
    ("orphan", lambda f: (f / "artifacts" / "x\x1b[2J").write_text(""), "x\\x1b[2J: a file among"),
    ("leftover", lambda f: (f / "artifacts" / "a.part").mkdir(), "the working folder of a finished run"),
    ("leftover", lambda f: (f / ".runs.parquet.tmp").write_text(""), "of a process that was killed"),
    ("unfinished", lambda f: (f / "artifacts" / "b.part").mkdir(), "of a run that is interrupted"),
]


def doctor(folder: Path, *options: str) -> str:
    done = CliRunner().invoke(cli.app, ["doctor", "--results", str(folder), *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def page(folder: Path, *options: str) -> str:
    return " ".join(doctor(folder, *options).split())


def test_a_sound_folder_has_no_findings(folder: Path) -> None:
    assert health.examine(folder, []) == health.Health((), ())


@pytest.mark.parametrize(("kind", "harm", "what"), FAULTS, ids=[what for _, _, what in FAULTS])
def test_every_fault_is_found_with_its_fix(folder: Path, kind: str, harm: Callable[[Path], object], what: str) -> None:
    harm(folder)
    (finding,) = health.examine(folder, []).findings
    assert (finding.kind, what in finding.what, bool(finding.fix)) == (kind, True, True)
    assert finding.what.isprintable()


def test_a_folder_without_any_weights_is_no_fault(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    assert health.examine(folder, []) == health.Health((), (health.NO_WEIGHTS,))
    assert "no faults - weights are not kept in this folder: sample, bench and export need them" in page(folder)


def test_a_run_that_is_being_made_is_shown_with_its_process_and_is_no_fault(folder: Path) -> None:
    working = folder / "artifacts" / "b.part"
    working.mkdir()
    (working / "checkpoint.safetensors").write_text("")
    for path in (working, *working.iterdir()):
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    lease = Leases(folder).take("b")
    results = json.loads(doctor(folder, "--json"))["results"]
    assert results["findings"] == []
    (running,) = results["running"]
    assert running["run_id"] == "b"
    assert running["owner"].startswith(f"process {os.getpid()} on ")
    assert 4000 <= running["idle_s"] < 4100
    shown = page(folder)
    assert "its working folder last changed 4,0" in shown
    assert "ablate run --steal" in shown
    assert isinstance(lease, Lease)
    lease.give_back()
    assert [finding.kind for finding in health.examine(folder, []).findings] == ["unfinished"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such folder"):
        health.examine(tmp_path / "absent", [])


@pytest.mark.slow
def test_faults_of_a_kind_are_one_line(folder: Path) -> None:
    for i in range(50):
        (folder / "artifacts" / f"lost{i:02d}").mkdir()
    shown = page(folder)
    assert "50 faults" in shown
    assert shown.count("of a run that runs.parquet does not hold") == 3
    assert "- orphan, 50: " in shown
    assert "and 47 more (--full lists all)" in shown
    assert shown.count("fix: ") == 1
    assert page(folder, "--full").count("of a run that runs.parquet does not hold") == 50
    assert len(json.loads(doctor(folder, "--json"))["results"]["findings"]) == 50


def test_doctor_shows_them_and_the_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("ABLATE_OFFLINE", "1")
    model(folder).unlink()
    found = json.loads(doctor(folder, "--json"))
    assert [finding["kind"] for finding in found["results"]["findings"]] == ["missing"]
    assert all(count > 0 for count in found["free_bytes"].values())
    assert found["compiler"] is None or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    shown = page(folder)
    assert "1 fault " in shown
    assert "fix: restore it from a copy" in shown
    assert "compiler: " in shown
    assert "free disk: " in shown
