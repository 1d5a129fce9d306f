"""`ablate watch`: one frame of a study, from its tables and leases alone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
from command import ablate

from ablate import live_view
from ablate.cli import watch
from ablate.launch.leases import Lease, Leases
from ablate.report.builder import build, read
from ablate.store import plans, tables
from ablate.store.run_progress import RunProgress

NAME = "{}-quick-cats-s{}-00000000"
VARIANTS = ("baseline", "no_drift", "v_pred")


def record_plan(folder: Path, seeds: int, **fields: Any) -> str:
    of_plan: dict[str, Any] = {
        "preset": "quick",
        "data": "cats",
        "data_digest": synthetic.DIGEST,
        "budget": "steps",
        "variants": [(name, name[:12]) for name in VARIANTS],
        "seeds": range(seeds),
        "metrics": [],
        "level": 0.05,
    }
    return plans.record(folder, plans.Plan(**of_plan | fields), "code")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plan of three variants at eight seeds. Six seeds of each have ended: v_pred is decided, no_drift is not."""
    made = synthetic.rows({"baseline": 0.0, "no_drift": 0.0, "v_pred": 30.0}, range(6), wall_s=600.0)
    made["runs"][11] |= {"status": "failed"}
    synthetic.save(tmp_path / "results", made)
    record_plan(tmp_path / "results", 8)
    return tmp_path / "results"


@pytest.fixture
def under_way(folder: Path) -> Iterator[Path]:
    """The folder while two runs are being made, one of them by an ablate that says nothing of its progress."""
    leases = [Leases(folder).take(NAME.format("baseline", seed)) for seed in (6, 7)]
    assert isinstance(leases[0], Lease)
    now, plan_id = time.time(), plans.recorded_plans(folder).popitem()[0]
    leases[0].report(
        RunProgress(
            variant="baseline",
            preset="quick",
            seed=6,
            config_hash="baseline",
            plan_id=plan_id,
            started_at=now - 60,
            written_at=now,
            phase="baseline s6: train",
            done=500,
            total=1500,
            unit_s=0.26,
            note="loss \x1b[31m0.312",
        )
    )
    yield folder
    for lease in leases:
        assert isinstance(lease, Lease)
        lease.give_back()


