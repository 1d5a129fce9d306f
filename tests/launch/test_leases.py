"""Leases: one process makes a run; a dead one's is free at once; a hung one's can be stolen."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.base.errors import ResultsError
from ablate.launch.leases import Lease, Leases
from ablate.store.owners import Owner
from ablate.store.run_progress import RunProgress

RUN = "baseline-smoke-cats-s0-00000000"


def taken(answer: Lease | Owner) -> Lease:
    assert isinstance(answer, Lease)
    return answer


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".leases").iterdir() if path.name != ".lock")


def child(folder: Path, then: str) -> subprocess.Popen[str]:
    """A process that takes the lease, says so, and goes on with some code."""
    script = (
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom ablate.launch.leases import Leases\n"
        f"lease = Leases(Path({str(folder)!r})).take({RUN!r})\nprint('taken', flush=True)\n{then}"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def test_one_holds_it_and_gives_it_back(tmp_path: Path) -> None:
    first, second = Leases(tmp_path), Leases(tmp_path)
    lease = taken(first.take(RUN))
    owner = second.take(RUN)
    assert isinstance(owner, Owner)
    assert owner.describe().startswith(f"process {os.getpid()} on ")
    assert second.held() == {RUN: owner}
    assert lease.still_ours()
    other = taken(second.take("other"))
    other.give_back()
    assert files(tmp_path) == [f"{RUN}.json", f"{RUN}.lock"]  # the failed attempt removed nothing
    lease.give_back()
    assert files(tmp_path) == []
    assert second.held() == {}
    taken(second.take(RUN)).give_back()


def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path) -> None:
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: Leases(tmp_path).take(RUN), range(8)))
        (lease,) = [answer for answer in answers if isinstance(answer, Lease)]
        lease.give_back()


def test_a_killed_process_frees_it_at_once(tmp_path: Path) -> None:
    process = child(tmp_path, "time.sleep(60)")
    assert isinstance(Leases(tmp_path).take(RUN), Owner)
    process.kill()
    process.wait()
    assert files(tmp_path) == [f"{RUN}.json", f"{RUN}.lock"]
    start = time.monotonic()
    assert Leases(tmp_path).held() == {}
    lease = taken(Leases(tmp_path).take(RUN))
    assert time.monotonic() - start < 1
    lease.give_back()
    assert files(tmp_path) == []


def test_a_suspended_process_loses_it_to_a_thief_and_notices(tmp_path: Path) -> None:
    process = child(tmp_path, "sys.stdin.readline()\nprint(lease.still_ours(), flush=True)\nlease.give_back()")
    process.send_signal(signal.SIGSTOP)
    thief = Leases(tmp_path)
    owner = thief.take(RUN)
    assert isinstance(owner, Owner)
    assert owner.pid == process.pid
    lease = taken(thief.take(RUN, steal_from=owner))
    assert isinstance(Leases(tmp_path).take(RUN), Owner)
    process.send_signal(signal.SIGCONT)
    assert process.communicate("\n", timeout=30)[0] == "False\n"
    assert lease.still_ours()  # what the other gave back was not this one
    assert isinstance(Leases(tmp_path).take(RUN), Owner)
    lease.give_back()
    assert files(tmp_path) == []


def test_who_lost_it_reports_nothing_more(tmp_path: Path) -> None:
    first = taken(Leases(tmp_path).take(RUN))
    owner = Leases(tmp_path).take(RUN)
    assert isinstance(owner, Owner)
    taken(Leases(tmp_path).take(RUN, steal_from=owner))
    of_run = {"variant": "a", "preset": "p", "seed": 0, "config_hash": "h", "plan_id": None}
    first.report(RunProgress(**of_run, started_at=1.0, written_at=2.0))
    assert Leases(tmp_path).progress() == {}


def test_it_is_stolen_from_the_named_owner_alone(tmp_path: Path) -> None:
    lease = taken(Leases(tmp_path).take(RUN))
    owner = Leases(tmp_path).take(RUN)
    assert isinstance(owner, Owner)
    thieves = [Leases(tmp_path).take(RUN, steal_from=owner) for _ in range(2)]
    assert [type(answer) for answer in thieves] == [Lease, Owner]
    assert not lease.still_ours()
    taken(thieves[0]).give_back()
    lease.give_back()


def test_whether_it_is_still_ours_can_be_asked_on_another_machine(tmp_path: Path) -> None:
    lease = taken(Leases(tmp_path).take(RUN))
    there = pickle.loads(pickle.dumps(lease.still_ours))
    assert there()
    lease.give_back()
    assert not there()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 4000, b"0" * 10**6])
def test_a_damaged_owner_file_costs_only_the_name(tmp_path: Path, content: bytes) -> None:
    lease, path = taken(Leases(tmp_path).take(RUN)), tmp_path / ".leases" / f"{RUN}.json"
    path.write_bytes(content)
    owner = Leases(tmp_path).take(RUN)
    assert isinstance(owner, Owner)
    assert owner.describe() == "another process"
    lease.give_back()
    new = taken(Leases(tmp_path).take(RUN))
    assert new.still_ours()
    new.give_back()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".leases").write_text("a file")
    with pytest.raises(ResultsError, match=r"\.leases: cannot be written"):
        Leases(tmp_path).take(RUN)


def test_a_lock_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".leases" / f"{RUN}.lock").mkdir(parents=True)
    with pytest.raises(ResultsError, match=r"\.leases: cannot be written"):
        Leases(tmp_path).take(RUN)


def test_where_nothing_can_be_locked_only_owners_that_may_live_count(tmp_path: Path) -> None:
    taken(Leases(tmp_path).take(RUN))
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / ".leases" / "other.lock").touch()
    Owner(pid=ended.pid, host=socket.gethostname()).write(tmp_path / ".leases" / "other.json")
    lock = tmp_path / ".leases" / ".lock"
    lock.unlink()
    lock.mkdir()  # as a folder of another user, where the lock cannot be opened
    assert list(Leases(tmp_path).held()) == [RUN]


def test_how_far_a_run_is_goes_with_its_lease(tmp_path: Path) -> None:
    lease = taken(Leases(tmp_path).take(RUN))
    of_run: dict[str, Any] = {"variant": "a", "preset": "smoke", "seed": 0, "config_hash": "h", "plan_id": None}
    state = RunProgress(**of_run, started_at=1.0, written_at=2.0, phase="a s0: train", done=1, total=3)
    lease.report(state)
    assert Leases(tmp_path).progress() == {RUN: state}
    lease.give_back()
    assert files(tmp_path) == []
    (tmp_path / ".leases" / f"{RUN}.progress").write_text(state.model_dump_json())  # of a process that was killed
    lease = taken(Leases(tmp_path).take(RUN))
    assert Leases(tmp_path).progress() == {}
    (tmp_path / ".leases" / f"{RUN}.progress").mkdir()  # it cannot be written
    lease.report(state)
    assert len(files(tmp_path)) == 3
    lease.give_back()


def test_looking_at_a_folder_without_leases_writes_nothing(tmp_path: Path) -> None:
    assert Leases(tmp_path).held() == {}
    assert list(tmp_path.iterdir()) == []


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "pid": st.integers() | st.text() | st.none() | st.booleans() | st.floats(),
        "host": st.text() | st.integers(),
        "since": st.text() | st.none(),
    },
)


@given(content=st.binary(max_size=200) | FIELDS.map(lambda d: json.dumps(d).encode()))
def test_no_owner_file_can_do_harm(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "owner.json"
    path.write_bytes(content)
    assert Owner.read(path).describe().isprintable()
