"""Kill `ablate run` at random moments and count the losses: `python tests/kill.py [KILLS] [SEED]`.

An uninterrupted study of two runs is the reference. Then the study is started in a fresh folder,
killed (SIGKILL) and started again, until it ends by itself; then the next folder.
Two in five kills come at a random time. The others come right before or after a random file
operation (flush, rename, deletion), so that these moments are hit as often as the long computations
between them. Before a flush, half of the file is cut off, as if it were still being written.

After each kill all tables and files are read. After each end the digests of weights and samples
must equal the reference's, and no file or lease of a killed process may keep a run from being made.
One killed process in eight has a second one beside it on the same study, which must end by itself.
Once, two processes work side by side and none is killed: then each run must be made once.

The processes are forked from one that has imported everything. So a kill costs the time of a run,
not the start of an interpreter.
"""
# ruff: noqa: E402 (settings that libraries read when they are imported)

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # threads that an import starts would not survive the forks

import numpy as np
from command import CHEAP
from PIL import Image
from safetensors import safe_open

from ablate.base.errors import ResultsError
from ablate.launch.leases import Leases
from ablate.store import tables
from ablate.store.atomic_files import is_temporary
from ablate.store.schema import RUN_TABLES

VARIANT = """about = "Small enough to be killed often."
source = "test"
axis = "test"
[model]
drift_channels = {channels}
[sample]
num_steps = 2
""" + CHEAP.replace("[train]", "[train]\nsteps = 6")
OPERATIONS = ((os, "fsync"), (os, "replace"), (Path, "replace"), (Path, "unlink"), (os, "unlink"), (os, "rmdir"))
AIMS = {
    "": 235,
    ".parquet": 68,
    "checkpoint": 60,
    ".safetensors": 76,
}  # a part of a path -> about how many operations a study does on such paths


@dataclass
class Count:
    """What the kills did."""

    kills: int = 0
    ends: int = 0  # studies that ended by themselves afterwards
    beside: int = 0  # kills of a process that had another beside it
    made_twice: int = 0  # runs that two processes made, side by side
    in_training: int = 0  # kills that left a checkpoint
    rows_lost: int = 0
    damaged: int = 0
    moved: int = 0  # files that a second process moved while they were being read
    unequal: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.in_training} with a checkpoint left, {self.beside} beside another process), "
            f"{self.ends} resumed studies: rows lost {self.rows_lost}, damaged files {self.damaged}, "
            f"resumed runs not bit-equal {self.unequal}, runs made twice {self.made_twice}"
        )