def shown(folder: Path, width: int = 110, height: int = 30, *words: str) -> list[str]:
    done = ablate("watch", str(folder), "--once", *words, cwd=folder.parent, COLUMNS=str(width), LINES=str(height))
    assert (done.returncode, done.stderr) == (0, "")
    return [line.rstrip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("width", [60, 110])
def test_a_frame_shows_the_runs_the_time_left_and_what_is_undecided(under_way: Path, width: int) -> None:
    before = {path: path.stat().st_mtime_ns for path in under_way.rglob("*") if path.name != ".lock"}
    lines = shown(under_way, width)
    assert before == {path: path.stat().st_mtime_ns for path in under_way.rglob("*") if path.name != ".lock"}
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("preset quick, data cats, 3 variants x 8 seeds")
    assert lines[1].startswith("runs 18 of 24 · ")
    assert lines[1].endswith("left · 2 under way · 1 failed")
    head, _, first, second = lines[3:7]
    for name, cell in {"run": "baseline s6", "phase": "train", "done": "500/1,500", "left": "11 min"}.items():
        assert name in head.split()
        assert cell in first
    assert second.split()[:2] == ["baseline", "s7"]
    assert ("0.260" in first) == ("s/unit" in head)
    assert ("loss \\x1b[31m0.312" in first) == (width == 110)
    tested = "2 of 4 undecided; e of at least 20 decides (4 tests)"
    start = lines.index(tested)
    assert lines[start + 1].split()[:2] == ["variant", "metric"]
    (row,) = [line for line in lines[start:] if line.startswith("no_drift") and " fd " in line]
    found = build(read(under_way)).comparisons
    (one,) = [c for c in found if (c.variant, c.metric) == ("no_drift", "fd")]
    assert one.adjusted is not None
    assert one.mean is not None
    assert math.isclose(float(row.split()[-1 if width == 60 else -2]), one.adjusted, rel_tol=0.01)
    assert f"{one.mean:+.1f}" in row
    assert f"[{one.low:+.1f}, {one.high:+.1f}]" in row
    assert "decided: v_pred hurts (fd, pd)" in lines
    assert "When all runs of the plan have ended" in " ".join(lines)


def test_the_time_left_counts_all_processes(under_way: Path) -> None:
    study = live_view.LiveView(under_way).now()
    assert study is not None
    (one, other) = study.running
    assert one.left_s == pytest.approx(260 + 380, abs=15)  # training, then what finished runs took after it
    assert other.left_s is None
    # Four runs have not begun, and the other process may have just begun: 640 + 5 * 600 s.
    assert study.progress == "runs 18 of 24 · 1 h 1 min left"


def test_a_low_terminal_gets_one_line(under_way: Path) -> None:
    (line,) = shown(under_way, 110, 1)
    assert line.startswith("runs 18 of 24 · ")
    assert line.endswith("left · 2 under way · 1 failed · 2 of 4 undecided")
    (cut,) = shown(under_way, 40, 1)
    assert cut.endswith("…")
    assert len(cut) == 40


def test_a_study_until_decided_has_no_more_runs_of_a_decided_variant(folder: Path) -> None:
    record_plan(folder, 10, max_seeds=10)
    lines = shown(folder)
    assert " 3 variants x 10 seeds at most" in lines[0]
    # of the baseline and no_drift four seeds each
    assert lines[1] == "runs 18 of at most 26 · at most 1 h 20 min left · none under way · 1 failed"
    assert "When all runs" not in " ".join(lines)


def test_more_runs_than_fit_are_counted(folder: Path) -> None:
    leases = [Leases(folder).take(NAME.format("v_pred", seed)) for seed in range(6, 36)]
    lines = shown(folder, 110, 20)
    for lease in leases:
        assert isinstance(lease, Lease)
        lease.give_back()
    assert len(lines) <= 20
    assert "· 30 under way" in lines[1]
    (left_out,) = [line for line in lines if line.startswith("and ")]
    assert left_out == f"and {30 - sum(line.startswith('v_pred s') for line in lines)} more"


def test_a_folder_without_a_plan_is_shown_too(tmp_path: Path) -> None:
    folder = synthetic.save(tmp_path / "results", synthetic.rows({"baseline": 0.0, "no_drift": 9.0}, range(8)))
    lines = shown(folder)
    assert lines[0].startswith("2 variants, no plan · ")
    assert lines[1] == "runs 16 of 16 · none under way"
    assert lines[-1] == "decided: no_drift hurts (fd, pd)"
    more = synthetic.rows({"baseline": 0.0}, [0], preset="smoke")
    synthetic.save(folder, {"runs": [more["runs"][0] | {"run_id": NAME.format("other", 0)}]})
    assert "presets that do not compare" in " ".join(shown(folder))


def test_an_empty_or_missing_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert " ".join(shown(tmp_path / "results")) == f"{tmp_path}/results: no runs yet; ablate run makes them"
    assert list((tmp_path / "results").iterdir()) == []
    missing = ablate("watch", "--results", "nowhere", cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr == "error: --results nowhere: no such folder; make a run first: ablate run\n"


def test_it_goes_on_until_ctrl_c_and_judges_only_what_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, slept, judge = list[int](), list[float](), live_view.comparable_findings

    def count(*words: Any) -> Any:
        judged.append(len(slept))
        return judge(*words)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            made = synthetic.rows({"baseline": 0.0, "no_drift": 0.0}, [6], wall_s=600.0)
            tables.append(folder, {"runs": made["runs"]})
        elif len(slept) == 5:
            (folder / "runs.parquet").write_bytes(b"damaged")
        elif len(slept) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(live_view, "comparable_findings", count)
    monkeypatch.setattr(live_view, "SHARE", math.inf)  # as often as anything changes
    monkeypatch.setattr(watch.time, "sleep", sleep)
    done = ablate("watch", "--every", "0.5", cwd=folder.parent, FORCE_COLOR="1", TERM="xterm")
    assert done.returncode == 130
    assert slept == [0.5] * 7
    assert judged == [0, 3]
    for part in ("runs 18 of 24", "runs 20 of 24", "error: results/runs.parquet: damaged"):
        assert part in done.stdout


def test_verdicts_take_a_small_share_of_the_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times, judged, judge = (
        iter([0.0, 0.0, 2.0, 5.0, 39.0, 43.0, 43.0, 45.0]),
        list[bool](),
        live_view.comparable_findings,
    )
    view = live_view.LiveView(folder)
    monkeypatch.setattr(view, "_look_at_leases", dict)
    monkeypatch.setattr(live_view.time, "monotonic", lambda: next(times))

    def count(*words: Any) -> Any:
        judged.append(True)
        return judge(*words)

    monkeypatch.setattr(live_view, "comparable_findings", count)
    expected = [1, 1, 1, 2]  # 2 s of computing allow the next in 40 s
    for seed, many in zip(range(6, 10), expected, strict=True):
        tables.append(folder, {"runs": synthetic.rows({"baseline": 0.0}, [seed])["runs"]})
        assert view.now() is not None
        assert len(judged) == many
