"""Claims: one maker a run; a dead one's claim ends, whatever the clock says; nothing in a claim's file can do harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.base.errors import ResultsError
from ablate.launch import leases
from ablate.launch.leases import Claims, Owner, parse

RUN = "baseline-smoke-cats-s0-00000000"


def file(folder: Path, run_id: str = RUN) -> Path:
    return folder / ".claims" / f"{run_id}.json"


def foreign(folder: Path, **values: object) -> None:
    """A claim of a process on another machine."""
    file(folder).parent.mkdir(exist_ok=True)
    fields = {"pid": 1, "host": "far", "place": "elsewhere", "started": "7", "token": "t", "beat": 0}
    file(folder).write_text(json.dumps(fields | values))


@contextmanager
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        yield now


def holder(folder: Claims, run_id: str = RUN) -> Owner | None:
    with folder.take(run_id) as found:
        return found


def test_one_holds_it_and_gives_it_back(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    with first.take(RUN) as none:
        assert none is None
        found = holder(second)
        assert found is not None
        assert found.describe().startswith("process ")
        assert file(tmp_path).exists()  # a look does not give back what is another's
        assert holder(second, "other") is None
    assert not file(tmp_path).exists()
    assert holder(second) is None


def test_it_is_given_back_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Claims(tmp_path).take(RUN):
        raise KeyboardInterrupt
    assert not file(tmp_path).exists()


def test_a_heartbeat_keeps_it_alive_however_short_the_patience(tmp_path: Path) -> None:
    watcher = Claims(tmp_path, expires_s=0.5)
    with Claims(tmp_path, heartbeat_s=0.05).take(RUN):
        contents = set()
        for _ in range(12):
            assert holder(watcher) is not None
            contents.add(file(tmp_path).read_bytes())
            time.sleep(0.1)
        assert len(contents) > 3


def test_a_silent_one_expires_by_the_watchers_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path)
    watcher = Claims(tmp_path)
    with frozen(monkeypatch) as now:
        assert holder(watcher) is not None
        now[0] += leases.EXPIRES_S - 1
        assert holder(watcher) is not None
        foreign(tmp_path, beat=1)  # a sign of life: the patience begins anew
        now[0] += leases.EXPIRES_S - 1
        assert holder(watcher) is not None
        now[0] += leases.EXPIRES_S + 1
        assert holder(watcher) is None


@pytest.mark.parametrize("moment", [0.0, 4e9])
def test_the_time_of_day_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: float) -> None:
    foreign(tmp_path)
    os.utime(file(tmp_path), (moment, moment))
    monkeypatch.setattr(time, "time", lambda: moment)
    watcher = Claims(tmp_path)
    assert holder(watcher) is not None
    with frozen(monkeypatch) as now:
        now[0] = time.monotonic() + 10 * leases.EXPIRES_S
        holder(watcher)
    assert watcher._seen[RUN][0]


def test_a_dead_process_of_this_machine_ends_it_at_once(tmp_path: Path) -> None:
    script = (
        f"import os, signal; from pathlib import Path; from ablate.launch.leases import Claims\n"
        f"with Claims(Path({str(tmp_path)!r})).take({RUN!r}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert file(tmp_path).exists()
    ((path, owner),) = Claims(tmp_path).owners().items()
    assert (path, owner.has_ended) == (file(tmp_path), True)
    assert holder(Claims(tmp_path)) is None


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    file(tmp_path).mkdir(parents=True)
    with pytest.raises(ResultsError, match=r"\.json: cannot be read"):
        holder(Claims(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_number_that_is_used_again_does_not_keep_it(tmp_path: Path) -> None:
    foreign(tmp_path, pid=os.getpid(), place=leases._place(), started="1")
    assert holder(Claims(tmp_path)) is None
    foreign(tmp_path, pid=os.getpid(), place=leases._place(), started=leases._started(os.getpid()))
    assert holder(Claims(tmp_path)) is not None


def test_an_owner_that_was_taken_for_dead_does_not_take_it_back(tmp_path: Path) -> None:
    with Claims(tmp_path, heartbeat_s=0.05).take(RUN):
        foreign(tmp_path, token="new")
        time.sleep(0.3)
        assert parse(file(tmp_path).read_bytes()).token == "new"
    assert parse(file(tmp_path).read_bytes()).token == "new"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 4000, b"0" * 10**6])
def test_a_damaged_one_is_somebodys_until_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    file(tmp_path).parent.mkdir()
    file(tmp_path).write_bytes(content)
    watcher = Claims(tmp_path)
    with frozen(monkeypatch) as now:
        found = holder(watcher)
        assert found is not None
        assert found.describe() == "another process"
        now[0] += leases.EXPIRES_S + 1
        assert holder(watcher) is None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".claims").write_text("a file")
    with pytest.raises(ResultsError, match=r"\.claims: cannot be written"), Claims(tmp_path).take(RUN):
        pass


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "pid": st.integers() | st.text() | st.none() | st.booleans() | st.floats(),
        "host": st.text() | st.integers(),
        "place": st.just(leases._place()) | st.text(),
        "started": st.text() | st.none(),
        "token": st.text(),
    },
)


@given(content=st.binary(max_size=200) | FIELDS.map(lambda d: json.dumps(d).encode()))
def test_no_file_is_more_than_an_unknown_owner(content: bytes) -> None:
    owner = parse(content)
    assert owner.describe().isprintable()
    assert owner.has_ended in (True, False)
    if owner.pid is None:
        assert not owner.has_ended
