"""Curves over training steps and network evaluations: what is compared, and that it is never judged."""

from __future__ import annotations

import json
from typing import Any

import synthetic
from synthetic import Rows, frames

from ablate.report.builder import build
from ablate.report.render.curve_tables import curve_table
from ablate.report.selection import Choice

EFFECTS = {"baseline": 0.0, "no_drift": 8.0}  # worse with all steps
SEEDS = range(6)


def study() -> Rows:
    return synthetic.planned(synthetic.rows(EFFECTS, SEEDS))


def with_steps(made: Rows, steps: int, effect: float) -> Rows:
    """Add runs of all variants and seeds with other steps, in which `no_drift` differs by an effect."""
    extra = []
    for run in made["runs"]:
        config = json.loads(run["config"])
        config["train"]["steps"] = steps
        fd = 200 + run["seed"] + (effect + run["seed"] / 10 if run["variant"] == "no_drift" else 0.0)
        name = f"{run['variant']}[train.steps={steps}]"
        row = run | {"run_id": f"{run['run_id']}-{steps}", "variant": name, "config": json.dumps(config), "fd": fd}
        extra.append(row | {"config_hash": name, "steps": steps, "purpose": "curve", "plan_id": None})
    return made | {"runs": [*made["runs"], *extra]}


def with_evaluations(made: Rows, **columns: Any) -> Rows:
    rows = [
        {"run_id": run["run_id"], "solver": "heun", "nfe": nfe, "n": 512, "ref_n": 2048, "fd": run["fd"] + 10} | columns
        for run in made["runs"]
        for nfe in (3, 31)
    ]
    return made | {"sampling": rows}


def test_points_of_curves_are_never_judged() -> None:
    plain, more = build(frames(study())), build(frames(with_evaluations(with_steps(study(), 500, -9.0))))
    assert more.comparisons == plain.comparisons
    assert more.compared == plain.compared
    assert not plain.curves


def test_a_ranking_that_turns_round_is_noted() -> None:
    found = build(frames(with_steps(study(), 500, -9.0)))
    curve = next(one for one in found.curves if one.metric == "fd")
    assert [line.label for line in curve.lines] == ["baseline", "no_drift"]
    first, last = curve.lines[1].points
    assert (first.x, last.x) == (500, 1500)
    assert first.difference is not None
    assert first.difference.mean is not None
    assert round(first.difference.mean, 6) == -8.75
    assert last.difference == next(row for row in found.rows if row.label == "no_drift").differences["fd"]  # type: ignore
    assert (
        "the ranking turns round: in fd no_drift is better than baseline at 500 training steps and worse at 1,500"
        in (found.notes)
    )
    assert len(curve_table(curve).lines) == 4
    assert not [note for note in build(frames(with_steps(study(), 500, 9.0))).notes if "turns round" in note]


def test_runs_of_another_configuration_are_no_points_of_a_curve() -> None:
    made = with_steps(study(), 500, -9.0)
    for run in made["runs"]:
        if run.get("purpose"):
            config = json.loads(run["config"])
            config["train"]["lr"] = 0.5
            run["config"] = json.dumps(config)
    assert not build(frames(made)).curves


def test_evaluations_are_compared_at_the_same_number_of_images() -> None:
    (curve,) = build(frames(with_evaluations(study()))).curves
    assert [(curve.kind, point.x) for point in curve.lines[1].points] == [("nfe", 3), ("nfe", 15), ("nfe", 31)]
    differences = [point.difference for point in curve.lines[1].points]
    assert differences[0] is not None
    assert differences[1] is not None
    assert differences[0].mean == differences[1].mean
    assert not build(frames(with_evaluations(study(), n=64))).curves


def test_the_metric_precision_is_not_the_column_of_that_name() -> None:
    made = with_steps(study(), 500, -9.0)
    found = build(frames(made), Choice(metrics=("precision",)))
    assert found.metrics[0].name == "precision"
    assert not found.curves
