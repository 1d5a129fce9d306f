"""Leases: one process at a time makes a run, so several `ablate run` can share a results folder.

    <results>/.leases/<run_id>.lock    locked by the process that makes the run, while it makes it
    <results>/.leases/<run_id>.json    who that is
    <results>/.leases/<run_id>.progress    how far the run is, for information only
    <results>/.leases/.lock            locked while a lease is taken, stolen or given back

The operating system frees a lock when its process ends, however it ends. So no lease outlives its
owner, and nothing needs a heartbeat; the files that a killed process leaves mean nothing.
A process that hangs keeps its lease until another steals it: that one puts a new lock file in place
of the old one, locks it, renames the run's working folder, and writes its own name.

A process that was suspended may go on in the middle of a write, after its last look at its lease.
It then writes to a name that is gone. Rows are written, and folders deleted, only after a look at
the lease while the lock of the tables is held; runs are taken over under the same lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import filelock

from ablate.base.errors import ResultsError, how_to_fix
from ablate.store import tables
from ablate.store.artifacts import rename_working_folder
from ablate.store.owners import Owner
from ablate.store.run_progress import RunProgress

LOCK_TIMEOUT_S = 60.0
PROGRESS = ".progress"


@dataclass(frozen=True)
class Lease:
    """The right to make a run.

    Attributes:
        still_ours: Returns False once another process has stolen the lease. Can be sent to another
            machine: it compares names of owners, as file systems may number inodes anew there.
        give_back: Frees the lease.
        report: Writes how far the run is.
    """

    still_ours: Callable[[], bool]
    give_back: Callable[[], None]
    report: Callable[[RunProgress], None]


class Leases:
    """The leases of one results folder."""

    def __init__(self, results: Path) -> None:
        """Use the leases of a results folder, which must exist."""
        self._folder = results.resolve() / ".leases"

    def take(self, run_id: str, steal_from: Owner | None = None) -> Lease | Owner:
        """Return the lease of a run, or its owner where another process holds it.

        Args:
            run_id: The run.
            steal_from: Take the lease away from this owner, but from no other.

        Raises:
            ResultsError: The leases' folder cannot be written, or stayed locked.
        """
        path, note, new = (self._folder / name for name in (f"{run_id}.lock", f"{run_id}.json", ".new"))
        progress = self._folder / f"{run_id}{PROGRESS}"
        lock, me, results = filelock.FileLock(path), Owner.here(), self._folder.parent
        with self._changing():
            if steal_from is not None and steal_from.is_named_in(note):
                new.touch()
                new.replace(path)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                return Owner.read(note)
            takes_over = note.exists() and Owner.read(note).may_live()
            with tables.lock(results, LOCK_TIMEOUT_S) if takes_over else nullcontext():
                if takes_over:
                    rename_working_folder(results, run_id)
                me.write(new)
                new.replace(note)
            with suppress(OSError):
                progress.unlink()  # of the owner before
        return Lease(
            partial(me.is_named_in, note),
            partial(self._give_back, lock, path, note, me),
            partial(self._report, progress, note, me),
        )

    def names(self) -> list[str]:
        """Return the runs that have files of a lease: those that are being made, and some whose process was killed."""
        return sorted(path.stem for path in self._folder.glob("[!.]*.lock"))

    def held(self) -> dict[str, Owner]:
        """Return the owner of each run that is being made now.

        Where this process may not lock files, also runs whose process on another machine was killed.
        """
        owners = {}
        for run_id in self.names():
            path, note = (self._folder / f"{run_id}{suffix}" for suffix in (".lock", ".json"))
            try:
                with self._changing():
                    try:
                        filelock.FileLock(path).acquire(timeout=0).lock.release()
                    except (filelock.Timeout, OSError):  # held, or not ours to try
                        owners[run_id] = Owner.read(note)
            except ResultsError:
                if path.exists() and (owner := Owner.read(note)).may_live():
                    owners[run_id] = owner
        return owners

    def progress(self) -> dict[str, RunProgress]:
        """Return how far runs are, by name: those that are being made, and some whose process was killed."""
        found = {path.name.removesuffix(PROGRESS): RunProgress.read(path) for path in self._folder.glob(f"*{PROGRESS}")}
        return {run_id: state for run_id, state in found.items() if state is not None}

    def refuse_held(self, run_ids: Collection[str]) -> None:
        """Refuse to change runs while a process makes one of them.

        Raises:
            ResultsError: One of the runs is being made.
        """
        for run_id, owner in self.held().items():
            if run_id in run_ids:
                raise ResultsError(f"{run_id}: {owner.describe()} is making it; wait for it, or end it, and try again")

    @contextmanager
    def none_held(self, run_ids: Collection[str]) -> Iterator[None]:
        """Let no process begin to make a run in the block.

        Raises:
            ResultsError: One of these runs is being made, or the leases' folder cannot be used.
        """
        self.refuse_held(run_ids)
        with self._changing():
            for run_id in run_ids:  # others may have begun since
                path = self._folder / f"{run_id}.lock"
                if path.exists():
                    try:
                        filelock.FileLock(path).acquire(timeout=0).lock.release()
                    except filelock.Timeout as error:
                        owner = Owner.read(path.with_suffix(".json"))
                        raise ResultsError(f"{run_id}: {owner.describe()} began to make it; try again later") from error
                (self._folder / f"{run_id}.json").unlink(missing_ok=True)  # if its owner lost the lock, it stops
                (self._folder / f"{run_id}{PROGRESS}").unlink(missing_ok=True)
            yield

    def _give_back(self, lock: filelock.BaseFileLock, path: Path, note: Path, me: Owner) -> None:
        # Lock files are opened only while `.lock` is held, so nobody waits for one that is deleted
        # here. Where `.lock` cannot be had the files stay, and the next owner uses them.
        with suppress(ResultsError), self._changing():
            ours = me.is_named_in(note)
            lock.release()
            if ours:
                note.unlink()
                path.unlink()
                note.with_name(f"{note.stem}{PROGRESS}").unlink(missing_ok=True)
        lock.release()

    def _report(self, path: Path, note: Path, me: Owner, state: RunProgress) -> None:
        with suppress(ResultsError), self._changing(timeout=0):  # the next report will do as well
            if me.is_named_in(note):
                state.write(path)

    @contextmanager
    def _changing(self, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Let no other process take, steal or give back a lease in the block."""
        try:
            self._folder.mkdir(exist_ok=True)
            with filelock.FileLock(self._folder / ".lock").acquire(timeout=timeout):
                yield
        except filelock.Timeout as error:
            why = f"locked by another process for {timeout:g} s; end it and run again"
            raise ResultsError(f"{self._folder}: {why}") from error
        except OSError as error:
            fix = f"{how_to_fix(error)} or choose another --results folder"
            raise ResultsError(f"{self._folder}: cannot be written ({error.strerror or error}); {fix}") from error
