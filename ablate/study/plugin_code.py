"""The code of plug-ins: the file that registers now, its digest, and what it must not do while it is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablate.base.errors import PluginError
from ablate.base.text import one_line

_loading: list[Path] = []  # the file that registers now


@contextlib.contextmanager
def registering(path: Path) -> Iterator[None]:
    """Let what registers in the block belong to a file."""
    _loading.append(path)
    try:
        yield
    finally:
        _loading.pop()


@contextlib.contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Keep what a plug-in prints while it is loaded off stdout, where results go; refuse it in one line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    if printed.getvalue().strip():
        first = one_line(printed.getvalue())[:60]
        raise PluginError(
            f"{path}: it prints to stdout while it is loaded ({first!r}); remove the print, or use logging"
        )


def file_of(what: Any) -> Path | None:
    """Return the file that a class or function belongs to; None: it has none, as in a notebook."""
    if _loading:
        return _loading[-1]
    try:
        file = inspect.getsourcefile(what)
    except TypeError:
        return None
    return Path(file).resolve() if file and os.path.isfile(file) else None


def digest_of(what: Any) -> str:
    """Return the digest of the code that registers now; the whole file's replaces it once a file is loaded."""
    file = file_of(what)
    try:
        content = file.read_bytes() if file is not None else inspect.getsource(what).encode()
    except (OSError, TypeError):
        raise PluginError(f"{what!r}: its source cannot be read, so no run could say what code it used") from None
    return digest_of_files({file.name if file else "": content})


def digest_of_files(code: Mapping[str, bytes]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 digest of files: relative path -> content."""
    digest = hashlib.sha256()
    for name in sorted(code):
        content = code[name].replace(b"\r\n", b"\n")
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def source_of(what: Any) -> str:
    """Return the file of a plug-in for a message."""
    return one_line(file_of(what) or what.__module__)


def line_of(error: BaseException, path: Path) -> str:
    """Return the plug-in's file with the line that failed."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno
    return f"{path}:{line}" if line else str(path)
