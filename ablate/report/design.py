"""Whether a study was planned (all seeds chosen before any result) or grown (seeds may have been added).

The tables `runs` and `plans` say which. A study is planned if all of its runs name one plan, the plan
was recorded before they started, and every run of the plan has ended. Everything else is grown:
seeds may have been added or left out, or a study stopped, because of what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.base.text import plural, read_json
from ablate.report.clean_rows import objects
from ablate.report.findings import Design
from ablate.stats import family
from ablate.store.schema import IMPORTED

ENDED = ("done", "diverged", "failed")


@dataclass(frozen=True)
class StudyDesign:
    """The design of a study.

    Attributes:
        word: Planned or grown.
        why: The reason, in a clause.
        least_tests: The tests of the study before runs were left out: judged and exploratory ones.
    """

    word: Design
    why: str
    least_tests: tuple[int, int] = (0, 0)

    def judge(self, differences: np.ndarray, margins: Sequence[float | None], least_tests: int = 0) -> family.Family:
        """Return the evidence by the test that this design allows.

        Args:
            differences: As in `ablate.stats.family.planned`.
            margins: The same.
            least_tests: Of a grown study: correct for at least so many tests.
        """
        if self.word == "planned":
            return family.planned(differences, margins)
        return family.grown(differences, margins, least_tests)


def planned_metrics(runs: pd.DataFrame, plans: pd.DataFrame | None) -> list[str]:
    """Return the metrics that every plan of these runs names; none if a run has no plan.

    Args:
        runs: Rows of `runs`.
        plans: The table of that name.
    """
    if plans is None or not len(runs) or runs["plan_id"].isna().any():
        return []
    mine = plans[plans["plan_id"].isin(runs["plan_id"])]
    lists = [read_json(text, list) for text in mine["metrics"]]
    named = [name for name in lists[0] if all(name in other for other in lists)] if lists else []
    return [name for name in named if isinstance(name, str)]


def design_of(runs: pd.DataFrame, plans: pd.DataFrame | None) -> StudyDesign:
    """Say how a study came about.

    Args:
        runs: Its rows of `runs`, finished or not, of the configurations that are judged.
        plans: The table of that name.
    """
    if len(runs) and (runs["preset"] == IMPORTED).all():
        return StudyDesign("grown", "a table does not say how its seeds were chosen")
    total, unnamed = len(runs), int(runs["plan_id"].isna().sum())
    if unnamed:
        return StudyDesign("grown", f"{_of(unnamed, total)} {'has' if unnamed == 1 else 'have'} no plan")
    names = runs["plan_id"].unique()
    if len(names) > 1:
        return StudyDesign("grown", f"its runs belong to {len(names)} plans")
    plan = plans[plans["plan_id"].isin(names)] if plans is not None else pd.DataFrame()
    if not len(plan):
        return StudyDesign("grown", "there is no record of its plan")
    row = plan.iloc[0]
    if "max_seeds" in plan and pd.notna(row["max_seeds"]):
        return StudyDesign("grown", "its seeds were added until decided, as planned")
    if (runs["started_at"].notna() & (runs["started_at"] < row["created_at"])).any():
        return StudyDesign("grown", "runs are older than their plan")
    seeds = [seed for seed in read_json(row["seeds"], list) if isinstance(seed, int)]
    variants = [(one.get("name"), one.get("config_hash")) for one in objects(row["variants"])]
    of_plan = {(name, config, seed) for name, config in variants for seed in seeds}
    ended = runs[runs["status"].isin(ENDED)]
    missing = of_plan - set(zip(ended["variant"], ended["config_hash"], ended["seed"], strict=True))
    if missing:
        return StudyDesign("grown", f"its plan is not finished: {_of(len(missing), len(of_plan))} are missing")
    return StudyDesign("planned", f"its {total:,} runs belong to one plan of {plural(len(seeds), 'seed')}")


def _of(n: int, total: int) -> str:
    return f"{n:,} of {total:,} runs"
