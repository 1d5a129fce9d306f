"""The runs of a results folder: `ablate ls` as a table or documents."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from ablate.base.text import duration, plural, printable, split_names
from ablate.report.render.text_table import TextTable
from ablate.store.code_versions import Version, versions_of
from ablate.store.tables import to_records

DAY_S = 86_400


def run_table(runs: pd.DataFrame) -> TextTable:
    """Return the runs of `ablate.launch.run_list.list_runs` as a table."""
    heads = ("run", "status", "variant", "preset", "data", "seed", "age", "code", "tags")
    lines = []
    for row in _documents(runs):
        code = ", ".join(map(_short, versions_of(row["code"], row["git_commit"], row["git_dirty"])))
        cells = (row["run_id"], row["status"], row["variant"], row["preset"], row["data"], row["seed"])
        shown = (*cells, _age(row["age_s"]), code, row["tags"])
        lines.append(tuple("-" if cell is None else printable(cell) for cell in shown))
    left = tuple(place for place, head in enumerate(heads) if head not in ("seed", "age"))
    return TextTable("", heads, tuple(lines), left, drop=(2, 3, 4, 7, 5))


def run_documents(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the runs as `ablate ls --json` lists them."""
    names = ("run_id", "status", "variant", "preset", "data", "data_digest", "seed", "age_s", "owner", "error")
    return [
        {name: row[name] for name in names}
        | {"code": list(map(str, versions_of(row["code"], row["git_commit"], row["git_dirty"])))}
        | {"tags": list(split_names(row["tags"]))}
        for row in _documents(runs)
    ]


def summary(runs: pd.DataFrame) -> str:
    """Return how many runs there are, by status."""
    counts = Counter(runs["status"])
    listed = ", ".join(f"{n:,} {status}" for status, n in counts.most_common())
    return plural(len(runs), "run") + (f": {listed}" if listed else "")


def _documents(runs: pd.DataFrame) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    rows = to_records(runs)
    for row in rows:
        row["age_s"] = None if row["since"] is None else max(0.0, (now - row["since"]).total_seconds())
    return rows


def _age(seconds: float | None) -> str | None:
    if seconds is None or seconds < 2 * DAY_S:
        return None if seconds is None else duration(seconds)
    return f"{seconds / DAY_S:.0f} days"


def _short(version: Version) -> str:
    """Return a version in a few letters: its commit, and `+` if its sources had changes."""
    changed = "+" if version.dirty or not version.commit else ""
    return (version.commit or version.source or "unknown")[:8] + (changed if version.commit or version.source else "")
