"""Which code runs: the git commit, changes since, and a digest of the sources."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def git_state() -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the checkout this package runs from; (None, None) outside one."""
    folder = PACKAGE.parent
    if not (folder / ".git").exists():
        return None, None

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
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
