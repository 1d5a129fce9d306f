"""Plans are recorded once, whoever asks, and never change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.base.errors import ResultsError
from ablate.store import plans, tables

PLAN = plans.Plan(
    preset="smoke",
    data="cats",
    data_digest="d" * 64,
    budget="steps",
    variants=[("no_drift", "b"), ("baseline", "a")],
    seeds=[1, 0],
    metrics=[],
    level=0.05,
)


def test_the_same_plan_is_one_row(tmp_path: Path) -> None:
    assert plans.record(tmp_path, PLAN, "code A") == PLAN.plan_id
    first = tables.read(tmp_path, "plans")
    assert plans.record(tmp_path, PLAN, "code B") == PLAN.plan_id
    again = tables.read(tmp_path, "plans")
    assert again.equals(first)
    assert first["seeds"].item() == "[0, 1]"
    assert first["code"].item() == "code A"


def test_the_order_of_its_parts_does_not_name_a_plan() -> None:
    kept = {name: getattr(PLAN, name) for name in ("preset", "data", "data_digest", "budget", "metrics", "level")}
    same = plans.Plan(variants=PLAN.variants[::-1], seeds=(0, 1, 1), **kept)
    assert same.plan_id == PLAN.plan_id
    assert replace(PLAN, data="other name").plan_id == PLAN.plan_id
    changes = ({"seeds": (0, 1, 2)}, {"metrics": ("fid",)}, {"preset": "quick"}, {"max_seeds": 2})
    for change in changes:
        assert replace(PLAN, **change).plan_id != PLAN.plan_id


def test_a_fixed_plan_keeps_its_name() -> None:
    """Rows of earlier runs name it."""
    assert PLAN.plan_id == "de3dd8b42fb4"
    assert replace(PLAN, max_seeds=None) == PLAN


def test_many_processes_record_one_plan(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: plans.record(tmp_path, PLAN, "code"), range(8)))) == 1
    assert len(tables.read(tmp_path, "plans")) == 1


def test_plans_and_runs_are_replaced_apart(tmp_path: Path) -> None:
    plans.record(tmp_path, PLAN, "code")
    row = {"run_id": PLAN.plan_id, "variant": "v", "preset": "smoke", "seed": 0, "status": "done"}
    tables.append(tmp_path, {"runs": [row]})
    tables.append(tmp_path, {"runs": [row | {"status": "failed"}]})
    assert len(tables.read(tmp_path, "plans")) == 1
    assert tables.read(tmp_path, "runs")["status"].to_list() == ["failed"]


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="is a file"):
        plans.record(tmp_path / "file", PLAN, "code")
