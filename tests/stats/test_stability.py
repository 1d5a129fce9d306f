"""Unstable trainings: by hand, and in the shipped studies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.stats.stability import first_jump

STUDIES = Path(__file__).parents[2] / "results/studies"


def test_a_jump_after_warm_up_is_found() -> None:
    norms = [50.0, 20.0, *np.linspace(2, 1, 10), 15.1, 1.0]
    steps = list(range(10, 10 * len(norms) + 10, 10))
    assert first_jump(steps, norms, warmup=20) == 130
    assert first_jump(steps, [*norms[:12], 14.9, 1.0], warmup=20) is None
    assert first_jump(steps, [*norms[:12], float("nan"), 1.0], warmup=20) == 130


def test_too_short_a_history_is_not_judged() -> None:
    assert first_jump([10, 20, 30], [1.0, 1.0, 100.0], warmup=0) is None
    assert first_jump([], [], warmup=0) is None


@pytest.mark.parametrize(
    ("study", "unstable"),
    [
        ("quick_cats", {"l1_normalized s3", "l1_normalized s4", "l1_normalized s6", "v_pred s6"}),
        ("quick_real_cats", {"v_pred s0"}),
    ],
)
def test_the_unstable_runs_of_the_shipped_studies(study: str, unstable: set[str]) -> None:
    runs = pd.read_parquet(STUDIES / study / "runs.parquet")
    curves = dict(list(pd.read_parquet(STUDIES / study / "curves.parquet").sort_values("step").groupby("run_id")))
    found = set()
    for row in runs.to_dict("records"):
        curve, warmup = curves[row["run_id"]], json.loads(row["config"])["train"]["warmup"]
        if first_jump(curve["step"].tolist(), curve["grad_norm"].tolist(), warmup) is not None:
            found.add(f"{row['variant']} s{row['seed']}")
    assert found == unstable
