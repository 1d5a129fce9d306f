"""The results folder: what is saved is read back, writers take turns, a failure leaves the old tables as they were."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ablate.base.errors import ResultsError
from ablate.models.weight_files import save_tensors
from ablate.store import tables
from ablate.store.atomic_files import replacing
from ablate.store.schema import SCHEMAS, VERSION_KEY

Rows = list[dict[str, object]]


def run(run_id: str = "a", **values: object) -> dict[str, object]:
    required: dict[str, object] = {"variant": "baseline", "preset": "quick", "seed": 0, "status": "done"}
    return {"run_id": run_id, **required, **values}


def curve(run_id: str = "a", steps: int = 3) -> Rows:
    return [{"run_id": run_id, "step": step, "loss": 1 / (1 + step)} for step in range(steps)]


def leftovers(folder: Path) -> list[str]:
    """Everything in the folder but the tables and the lock."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".parquet" and p.name != ".lock")


def one_line(error: pytest.ExceptionInfo[ResultsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def set_version(path: Path, version: bytes | None) -> None:
    metadata = {VERSION_KEY: version} if version is not None else None
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)


def test_rows_come_back_with_sensible_dtypes(tmp_path: Path) -> None:
    moment = datetime(2026, 11, 24, 3, 0, tzinfo=timezone(timedelta(hours=2)))
    row = run(fd=268.5, fd_n=np.int32(512), git_dirty=np.bool_(False), pd=np.float32(0.5), params=4, started_at=moment)
    tables.append(tmp_path / "deep" / "folder", {"runs": [row, run("b", seed=1, config="{}")]})
    frame = tables.read(tmp_path / "deep" / "folder", "runs")
    assert list(frame.columns) == SCHEMAS["runs"].names
    wanted = {"run_id": "string", "seed": "Int64", "fd_n": "Int64", "fd": "float64", "git_dirty": "boolean"}
    assert {name: str(frame[name].dtype) for name in wanted} == wanted
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"
    first = frame.set_index("run_id").loc["a"]
    assert (first["fd"], first["fd_n"], first["pd"], bool(first["git_dirty"])) == (268.5, 512, 0.5, False)
    assert first["started_at"] == datetime(2026, 11, 24, 1, 0, tzinfo=UTC)
    assert frame.set_index("run_id").loc["b", ["fd", "fd_n", "git_dirty", "started_at"]].isna().all()


def test_a_reader_that_opens_a_table_twice_finds_the_old_rows_after_it_was_replaced(tmp_path: Path) -> None:
    """pandas, polars and DuckDB read the footer, open the path again, and read the rows that the footer names."""
    draw, path = np.random.default_rng(0), tmp_path / "curves.parquet"
    tables.append(tmp_path, {"curves": curve("a", 500)})
    for turn in range(40):
        footer, before = pq.read_metadata(path), tables.read(tmp_path, "curves")
        # Rows are added, and replaced by fewer or more; few at a time, or a multiple of all that were there.
        steps = int(draw.integers(1, 3000 if turn % 8 == 7 else 60))
        tables.append(tmp_path, {"curves": curve("abcdefgh"[int(draw.integers(8))], steps)})
        read = pq.ParquetFile(path, metadata=footer, page_checksum_verification=True).read().to_pandas()
        pd.testing.assert_frame_equal(read, before)
        assert len(tables.read(tmp_path, "curves")) == pq.read_metadata(path).num_rows != 0
    rows = pd.read_parquet(path)
    pq.write_table(pa.Table.from_pandas(rows), tmp_path / "alone.parquet", compression="lz4")
    assert path.stat().st_size < 4 * (tmp_path / "alone.parquet").stat().st_size


def test_files_have_the_mode_that_the_user_gives_new_ones(tmp_path: Path) -> None:
    """safetensors writes for the owner alone, and others would be told that the file is missing."""
    (tmp_path / "plain").touch()
    save_tensors(tmp_path / "w.safetensors", {"w": torch.zeros(2)}, {})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writers_of_one_file_do_not_share_a_temporary_one(tmp_path: Path) -> None:
    with (
        replacing(tmp_path / "f") as one,
        replacing(tmp_path / "f") as other,
    ):  # one process number, as of two containers
        one.write_text("one")
        other.write_text("other")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "one"


def test_plain_pandas_reads_the_same_table(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [run(fd=1.0)], "curves": curve()})
    for table in ("runs", "curves"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{table}.parquet"), tables.read(tmp_path, table))


@pytest.mark.parametrize("table", SCHEMAS)
def test_missing_table_is_empty_with_its_columns(tmp_path: Path, table: str) -> None:
    frame = tables.read(tmp_path / "nowhere", table)
    assert (len(frame), list(frame.columns)) == (0, SCHEMAS[table].names)
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_table_has_the_dtypes_of_a_full_one(tmp_path: Path) -> None:
    tables.append(tmp_path / "full", {"runs": [run()]})
    assert tables.read(tmp_path, "runs").dtypes.equals(tables.read(tmp_path / "full", "runs").dtypes)


def test_a_run_replaces_its_own_rows_only_in_the_named_tables(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [run("a", fd=1.0), run("b", fd=2.0)], "curves": [*curve("a"), *curve("b")]})
    tables.append(tmp_path, {"runs": [run("a", fd=3.0)]})
    assert tables.read(tmp_path, "runs").set_index("run_id")["fd"].to_dict() == {"a": 3.0, "b": 2.0}
    assert tables.read(tmp_path, "curves").groupby("run_id").size().to_dict() == {"a": 3, "b": 3}
    tables.append(tmp_path, {"runs": [run("a", status="failed")], "curves": []})
    assert tables.read(tmp_path, "curves").groupby("run_id").size().to_dict() == {"b": 3}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path, bad: float) -> None:
    tables.append(tmp_path, {"runs": [run(fd=bad, pd=0.5)]})
    column = pq.read_table(tmp_path / "runs.parquet")["fd"]
    assert column.null_count == 1  # a null in the file, not a NaN


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("runs", run(drfit=1), "unknown column 'drfit'"),
        ("runs", run(fidd=1.0), "did you mean fid"),
        ("runs", run(seed="0"), "runs.seed of run 'a' is '0' (str); it must be a whole number"),
        ("runs", run(seed=1.5), "runs.seed"),
        ("runs", run(seed=True), "runs.seed"),
        ("runs", run(seed=2**63), "runs.seed"),
        ("runs", run(fd="268"), "runs.fd"),
        ("runs", run(fd=True), "runs.fd"),
        ("runs", run(git_dirty=1), "true or false"),
        ("runs", run(error=b"x"), "runs.error"),
        ("runs", run(error="\ud800"), "runs.error"),
        ("runs", run(started_at=datetime(2026, 1, 1)), "a time with its zone"),
        ("runs", run(started_at=0), "runs.started_at"),
        ("runs", run(status="ok"), "Allowed: done, diverged, failed, interrupted"),
        ("runs", run(variant=None), "has no variant"),
        ("runs", run(""), "has no run_id"),
        ("curves", {"run_id": "a", "loss": 1.0}, "has no step"),
        ("denoising", {"run_id": "a", "t": math.nan}, "denoising.t"),
        ("metrics", {"run_id": "a", "metric": "acc", "better": "max"}, "Allowed: higher, lower"),
        ("metrics", {"run_id": "a", "metric": "acc", "value": 0.9}, "has no better"),
        ("latencies", {"run_id": "a"}, "did you mean latency"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, table: str, row: dict[str, object], message: str
) -> None:
    folder = tmp_path / "results"
    with pytest.raises(ResultsError) as error:
        tables.append(folder, {"curves": curve(), table: [row]} if table != "curves" else {"curves": [row]})
    assert message in one_line(error)
    assert not folder.exists()


