"""A Ray cluster for the time of a study: joined or started, its messages kept away from the result, its machines' sight of a folder."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablate.base.errors import AblateError
from ablate.base.progress import Progress
from ablate.base.signals import handled
from ablate.base.text import printable

KNOCK_S = 10.0  # to wait for a cluster's answer


def first_sentence(error: BaseException) -> str:
    """Return the head of one of ray's messages, which go on for a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__


def check_installed() -> None:
    """Raise an AblateError where ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise AblateError("--launcher ray: ray is not installed; fix: pip install 'ablate-harness[ray]'")


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """Join a cluster, or start one of this machine that ends with the block; one that is joined already is used as it is.

    Args:
        address: Of the cluster; None: start one, that obeys this process alone.
        cpus: That the started one has.

    Raises:
        AblateError: No cluster answers, or none starts.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # ray would report to its makers
    if address is None and "ray" not in sys.modules:
        # Its ports are open to the network: who does not know the token is refused. Read when ray is imported.
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
        _knock(address)
        ray.init(**options)
    except (RuntimeError, ValueError, OSError, OverflowError) as error:
        what = f"--ray-address {address}: no cluster answers" if address else "--launcher ray: ray does not start"
        mend = "see its logs in /tmp/ray"
        if address:
            mend = "start one with `ray start --head`, set RAY_AUTH_MODE=token if it asks for a token, or leave the address out"
        raise AblateError(f"{what} ({first_sentence(error)}); {mend}") from error
    try:
        yield
    finally:
        with handled(signal.SIG_IGN, signal.SIGINT):  # no second Ctrl-C may leave processes of the cluster behind
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise an OSError where nobody listens at `host:port`: ray itself would go on trying for many minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


@contextmanager
def marked(folder: Path, apart: bool) -> Iterator[str | None]:
    """Lay a file into the results folder, by which machines that see the folder know it."""
    if apart:
        yield None
        return
    mark = folder / ".claims" / f"shared-{secrets.token_hex(8)}"
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    try:
        yield str(mark.relative_to(folder))
    finally:
        mark.unlink(missing_ok=True)


class _Aside(io.TextIOBase):
    """Stands for stdout while a cluster is joined: what ray's own thread prints there goes, in short, to the progress."""

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
def quiet(progress: Progress) -> Iterator[None]:
    """Keep what ray prints away from stdout, which carries the result."""
    before = sys.stdout
    sys.stdout = _Aside(before, progress)
    try:
        yield
    finally:
        sys.stdout = before
