"""Download published files: checked by digest, resumed, once for all processes, in bounded time.

A file arrives as `<target>.part` and gets its name once its SHA-256 is right. An interrupted
download keeps the part, and the next one goes on from there. A failure is remembered for an hour,
so a machine without a network waits `ANSWER_S` once.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from ablate.base.progress import Progress, Task
from ablate.store.atomic_files import replacing
from ablate.store.cache import cache_folder

ANSWER_S = 4.5  # for a server's first answer, with the look-up of its name: a dead network costs less than 5 s
STALL_S = 20.0  # without a byte
PACE_S = 30.0  # over which the speed is measured
SLOWEST = 10_000  # bytes per second: below it the default files would take over six hours
ATTEMPTS = 4  # to go on after a connection broke
RETRY_S = 3600.0  # after a failed download
CHUNK = 2**18  # bytes
MB = 10**6


@dataclass(frozen=True)
class Download:
    """A published file and where it goes.

    Attributes:
        name: Names the file in messages and in the cache.
        url: Its address.
        target: The file to write.
        sha256: Its digest, 64 hex digits.
        megabytes: Its approximate size.
    """

    name: str
    url: str
    target: Path
    sha256: str
    megabytes: int


def offline() -> bool:
    """Return whether `ABLATE_OFFLINE` forbids the network."""
    return os.environ.get("ABLATE_OFFLINE", "") not in ("", "0")


def download(files: Sequence[Download], progress: Progress, *, retry: bool = False) -> dict[str, str]:
    """Download files, all at once.

    Args:
        files: The files.
        progress: Shows size and source.
        retry: Also try what failed within the last hour.

    Returns:
        Name -> why the file could not be downloaded, in one line. Nothing for a file that is there.
    """
    problems: dict[str, str] = {}
    stop = Event()

    def work(file: Download) -> None:
        try:
            _download_once(file, progress, stop, retry)
        except Exception as error:  # a broken connection, a wrong digest, a full disk: none may end a study
            problems[file.name] = _reason(error)

    # Daemons: a thread that waits for a dead server must not keep the process from ending.
    threads = [Thread(target=work, args=(file,), daemon=True) for file in files]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        raise
    return problems


def recently_failed(name: str) -> bool:
    """Return whether a download failed within the last hour."""
    try:
        _check_not_failed(_failure_file(name))
    except _Remembered:
        return True
    return False


def _failure_file(name: str) -> Path:
    return cache_folder() / "weights" / f"{name}.failed"


class _Remembered(Exception):
    """The download failed within the last hour."""


def _download_once(file: Download, progress: Progress, stop: Event, retry: bool) -> None:
    """Download a file unless it is there, or another process has just failed to."""
    folder = cache_folder() / "weights"
    failure = _failure_file(file.name)
    if not retry:
        _check_not_failed(failure)
    folder.mkdir(parents=True, exist_ok=True)
    file.target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{file.name}.lock")
    asked_at = time.time()
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        progress.say(f"{file.name}: waiting for another process that downloads it")
        lock.acquire()
    try:
        if file.target.is_file():
            return
        _check_not_failed(failure, since=asked_at if retry else 0.0)
        try:
            _download(file, progress, stop)
        except Exception as error:
            if not stop.is_set():
                with suppress(OSError), replacing(failure) as temporary:
                    temporary.write_text(_reason(error), encoding="utf-8")
            raise
        failure.unlink(missing_ok=True)
    finally:
        lock.release()


def _check_not_failed(failure: Path, since: float = 0.0) -> None:
    with suppress(OSError, ValueError):
        failed_at = failure.stat().st_mtime
        age_s = time.time() - failed_at
        if 0 <= age_s < RETRY_S and failed_at >= since:
            raise _Remembered(
                f"{failure.read_text(encoding='utf-8')} ({age_s / 60:.0f} min ago; not tried again within the hour, "
                "but by ablate weights --fetch at once)"
            )


def _download(file: Download, progress: Progress, stop: Event) -> None:
    part = file.target.with_name(f"{file.target.name}.part")
    resumed = _size(part) > 0
    start = time.monotonic()
    what = f"resuming at {_size(part) / MB:.1f} of" if resumed else "downloading"
    progress.say(f"{file.name}: {what} {file.megabytes} MB from {file.url}")
    with progress.task(f"download {file.name}", file.megabytes) as bar:
        _receive_all(file, part, bar, stop)
        if resumed and _sha256(part) != file.sha256:  # the part was of another file
            part.unlink()
            _receive_all(file, part, bar, stop)
    found = _sha256(part)
    if found != file.sha256:
        size = _size(part)
        part.unlink()
        raise OSError(
            f"{file.url} sent another file: {size:,} bytes with SHA-256 {found[:12]}..., expected {file.sha256[:12]}..."
        )
    part.replace(file.target)
    seconds = time.monotonic() - start
    progress.say(f"{file.name}: {_size(file.target) / MB:.1f} MB in {seconds:.0f} s, saved as {file.target}")


def _receive_all(file: Download, part: Path, bar: Task, stop: Event) -> None:
    """Receive a file, going on after a broken connection as long as more bytes arrive."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            return _receive(file.url, part, bar, stop)
        except (OSError, http.client.HTTPException) as error:
            if stop.is_set() or isinstance(error, _TooSlow) or attempt == ATTEMPTS or _size(part) <= before:
                raise


class _TooSlow(OSError):
    pass


def _receive(url: str, part: Path, bar: Task, stop: Event) -> None:
    """Append to a part what it lacks, or write it from the start if the server sends it all."""
    start = _size(part)
    try:
        response = _open(urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {}))
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send: the digest decides
            return
        raise
    going_on = start if response.status == 206 else 0
    length = response.headers.get("Content-Length")
    total = going_on + int(length) if length else None
    with response, part.open("ab" if going_on else "wb") as out:
        size, shown = going_on, 0
        pace_at, pace_size = time.monotonic(), size
        while chunk := response.read1(CHUNK):
            if stop.is_set():
                raise OSError("interrupted")
            out.write(chunk)
            out.flush()  # for the next process, should this one be killed
            size += len(chunk)
            if size // MB > shown:
                bar.advance(size // MB - shown)
                shown = size // MB
            waited_s = time.monotonic() - pace_at
            if waited_s > PACE_S:
                if size - pace_size < SLOWEST * waited_s:
                    rate = (size - pace_size) / waited_s / 1000
                    raise _TooSlow(f"{urlsplit(url).netloc} is too slow: {rate:.1f} kB/s")
                pace_at, pace_size = time.monotonic(), size
    if total is not None and size < total:
        raise OSError(f"{urlsplit(url).netloc} cut the file off after {size:,} of {total:,} bytes")


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Return a server's answer.

    Looking up a name can block for half a minute, whatever the timeout: a thread does it.
    """
    answers: SimpleQueue[http.client.HTTPResponse | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=STALL_S))
        except Exception as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    host = urlsplit(request.full_url).netloc
    try:
        answer = answers.get(timeout=ANSWER_S)
    except Empty:
        raise OSError(f"no network, or {host} does not answer within {ANSWER_S:g} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        raise answer
    if isinstance(answer, urllib.error.URLError):
        raise OSError(f"no network, or {host} cannot be reached ({_reason(answer.reason)})") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _reason(error: object) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.url}: HTTP {error.code} {error.reason}"
    if isinstance(error, TimeoutError):
        return f"no data for {STALL_S:g} s"
    return " ".join(str(error).split()) or type(error).__name__


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
