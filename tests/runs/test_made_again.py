"""A finished run that is made again with other bits: whatever dies, a finished row's files are those it was written with."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.base.errors import ResultsError
from ablate.runs.run_files import clean_up_finished, move_artifacts, working_folder
from ablate.store import merge, tables
from ablate.store.artifacts import all_folders, folders_without_row, remove_other_folders, run_folder

RUN = "baseline-smoke-cats-s0-01234567"
ROW = {"run_id": RUN, "variant": "baseline", "preset": "smoke", "seed": 0, "status": "done"}


class Died(BaseException):
    """The process ended here."""


def finish(folder: Path, bits: str) -> None:
    """End a run as `execute_run` does: files, row, old files."""
    working = working_folder(folder, RUN)
    working.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "samples.png", "checkpoint.safetensors"):
        (working / name).write_text(bits)
    (working / "out").mkdir(exist_ok=True)
    (working / "out" / "log.txt").write_text(bits)
    artifacts = move_artifacts(working, folder, RUN)
    tables.append(folder, {"runs": [ROW | {"weights_digest": bits, "artifacts": artifacts}]})
    shutil.rmtree(working, ignore_errors=True)
    remove_other_folders(folder, RUN)


def check(folder: Path) -> str:
    """Return the digest of the row; its files must have the same content."""
    (digest,) = tables.read(folder, "runs")["weights_digest"]
    files = run_folder(folder, RUN)
    for name in ("model.safetensors", "samples.png", "out/log.txt"):
        assert (files / name).read_text() == digest
    assert not folders_without_row(folder, {RUN})
    return str(digest)


@pytest.fixture
def dies_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the process die at the n-th call that changes a folder, before it happens."""
    left = [10**6]
    for module, name in (
        (os, "replace"),
        (os, "mkdir"),
        (os, "unlink"),
        (os, "rmdir"),
        (os, "fsync"),
        (shutil, "rmtree"),
    ):
        real = getattr(module, name)

        def call(*args: object, _real: Callable[..., object] = real, **options: object) -> object:
            left[0] -= 1
            if not left[0]:
                raise Died
            return _real(*args, **options)

        monkeypatch.setattr(module, name, call)

    def set_(n: int) -> None:
        left[0] = n

    return set_


def deaths(folder: Path, dies_at: Callable[[int], None]) -> Iterator[int]:
    """Make the run again until it is through, dying one call later each time; yield each death."""
    for n in range(1, 500):
        dies_at(n)
        try:
            finish(folder, f"bits of attempt {n}")
        except Died:
            dies_at(10**6)
            yield n
        else:
            dies_at(10**6)
            return
    raise AssertionError("it never ended")


def test_death_at_any_call_leaves_a_row_with_its_files(tmp_path: Path, dies_at: Callable[[int], None]) -> None:
    finish(tmp_path, "first bits")
    assert run_folder(tmp_path, RUN).name == RUN
    seen = [check(tmp_path) for _ in deaths(tmp_path, dies_at)]
    assert len(seen) > 15
    assert len(set(seen)) > 1  # it also died between the new row and the removal of the old files
    assert clean_up_finished(tmp_path, RUN)
    assert check(tmp_path)
    assert all_folders(tmp_path, RUN) == [run_folder(tmp_path, RUN)]
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [run_folder(tmp_path, RUN).name]


def test_a_row_that_cannot_be_saved_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path, "first bits")

    def full(*_: object, **__: object) -> None:
        raise ResultsError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "append", full)
        with pytest.raises(ResultsError):
            finish(tmp_path, "second bits")
    assert check(tmp_path) == "first bits"
    assert clean_up_finished(tmp_path, RUN)
    assert check(tmp_path) == "first bits"
    finish(tmp_path, "third bits")
    assert check(tmp_path) == "third bits"


def test_a_merge_takes_the_folder_that_the_row_names(tmp_path: Path) -> None:
    for bits in ("first bits", "second bits"):
        finish(tmp_path / "a", bits)
    assert run_folder(tmp_path / "a", RUN).name == f"{RUN}~2"
    merge.merge([tmp_path / "a"], tmp_path / "b", prefer=None, refuse_running=lambda _: None)
    assert check(tmp_path / "b") == "second bits"
    finish(tmp_path / "c", "other bits")
    merge.merge([tmp_path / "a", tmp_path / "c"], tmp_path / "b", prefer=tmp_path / "c", refuse_running=lambda _: None)
    assert check(tmp_path / "b") == "other bits"


@pytest.mark.parametrize("name", ["../../elsewhere", "other-run", f"{RUN}~0", f"{RUN}~x", "..", f"{RUN}/x"])
def test_a_row_names_no_folder_but_its_own(tmp_path: Path, name: str) -> None:
    tables.append(tmp_path, {"runs": [ROW | {"artifacts": name}]})
    with pytest.raises(ResultsError, match="cannot be"):
        run_folder(tmp_path, RUN)
