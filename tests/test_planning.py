"""`ablate plan`: what a study will judge and can show, before it is run; and the plan on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from command import CHEAP, ablate

from ablate.base.machine import environment, pick_device
from ablate.data.datasets import load_dataset
from ablate.store import tables
from ablate.study import variants as files


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "set.npz"
    np.savez(path, np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), np.uint8))
    return path


def plan(folder: Path, data: Path, *words: str, columns: str = "80") -> Any:
    return ablate("plan", "--data", str(data), *words, cwd=folder, COLUMNS=columns)


def document(folder: Path, data: Path, *words: str) -> dict[str, Any]:
    shown = plan(folder, data, *words, "--json")
    assert shown.returncode == 0, shown.stderr
    parsed: dict[str, Any] = json.loads(shown.stdout)
    return parsed


def pilot(folder: Path, data: Path, effects: dict[str, float], seeds: range, **columns: object) -> None:
    """A folder with finished runs at `quick` whose paired differences of `fd` have a known spread."""
    digest = load_dataset(str(data)).digest
    columns = {"data": "set", "data_digest": digest, "wall_s": 100.0} | columns
    made = synthetic.rows(effects, seeds, spread=3.0, **columns)
    for run in made["runs"]:
        run["config_hash"] = files.resolve(files.load(run["variant"]), "quick").hash
    synthetic.save(folder / "results", made)


def test_a_plan_is_shown_without_any_run(tmp_path: Path, data: Path) -> None:
    shown = plan(tmp_path, data, "--variant", "no_drift,v_pred", "--seeds", "0-5,8")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].endswith("not recorded yet (--record does it, or the first run)")
    assert "variants: baseline, no_drift, v_pred" in lines
    assert "seeds: 0-5,8" in lines
    assert "tests: 4 (2 variants x 2 metrics); at most 5 % of studies make a false claim" in lines
    assert "runs: 21, 0 finished, 21 to run: unknown" in lines
    (row,) = [line.split() for line in lines if line.startswith("fd ")]
    assert row[:5] == ["fd", "all", "-", "unknown", "nothing"]
    assert row[6] == "sd"
    assert max(map(len, lines)) <= 80
    assert not (tmp_path / "results").exists()


def test_claims_on_other_metrics_are_tests_too(tmp_path: Path, data: Path) -> None:
    assert document(tmp_path, data, "--variant", "direct", "--seeds", "0-5")["tests"] == 4  # two claims on int8


@pytest.mark.slow
def test_past_runs_tell_spreads_and_times(tmp_path: Path, data: Path) -> None:
    here = environment(pick_device("auto"))
    pilot(tmp_path, data, {"baseline": 0.0, "no_drift": 5.0, "v_pred": 90.0}, range(40), environment=here)
    found = document(tmp_path, data, "--variant", "no_drift", "--seeds", "40-47")
    assert (found["metrics"], found["tests"]) == (["fd", "pd"], 2)
    assert found["power_seeds"] == [4, 6, 8, 12]
    fd, pd = found["metric_power"]
    assert fd["sd"] == pytest.approx(3.0, rel=0.3)
    assert (fd["variant"], fd["sd_from"]) == ("no_drift", "40 seeds")
    assert pd["sd"] == pytest.approx(fd["sd"] / 1000)
    assert fd["detectable"][0] is None
    assert fd["detectable"][1:] == pytest.approx([effect * fd["sd"] for effect in found["effects"][1:]])
    assert found["wall_s"] == [n * 200.0 for n in (4, 6, 8, 12)]
    assert found["of_other_plans"] == 0
    assert [run["finished"] for run in found["runs"]] == [False] * 16
    assert (
        "runs: 16, 0 finished, 16 to run: 27 min" in plan(tmp_path, data, "-v", "no_drift", "--seeds", "40-47").stdout
    )
    # A variant that was never run: the spread of the others.
    found = document(tmp_path, data, "--variant", "no_drift,direct", "--seeds", "0-7")
    of_fd = [(one["variant"], one["sd_from"]) for one in found["metric_power"] if one["metric"] == "fd"]
    assert of_fd == [("no_drift", "40 seeds"), (None, "median of 2 variants")]
    assert "fd      others" in plan(tmp_path, data, "--variant", "no_drift,direct", "--seeds", "0-7").stdout


@pytest.mark.slow
def test_times_of_other_machines_and_runs_of_other_data_do_not_count(tmp_path: Path, data: Path) -> None:
    pilot(tmp_path, data, {"baseline": 0.0, "no_drift": 5.0}, range(3))
    found = document(tmp_path, data, "--variant", "no_drift", "--seeds", "0-7")
    assert found["wall_s"] == [None] * 4
    assert found["metric_power"][0]["sd"] > 0
    pilot(tmp_path / "other", data, {"baseline": 0.0, "no_drift": 5.0}, range(3), data_digest="e" * 64)
    found = document(tmp_path / "other", data, "--variant", "no_drift", "--seeds", "0-7")
    assert [one["sd"] for one in found["metric_power"]] == [None, None]


def test_spreads_can_be_given(tmp_path: Path, data: Path) -> None:
    found = document(tmp_path, data, "-v", "direct", "--seeds", "0-6", "--sd", "5", "--sd", "pd=0.02")
    assert found["power_seeds"] == [4, 6, 7, 8, 12]
    assert [(one["metric"], one["sd"], one["sd_from"]) for one in found["metric_power"]] == [
        ("fd", 5.0, "given"),
        ("pd", 0.02, "given"),
    ]
    assert document(tmp_path, data, "-v", "direct", "-m", "fid", "-m", "kid")["metrics"] == ["fid", "pd", "kid"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "ablate plan: no variant to compare with the baseline"),
        ("-v direct --no-baseline", "ablate plan: no baseline to compare with"),
        ("-v direct --sd x", "--sd x: it must be a number above 0"),
        ("-v direct --sd fd=-1", "--sd fd=-1: it must be a number above 0"),
        ("-v direct --sd lpips=1", "--sd lpips=1: lpips is not judged here"),
        ("-v drect", "unknown variant 'drect'"),
        ("-v direct --seeds 4-1", "--seeds 4-1: the range 4-1 runs backwards"),
    ],
)
def test_bad_input_is_one_line_and_records_nothing(tmp_path: Path, data: Path, words: str, message: str) -> None:
    done = plan(tmp_path, data, "--record", *words.split())
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_study_goes_by_the_recorded_plan(tmp_path: Path, data: Path) -> None:
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants/cheap.toml").write_text(f'about = "cheap"\nsource = "mine"\naxis = "size"\n{CHEAP}')
    words = ("--variant", "cheap", "--preset", "smoke")
    shown = plan(tmp_path, data, *words, "--record")
    assert shown.returncode == 0, shown.stderr
    assert ": recorded 20" in shown.stdout
    before = tables.read(tmp_path / "results", "plans")
    options = ("--data", str(data), "--quantize", "none", "--threads", "1")
    assert ablate("run", *words, *options, cwd=tmp_path, ABLATE_CACHE=str(tmp_path)).returncode == 0
    assert tables.read(tmp_path / "results", "plans").equals(before)
    runs = tables.read(tmp_path / "results", "runs")
    assert set(runs["plan_id"]) == {before["plan_id"].item()}
    shown = plan(tmp_path, data, *words)
    assert "runs: 2, 2 finished, 0 to run" in shown.stdout
    assert "finished: baseline 0; cheap 0" in shown.stdout
    assert "note:" not in shown.stdout
    other = plan(tmp_path, data, *words, "--seeds", "0-7", columns="200").stdout
    assert "note: 2 finished runs are of another plan or none, so a report judges this study as grown" in other
