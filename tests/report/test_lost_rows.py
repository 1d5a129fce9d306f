"""Folders of finished runs whose rows were lost: every report says that they are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic
from command import ablate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder in which each run of `runs.parquet` has its folder."""
    made = synthetic.rows({"baseline": 0.0, "no_drift": 5.0}, range(2))
    for run in made["runs"]:
        (tmp_path / "artifacts" / run["run_id"]).mkdir(parents=True)
    return synthetic.save(tmp_path, made)


def notes(folder: Path) -> list[str]:
    shown = ablate("report", "--results", str(folder), "--json", cwd=folder)
    return [note for note in json.loads(shown.stdout)["notes"] if "without a row" in note]


def test_a_folder_without_a_row_is_a_note_in_every_form(folder: Path) -> None:
    assert notes(folder) == []
    (folder / "artifacts" / "v_pred-quick-cats-s0-00000000").mkdir()
    (note,) = notes(folder)
    assert note == (
        "not judged: artifacts/ holds 1 run without a row in runs.parquet: v_pred-quick-cats-s0-00000000 "
        "(ablate doctor --results says how to fix that)"
    )
    for form in ("rich", "markdown"):
        shown = ablate("report", "--results", str(folder), "--format", form, cwd=folder).stdout
        assert "without a row in runs.parquet" in " ".join(shown.split())
    doctor = ablate("doctor", "--results", str(folder), cwd=folder, COLUMNS="300").stdout
    assert "v_pred-quick-cats-s0-00000000: of a run that runs.parquet does not hold" in doctor


def test_many_folders_are_one_short_note(folder: Path) -> None:
    for seed in range(5):
        (folder / "artifacts" / f"latent-s{seed}\x1b[2J").mkdir()
    (note,) = notes(folder)
    assert "holds 5 runs without a row" in note
    assert "latent-s2\\x1b[2J and 2 more" in note
    assert note.isprintable()


def test_a_run_that_is_being_finished_or_will_be_resumed_is_no_note(folder: Path) -> None:
    for name in ("a", "a.part", "b.part"):
        (folder / "artifacts" / name).mkdir()
    assert notes(folder) == []
