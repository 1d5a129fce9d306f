"""Whatever dies or is suspended, a finished row's files are those it was written with.

The invariant of `docs/design.md`: a run is made again with other bits while its maker dies, or loses
the run to another process, before each call that changes a folder.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from ablate.base.errors import LeaseLostError, ResultsError, check_lease
from ablate.launch import leases
from ablate.launch.leases import Lease, Leases
from ablate.runs.run_files import clean_up_finished, move_artifacts, open_working_folder
from ablate.store import merge, tables
from ablate.store.artifacts import all_folders, folders_without_row, run_folder
from ablate.store.atomic_files import replacing
from ablate.store.owners import Owner

RUN = "baseline-smoke-cats-s0-01234567"
ROW = {"run_id": RUN, "variant": "baseline", "preset": "smoke", "seed": 0, "status": "done"}


class Died(BaseException):
    """The process ended here."""


def begin(folder: Path, bits: str, still_ours: Callable[[], bool] = lambda: True) -> Path:
    """Write the files of a run into its working folder, as `execute_run` does, and return the folder."""
    working = open_working_folder(folder, RUN, still_ours)
    for name in ("model.safetensors", "checkpoint.safetensors"):
        with replacing(working / name) as temporary:
            temporary.write_text(bits)
    (working / "out").mkdir(exist_ok=True)
    (working / "out" / "log.txt").write_text(bits)
    return working


def end(folder: Path, working: Path, bits: str, still_ours: Callable[[], bool] = lambda: True) -> None:
    """End a run as `execute_run` does: files, row, old files."""

    artifacts = move_artifacts(working, folder, RUN)
    with tables.append_only_if(partial(check_lease, RUN, still_ours)):
        metrics = [{"run_id": RUN, "metric": bits, "value": 1.0, "better": "higher"}]
        runs = [ROW | {"weights_digest": bits, "artifacts": artifacts}]
        tables.append(folder, {"runs": runs, "metrics": metrics})
    clean_up_finished(folder, RUN, still_ours)


def finish(folder: Path, bits: str, still_ours: Callable[[], bool] = lambda: True) -> None:
    """Make a run."""
    end(folder, begin(folder, bits, still_ours), bits, still_ours)


def check(folder: Path) -> str:
    """Return the digest of the row; its files must have the same content, and rows of other tables be of it."""
    (digest,) = tables.read(folder, "runs")["weights_digest"]
    assert tables.read(folder, "metrics")["metric"].tolist() == [digest]
    files = run_folder(folder, RUN)
    for name in ("model.safetensors", "out/log.txt"):
        assert (files / name).read_text() == digest
    assert not folders_without_row(folder, {RUN})
    return str(digest)


def die() -> None:
    raise Died


@pytest.fixture
def before_call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let something happen once, before the n-th call that changes a folder. By default the process dies."""
    left, happens = [10**6], [die]
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
                happens[0]()
            return _real(*args, **options)

        monkeypatch.setattr(module, name, call)

    def set_(n: int, what: Callable[[], None] = die) -> None:
        left[0], happens[0] = n, what

    return set_


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def deaths(folder: Path, before_call: Callable[..., None], what: Callable[[], None]) -> Iterator[int]:
    """Make the run again until it is through, stopped one call later each time; yield each stop."""
    for n in range(1, 500):
        reached = list[int]()

        def stop(n: int = n, reached: list[int] = reached) -> None:
            reached.append(n)
            what()

        before_call(n, stop)
        with suppress(Died, OSError, ResultsError):
            finish(folder, f"bits of attempt {n}")
        before_call(10**6)
        if not reached:
            return
        yield n
    raise AssertionError("it never ended")


@pytest.mark.slow
@pytest.mark.parametrize("what", [die, disk_full])
def test_death_or_a_full_disk_at_any_call_leaves_a_row_with_its_files(
    tmp_path: Path, before_call: Callable[..., None], what: Callable[[], None]
) -> None:
    finish(tmp_path, "first bits")
    assert run_folder(tmp_path, RUN).name == RUN
    seen = [check(tmp_path) for _ in deaths(tmp_path, before_call, what)]
    assert len(seen) > 15
    assert len(set(seen)) > 1  # it also died between the new row and the removal of the old files
    assert clean_up_finished(tmp_path, RUN)
    assert check(tmp_path)
    assert all_folders(tmp_path, RUN) == [run_folder(tmp_path, RUN)]
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [run_folder(tmp_path, RUN).name]


@pytest.mark.slow
def test_a_process_that_goes_on_after_it_lost_its_run_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_call: Callable[..., None]
) -> None:
    monkeypatch.setattr(leases, "LOCK_TIMEOUT_S", 0.0)  # the lock of a suspended process is not waited for
    finish(tmp_path, "first bits")
    taken = 0
    for n in range(1, 500):
        first, reached, successor = Leases(tmp_path).take(RUN), list[int](), list[tuple[Lease, Path]]()
        assert isinstance(first, Lease)

        def take_over(n: int, reached: list[int], successor: list[tuple[Lease, Path]]) -> None:
            reached.append(n)
            owner = Leases(tmp_path).held()[RUN]
            if lock_lost := n % 2:
                (tmp_path / ".leases" / f"{RUN}.lock").unlink()
            lease: Lease | Owner | None = None
            with suppress(ResultsError):  # it is suspended while it holds the lock of the tables
                lease = Leases(tmp_path).take(RUN, None if lock_lost else owner)
            if lease is None:
                return
            assert isinstance(lease, Lease)
            successor.append((lease, begin(tmp_path, f"bits of successor {n}", lease.still_ours)))

        before_call(n, partial(take_over, n, reached, successor))
        try:
            finish(tmp_path, f"bits {n}", first.still_ours)
        except (LeaseLostError, OSError, ResultsError):
            assert not first.still_ours()
        before_call(10**6)
        check(tmp_path)
        for lease, working in successor:
            taken += 1
            files = [path for path in working.rglob("*") if path.is_file()]
            assert {path.read_text() for path in files if path.name != "moved.txt"} == {f"bits of successor {n}"}
            end(tmp_path, working, f"bits of successor {n}", lease.still_ours)
            assert check(tmp_path) == f"bits of successor {n}"
            lease.give_back()
        first.give_back()
        assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [run_folder(tmp_path, RUN).name]
        if not reached:  # it ended before that call
            break
    assert taken > 15


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
