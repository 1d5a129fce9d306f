"""Feed hostile input to every command: `python tests/fuzz.py SECONDS [FIRST]`.

Each input is made in a folder of its own and run in a process that is forked from one that has
imported everything. Checked after each: the exit code; no traceback; at most one `error:` line, of
at most 300 characters; no control characters but those of `rich` on a terminal; no connection; no
file changed outside the folders that the command was given (so a pickle that runs code is seen); no
temporary file left; and the rows of results folders that were not damaged are there, and equal.

Inputs are numbered, and the number is the seed: `python tests/fuzz.py 0 tables-17` makes one again
and shows what it wrote. FIRST is the number to begin with.
"""
# ruff: noqa: E402 (settings that libraries read when they are imported)

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # threads that an import starts would not survive the forks

import numpy as np
import synthetic
from hostile_inputs import KINDS, RUN, VARIANT, Input, mount
from PIL import Image

import ablate
from ablate.__main__ import main
from ablate.store import tables

LIMIT_S = 120  # of one input, on a busy machine
CODES = {0, 1, 2, 130}
ROOM = 3 * 2**30  # bytes of memory that a command may take
RICH = re.compile(r"\x1b\[[\d;]*[mAKG]|\x1b\[\?25[lh]|\x1b\[1[A-Z]|\r")
State = dict[str, tuple[int, ...]]


