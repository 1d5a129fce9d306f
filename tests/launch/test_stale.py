"""Finished runs of other code: skipping them is told in one line, and `--stale` makes them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import CHEAP, ablate

from ablate.base.source_code import code_version
from ablate.store import tables

pytestmark = pytest.mark.slow

NOW = json.loads(code_version())
OTHER = {"commit": "1" * 40, "dirty": False, "source": "2" * 16}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a variant of few seconds, and its finished runs of two seeds with the baseline's."""
    folder = tmp_path_factory.mktemp("stale")
    np.savez(folder / "set.npz", np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), np.uint8))
    (folder / "variants").mkdir()
    (folder / "variants/cheap.toml").write_text(f'about = "cheap"\nsource = "mine"\naxis = "size"\n{CHEAP}')
    done = run(folder)
    assert done[0] == 0, done
    return folder


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    options = ("--preset", "smoke", "--data", "set.npz", "--quantize", "none", "--threads", "1", "--no-baseline")
    done = ablate("run", "--variant", "cheap", "--seeds", "0-1", *options, *words, cwd=folder, ABLATE_CACHE=str(folder))
    return done.returncode, done.stdout, done.stderr


def change(folder: Path, changes: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    rows = tables.to_records(tables.read(folder / "results", "runs"))
    tables.append(folder / "results", {"runs": [row | changes(row) for row in rows]})


def of_other_code(row: dict[str, Any]) -> dict[str, Any]:
    return {"code": json.dumps([OTHER])} if row["seed"] == 1 else {}


def notes(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if "other code" in line]


def test_runs_of_other_code_are_skipped_with_one_line_and_made_again_with_stale(study: Path) -> None:
    code, out, err = run(study)
    assert (code, notes(err), out.count("done before; skipped")) == (0, [], 2)
    code, out, err = run(study, "--stale")
    assert (code, notes(err), out.count("done before; skipped")) == (0, [], 2)

    change(study, of_other_code)
    code, out, err = run(study)
    assert (code, out.count("done before; skipped")) == (0, 2)
    assert notes(err) == [
        "note: 1 finished run was computed by other code (commit 11111111): ablate run --stale makes it again"
    ]
    plan = run(study, "--dry-run", "--stale")[1]
    assert "1 of 2 to run" in plan

    before = tables.read(study / "results", "runs").set_index("seed")
    code, out, err = run(study, "--stale")
    assert (code, notes(err), out.count("done before; skipped"), out.count(": done in")) == (0, [], 1, 1)
    after = tables.read(study / "results", "runs").set_index("seed")
    assert json.loads(after.loc[1, "code"]) == [NOW]
    assert (after["finished_at"] > before["finished_at"]).to_dict() == {0: False, 1: True}
    assert notes(run(study)[2]) == []


@pytest.mark.parametrize(
    ("columns", "stale"),
    [
        (
            {"code": json.dumps([NOW | {"commit": "3" * 40}])},
            False,
        ),  # equal sources: another commit changed other files
        ({"code": json.dumps([OTHER, NOW])}, True),  # other code computed its first part
        ({"code": None, "git_commit": NOW["commit"], "git_dirty": True}, True),
        ({"code": None, "git_commit": None, "git_dirty": None}, True),
        ({"code": "no list", "git_commit": "4" * 40, "git_dirty": False}, True),
    ],
)
def test_a_run_is_stale_by_what_its_row_tells(study: Path, columns: dict[str, Any], stale: bool) -> None:
    change(study, lambda row: columns)
    assert ("2 to run" if stale else "0 of 2 to run") in run(study, "--dry-run", "--stale")[1]
    assert "0 of 2 to run" in run(study, "--dry-run")[1]


def test_many_versions_are_still_one_short_line(study: Path) -> None:
    versions = [OTHER | {"commit": digit * 40, "source": digit * 16} for digit in "56789"]
    change(study, lambda row: {"code": json.dumps(versions)})
    (note,) = notes(run(study)[2])
    assert "2 finished runs were computed by other code (commit 55555555, commit 66666666 and 3 more versions)" in note


@pytest.mark.parametrize("other", ["--force", "--failed"])
def test_stale_goes_with_no_other_choice_of_runs(study: Path, other: str) -> None:
    code, _, err = run(study, "--stale", other)
    assert code == 1
    assert err.startswith("error: ")
    assert "choose one" in err
