"""Scores as rows of a results folder: the tables `runs` and `metrics`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.base.errors import ResultsError
from ablate.scores.reading import Scores
from ablate.store import tables
from ablate.store.schema import IMPORTED

Rows = dict[str, list[dict[str, Any]]]


def to_rows(scores: Scores) -> Rows:
    """Return the rows of the tables `runs` and `metrics`.

    A run's name depends on the table's name, the variant and the seed alone.
    """
    rows: Rows = {"runs": [], "metrics": []}
    for run in scores.runs:
        key = f"{scores.name}/{run.variant}/{run.seed}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        run_id = f"{_safe(run.variant)[:80]}-{IMPORTED}-{_safe(scores.name)[:40]}-s{run.seed}-{digest}"
        rows["runs"].append(
            {
                "run_id": run_id,
                "variant": run.variant,
                "preset": IMPORTED,
                "seed": run.seed,
                "status": run.status,
                "data": scores.name,
                "about": "",
                "claims": "[]",
                "baseline": scores.against,
            }
        )
        rows["metrics"] += [
            {"run_id": run_id, "metric": name, "value": value, "unit": scores.units.get(name), "better": better}
            for name, better in scores.better.items()
            if (value := run.scores.get(name)) is not None
        ]
    return rows


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text).lstrip(".-") or "_"


def import_scores(scores: Scores, folder: Path, *, force: bool = False) -> tuple[int, int]:
    """Write scores into a results folder. What it holds already is not written again.

    Args:
        scores: The scores.
        folder: The results folder; created if it is missing.
        force: Replace other values of the same runs.

    Returns:
        How many runs the table has, and how many of them were written.

    Raises:
        ResultsError: The folder holds other values of a run, or cannot be written.
    """
    rows = to_rows(scores)
    old = {table: tables.read(folder, table) for table in ("runs", "metrics")}
    known = {row["run_id"]: row for row in tables.to_records(old["runs"])}
    recorded: dict[str, dict[str, dict[str, Any]]] = {}
    for row in tables.to_records(old["metrics"]):
        recorded.setdefault(row["run_id"], {})[row["metric"]] = row
    new: Rows = {"runs": [], "metrics": []}
    by_run: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows["metrics"]:
        by_run.setdefault(row["run_id"], {})[row["metric"]] = row
    for run in rows["runs"]:
        run_id, mine, theirs = run["run_id"], by_run.get(run["run_id"], {}), recorded.get(run["run_id"], {})
        before = known.get(run_id, {})
        if before and not force:
            _check_same(scores, folder, run, before, mine, theirs)
        merged = theirs | mine
        if merged != theirs or any(before.get(name) != value for name, value in run.items()):
            new["runs"].append(run)
            new["metrics"] += merged.values()
    if new["runs"]:
        tables.append(folder, new)
    return len(rows["runs"]), len(new["runs"])


def _check_same(
    scores: Scores,
    folder: Path,
    run: Mapping[str, Any],
    before: Mapping[str, Any],
    mine: Mapping[str, Mapping[str, Any]],
    theirs: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse values other than those that the folder holds of a run."""
    pairs = [(name, theirs[name][part], row[part]) for name, row in mine.items() if name in theirs for part in row]
    pairs += [(name, before.get(name), run[name]) for name in ("status", "baseline")]
    for name, old, now in pairs:
        if old != now:
            raise ResultsError(
                f"{scores.name}: {folder} holds {run['variant']}, seed {run['seed']}, with {name} {old}, not {now}; "
                "--force replaces it, or import under another file name"
            )
