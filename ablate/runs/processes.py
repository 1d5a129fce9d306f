"""A program as a child process, ended together with everything that it started.

The child gets a session of its own, and a variable in its environment that its children inherit. A
process with that variable belongs to the run, whatever group it moved to (on Linux; elsewhere the
process group counts). The log is locked through the child's standard output alone, so the lock
lasts as long as a process of the program can write there, however `ablate` itself ended.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ablate.base.errors import AblateError
from ablate.base.text import printable

MARK = "ABLATE_RUN"  # the variable; its value is the run's path, a colon, and a word for this try
GRACE_S = 10.0  # from SIGTERM to SIGKILL
POLL_S = 0.2
TAIL_BYTES = 65536
LINE = 200  # characters of a line of the log that are shown
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code (a signal's number below 0), and after how many seconds."""

    code: int
    wall_s: float
    timed_out: bool = False

    @property
    def problem(self) -> str | None:
        """What went wrong in a few words; None: exit code 0."""
        if self.timed_out:
            return f"timed out after {self.wall_s:.3g} s"
        number = -self.code if self.code < 0 else self.code - 128 if 128 < self.code < 160 else 0
        name = ""
        with suppress(ValueError):
            name = signal.Signals(number).name
        why = {"SIGKILL": " (perhaps out of memory)", "SIGSEGV": " (a crash in native code)"}.get(name, "")
        if self.code < 0:
            return f"ended by {name or f'signal {number}'}{why}"
        return f"exit code {self.code}{f', {name}{why}' if name else ''}" if self.code else None


def run_program(
    words: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    run: Path,
    log: Path,
    timeout_s: float | None,
    on_poll: Callable[[float], None],
) -> Ended:
    """Run a program until it ends, its output appended to a log.

    Args:
        words: The command; no shell reads it.
        folder: Where it runs.
        environment: Its whole environment.
        run: A path that names the run, which marks its processes. What is left of an earlier try is
            ended first.
        log: Gets its standard output and errors.
        timeout_s: Seconds that it may take; None: any.
        on_poll: Called several times a second with the seconds since the start. An error that it
            raises ends the program.

    Raises:
        AblateError: The program cannot be started.
        KeyboardInterrupt: Interrupted, after the program was ended.
    """
    value = f"{run}:{secrets.token_hex(4)}"
    mark = f"{MARK}={value}"
    with log.open("ab") as output:
        _lock(output, run)
        start = time.monotonic()
        process = _start(words, folder, {**environment, MARK: value}, output)
    timed_out = False
    try:
        while process.poll() is None:
            seconds = time.monotonic() - start
            on_poll(seconds)
            timed_out = timeout_s is not None and seconds > timeout_s
            if timed_out:
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S if timeout_s is None else min(POLL_S, max(0.01, timeout_s - seconds)))
        wall_s = time.monotonic() - start
    finally:
        _end(process, mark)
    return Ended(process.returncode, wall_s, timed_out)


def log_tail(log: Path, lines: int = 10) -> list[str]:
    """Return the last lines of a log that are not blank, printable and cut to a terminal's width."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    kept = [line.rstrip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return [printable(line[:LINE]) for line in kept[-lines:]]


def _start(
    words: Sequence[str], folder: Path, environment: dict[str, str], output: BinaryIO
) -> subprocess.Popen[bytes]:
    if os.name == "nt":
        raise AblateError("[program]: programs run on Linux and macOS; on Windows use WSL")
    if not folder.is_dir():
        raise AblateError(f"[program] workdir: {printable(folder)}: no such folder")
    parent = os.getpid()

    def die_with_parent() -> None:  # SIGKILL of this process reaches the program too
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    try:
        with warnings.catch_warnings():
            # Python warns of a fork beside threads: the child calls nothing but the two lines above.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(
                words,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
    except OSError as error:
        name = printable(words[0])
        why = "no such program" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise AblateError(
            f"[program] command: {name} cannot be started in {printable(folder)} ({why}); "
            "give a program of PATH, or its path from that folder"
        ) from None


def _lock(log: BinaryIO, run: Path) -> None:
    """End what is left of an earlier try, and lock the log.

    Raises:
        AblateError: Another process still holds the lock, as on another machine.
    """
    import fcntl

    _end_all(f"{MARK}={run}:", None)
    end = time.monotonic() + GRACE_S
    while True:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise AblateError(
                    f"{printable(run)}: the program of an earlier try still runs and writes to its log; "
                    "end it, and run the same command again"
                ) from None
            time.sleep(POLL_S)
        except OSError:  # a file system without locks
            return


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a program and all that it started: ask, wait, then kill."""
    try:
        _end_all(mark, process)
    finally:
        if process.poll() is None:  # a second interruption: no more waiting
            _signal(mark, process, signal.SIGKILL)
            process.wait()


def _end_all(mark: str, process: subprocess.Popen[bytes] | None) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _signal(mark, process, number):
            return
        end = time.monotonic() + GRACE_S
        while time.monotonic() < end and ((process is not None and process.poll() is None) or _marked(mark)):
            time.sleep(0.02)


def _signal(mark: str, process: subprocess.Popen[bytes] | None, number: signal.Signals) -> bool:
    """Send a signal to all processes of a run; return whether there was one."""
    pids = _marked(mark)
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    if process is not None and (process.returncode is None or sys.platform != "linux"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
            return True
    return bool(pids)


def _marked(mark: str) -> list[int]:
    """Return the processes of this user with a variable in their environment that begins so."""
    if sys.platform != "linux":
        return []
    wanted, found = os.fsencode(mark), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):  # of another user, or ended meanwhile
                environment = Path("/proc", name, "environ").read_bytes()
                if any(variable.startswith(wanted) for variable in environment.split(b"\0")):
                    found.append(int(name))
    return found
