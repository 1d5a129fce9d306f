"""Connects to a Ray cluster for the time of a study, or starts one on this machine.

Ray's own messages are kept away from stdout. A marker file shows which machines see the results
folder.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ablate.base.errors import AblateError
from ablate.base.progress import Progress
from ablate.base.signals import handled
from ablate.base.text import printable

CONNECT_TIMEOUT_S = 10.0
_kept: ExitStack | None = None  # holds the connection of a block that keeps it


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error. Ray's messages fill a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def kept_connection() -> Iterator[None]:
    """Let all launches in the block use the connection of the first, which ends with the block.

    Starting a cluster and its worker processes takes about 20 s.
    """
    global _kept
    with ExitStack() as stack:
        _kept = stack
        try:
            yield
        finally:
            _kept = None


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine that ends with the block.

    Within `kept_connection` it ends with that block. A process that is connected already stays
    connected.

    Args:
        address: The cluster's address; None: start one that only this process can use.
        cpus: The number of CPUs of the cluster that is started.

    Raises:
        AblateError: No cluster answers, or none starts.
    """
    with ExitStack() as own:
        (_kept or own).enter_context(_connection(address, cpus))
        yield


@contextmanager
def _connection(address: str | None, cpus: int) -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no telemetry
    if address is None and "ray" not in sys.modules:
        # The cluster's ports are open to the network; clients without the token are refused.
        # Ray reads these variables when it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    else:
        options["address"] = address
    try:
        _check_listening(address)
        ray.init(**options)
    except Exception as error:  # Ray raises plain ones too
        what, fix = "--launcher ray: ray does not start", "see its logs in /tmp/ray"
        if address:
            what = f"--ray-address {address}: no cluster answers"
            fix = (
                "start one with `ray start --head`, set RAY_AUTH_MODE=token if it asks for a token, "
                "or leave the address out"
            )
        raise AblateError(f"{what} ({first_sentence(error)}); {fix}") from error
    try:
        yield
    finally:
        # A second Ctrl-C would leave processes of the cluster behind.
        with handled(signal.SIG_IGN, signal.SIGINT):
            ray.shutdown()


def check_alive() -> None:
    """Raise an error if this machine's part of the cluster has died: Ray soon ends this process without a word.

    Raises:
        AblateError: It has died.
    """
    import ray

    node = ray._private.worker._global_node  # None where the cluster was there before
    died = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    if died & {"raylet", "gcs_server"}:
        raise AblateError(
            f"--launcher ray: Ray's {' and '.join(sorted(died))} died on this machine (perhaps out of memory; its logs "
            "are in /tmp/ray); finished runs and checkpoints are kept: run the same command again"
        )


def _check_listening(address: str | None) -> None:
    """Raise an OSError if nothing listens at `host:port`. Ray itself would try for many minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


@contextmanager
def folder_marker(folder: Path, isolated: bool) -> Iterator[str | None]:
    """Put a marker file into the results folder, and yield its path relative to the folder.

    A machine that finds the file sees the same folder. Yields None if `isolated`.
    """
    if isolated:
        yield None
        return
    marker = folder / ".leases" / f"shared-{secrets.token_hex(8)}"
    marker.parent.mkdir(exist_ok=True)
    marker.touch()
    try:
        yield str(marker.relative_to(folder))
    finally:
        marker.unlink(missing_ok=True)


class _RedirectedStdout(io.TextIOBase):
    """Replaces stdout: what threads of ray print goes, shortened, to the progress display."""

    def __init__(self, stdout: Any, progress: Progress) -> None:
        self._stdout, self._progress, self._owner = stdout, progress, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._owner:
            return int(self._stdout.write(text))
        if head := re.sub(r"\x1b\[[0-9;]*m", "", text).strip().partition("\n")[0].partition(". ")[0]:
            self._progress.say(f"ray: {printable(head)}")
        return len(text)

    def flush(self) -> None:
        self._stdout.flush()

    def isatty(self) -> bool:
        return bool(self._stdout.isatty())

    def fileno(self) -> int:
        return int(self._stdout.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(getattr(self._stdout, "encoding", "utf-8"))


@contextmanager
def ray_output_redirected(progress: Progress) -> Iterator[None]:
    """Keep ray's messages away from stdout, which carries the result."""
    before = sys.stdout
    sys.stdout = _RedirectedStdout(before, progress)
    try:
        yield
    finally:
        sys.stdout = before
