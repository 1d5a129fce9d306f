"""Break `ablate` at random moments and count the losses: `python tests/kill.py [KILLS] [SEED]`.

The invariant (`docs/design.md`): at every moment, whatever dies, each finished row's files are
exactly those that its digests name, and each process that no longer holds a run has stopped.

Studies of an external program, and one in twelve of a torch model, are started in a fresh folder and
broken several times:

- killed at a random time, or right before or after a random file operation; before a flush, half of
  the file is cut off, as if it were still being written;
- suspended at such an operation while another process steals its run and finishes the study; then
  it goes on, and must stop without changing a file;
- told at such an operation that the disk is full: one `error:` line, no traceback;
- all of this also while finished runs are made again with other bits (`--force`), with a second
  launcher beside, and while `ablate rm` and `ablate merge` work.

After each fault all tables and files are read. At its end each study is run without a fault, and
nothing may be left over. If its bits were never changed, they equal those of an untouched study.
"""
# ruff: noqa: E402 (settings that libraries read when they are imported)

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # threads that an import starts would not survive the forks

import filelock
import numpy as np
from command import CHEAP
from faults import Fault, fork, trace, wait
from PIL import Image

from ablate.base.errors import ResultsError
from ablate.launch.leases import Leases
from ablate.store import health, tables
from ablate.store.artifacts import run_folder
from ablate.store.schema import RUN_TABLES

HEAD = 'about = "Small enough to be killed often."\nsource = "test"\naxis = "test"\n'
MODEL = HEAD + "[model]\ndrift_channels = 8\n[sample]\nnum_steps = 2\n" + CHEAP.replace("[train]", "[train]\nsteps = 6")
PROGRAM = """import json, os, sys, time
seed, out, bits = sys.argv[1], sys.argv[2], os.environ["BITS"]
state = out + "/state"
step = int(open(state).read()) if os.path.exists(state) else 0
while step < 3:
    time.sleep(0.02)
    step += 1
    open(state + ".new", "w").write(str(step))
    os.replace(state + ".new", state)
open(out + "/weights", "w").write(bits)
json.dump({"acc": int(seed) + float(bits) / 1000}, open(out + "/metrics.json", "w"))
"""
AIMS = {"": 2, ".parquet": 3, "artifacts": 2, "checkpoint": 1, ".leases": 1}  # part of a path -> how often aimed at


@dataclass
class Count:
    """What the faults did."""

    kills: int = 0
    ends: int = 0  # studies that ended by themselves afterwards
    beside: int = 0  # kills of a process that had another beside it
    forced: int = 0  # faults while finished runs were made again with other bits
    others: int = 0  # kills of rm and merge
    suspended: int = 0
    stolen: int = 0  # suspended processes that lost a run
    full: int = 0
    rows_lost: int = 0
    wrong: int = 0  # rows whose files are not those that they name
    damaged: int = 0
    unequal: int = 0
    made_twice: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.beside} beside another process, {self.others} of rm and merge), "
            f"{self.suspended} suspended ({self.stolen} lost a run), {self.full} full disks, "
            f"{self.forced} of all with --force and other bits, {self.ends} studies: rows lost {self.rows_lost}, "
            f"wrong weights {self.wrong}, damaged files {self.damaged}, resumed runs not bit-equal {self.unequal}, "
            f"runs made twice {self.made_twice}, other problems {len(self.problems)}"
        )


def other_bits(bits: int) -> None:
    """Let this process, and programs that it starts, compute something else for each number."""
    os.environ["BITS"] = str(bits)
    if bits and "torch" in sys.modules:
        from ablate.training.checkpoint import TrainingState

        real = TrainingState.update

        def update(self: TrainingState, *args: Any) -> Any:
            norm = real(self, *args)
            self.averages[0].add_(bits * 1e-3)
            return norm

        TrainingState.update = update  # type: ignore[method-assign]


