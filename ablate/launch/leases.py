"""Who makes which run: several `ablate run` on one results folder share the work.

    <results>/.claims/<run_id>.json    the owner, and a number that its heartbeat changes every few seconds
    <results>/.claims/.lock            held for the moment in which a claim is taken, renewed or given back

A claim ends when its owner gives it back; at once where the owner is a process of this machine that has ended; else when its file has
not changed for `EXPIRES_S` seconds of the observer's own monotonic clock. No time of day is compared, so a clock that jumps, or clocks
that differ between machines, neither end a claim early nor keep it for ever. What cannot be parsed is somebody's until it expires.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from ablate.base.errors import ResultsError
from ablate.base.text import printable

HEARTBEAT_S = 5.0
EXPIRES_S = 60.0
LOCK_TIMEOUT_S = 60.0
MAX_BYTES = 4096  # of a claim's file


@dataclass(frozen=True)
class Owner:
    """Who holds a claim, as far as the file can be understood: `place` is where its process number means something."""

    pid: int | None
    host: str
    place: str
    started: str
    token: str

    def describe(self) -> str:
        """Return the owner in a few printable words."""
        return "another process" if self.pid is None else f"process {self.pid} on {printable(self.host)}"

    @property
    def has_ended(self) -> bool:
        """Whether the owner was a process of this machine that is no more; False where that cannot be known from here."""
        if self.pid is None or self.place != _place():
            return False
        started = _started(self.pid)
        return started is None or (bool(self.started) and started != self.started)


NOBODY_KNOWN = Owner(None, "", "", "", "")


def parse(content: bytes) -> Owner:
    """Return the owner that a claim's file names; for anything that is not such a file, one of whom nothing is known."""
    try:
        values = json.loads(content)
        pid, words = values["pid"], [values[name] for name in ("host", "place", "started", "token")]
    except (ValueError, KeyError, TypeError, RecursionError):
        return NOBODY_KNOWN
    if type(pid) is not int or not 0 < pid < 2**31 or not all(isinstance(word, str) for word in words):
        return NOBODY_KNOWN
    return Owner(pid, *words)


class Claims:
    """The claims of one results folder, as one process takes and watches them."""

    def __init__(self, results: Path, *, heartbeat_s: float = HEARTBEAT_S, expires_s: float = EXPIRES_S) -> None:
        """Look at the claims of a results folder, which must exist."""
        self._folder = results / ".claims"
        self._heartbeat_s, self._expires_s = heartbeat_s, expires_s
        self._seen: dict[str, tuple[bytes, float]] = {}  # of others' claims: the content, and since when it stands

    @contextmanager
    def take(self, run_id: str) -> Iterator[Owner | None]:
        """Hold a run's claim in the block, and keep it alive by a heartbeat.

        Yields:
            None where the claim is ours; else who holds it, and then nothing is held.

        Raises:
            ResultsError: The claims' folder cannot be written, or stayed locked.
        """
        mine = Owner(os.getpid(), socket.gethostname(), _place(), _started(os.getpid()) or "", secrets.token_hex(8))
        with self._lock():
            holder = self._holder(run_id)
            if holder is None:
                self._write(run_id, mine, 0)
        if holder is not None:
            yield holder
            return
        stop = threading.Event()
        beats = threading.Thread(target=self._beat, args=(run_id, mine, stop), name="heartbeat", daemon=True)
        beats.start()
        try:
            yield None
        finally:
            stop.set()
            beats.join()
            with suppress(ResultsError, OSError), self._lock():
                if self._owner(run_id) == mine:
                    self._path(run_id).unlink()

    def owners(self) -> dict[Path, Owner]:
        """Return the claims, each file with its owner."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            with suppress(OSError):
                found[path] = parse(_read(path))
        return found

    def _holder(self, run_id: str) -> Owner | None:
        """Who else holds the claim, or None where it can be taken."""
        try:
            content = _read(self._path(run_id))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResultsError(f"{self._path(run_id)}: cannot be read ({error.strerror}); delete it") from error
        now, owner = time.monotonic(), parse(content)
        if owner.has_ended:
            return None
        before, since = self._seen.get(run_id, (b"", now))
        if content != before:
            since = now
        self._seen[run_id] = content, since
        return None if now - since > self._expires_s else owner

    def _beat(self, run_id: str, mine: Owner, stop: threading.Event) -> None:
        count = 0
        while not stop.wait(self._heartbeat_s):
            count += 1
            # A full disk, or a lock that another holds for long: the next beat tries again.
            with suppress(ResultsError, OSError), self._lock():
                if self._owner(run_id) != mine:
                    return  # We were taken for dead; a finished row gives way to a finished one alone, so two makers of one run do no harm.
                self._write(run_id, mine, count)

    def _owner(self, run_id: str) -> Owner | None:
        try:
            return parse(_read(self._path(run_id)))
        except OSError:
            return None

    def _write(self, run_id: str, mine: Owner, beat: int) -> None:
        # Not flushed to the disk: after a power cut there is no owner, and an empty file is a claim that expires.
        temporary = self._folder / ".new"
        try:
            temporary.write_text(json.dumps({**mine.__dict__, "beat": beat}), encoding="utf-8")
            temporary.replace(self._path(run_id))
        except OSError as error:
            raise ResultsError(
                f"{self._path(run_id)}: cannot be written ({error.strerror}); free the disk or mend the folder"
            ) from error

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self._folder.mkdir(exist_ok=True)
            lock = filelock.FileLock(self._folder / ".lock", timeout=LOCK_TIMEOUT_S)
            lock.acquire()
        except filelock.Timeout as error:
            raise ResultsError(
                f"{self._folder}: locked for {LOCK_TIMEOUT_S:g} s by another process; end it, then run again"
            ) from error
        except OSError as error:
            raise ResultsError(
                f"{self._folder}: cannot be written ({error.strerror or error}); choose another --results folder"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _place() -> str:
    """Where process numbers are the same as here: this boot of this kernel, and this container; elsewhere the host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks, so that a reused number is noticed; "" where unknown, None where it has ended."""
    try:
        state, *rest = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        return None if state in "ZX" else rest[18]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, ValueError, IndexError):
        return ""
    if os.name == "nt":  # there os.kill ends the process instead of asking for it
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    return ""