def test_two_rows_with_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="there is one per run_id x step"):
        tables.append(tmp_path, {"curves": [*curve(), *curve()]})


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "results"
    file.write_text("mine")
    for folder in (file, file / "deeper"):
        for use in (
            tables.check_folder,
            lambda p: tables.append(p, {"runs": [run()]}),
            lambda p: tables.read(p, "runs"),
        ):
            with pytest.raises(ResultsError) as error:
                use(folder)
            assert "is a file, not a folder" in one_line(error)
    assert file.read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="needs Linux's /proc, which nobody may write")
def test_folder_that_cannot_be_written() -> None:
    for folder in (Path("/proc/self/fdinfo"), Path("/proc/self/fdinfo/new")):
        with pytest.raises(ResultsError) as error:
            tables.append(folder, {"runs": [run()]})
        assert "cannot write in this folder" in one_line(error)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResultsError, match="cannot write in this folder: Permission denied"):
        tables.check_folder(tmp_path)
    tmp_path.chmod(0o700)


@pytest.mark.slow
def test_every_damage_is_noticed(tmp_path: Path) -> None:
    """Cut the file anywhere or change any byte: the same rows come back, or one clear error; never other rows."""
    tables.append(tmp_path, {"runs": [run(str(i), fd=float(i), config="{}" * i) for i in range(20)]})
    path = tmp_path / "runs.parquet"
    whole, rows = path.read_bytes(), tables.read(tmp_path, "runs")
    changed = [whole[:cut] for cut in (0, 1, 4, len(whole) // 2, len(whole) - 1)]
    for place in range(0, len(whole), 97):
        changed.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    messages: list[str] = []
    for damaged in changed:
        path.write_bytes(damaged)
        try:
            pd.testing.assert_frame_equal(tables.read(tmp_path, "runs"), rows)
        except ResultsError as error:
            messages.append(str(error))
    assert len(messages) > len(changed) / 3
    assert all(message.startswith(str(path)) and message.isprintable() for message in messages)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultsError, match=r"runs\.parquet: damaged .*restore it from a copy, or move it away"):
        tables.append(tmp_path, {"curves": curve(), "runs": [run("new")]})
    assert path.read_bytes() == whole[: len(whole) // 2]
    assert not (tmp_path / "curves.parquet").exists()
    assert leftovers(tmp_path) == []


def test_one_changed_bit_among_the_numbers_is_noticed(tmp_path: Path) -> None:
    """Random bits do not compress, so nothing but the page's checksum can tell."""
    losses = np.frombuffer(np.random.default_rng(0).bytes(8 * 2000))
    tables.append(tmp_path, {"curves": [row | {"loss": x} for row, x in zip(curve(steps=2000), losses, strict=True)]})
    path = tmp_path / "curves.parquet"
    whole = bytearray(path.read_bytes())
    place = whole.find(losses[np.isfinite(losses)][1000].tobytes())
    assert place > 0
    whole[place] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ResultsError, match=r"curves\.parquet: damaged"):
        tables.read(tmp_path, "curves")


def test_newer_schema_is_refused_and_kept(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [run()]})
    path = tmp_path / "runs.parquet"
    set_version(path, b"2")
    before = path.read_bytes()
    for use in (lambda: tables.read(tmp_path, "runs"), lambda: tables.append(tmp_path, {"runs": [run("b")]})):
        with pytest.raises(ResultsError) as error:
            use()
        assert "schema version 2, this ablate reads up to 1; upgrade ablate" in one_line(error)
    assert path.read_bytes() == before