class Kind:
    """A kind of study: of a program or of a torch model.

    Attributes:
        folder: Where its commands are typed.
        words: The command that makes a study.
        tables: The tables that have rows.
        whole: The number of rows of each run in each of them.
        reference: What an untouched study computed, by run.
        operations: The paths of its file operations.
    """

    def __init__(self, folder: Path, words: list[str]) -> None:
        """Make the study once, and watch its file operations."""
        self.folder, self.words, self.log = folder, words, folder / "first.log"
        begin = time.monotonic()
        pid = self.start("reference", before=partial(trace, folder / "trace"))
        assert wait(pid) == 0, self.log.read_text()
        self.whole_s = time.monotonic() - begin
        self.operations = (folder / "trace").read_text().splitlines()
        whole, self.reference = rows(folder / "reference"), results(folder / "reference")
        self.tables = [table for table in RUN_TABLES if any(sizes[table] for sizes in whole.values())]
        self.whole = {run_id: {table: sizes[table] for table in self.tables} for run_id, sizes in whole.items()}

    def made_twice(self) -> int:
        """Let two processes make the study side by side; return how many runs both of them made."""
        logs = (self.log, self.folder / "second.log")
        for pid in [self.start("shared", log=log) for log in logs]:
            assert wait(pid) == 0, "\n".join(log.read_text() for log in logs)
        assert self.reference == results(self.folder / "shared")
        return sum(log.read_text().count(": done in ") for log in logs) - len(self.reference)

    def start(
        self,
        name: str,
        *more: str,
        bits: int = 0,
        log: Path | None = None,
        words: list[str] | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> int:
        """Start a command on the results folder `name`; return its process id."""

        def prepare() -> None:
            other_bits(bits)
            before()

        words = [*(words or self.words), "--results", name, *more]
        return fork(self.folder, *words, log=log or self.log, before=prepare)


def rows(folder: Path, names: Collection[str] = RUN_TABLES) -> dict[str, dict[str, int]]:
    """Return the number of rows of each finished run in each of some tables."""
    runs = tables.read(folder, "runs")
    sizes = {table: tables.read(folder, table).groupby("run_id").size().to_dict() for table in names}
    done = runs.loc[runs["status"] == "done", "run_id"]
    return {run_id: {table: int(size.get(run_id, 0)) for table, size in sizes.items()} for run_id in done}


def results(folder: Path) -> dict[str, Any]:
    """Return what each finished run computed."""
    runs, metrics = tables.read(folder, "runs"), tables.read(folder, "metrics")
    runs = runs[runs["status"] == "done"].fillna({"weights_digest": "", "samples_digest": ""})
    acc = dict(zip(metrics["run_id"], metrics["value"], strict=True))
    named = zip(runs["run_id"], runs["weights_digest"], runs["samples_digest"], strict=True)
    return {run_id: (weights, samples, acc.get(run_id)) for run_id, weights, samples in named}


def wrong_files(folder: Path) -> list[str]:
    """Return the finished runs whose files are not those that their rows name."""
    wrong, computed = list[str](), results(folder)
    if any(weights for weights, _, _ in computed.values()):
        found = health.examine(folder, ())
        wrong += [one.what for one in found.findings if one.kind in ("table", "missing", "digest")]
        wrong += [note for note in found.notes if note == health.NO_WEIGHTS]
    for run_id, (_, _, acc) in computed.items():
        if acc is not None:
            out = run_folder(folder, run_id) / "out"
            try:
                kept, weights = (
                    json.loads((out / "metrics.json").read_text())["acc"],
                    int((out / "weights").read_text()),
                )
            except (OSError, ValueError) as error:
                wrong.append(f"{run_id}: {error}")
                continue
            if (kept, round(kept * 1000) % 1000) != (acc, weights % 1000):
                wrong.append(f"{run_id}: row {acc}, metrics.json {kept}, weights {weights}")
    return wrong


def damaged_files(folder: Path) -> list[str]:
    """Return the images of finished runs that cannot be read."""
    damaged = []
    for path in sorted(folder.glob("artifacts/*[!t]/*.png")):  # not of working folders, `.part`
        try:
            Image.open(path).load()
        except OSError as error:
            damaged += [f"{path}: {error}"] if path.exists() else []
    return damaged


def stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what tells every file of a results folder from another, but for locks."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def locked(folder: Path) -> bool:
    """Return whether a process holds the lock of the tables or that of the leases."""
    for path in (folder / ".lock", folder / ".leases" / ".lock"):
        if path.exists():
            try:
                filelock.FileLock(path).acquire(timeout=0).lock.release()
            except filelock.Timeout:
                return True
    return False


class Attack:
    """The faults of one study."""

    def __init__(self, kind: Kind, name: str, draw: random.Random, count: Count) -> None:
        self.kind, self.name, self.folder, self.draw, self.count = kind, name, kind.folder / name, draw, count
        self.finished: set[str] = set()
        self.bits = 0

    def problem(self, text: str, log: Path) -> None:
        """Record a problem with the end of a log."""
        self.count.problems.append(f"{self.kind.words[1:4]} {self.name}: {text}: {log.read_text()[-2000:]}")

    def inspect(self, *, alone: bool = True) -> None:
        """Read everything. If another process may write, hold the lock meanwhile."""
        count = self.count
        try:
            with nullcontext() if alone or not self.folder.exists() else tables.lock(self.folder):
                now, wrong = rows(self.folder, self.kind.tables), wrong_files(self.folder)
        except ResultsError as error:
            count.damaged += 1
            count.problems.append(str(error))
            return
        whole = self.kind.whole
        lost = [one for one in self.finished if one not in now] + [one for one in now if now[one] != whole[one]]
        damaged = damaged_files(self.folder)
        count.rows_lost += len(lost)
        count.wrong += len(wrong)
        count.damaged += len(damaged)
        count.problems += [f"{self.folder}: lost {one}" for one in lost] + wrong + damaged
        self.finished |= set(now)

    def fault(self, kind: str) -> Fault:
        """Draw a fault of a kind. One that is suspended amid a table holds its lock, and loses nothing."""
        aims = {aim: sum(aim in path for path in self.kind.operations) for aim in AIMS}
        aims |= {".parquet": 0} if kind == "suspend" else {}
        (aim,) = self.draw.choices(list(AIMS), [AIMS[aim] * bool(aims[aim]) for aim in AIMS])
        return Fault(kind, aim, self.draw.randint(1, aims[aim]), self.draw.random() < 0.3)  # type: ignore[arg-type]

    def run(self) -> None:
        """Make the study, or make it again with other bits, with a fault."""
        draw, count, more, log = self.draw, self.count, [], self.kind.log
        if self.finished and draw.random() < 0.5:
            self.bits, more = self.bits + 1, ["--force"]
        (kind,) = draw.choices(["kill", "time", "suspend", "full"], [5, 1, 2, 1])
        fault = self.fault("kill" if kind == "time" else kind)
        before = fault.install if kind != "time" else lambda: None
        other = self.kind.folder / "second.log"
        second = kind in ("kill", "time") and draw.random() < 0.15
        beside = self.kind.start(self.name, *more, bits=self.bits, log=other) if second else None
        pid = self.kind.start(self.name, *more, bits=self.bits, before=before)
        if kind == "time":
            time.sleep(self.kind.whole_s * draw.random())
            os.kill(pid, signal.SIGKILL)
        status = wait(pid, until_stopped=kind == "suspend")
        if status == -signal.SIGSTOP:
            count.suspended += 1
            status = self.go_on(pid, more)
        killed = status == -signal.SIGKILL
        count.kills += killed
        count.full += kind == "full" and status == 1
        count.forced += bool(more)
        said = log.read_text()
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        allowed = {"kill": (0, -signal.SIGKILL), "time": (0, -signal.SIGKILL)}.get(kind, (0, 1))
        if status not in allowed or "Traceback" in said or len(errors) != (status == 1):
            self.problem(f"{fault}: ended with {status}", log)
        self.inspect(alone=beside is None)
        if beside is not None:
            count.beside += killed
            if (status := wait(beside)) != 0:
                self.problem(f"beside: ended with {status}", other)
            self.inspect()
            count.rows_lost += len(self.kind.reference.keys() - self.finished)

    def go_on(self, pid: int, more: list[str]) -> int:
        """Let another process steal the run of a suspended one, wake that one, and return its exit status."""
        thief_log = self.kind.folder / "second.log"
        if locked(self.folder):  # nobody can take anything from it
            os.kill(pid, signal.SIGCONT)
            return wait(pid)
        if (status := wait(self.kind.start(self.name, *more, "--steal", bits=self.bits, log=thief_log))) != 0:
            self.problem(f"thief: ended with {status}", thief_log)
        self.inspect()
        stolen, before = "taken from" in thief_log.read_text(), stamps(self.folder)
        os.kill(pid, signal.SIGCONT)
        status = wait(pid)
        if stolen:
            self.count.stolen += 1
            if stamps(self.folder) != before:
                self.problem("a process that lost its run changed files", self.kind.log)
            if status == 0 and not more:
                self.problem("a process that lost its run said nothing", self.kind.log)
        return status

    def remove(self) -> None:
        """Kill `ablate rm`, and run it again."""
        run_id = self.draw.choice(sorted(self.finished))
        self.finished.remove(run_id)
        words, fault = ["rm", run_id, "--yes"], Fault("kill", "", self.draw.randint(1, 25), self.draw.random() < 0.3)
        killed = wait(self.kind.start(self.name, words=words, before=fault.install)) == -signal.SIGKILL
        self.count.kills += killed
        self.count.others += killed
        left = list((self.folder / "artifacts").glob(f"{run_id}*"))
        if run_id in results(self.folder) or left:
            self.inspect()
            self.finished.discard(run_id)
            if (status := wait(self.kind.start(self.name, words=words))) != 0:
                self.problem(f"rm again: ended with {status}", self.kind.log)
        if run_id in results(self.folder) or list((self.folder / "artifacts").glob(f"{run_id}*")):
            self.problem(f"{run_id} was not removed", self.kind.log)
        self.inspect()

    def merge(self) -> None:
        """Kill `ablate merge`, and run it again."""
        target, fault = self.kind.folder / "merged", Fault("kill", "", self.draw.randint(1, 40))
        words = ["merge", self.name, "--output", target.name]
        killed = wait(fork(self.kind.folder, *words, log=self.kind.log, before=fault.install)) == -signal.SIGKILL
        self.count.kills += killed
        self.count.others += killed
        if killed and (wrong := wrong_files(target) if (target / "runs.parquet").exists() else []):
            self.count.wrong += len(wrong)
            self.count.problems += wrong
        if (status := wait(fork(self.kind.folder, *words, log=self.kind.log))) != 0:
            self.problem(f"merge again: ended with {status}", self.kind.log)
        if rows(target) != rows(self.folder) or results(target) != results(self.folder) or wrong_files(target):
            self.problem("merge differs", self.kind.log)
        shutil.rmtree(target)

    def end(self) -> None:
        """Finish the study without a fault: everything is there, and nothing is left over."""
        if (status := wait(self.kind.start(self.name, bits=self.bits))) != 0:
            self.problem(f"ended with {status}", self.kind.log)
        self.inspect()
        health.clear_orphans(self.folder, ())  # what a killed `rm` has moved away
        count, found = self.count, results(self.folder)
        count.rows_lost += len(self.kind.reference.keys() - found.keys())
        if not self.bits:
            count.unequal += sum(found.get(one) != wanted for one, wanted in self.kind.reference.items())
        left = [one.what for one in health.examine(self.folder, ()).findings if ".parquet.tmp" not in one.what]
        left += [path.name for path in self.folder.glob(".commit*")]
        count.problems += [f"{self.name}: {what} left" for what in left]
        count.problems += [f"{self.name}: {run_id} is still leased" for run_id in Leases(self.folder).held()]
        count.ends += 1
        shutil.rmtree(self.folder)


def program_kind(folder: Path) -> Kind:
    """Return studies of a program: three runs, each resumable."""
    import ablate.launch.program_runs
    import ablate.studies  # noqa: F401 (once, before the forks)

    (folder / "variants").mkdir(parents=True)
    (folder / "program.py").write_text(PROGRAM)
    command = json.dumps([sys.executable, "-S", "-E", "program.py", "{seed}", "{out}"])
    text = f"{HEAD}[program]\ncommand = {command}\n[program.metrics]\nacc = 'higher'\n"
    (folder / "variants" / "baseline.toml").write_text(text)
    return Kind(folder, ["run", "--variant", "baseline", "--seeds", "0-2"])


def model_kind(folder: Path) -> Kind:
    """Return studies of a torch model: one run."""
    (folder / "variants").mkdir(parents=True)
    np.savez(folder / "set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    (folder / "variants" / "one.toml").write_text(MODEL)
    # What every process needs is loaded once, before the forks; but no kernel may run: its threads do not survive a fork.
    import torch

    import ablate.launch.model_runs  # noqa: F401
    from ablate.metrics.extractors import load_extractor
    from ablate.study.metric_names import EMBEDDED

    load_extractor(EMBEDDED, torch.device("cpu"))
    save = Image.Image.save  # compressing PNG takes a tenth of such a run's time
    Image.Image.save = lambda self, *words, optimize=False, **options: save(self, *words, compress_level=1, **options)  # type: ignore
    words = ["run", "--preset", "smoke", "--data", "set.npz", "--save-every", "0", "--variant", "one", "--no-baseline"]
    return Kind(folder, [*words, "--seeds", "0"])


def torture(kills: int, seed: int = 0, say: Callable[[str], None] = lambda text: None) -> Count:
    """Break processes and return what that did.

    Args:
        kills: The least number of kills.
        seed: The seed of the random moments.
        say: Called with the counts and the problems after each study.
    """
    draw, count, said = random.Random(seed), Count(), 0
    folder = Path(tempfile.mkdtemp(prefix="ablate-kill-")).resolve()
    os.environ |= {"ABLATE_CACHE": str(folder / "cache"), "ABLATE_OFFLINE": "1"}
    os.environ.pop("ABLATE_WEIGHTS", None)
    try:
        kinds = [model_kind(folder / "model"), program_kind(folder / "program")]
        count.made_twice = kinds[1].made_twice()
        gc.collect()
        gc.freeze()  # a collection in each process looks at its own objects alone
        while count.kills < kills:
            attack = Attack(kinds[count.ends % 12 != 1], f"study{count.ends}", draw, count)
            for _ in range(draw.randint(2, 7)):
                choice = draw.random() if attack.finished else 1.0
                {0: attack.remove, 1: attack.merge}.get(int(choice * 10), attack.run)()
            attack.end()
            say(str(count))
            for problem in count.problems[said:]:
                say(problem)
            said = len(count.problems)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return count


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    counted = torture(*(numbers or [20]), say=partial(print, flush=True))
    print(*counted.problems, counted, sep="\n")
    lost = counted.rows_lost + counted.wrong + counted.damaged + counted.unequal + counted.made_twice
    sys.exit(bool(lost or counted.problems))
