"""Notes on pairs whose two runs differ in more than the variant, and on what is not judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import synthetic
from synthetic import findings_of, frames

from ablate.report import gate
from ablate.report.selection import Choice

Rows = dict[str, list[dict[str, Any]]]


def study(**changes: Callable[[dict[str, Any]], object]) -> Rows:
    """Eight seeds of the baseline and `no_drift`; `changes` give columns of the latter's runs."""
    made = synthetic.rows({"baseline": 0.0, "no_drift": 5.0}, range(8))
    for run in made["runs"]:
        run |= {"git_commit": "a" * 40, "git_dirty": False}
        if run["variant"] == "no_drift":
            run |= {name: change(run) for name, change in changes.items()}
    return made


def notes(made: Rows, about: str) -> list[str]:
    """The notes of the report, which are also those of the gate."""
    found = [note for note in findings_of(made).notes if about in note]
    tolerance = gate.parse_tolerance("90%")
    assert [n for n in gate.gate(frames(made), "fd", tolerance, Choice()).notes if about in n] == found
    return found


def version(source: str, commit: str = "a" * 40, *, dirty: bool = False) -> str:
    return json.dumps({"commit": commit, "dirty": dirty, "source": source})


def test_equal_code_needs_no_note() -> None:
    assert not notes(study(), "code differs")


def test_pairs_across_commits_and_edited_code_are_noted() -> None:
    (note,) = notes(study(git_commit=lambda run: ("b" if run["seed"] < 3 else "a") * 40), "code differs")
    assert note == "code differs within pairs with the baseline: no_drift (3 of 8): commit aaaaaaaa; commit bbbbbbbb"
    (note,) = notes(study(git_dirty=lambda run: True), "code differs")
    assert "no_drift (8 of 8): commit aaaaaaaa; commit aaaaaaaa with changes" in note


def test_edits_are_told_apart_by_the_digest_of_the_sources() -> None:
    made = study(code=lambda run: f"[{version('2' * 16, dirty=True)}]")
    for run in made["runs"]:
        run.setdefault("code", f"[{version('1' * 16, dirty=True)}]")
    (note,) = notes(made, "code differs")
    assert "commit aaaaaaaa with changes 11111111; commit aaaaaaaa with changes 22222222" in note


def test_all_code_that_computed_an_interrupted_run_counts() -> None:
    both = f"[{version('1' * 16)}, {version('2' * 16, 'b' * 40)}]"
    (note,) = notes(study(code=lambda run: both), "code differs")
    assert "commit aaaaaaaa then commit bbbbbbbb" in note


def test_pairs_across_library_versions_are_noted() -> None:
    def older(run: dict[str, Any]) -> str:
        return json.dumps({"torch": "1.0.0", "numpy": "2.0"})

    made = study(environment=older)
    for run in made["runs"][:8]:
        run["environment"] = json.dumps({"torch": "2.0.0", "numpy": "2.0"})
    (note,) = notes(made, "libraries differ")
    assert note.endswith("no_drift (8 of 8): torch 1.0.0; torch 2.0.0")


def test_one_of_several_configurations_is_judged_and_named() -> None:
    made = study()
    for run in made["runs"][8:]:
        if run["seed"] > 3:
            run["config_hash"] = "newer"
            run["finished_at"] += timedelta(days=1)
    (note,) = notes(made, "configurations")
    assert "no_drift has 2 configurations: " in note
    assert "@newer (seeds 4, 5, 6, 7)" in note
    assert note.endswith("only the newest is judged, @newer")
    assert {one.label for one in findings_of(made).comparisons} == {"no_drift @newer"}


def test_unstable_runs_are_noted() -> None:
    (note,) = notes(study(unstable=lambda run: run["seed"] in (2, 5)), "unstable")
    assert note == "no_drift: seeds 2, 5 unstable: the gradient norm left its own history"


def test_nothing_helps_while_a_seed_diverged() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": -5.0}, range(12))
    assert {one.verdict for one in findings_of(made).comparisons} == {"helps"}
    made["runs"][-1] |= {"status": "diverged", "fd": None, "pd": None}
    for one in findings_of(made).comparisons:
        assert one.verdict == "undecided"
        assert ", but of 12 seeds 1 diverged" in one.why


@pytest.mark.parametrize(
    "code", ["{", "3", '[{"commit": 1}]', "null", "[]", '[{"commit": null, "dirty": null, "source": 3}]']
)
def test_foreign_texts_for_the_code_are_no_error(code: str) -> None:
    findings_of(study(code=lambda run: code))