def call(run_id: str, sample: int, **values: object) -> dict[str, object]:
    columns: dict[str, object] = {"batch": 1, "scope": "step", "scheme": "fp32", "engine": "torch", "latency_ms": 1.0}
    return {"run_id": run_id, "sample": sample, **columns, **values}


def test_rows_can_be_added_to_those_of_the_same_run(tmp_path: Path) -> None:
    tables.append(tmp_path, {"latency": [call("a", 0), call("b", 0)]})
    tables.append(tmp_path, {"latency": [call("a", 0, session="s"), call("a", 1, session="s")]}, replace=False)
    frame = tables.read(tmp_path, "latency")
    assert frame["run_id"].tolist() == ["a", "b", "a", "a"]
    assert frame["session"].fillna("").tolist() == ["", "", "s", "s"]
    with pytest.raises(ResultsError) as error:
        tables.append(tmp_path, {"latency": [call("a", 2, session="s"), call("a", 1, session="s")]}, replace=False)
    assert "there is a row with run_id, batch, scope, scheme, engine, session, sample = ('a', 1," in one_line(error)
    assert len(tables.read(tmp_path, "latency")) == 4
    tables.append(tmp_path, {"latency": [call("a", 0, session="run")]})
    assert tables.read(tmp_path, "latency")["run_id"].tolist() == ["b", "a"]


def test_columns_that_came_later_are_null_in_older_rows(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [run(fd=1.0, lpips_vgg=2.0)]})
    path = tmp_path / "runs.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["lpips_vgg", "memorised"]), path)
    found = tables.read(tmp_path, "runs")
    assert list(found.columns) == SCHEMAS["runs"].names
    assert found["fd"].tolist() == [1.0]
    assert found["lpips_vgg"].isna().all()
    assert found["memorised"].isna().all()
    tables.append(tmp_path, {"runs": [run(run_id="b", lpips_vgg=3.0)]})
    assert pd.read_parquet(path)["lpips_vgg"].tolist()[1:] == [3.0]


