"""`ablate merge`: every run once, with all of its rows and files; runs that differ are refused or chosen; a kill loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import ablate

import ablate as package
from ablate.base.errors import ResultsError
from ablate.launch.leases import Lease, Leases
from ablate.store import tables
from ablate.store.merge import merge

SCHEMA_1 = Path(__file__).parents[1] / "fixtures" / "schema1"


def save(folder: Path, *run_ids: str, fd: float = 1.0, file: str = "weights", **columns: Any) -> Path:
    """Add finished runs with rows in three tables, a plan and a file."""
    rows = [{"run_id": r, "variant": "v", "preset": "p", "seed": 0, "status": "done", "fd": fd} for r in run_ids]
    curves = [{"run_id": run_id, "step": step, "loss": fd} for run_id in run_ids for step in range(2)]
    calls = {"batch": 1, "scope": "step", "scheme": "fp32", "engine": "torch", "session": "run", "sample": 0}
    latency = [{"run_id": run_id, **calls} for run_id in run_ids]
    tables.append(folder, {"runs": [row | columns for row in rows], "curves": curves, "latency": latency})
    for run_id in run_ids:
        path = folder / "artifacts" / run_id / "model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{file} of {run_id}")
    return folder


def contents(folder: Path) -> dict[str, Any]:
    """All rows of runs by table, and all files."""
    rows = {t: tables.to_records(tables.read(folder, t)) for t in ("runs", "curves", "latency")}
    files = {str(path.relative_to(folder)): path.read_text() for path in (folder / "artifacts").rglob("*.*")}
    return {t: sorted(map(str, of)) for t, of in rows.items()} | {"files": files}


def fds(folder: Path) -> dict[str, float]:
    return tables.read(folder, "runs").set_index("run_id")["fd"].to_dict()


def test_every_run_is_there_once_with_its_rows_and_its_files(tmp_path: Path) -> None:
    save(tmp_path / "a", "r0", "r1")
    save(tmp_path / "b", "r1", "r2")
    bench = tables.to_records(tables.read(tmp_path / "b", "latency"))[0] | {"session": "bench-1"}
    tables.append(tmp_path / "b", {"latency": [bench]}, replace=False)
    (tmp_path / "a/artifacts/r1/model.safetensors").unlink()  # one of the two kept its files
    for folder, day in (("a", 2), ("b", 1)):
        plan = {"plan_id": "x", "data": folder, "created_at": datetime(2026, 1, day, tzinfo=UTC)}
        tables.append(tmp_path / folder, {"plans": [plan]})
    before = contents(tmp_path / "a"), contents(tmp_path / "b")
    done = ablate("merge", "a", "b", "-o", "both", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "both: 3 runs, 3 added\n")
    save(tmp_path / "wanted", "r0", "r1", "r2")
    tables.append(tmp_path / "wanted", {"latency": [bench]}, replace=False)
    assert contents(tmp_path / "both") == contents(tmp_path / "wanted")
    assert tables.read(tmp_path / "both", "plans")["data"].tolist() == ["b"]  # the earliest
    assert (contents(tmp_path / "a"), contents(tmp_path / "b")) == before
    again = ablate("merge", "a", "b", "both", "-o", "both", cwd=tmp_path)
    assert again.stderr == "both: 3 runs, 0 added\n"
    assert contents(tmp_path / "both") == contents(tmp_path / "wanted")


def test_an_existing_folder_keeps_its_runs(tmp_path: Path) -> None:
    save(tmp_path / "a", "r0")
    save(tmp_path / "b", "r1", file="other")
    results = package.merge([tmp_path / "b"], tmp_path / "a")
    assert sorted(results.runs["run_id"]) == ["r0", "r1"]
    assert (results.artifacts("r1") / "model.safetensors").read_text() == "other of r1"


def test_reading_adds_no_file_to_a_folder(tmp_path: Path) -> None:
    """A copied or shipped folder has no lock file."""
    for name, run_id in (("a", "r0"), ("b", "r1")):
        (save(tmp_path / name, run_id) / ".lock").unlink()
    before = sorted(tmp_path.rglob("*"))
    assert ablate("merge", "a", "b", "-o", "both", cwd=tmp_path).returncode == 0
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "both")) == before


def test_a_writer_that_starts_meanwhile_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (save(tmp_path / "a", "r0") / ".lock").unlink()
    load = tables.load

    def write_then_load(results: Path, table: str, **options: Any) -> pa.Table:
        if results.name == "a" and table == "runs" and not (results / ".lock").exists():
            save(results, "r1")
        return load(results, table, **options)

    monkeypatch.setattr(tables, "load", write_then_load)
    assert ablate("merge", "a", "-o", "b", cwd=tmp_path).returncode == 0
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


@pytest.mark.parametrize("prefer", ["a", "b", "out"])
def test_runs_that_differ_are_refused_or_chosen(tmp_path: Path, prefer: str) -> None:
    values = {"out": 1.0, "a": 2.0, "b": 3.0}
    for name, fd in values.items():
        save(tmp_path / name, "r", fd=fd, file=name)
    save(tmp_path / "a", "s")
    before = contents(tmp_path / "out")
    refused = ablate("merge", "a", "b", "-o", "out", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: merge: 1 run with unequal rows in out, a, b: r; choose whose are taken with --prefer FOLDER, "
        "or remove the others with ablate rm\n"
    )
    assert contents(tmp_path / "out") == before
    assert ablate("merge", "a", "b", "-o", "out", "--prefer", prefer, cwd=tmp_path).returncode == 0
    assert fds(tmp_path / "out") == {"r": values[prefer], "s": 1.0}
    again = ablate("merge", "a", "b", "-o", "out", "--prefer", prefer, cwd=tmp_path)
    assert again.stderr == "out: 2 runs, 0 added\n"  # nothing is replaced by its like
    assert contents(tmp_path / "out")["files"]["artifacts/r/model.safetensors"] == f"{prefer} of r"


@pytest.mark.parametrize(("digest", "words"), [("1", "are equal"), ("2", "or samples differ")])
def test_a_refusal_says_whether_the_images_differ(tmp_path: Path, digest: str, words: str) -> None:
    for name, samples, wall_s in (("a", "1", 2.0), ("b", digest, 3.0)):
        save(tmp_path / name, "r", weights_digest="w", samples_digest=samples, wall_s=wall_s)
    with pytest.raises(ResultsError, match=f"their weights (and samples )?{words}; choose"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_the_preferred_folder_must_hold_the_run_that_differs(tmp_path: Path) -> None:
    for name, fd in (("a", 1.0), ("b", 2.0)):
        save(tmp_path / name, "r", fd=fd)
    save(tmp_path / "c", "s")
    done = ablate("merge", "a", "b", "c", "-o", "out", "--prefer", "c", cwd=tmp_path)
    assert "1 run with unequal rows in a, b: r" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_gives_way_to_one_that_ended(tmp_path: Path) -> None:
    save(tmp_path / "a", "r", fd=1.0, status="interrupted")
    save(tmp_path / "b", "r", fd=2.0)
    ablate("merge", "a", "b", "-o", "out", cwd=tmp_path)
    assert fds(tmp_path / "out") == {"r": 2.0}
    assert set(tables.read(tmp_path / "out", "curves")["loss"]) == {2.0}


def test_a_table_that_was_glued_by_hand_is_refused_and_merged(tmp_path: Path) -> None:
    save(tmp_path / "a", "r", "s")
    for table in ("runs", "curves", "latency"):
        path = tmp_path / "a" / f"{table}.parquet"
        pq.write_table(pa.concat_tables([pq.read_table(path)] * 2), path)
    for words in (["report"], ["gate", "--metric", "fd", "--max-regression", "5%"], ["ls"]):
        done = ablate(*words, "--results", "a", cwd=tmp_path)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "a/runs.parquet: two rows with run_id = r (and 1 more), as after gluing" in done.stderr
        assert "ablate merge a -o NEW_FOLDER" in done.stderr
    with pytest.raises(package.base.errors.ResultsError, match="two rows with run_id = r, step = 0"):
        package.load_results(tmp_path / "a").curves  # noqa: B018
    assert ablate("merge", "a", "-o", "out", cwd=tmp_path).returncode == 0
    assert contents(tmp_path / "out") == contents(save(tmp_path / "wanted", "r", "s"))


@pytest.mark.parametrize("stop", ["put", "remove"])
def test_a_kill_leaves_no_row_without_files_and_the_same_merge_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    save(tmp_path / "out", "r", fd=1.0, file="old")
    save(tmp_path / "a", "r", "s", fd=2.0, file="new")
    work: Callable[..., None] = getattr(tables, stop)

    def killed(*args: Any, **options: Any) -> None:
        if stop == "remove":
            work(*args, **options)
        elif "r" not in fds(tmp_path / "out"):  # the rows to replace are gone
            raise SystemExit(9)
        else:
            work(*args, **options)
            return
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(tables, stop, killed)
        assert ablate("merge", "a", "-o", "out", "--prefer", "a", cwd=tmp_path).returncode == 9
    assert fds(tmp_path / "out") == {}
    (tmp_path / "out/artifacts/r/model.safetensors.12-ab.tmp").touch()  # of a copy that was killed
    assert ablate("merge", "a", "-o", "out", "--prefer", "a", cwd=tmp_path).returncode == 0
    assert contents(tmp_path / "out") == contents(save(tmp_path / "wanted", "r", "s", fd=2.0, file="new"))


def test_older_tables_and_unknown_columns_are_merged(tmp_path: Path) -> None:
    shutil.copytree(SCHEMA_1, tmp_path / "old")
    save(tmp_path / "new", "r")
    path = tmp_path / "new/runs.parquet"
    pq.write_table(pq.read_table(path).append_column("mine", pa.array([7])), path)
    assert ablate("merge", "old", "new", "-o", "out", cwd=tmp_path).returncode == 0
    runs = tables.read(tmp_path / "out", "runs")
    assert len(runs) == 3
    assert runs["mine"].dropna().tolist() == [7]


def test_a_run_that_is_being_made_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", "r")
    save(tmp_path / "out", "s")
    lease = Leases(tmp_path / "out").take("r")
    assert isinstance(lease, Lease)
    done = ablate("merge", "a", "-o", "out", cwd=tmp_path)
    assert done.stderr.startswith("error: r: process ")
    assert "is making it; wait for it, or end it" in done.stderr
    assert fds(tmp_path / "out") == {"s": 1.0}
    lease.give_back()
    assert ablate("merge", "a", "-o", "out", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("merge absent -o out", "merge absent: no such folder; name results folders"),
        ("merge a images -o out", "merge images: no results folder: it has no runs.parquet"),
        ("merge a -o out --prefer b", "--prefer b: not one of the merged folders: out, a"),
        ("merge a odd -o out", "runs.parquet: '../../x' cannot be a run: it is no plain file name"),
        ("merge mine other -o out", "column 'mine' is string, in another folder int64; rename it"),
        ("merge a -o a/runs.parquet", "is a file, not a folder"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path, words: str, message: str) -> None:
    save(tmp_path / "a", "r")
    (tmp_path / "images").mkdir()
    tables.append(
        tmp_path / "odd",
        {"runs": [{"run_id": "../../x", "variant": "v", "preset": "p", "seed": 0, "status": "done"}]},
    )
    for name, value in (("mine", 7), ("other", "x")):
        path = save(tmp_path / name, name) / "runs.parquet"
        pq.write_table(pq.read_table(path).append_column("mine", pa.array([value])), path)
    done = ablate(*words.split(), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
