"""Stale runs: finished ones that were computed by other code than the one that runs now."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from ablate.base.source_code import code_version
from ablate.base.text import printable
from ablate.store.code_versions import COLUMNS, Version, read_version, versions_of

SHOWN_VERSIONS = 2  # in a note


def stale_runs(runs: pd.DataFrame, code: Mapping[str, str] | None = None) -> dict[str, list[Version]]:
    """Return the versions of the code that differ from the one that runs now, for each stale run.

    A run whose row does not tell its code is stale too.

    Args:
        runs: The table `runs`.
        code: Name of a run -> the code that would run it now; None: ablate's own.
    """
    done = runs[runs["status"] == "done"]
    if code is not None:
        done = done[done["run_id"].isin(list(code))]
    columns = (done[name].astype(object).where(done[name].notna(), None) for name in COLUMNS)
    keys = list(zip(*columns, strict=True))
    now = [code_version() if code is None else code[run_id] for run_id in done["run_id"]]
    # Many rows repeat few versions.
    others = {
        (key, text): [version for version in versions_of(*key) if not version.is_code_of(read_version(text))]
        for key, text in set(zip(keys, now, strict=True))
    }
    named = zip(done["run_id"], keys, now, strict=True)
    return {run_id: others[key, text] for run_id, key, text in named if others[key, text]}


def stale_note(stale: Collection[list[Version]]) -> str:
    """Return one line on finished runs that are skipped though other code computed them."""
    names = list(dict.fromkeys(str(version) for versions in stale for version in versions))
    more = f" and {len(names) - SHOWN_VERSIONS} more versions" if len(names) > SHOWN_VERSIONS else ""
    code = printable(", ".join(names[:SHOWN_VERSIONS])) + more
    runs, them = ("1 finished run was", "it") if len(stale) == 1 else (f"{len(stale)} finished runs were", "them")
    return f"note: {runs} computed by other code ({code}): ablate run --stale makes {them} again"