@pytest.mark.parametrize("value", [7, "mine", pd.Categorical(["c"]), [1.5, None], datetime(2026, 1, 1, tzinfo=UTC)])
def test_columns_of_another_version_are_read_and_kept(tmp_path: Path, value: object) -> None:
    tables.append(tmp_path, {"runs": [run("a", fd=1.0), run("b", fd=2.0)]})
    path = tmp_path / "runs.parquet"
    table = pq.read_table(path)
    mine = pa.array(value if isinstance(value, pd.Categorical) else [value]).take(pa.array([0, 0]))
    pq.write_table(table.append_column("mine", mine), path)
    kept = tables.read(tmp_path, "runs")["mine"].tolist()[0]
    tables.append(tmp_path, {"runs": [run("b", fd=3.0), run("c")]})
    found = tables.read(tmp_path, "runs")
    assert list(found.columns) == [*SCHEMAS["runs"].names, "mine"]
    assert found["fd"].tolist()[:2] == [1.0, 3.0]
    assert str(found["mine"].tolist()[0]) == str(kept)
    assert found["mine"].isna().tolist() == [False, True, True]
    pd.testing.assert_frame_equal(pd.read_parquet(path), found)


def test_foreign_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ResultsError, match="not a table of ablate"):
        tables.read(tmp_path, "runs")
    set_version(path, b"1")
    with pytest.raises(ResultsError, match="its columns are not those of schema version 1"):
        tables.read(tmp_path, "runs")
    path.unlink()
    path.mkdir()
    with pytest.raises(ResultsError, match="cannot be read: Is a directory"):
        tables.read(tmp_path, "runs")


@pytest.mark.parametrize("failing", [1, 2])
def test_disk_full_leaves_every_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    tables.append(tmp_path, {"runs": [run(fd=1.0)], "curves": curve()})
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    calls = 0

    def full(_handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResultsError) as error:
            tables.append(tmp_path, {"runs": [run(fd=2.0), run("b")], "curves": curve("a", 9)})
    assert "No space left on device; earlier rows are kept" in one_line(error)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")} == before
    assert leftovers(tmp_path) == []
    tables.append(tmp_path, {"runs": [run(fd=2.0)]})
    assert tables.read(tmp_path, "runs")["fd"].to_list() == [2.0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_disk_full_while_writing(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [run()]})
    (tmp_path / ".runs.parquet.tmp").symlink_to("/dev/full")
    with pytest.raises(ResultsError, match="No space left on device"):
        tables.append(tmp_path, {"runs": [run("b")]})
    assert tables.read(tmp_path, "runs")["run_id"].to_list() == ["a"]
    assert leftovers(tmp_path) == []


def test_runs_is_put_in_place_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = os.replace

    def note(old: Path, new: Path) -> None:
        order.append(new.stem)
        replace(old, new)

    monkeypatch.setattr(os, "replace", note)
    tables.append(tmp_path, {"runs": [run()], "latency": [], "curves": curve()})
    assert order[-1] == "runs"
    assert order[0] == ".commit"  # from then on all of them count
    assert sorted(order[1:]) == ["curves", "latency", "runs"]


def test_a_killed_writer_loses_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [run("a")]})
    script = f"""
        import os, signal
        from pathlib import Path
        from ablate.store import tables
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        row = dict(run_id="b", variant="baseline", preset="quick", seed=1, status="done")
        tables.append(Path({str(tmp_path)!r}), {{"runs": [row]}})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -9
    assert tables.read(tmp_path, "runs")["run_id"].to_list() == ["a"]
    tables.append(tmp_path, {"runs": [run("c")]}, timeout=1)
    assert tables.read(tmp_path, "runs")["run_id"].to_list() == ["a", "c"]
    assert leftovers(tmp_path) == []


def test_concurrent_writers_lose_no_row(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: tables.append(tmp_path, {"runs": [run(str(i), seed=i)]}), range(16)))
    assert sorted(tables.read(tmp_path, "runs")["seed"]) == list(range(16))


def test_a_locked_folder_says_who_holds_it(tmp_path: Path) -> None:
    (tmp_path / ".lock.json").write_text(json.dumps({"pid": 4711, "host": "box", "since": "2026-11-24T03:00:00+00:00"}))
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(ResultsError) as error:
        tables.append(tmp_path, {"runs": [run()]}, timeout=0.1)
    assert "locked by process 4711 on box since 2026-11-24T03:00:00 UTC, waited 0.1 s" in one_line(error)
    assert not (tmp_path / "runs.parquet").exists()


def test_the_holder_writes_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    replace = os.replace

    def look(old: Path, new: Path) -> None:
        seen.append(json.loads((tmp_path / ".lock.json").read_text()))
        replace(old, new)

    monkeypatch.setattr(os, "replace", look)
    tables.append(tmp_path, {"runs": [run()]})
    assert seen[0]["pid"] == os.getpid()
    assert leftovers(tmp_path) == []


def test_importing_does_not_import_torch() -> None:
    code = "import sys, ablate.store.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
