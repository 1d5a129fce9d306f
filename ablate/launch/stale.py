"""Stale runs: finished ones that were computed by other code than the one that runs now."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from ablate.base.source_code import code_version
from ablate.base.text import printable
from ablate.store.code_versions import COLUMNS, Version, read_version, versions_of

SHOWN_VERSIONS = 2  # in a note


def stale_runs(runs: pd.DataFrame) -> dict[str, list[Version]]:
    """Return the versions of the code that differ from the one that runs now, for each stale run.

    A run whose row does not tell its code is stale too.

    Args:
        runs: The table `runs`.
    """
    now, done = read_version(code_version()), runs[runs["status"] == "done"]
    columns = (done[name].astype(object).where(done[name].notna(), None) for name in COLUMNS)
    keys = list(zip(*columns, strict=True))
    # Many rows repeat few versions.
    others = {key: [version for version in versions_of(*key) if not version.is_code_of(now)] for key in set(keys)}
    return {run_id: others[key] for run_id, key in zip(done["run_id"], keys, strict=True) if others[key]}


def stale_note(stale: Collection[list[Version]]) -> str:
    """Return one line on finished runs that are skipped though other code computed them."""
    names = list(dict.fromkeys(str(version) for versions in stale for version in versions))
    more = f" and {len(names) - SHOWN_VERSIONS} more versions" if len(names) > SHOWN_VERSIONS else ""
    code = printable(", ".join(names[:SHOWN_VERSIONS])) + more
    runs, them = ("1 finished run was", "it") if len(stale) == 1 else (f"{len(stale)} finished runs were", "them")
    return f"note: {runs} computed by other code ({code}): ablate run --stale makes {them} again"
