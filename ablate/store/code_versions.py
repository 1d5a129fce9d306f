"""Which code computed a run, as its row in `runs` tells.

code          a JSON list with each version that computed a part of the run, also before an
              interruption: git commit, whether there were changes, digest of the sources
git_commit, git_dirty    the version at the run's start, all that older rows have
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NamedTuple

import pandas as pd

COLUMNS = ("code", "git_commit", "git_dirty")


class Version(NamedTuple):
    """One version of the code. `source` None: a row that is older than the digest of the sources."""

    commit: str | None
    dirty: bool
    source: str | None

    def __str__(self) -> str:
        """Write it as `commit 1a2b3c4d with changes 5e6f7a8b`; equal texts mean equal sources, as far as is known."""
        if self == Version(None, False, None):
            return "an unrecorded version"
        text = f"commit {self.commit[:8]}" if self.commit else "no commit"
        changed = self.dirty or not self.commit
        return text + (f" with changes {(self.source or '')[:8]}".rstrip() if changed else "")

    def is_code_of(self, other: Version) -> bool:
        """Return whether both are the same sources: equal digests, or else one commit without changes."""
        if self.source is not None and other.source is not None:
            return self.source == other.source
        return self.commit is not None and self.commit == other.commit and not self.dirty and not other.dirty


def read_version(recorded: Any) -> Version:
    """Return the version in an object of `runs.code`, or what `ablate.base.source_code.code_version` wrote as JSON."""
    one = json.loads(recorded) if isinstance(recorded, str) else recorded
    return Version(_text(one["commit"]), bool(one["dirty"]), _text(one["source"]))


def versions_of(code: Any, commit: Any, dirty: Any) -> list[Version]:
    """Return the versions that computed a run, oldest first; at least one.

    Args:
        code: Its column `code`. A null or foreign value counts as missing.
        commit: Its column `git_commit`.
        dirty: Its column `git_dirty`.
    """
    # A table may come from elsewhere.
    with suppress(ValueError, LookupError, AttributeError, TypeError, RecursionError):
        versions = [read_version(one) for one in json.loads(str(code))]
        if versions:
            return versions
    return [Version(_text(commit), not pd.isna(dirty) and bool(dirty), None)]


def _text(value: Any) -> str | None:
    return None if pd.isna(value) or not value else str(value)