def prepare(folder: Path) -> None:
    """Write the data set and the variants, and put the cache into the folder."""
    np.savez(folder / "set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    (folder / "variants").mkdir()
    for name, channels in (("one", 8), ("two", 4)):
        (folder / "variants" / f"{name}.toml").write_text(VARIANT.format(channels=channels))
    os.environ |= {"ABLATE_CACHE": str(folder / "cache"), "ABLATE_OFFLINE": "1"}
    os.environ.pop("ABLATE_WEIGHTS", None)
    # What every process needs is loaded once, before the forks; but no kernel may run: its threads do not survive a fork.
    import torch

    import ablate.launch.local  # noqa: F401
    from ablate.metrics.extractors import load_extractor
    from ablate.study.metric_names import EMBEDDED

    load_extractor(EMBEDDED, torch.device("cpu"))
    save = Image.Image.save  # compressing PNG takes a tenth of such a run's time
    Image.Image.save = lambda self, *words, optimize=False, **options: save(self, *words, compress_level=1, **options)  # type: ignore
    gc.collect()
    gc.freeze()  # a collection in each process looks at its own objects alone


def start(folder: Path, name: str, on_start: Callable[[], None] = lambda: None, *, log_name: str = "child.log") -> int:
    """Fork a process that runs the study in the results folder `name`; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.chdir(folder)
        with (folder / log_name).open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            on_start()
            from ablate.cli import app

            words = ["run", "--preset", "smoke", "--data", "set.npz", "--results", name, "--save-every", "0"]
            app([*words, "--variant", "one", "--variant", "two", "--no-baseline"], standalone_mode=False)
            status = 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(status)


def die_at(aim: str, nth: int, *, after: bool) -> Callable[[], None]:
    """Return a function that lets a process kill itself at its nth file operation on `aim`."""

    def install() -> None:
        done, fsync = 0, os.fsync

        def wrap(real: Callable[..., object]) -> Callable[..., object]:
            def counted(*args: object, **options: object) -> object:
                nonlocal done
                first = args[0]
                done += aim in (os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first))
                last = done >= nth
                if last and not after:
                    if real is fsync and isinstance(first, int):  # half of the file is written
                        with suppress(OSError):
                            os.ftruncate(first, os.fstat(first).st_size // 2)
                    os.kill(os.getpid(), signal.SIGKILL)
                value = real(*args, **options)
                if last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return value

            return counted

        for owner, name in OPERATIONS:
            setattr(owner, name, wrap(getattr(owner, name)))

    return install


def wait(pid: int) -> int:
    """Wait for a process; return its exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def digests(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the digests of weights and samples of finished runs."""
    runs = tables.read(folder, "runs")
    done = runs[runs["status"] == "done"]
    return {
        run_id: (weights, samples)
        for run_id, weights, samples in zip(done["run_id"], done["weights_digest"], done["samples_digest"], strict=True)
    }


def rows(folder: Path) -> dict[str, dict[str, int]]:
    """Return the number of rows of each finished run in each table."""
    finished = set(digests(folder))
    sizes = {table: tables.read(folder, table).groupby("run_id").size().to_dict() for table in RUN_TABLES}
    return {run_id: {table: int(size.get(run_id, 0)) for table, size in sizes.items()} for run_id in finished}


def inspect(folder: Path, before: set[str], whole: dict[str, dict[str, int]], count: Count) -> set[str]:
    """Read all tables and files of a results folder after a kill; return the finished runs."""
    try:
        now = rows(folder)
    except ResultsError as error:
        count.damaged += 1
        count.problems.append(str(error))
        return before
    lost = [run_id for run_id in before if run_id not in now] + [r for r in now if now[r] != whole[r]]
    count.rows_lost += len(lost)
    count.problems += [f"rows of {run_id} lost" for run_id in lost]
    for path in sorted((folder / "artifacts").rglob("*")):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="numpy") as file:
                    for name in file.keys():  # noqa: SIM118 (not a dict)
                        file.get_tensor(name)
            elif path.suffix == ".png":
                Image.open(path).load()
        except Exception as error:
            if not path.exists():
                count.moved += 1
                continue
            count.damaged += 1
            count.problems.append(f"{path}: {error}")
    return set(now)


def side_by_side(folder: Path) -> int:
    """Let two processes make the study side by side; return how many runs they made together."""
    logs = ("first.log", "second.log")
    for pid in [start(folder, "shared", log_name=log) for log in logs]:
        assert wait(pid) == 0, "\n".join((folder / log).read_text() for log in logs)
    return sum((folder / log).read_text().count(": done in ") for log in logs)


def torture(kills: int, seed: int = 0, say: Callable[[str], None] = lambda text: None) -> Count:
    """Kill processes and return what that did.

    Args:
        kills: The number of kills.
        seed: The seed of the random moments.
        say: Called with the counts after each study.
    """
    draw, count, said = random.Random(seed), Count(), 0
    folder = Path(tempfile.mkdtemp(prefix="ablate-kill-"))
    try:
        prepare(folder)
        made = side_by_side(folder)  # and fills the cache, so that the next one takes as long as those that are killed
        begin = time.monotonic()
        assert wait(start(folder, "reference")) == 0, (folder / "child.log").read_text()
        whole_s = time.monotonic() - begin
        reference, whole = digests(folder / "reference"), rows(folder / "reference")
        assert len(reference) == 2
        count.made_twice = made - len(reference)
        while count.kills < kills:
            study, finished = folder / f"study{count.ends}", set[str]()
            for _ in range(draw.randint(2, 7)):
                second = start(folder, study.name, log_name="second.log") if draw.random() < 0.12 else None
                if draw.random() < 0.6:
                    (aim,) = draw.choices(list(AIMS), weights=[1, 3, 1, 1])  # tables are the quickest to write
                    die = die_at(aim, 1 + int(AIMS[aim] * draw.random() ** 2), after=draw.random() < 0.3)
                    pid = start(folder, study.name, die)
                else:
                    pid = start(folder, study.name)
                    time.sleep(whole_s * draw.random())
                    os.kill(pid, signal.SIGKILL)
                killed = wait(pid) == -signal.SIGKILL
                count.kills += killed
                count.in_training += killed and any((study / "artifacts").glob("*.part/*checkpoint.safetensors"))
                finished = inspect(study, finished, whole, count)
                if second is not None:
                    count.beside += killed
                    if (status := wait(second)) != 0:
                        count.problems.append(
                            f"beside: ended with {status}: {(folder / 'second.log').read_text()[-2000:]}"
                        )
                    finished = inspect(study, finished, whole, count)
                    count.rows_lost += len(reference.keys() - finished)
                if second is not None or not killed or count.kills >= kills:
                    break
            if (status := wait(start(folder, study.name))) != 0:
                count.problems.append(f"ended with {status}: {(folder / 'child.log').read_text()[-2000:]}")
            finished = inspect(study, finished, whole, count)
            found = digests(study)
            count.unequal += sum(found.get(run_id) != wanted for run_id, wanted in reference.items())
            count.rows_lost += len(reference.keys() - finished)
            count.ends += 1
            left = [p for p in (study / "artifacts").rglob("*") if p.name.endswith(".part") or is_temporary(p)]
            count.problems += [f"{run_id} is still leased" for run_id in Leases(study).held()]
            count.problems += [f"{path.name} left behind" for path in left]
            shutil.rmtree(study)
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
    print(counted, *counted.problems, sep="\n")
    sys.exit(bool(counted.rows_lost or counted.damaged or counted.unequal or counted.made_twice or counted.problems))
