"""Processes of `ablate` that die, are suspended, or find the disk full at a chosen file operation (Linux).

A process is forked from this one, which has imported everything: a fault then costs the time of a
run, not the start of an interpreter.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

OPERATIONS = ("fsync", "replace", "mkdir", "unlink", "rmdir")
HANGS_S = 600.0


def _target(first: Any) -> str:
    return os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)


def _before_operations(act: Callable[[Callable[..., Any], tuple[Any, ...]], None], after: bool = False) -> None:
    """Call a function before (or after) each file operation of this process."""

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            if not after:
                act(real, args)
            value = real(*args, **options)
            if after:
                act(real, args)
            return value

        return wrapped

    for name in OPERATIONS:
        setattr(os, name, wrap(getattr(os, name)))


@dataclass(frozen=True)
class Fault:
    """What happens to a process at its nth file operation on a path that contains `aim`."""

    kind: Literal["kill", "suspend", "full"]
    aim: str
    nth: int
    after: bool = False

    def install(self) -> None:
        """Let it happen to this process."""
        seen, fsync = 0, os.fsync

        def act(real: Callable[..., Any], args: tuple[Any, ...]) -> None:
            nonlocal seen
            seen += self.aim in _target(args[0])
            if seen != self.nth:
                return
            seen += 1
            if self.kind == "suspend":
                os.kill(os.getpid(), signal.SIGSTOP)
                return
            if real is fsync and not self.after:  # half of the file is written
                with suppress(OSError):
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if real.__name__ not in ("unlink", "rmdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), _target(args[0]))

        _before_operations(act, self.after and self.kind != "full")


def trace(path: Path) -> None:
    """Let this process write the path of each of its file operations to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _before_operations(lambda real, args: void(os.write(file, f"{_target(args[0])}\n".encode())))


def void(value: object) -> None:
    """Drop a value."""


def fork(folder: Path, *words: str, log: Path, before: Callable[[], None] = lambda: None) -> int:
    """Run `ablate WORDS` in a folder in a forked process, its output in a log; return its process id."""
    from ablate.cli import main

    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code: Any = 70
    try:
        os.chdir(folder)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["ablate", *words]
        before()
        main()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(pid: int, *, until_stopped: bool = False) -> int:
    """Wait for a process; return its exit status, minus the signal that ended it, or -SIGSTOP if it was suspended.

    One that takes longer than `HANGS_S` is killed.
    """
    end = time.monotonic() + HANGS_S
    pause_s = 0.001
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG | (os.WUNTRACED if until_stopped else 0))
        if ended:
            return -signal.SIGSTOP if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(pause_s)
        pause_s = min(0.05, pause_s * 1.5)
