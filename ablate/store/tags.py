"""Tags: short names that a user gives to runs. `runs.tags` lists those of a run with commas."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ablate.base.errors import ResultsError
from ablate.base.text import split_names
from ablate.store import tables


def check_tags(names: Collection[str]) -> None:
    """Refuse names that cannot be tags.

    Raises:
        ResultsError: A name has other characters than letters, digits, `.`, `_`, `+` and `-`.
    """
    for name in names:
        if not re.fullmatch(r"[\w.+-]{1,60}", name):
            raise ResultsError(f"tag {name!r}: allowed are up to 60 letters, digits, '.', '_', '+' and '-'")


def tag_runs(results: Path, run_ids: Collection[str], add: Collection[str] = (), remove: Collection[str] = ()) -> int:
    """Give tags to runs, or take them away, and return how many runs that changed.

    Args:
        results: The results folder.
        run_ids: The runs; those that have no row are ignored.
        add: Tags to give.
        remove: Tags to take away.

    Raises:
        ResultsError: A name cannot be a tag, or the table cannot be read or written.
    """
    check_tags([*add, *remove])
    with tables.lock(results):
        rows = tables.load(results, "runs")
        before = rows["tags"].to_pylist()
        after = [
            ",".join(name for name in dict.fromkeys([*split_names(tags), *add]) if name not in remove) or None
            if run_id in run_ids
            else tags
            for run_id, tags in zip(rows["run_id"].to_pylist(), before, strict=True)
        ]
        changed = sum(old != new for old, new in zip(before, after, strict=True))
        if changed:
            tables.put(results, {"runs": tables.set_tags(rows, after)})
    return changed