def run_in_child(folder: Path, given: Input, out: Path, err: Path, other: Path) -> None:
    """Run the command line as a process of its own would, and end the process.

    Args:
        folder: The current folder.
        given: What is run.
        out: Gets stdout.
        err: Gets stderr.
        other: Gets a traceback and connections, also where stderr is closed.
    """
    status = 1

    def watch(event: str, values: tuple[object, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo") and not isinstance(values[-1], str | bytes):  # else a file
            other.write_text(f"connection: {event} {values}")

    try:
        here = {"HOME": folder / "home", "TMPDIR": folder / "tmp", "TORCH_HOME": "home", "ABLATE_CACHE": "cache"}
        os.environ.update({**{name: str(path) for name, path in here.items()}, "ABLATE_OFFLINE": "1", "COLUMNS": "100"})
        os.environ.update(given.environment)
        os.chdir(folder)
        tempfile.tempdir = None
        sys.argv = ["ablate", *given.words]
        sys.addaudithook(watch)
        for number, path in enumerate((Path(os.devnull), out, err)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        match given.streams.split():
            case ["terminal"]:
                _open_terminal(out)
            case ["full", name]:
                os.dup2(os.open("/dev/full", os.O_WRONLY), 1 + (name == "stderr"))
            case ["broken"]:
                reader, writer = os.pipe()
                os.close(reader)
                os.dup2(writer, 1)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            code = ("ascii", "strict") if given.streams == "ascii" and number < 2 else ("utf-8", "surrogateescape")
            setattr(sys, name, open(number, "w" if number else "r", encoding=code[0], errors=code[1], closefd=False))  # noqa: SIM115
            if given.streams == f"no {name}":
                os.close(number)
                setattr(sys, name, None)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does when it starts
        for kind, most in ({resource.RLIMIT_DATA: ROOM} | given.limits).items():
            size = most + (used if kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA) else 0)
            resource.setrlimit(kind, (size, resource.getrlimit(kind)[1]))
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        for kind in given.limits:
            resource.setrlimit(kind, (resource.getrlimit(kind)[1],) * 2)
        other.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def _open_terminal(out: Path) -> None:
    """Put a pseudo terminal in place of stdout and stderr; what is written to it is copied to a file."""
    master, slave = pty.openpty()
    copy = out.open("wb", buffering=0)

    def pump() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                copy.write(data)

    threading.Thread(target=pump, daemon=True).start()
    os.dup2(slave, 1)
    os.dup2(slave, 2)


def state(folder: Path, writes: tuple[str, ...]) -> State:
    """Return kind, size and time of all files that a command may not change."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not any(name == f"work/{one}" or name.startswith((f"work/{one}/", f"work/{one}.")) for one in writes):
            stat = path.lstat()
            found[name] = (stat.st_mode, *((stat.st_size, stat.st_mtime_ns) if path.is_file() else ()))
    return found


def rows_of(folder: Path) -> dict[str, list[str]]:
    """Return the rows of the runs of both results folders, as texts."""
    columns = ["run_id", "variant", "seed", "status", "fd"]
    read = {name: tables.read(folder / "work" / name, "runs", columns) for name in ("results", "study")}
    return {name: list(map(str, tables.to_records(frame))) for name, frame in read.items()}


def faults(given: Input, status: int, out: str, err: str, before: State, after: State) -> list[str]:
    """Return what is wrong with the answer to an input."""
    messages = [line for line in err.splitlines() if line.startswith(("error:", "note:"))]
    errors = [line for line in messages if line.startswith("error:")]
    # A library in C++ that gets no memory may end the process.
    aborted = status == -signal.SIGABRT and resource.RLIMIT_AS in given.limits
    found = [f"exit code {status}"] * (status not in CODES and not aborted)
    found += ["a traceback"] * ("Traceback (most recent call last)" in err + out)
    found += ["a connection"] * err.startswith("connection:")
    found += [f"{len(errors)} error lines"] * (len(errors) > 1)
    found += [f"a message of {len(line)} characters" for line in messages if len(line) > 300]
    styled = given.streams == "terminal" or "FORCE_COLOR" in given.environment
    shown = RICH.sub("", out + err) if styled else out + err
    found += [
        f"a control character {c!r}" for c in sorted({c for c in shown if not c.isprintable() and c not in "\n\t"})[:3]
    ]
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return found + [f"changed: {name}" for name in sorted(changed)[:3]]


def one_input(kind: str, number: int, template: Path, *, show: bool = False) -> list[str]:
    """Make an input, run it, and return what is wrong with the answer."""
    draw, folder = random.Random(f"{kind}-{number}"), template.with_name("case")
    shutil.copytree(template, folder, symlinks=True, copy_function=_copy)
    given = KINDS[kind](draw, folder / "work")
    files = [template.with_name(name) for name in ("out", "err", "other")]
    for path in files:
        path.unlink(missing_ok=True)
    before = state(folder, given.writes)
    pid = os.fork()
    if not pid:
        run_in_child(folder / "work", given, *files)
    until = time.monotonic() + LIMIT_S
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.003)
    if not ended[0]:
        os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(ended[1])
    code = "replace" if given.limits else "surrogateescape"  # a limit of files may cut a letter in two
    out, err, other = (path.read_text(errors=code) if path.exists() else "" for path in files)
    found = faults(given, status, out, other + err, before, state(folder, given.writes))
    if given.keeps:
        try:
            now = rows_of(folder)
            lost = [row for name, rows in rows_of(template).items() for row in rows if row not in now[name]]
            found += [f"{len(lost)} rows lost: {lost[0]}"] if lost else []
        except Exception as error:
            found.append(f"rows cannot be read: {error!r}")
    if kind == "disk":
        subprocess.run(["umount", str(folder / "work" / "full")], check=False)
    if show or found:
        print(f"{kind}-{number}: {'; '.join(found) or 'no fault'}\n  exit code {status}: {str(given)[:600]}")
        print(
            "\n".join(f"  | {line[:400]}" for text in (out, err, other) for line in text.splitlines()[-25:]), flush=True
        )
    shutil.rmtree(folder)
    return found


def _copy(source: str, target: str) -> None:
    (os.link if "/cache/" in source else shutil.copy2)(source, target)  # files in the cache are replaced, never changed


def prepare(template: Path) -> None:
    """Make the folder that each input gets a copy of: a trained run, a study, a data set, a variant."""
    for name in ("variants", "home", "tmp", "../outside"):
        (template / "work" / name).mkdir(parents=True)
    work = template / "work"
    np.savez(work / "set.npz", images=np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    (work / "variants" / "one.toml").write_text(VARIANT)
    (work / "scores.csv").write_text(
        "variant,seed,acc\n" + "".join(f"{v},{s},{s * 0.1}\n" for v in "ab" for s in range(4))
    )
    tables.append(work / "study", synthetic.rows({"baseline": 0.0, "no_drift": 3.0, "one": 1.0}, range(3)))
    pid = os.fork()
    if not pid:
        run_in_child(work, Input(RUN), *(template.with_name(name) for name in ("out", "err", "other")))
    assert os.waitpid(pid, 0)[1] == 0, template.with_name("err").read_text()


def fuzz(seconds: float, first: str = "0") -> int:
    """Run inputs of all kinds in turn until the time is over, and return how many had a fault."""
    names = [
        module.name for module in pkgutil.walk_packages(ablate.__path__, "ablate.") if "cuda_kernels" not in module.name
    ]
    for name in (*names, "altair", "lpips", "onnx", "onnxruntime", "torch._dynamo", "torchvision"):
        importlib.import_module(name)
    Image.init()
    gc.collect()
    gc.freeze()  # a collection in a child looks at its own objects alone
    top, kinds = Path(tempfile.mkdtemp(prefix="ablate-fuzz-")), dict(KINDS)
    count, failed = Counter[str](), 0
    try:
        prepare(top / "template")
        (top / "mounted").mkdir()
        mounted = mount(top / "mounted", 64)
        if mounted.returncode:
            print(f"disk: skipped, for no file system can be mounted here: {mounted.stderr.strip()}")
            del kinds["disk"]
        else:
            subprocess.run(["umount", str(top / "mounted")], check=True)
        begin = time.monotonic()
        kind, _, number_text = first.rpartition("-")
        if kind:
            return len(one_input(kind, int(number_text), top / "template", show=True))
        while time.monotonic() - begin < seconds:
            turn, place = divmod(sum(count.values()), len(kinds))
            kind = list(kinds)[place]
            failed += bool(one_input(kind, int(first) + turn, top / "template"))
            count[kind] += 1
    finally:
        shutil.rmtree(top, ignore_errors=True)
    listed = ", ".join(f"{n} {kind}" for kind, n in count.items())
    print(f"{sum(count.values())} inputs in {time.monotonic() - begin:.0f} s ({listed}): {failed} with a fault")
    return failed


if __name__ == "__main__":
    sys.exit(bool(fuzz(float(sys.argv[1]), *sys.argv[2:3])))
