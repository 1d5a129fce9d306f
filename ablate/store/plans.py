"""Plans: what was to be run and judged, recorded before the first run starts.

A plan is named by its content, so the same command records it once, and a command that goes on with
an interrupted study finds it again. Plans are never changed or deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ablate.base.errors import ResultsError
from ablate.store import tables


@dataclass(frozen=True)
class Plan:
    """What is to be run and judged. Its parts are kept in one order, whatever order they were given in.

    Attributes:
        preset: The budget's name.
        data: The data set's name.
        data_digest: Its fingerprint.
        budget: `steps` or `macs`: what variants have in common with the baseline.
        variants: All of them, the baseline too; with the hash of each one's configuration.
        seeds: All of them.
        metrics: Metrics asked for by name; empty: the default headlines.
        level: Share of studies in which any claim may be false.
        max_seeds: Of a study that goes on until decided: how many of the seeds it may use; None: it
            uses all of them, whatever they say.
        tuning: How the setting of each variant was chosen, as `runs.tuned`; empty: it was not.
    """

    preset: str
    data: str
    data_digest: str
    budget: str
    variants: Sequence[tuple[str, str]]
    seeds: Sequence[int]
    metrics: Sequence[str]
    level: float
    max_seeds: int | None = None
    tuning: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("variants", "seeds", "metrics", "tuning"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    @property
    def plan_id(self) -> str:
        """The first 12 digits of the content's SHA-256 digest, without the data set's name."""
        parts = [self.preset, self.data_digest, self.budget, self.variants, self.seeds, self.metrics, self.level]
        if self.max_seeds is not None:
            parts.append(self.max_seeds)
        if self.tuning:
            parts.append(self.tuning)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def record(results: Path, plan: Plan, code: str) -> str:
    """Write a plan into the results folder, unless it is there, and return its name.

    Args:
        results: The results folder; created if it is missing.
        plan: What is to be run and judged.
        code: The version of the code that will run it, as `runs.code` has it.

    Raises:
        ResultsError: The folder or the table cannot be read or written.
    """
    if plan.plan_id not in set(tables.read(results, "plans")["plan_id"]):
        row = {
            "plan_id": plan.plan_id,
            "preset": plan.preset,
            "data": plan.data,
            "data_digest": plan.data_digest,
            "budget": plan.budget,
            "variants": json.dumps([{"name": name, "config_hash": config} for name, config in plan.variants]),
            "seeds": json.dumps(plan.seeds),
            "metrics": json.dumps(plan.metrics),
            "level": plan.level,
            "max_seeds": plan.max_seeds,
            "tuning": f"[{', '.join(plan.tuning)}]" if plan.tuning else None,
            "code": code,
            "created_at": datetime.now(UTC),
        }
        try:
            tables.append(results, {"plans": [row]}, replace=False)
        except ResultsError:
            # Another process may have recorded the same plan in between.
            if plan.plan_id not in set(tables.read(results, "plans")["plan_id"]):
                raise
    return plan.plan_id


def recorded_plans(results: Path) -> dict[str, Plan]:
    """Return the plans of a results folder by name, the newest last. Plans that cannot be parsed are left out.

    Raises:
        ResultsError: The table cannot be read.
    """
    recorded = tables.read(results, "plans").sort_values("created_at", na_position="first", kind="stable")
    found = {}
    for row in tables.to_records(recorded):
        with suppress(ValueError, TypeError, KeyError):  # a table may come from elsewhere
            found[str(row["plan_id"])] = Plan(
                preset=str(row["preset"]),
                data=str(row["data"]),
                data_digest=str(row["data_digest"]),
                budget=str(row["budget"]),
                variants=tuple((str(one["name"]), str(one["config_hash"])) for one in json.loads(row["variants"])),
                seeds=tuple(map(int, json.loads(row["seeds"]))),
                metrics=tuple(map(str, json.loads(row["metrics"]))),
                level=float(row["level"]),
                max_seeds=row["max_seeds"],
            )
    return found


def planned_names(results: Path) -> list[tuple[str, str, str]]:
    """Return the variant, preset and data of all runs that are planned in a results folder.

    Raises:
        ResultsError: The table cannot be read.
    """
    plans = recorded_plans(results).values()
    return list(dict.fromkeys((name, plan.preset, plan.data) for plan in plans for name, _ in plan.variants))
