"""The health of a results folder: every fault is found, with its repair, and a sound folder has none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from ablate import cli
from ablate.base.errors import ResultsError
from ablate.launch import leases
from ablate.models.weight_files import digest
from ablate.store import health, tables

WEIGHTS = {"w": torch.arange(6.0)}


def row(run_id: str, status: str = "done") -> dict[str, object]:
    given = {"run_id": run_id, "variant": "v", "preset": "smoke", "seed": 0, "status": status}
    return given | ({"weights_digest": digest(WEIGHTS)} if status == "done" else {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tables.append(tmp_path, {"runs": [row("a"), row("b", "interrupted")], "curves": [{"run_id": "a", "step": 1}]})
    (tmp_path / "artifacts" / "a").mkdir(parents=True)
    save_file(WEIGHTS, tmp_path / "artifacts" / "a" / "model.safetensors")
    return tmp_path


def model(folder: Path) -> Path:
    return folder / "artifacts" / "a" / "model.safetensors"


def dead_claim(folder: Path) -> None:
    (folder / ".claims").mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    content = {"pid": gone.pid, "host": "h\x1b[2J", "place": leases._place(), "started": "1", "token": "t"}
    (folder / ".claims" / "a.json").write_text(json.dumps(content))


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
    ("claim", dead_claim, "on h\\x1b[2J, which has ended"),
]


def test_a_sound_folder_has_no_findings(folder: Path) -> None:
    assert health.examine(folder, leases.Claims(folder).owners()) == []


@pytest.mark.parametrize(("kind", "harm", "what"), FAULTS, ids=[what for _, _, what in FAULTS])
def test_every_fault_is_found_with_its_repair(
    folder: Path, kind: str, harm: Callable[[Path], object], what: str
) -> None:
    harm(folder)
    (finding,) = health.examine(folder, leases.Claims(folder).owners())
    assert (finding.kind, what in finding.what, bool(finding.mend)) == (kind, True, True)
    assert finding.what.isprintable()


def test_a_run_that_is_being_made_is_not_to_be_deleted(folder: Path) -> None:
    (folder / "artifacts" / "b.part").mkdir()
    with leases.Claims(folder).take("b"):
        (finding,) = health.examine(folder, leases.Claims(folder).owners())
        assert f"process {os.getpid()} on " in finding.what
        assert "delete" not in finding.mend


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such folder"):
        health.examine(tmp_path / "absent", {})


def test_doctor_shows_them_and_the_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("ABLATE_OFFLINE", "1")
    model(folder).unlink()
    found = json.loads(CliRunner().invoke(cli.app, ["doctor", "--results", str(folder), "--json"]).stdout)
    assert [finding["kind"] for finding in found["results"]["findings"]] == ["missing"]
    assert all(count > 0 for count in found["free_bytes"].values())
    assert found["compiler"] is None or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    page = " ".join(CliRunner().invoke(cli.app, ["doctor", "--results", str(folder)]).stdout.split())
    assert "1 to mend" in page
    assert "mend: restore it from a copy" in page
    assert "compiler: " in page
    assert "free disk: " in page
