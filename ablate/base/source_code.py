"""Which code runs, ablate's or a user's program: the git commit, changes since, a digest of the sources."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
MAX_FILES = 200  # beside a file of a command
MAX_BYTES = 2**20  # of such a file


def git_state() -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the checkout this package runs from; (None, None) outside one."""
    folder = PACKAGE.parent
    if not (folder / ".git").exists():
        return None, None

    try:
        return _git(folder, "rev-parse", "HEAD"), bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


@cache
def code_version() -> str:
    """Return which code runs, as JSON: git commit, whether it has changes, and a digest of the package's sources.

    Equal digests mean equal code, in a checkout and in an installed package alike.
    """
    commit, dirty = git_state()
    total = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        total.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes())
    return json.dumps({"commit": commit, "dirty": dirty, "source": total.hexdigest()[:16]}, sort_keys=True)


def code_of_command(folder: Path, command: Sequence[str]) -> str:
    """Return which code a command runs, as JSON like `code_version`.

    In a git repository the digest is of the folder's tracked files. Everywhere it is also of the
    files that the command names, and of those beside them with the same suffix, if git does not
    track them.

    Args:
        folder: Where the command runs.
        command: Its words.
    """
    commit, dirty, tracked, total = None, None, set[str](), hashlib.sha256()
    with suppress(OSError, subprocess.SubprocessError):
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no", "--", "."))
        tree, changes = _git(folder, "rev-parse", "HEAD:./"), _git(folder, "diff", "HEAD", "--", ".")
        total.update(f"{tree}\0{changes}".encode())
        tracked = set(_git(folder, "ls-files").splitlines())
    for path in _files_of(folder, command):
        name = os.path.relpath(path, folder)
        if name not in tracked:
            with suppress(OSError):
                total.update(f"{name}\0".encode() + path.read_bytes())
    return json.dumps({"commit": commit, "dirty": dirty, "source": total.hexdigest()[:16]}, sort_keys=True)


def _files_of(folder: Path, command: Sequence[str]) -> list[Path]:
    """Return the small files that a command names, and those beside them with the same suffix."""
    files: set[Path] = set()
    for word in command:
        path = folder / word
        with suppress(OSError, ValueError):
            if "{" not in word and "/" not in word[:1] and path.is_file() and path.suffix:
                files |= {path, *sorted(path.parent.glob(f"*{path.suffix}"))[:MAX_FILES]}
    return sorted(path for path in files if path.is_file() and path.stat().st_size < MAX_BYTES)


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, errors="replace", timeout=10, check=True
    )
    return done.stdout.strip()
