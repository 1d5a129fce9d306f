"""Metrics that a program or a table recorded are judged like those that ablate measured."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from rich.console import Console
from synthetic import Rows, findings_of

from ablate.base.errors import ResultsError
from ablate.report import gate, pair_report
from ablate.report.builder import read
from ablate.report.findings import Findings
from ablate.report.render import terminal
from ablate.report.render.html import to_html
from ablate.report.render.latex import to_latex
from ablate.report.render.markdown import to_markdown
from ablate.report.selection import Choice

METRICS = {"acc": ("%", "higher", 2.0), "steps": (None, "lower", -3.0)}  # name -> unit, better, effect of each change


def rows(variants: tuple[str, ...] = ("baseline", "big", "wide"), seeds: int = 9, **columns: Any) -> Rows:
    """Return runs that recorded two metrics; one of them has the name of a column of `runs`."""
    draw, made = np.random.default_rng(0), Rows()
    for i, variant in enumerate(variants):
        for seed in range(seeds):
            run = f"{variant}-tiny-s{seed}"
            made.setdefault("runs", []).append(
                {"run_id": run, "variant": variant, "preset": "tiny", "seed": seed, "status": "done"} | columns
            )
            for name, (unit, better, effect) in METRICS.items():
                value = 90 + i * effect + draw.normal(0, 0.3)
                row = {"run_id": run, "metric": name, "value": value, "unit": unit, "better": better}
                made.setdefault("metrics", []).append(row)
    return made


def rich(report: Findings) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(terminal.render(report, full=True))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_all_recorded_metrics_are_the_headline_metrics_of_runs_without_others() -> None:
    found = findings_of(rows())
    assert found.compared.headline == ("acc", "steps")
    assert found.compared.tests == 4
    assert {(one.label, one.metric): one.verdict for one in found.comparisons} == {
        (label, metric): "helps" for label in ("big", "wide") for metric in METRICS
    }
    assert not any(one.exploratory for one in found.comparisons)
    assert [(one.unit, one.higher_is_better, one.recorded) for one in found.metrics] == [
        ("%", True, True),
        (None, False, True),
    ]


def test_what_is_shown_does_not_change_the_family() -> None:
    one, both = findings_of(rows(), metrics=("acc",)), findings_of(rows())
    assert one.compared.tests == both.compared.tests
    assert one.comparisons == tuple(c for c in both.comparisons if c.metric == "acc")


@pytest.mark.slow
def test_every_form_names_the_unit_and_has_no_column_that_no_run_filled(tmp_path: Path) -> None:
    synthetic.save(tmp_path, rows())
    found = findings_of(rows())
    text = rich(found)
    assert "2 make acc better" in text
    assert "acc, %, higher is better" in text
    page = re.sub("<script.*?</script>", "", to_html(found, tmp_path), flags=re.DOTALL)
    for form in (text, to_markdown(found), page, to_latex(found)):
        for absent in ("MACs", "ms/step", "equal", "the images", "unknown"):
            assert absent not in form, absent
    assert "axis" not in text
    assert "difference in acc, %" in page
    assert "fingerprint" not in page
    assert "Schreiner" not in page
    assert "Inside the model" not in page


def test_recorded_metrics_beside_headline_metrics_are_shown_on_request() -> None:
    study = synthetic.rows({"baseline": 0.0, "no_drift": 5.0}, range(6))
    study["metrics"] = [
        {"run_id": run["run_id"], "metric": "acc", "value": float(run["seed"]), "better": "higher"}
        for run in study["runs"]
    ]
    assert findings_of(study).compared.headline == ("fd", "pd")
    asked = findings_of(study, metrics=("acc",))
    assert asked.compared.tests == 2
    assert asked.comparisons[0].exploratory
    planned = findings_of(synthetic.planned(study, ["fd", "pd", "acc"]))
    assert planned.compared.headline == ("fd", "pd", "acc")
    assert "makes the images worse" in rich(planned)


def test_gate_and_compare_know_recorded_metrics(tmp_path: Path) -> None:
    frames = read(synthetic.save(tmp_path, rows()))
    outcome = gate.gate(frames, "acc", gate.parse_tolerance("1"), Choice())
    assert [one.verdict for one in outcome.variants] == ["passed", "passed"]
    assert gate.gate(frames, "acc", gate.parse_tolerance("1"), Choice(against="wide")).failed
    pair, _ = pair_report.compare(frames, tmp_path, "big", "wide", Choice())
    assert {one.metric: one.verdict for one in pair.comparisons} == {"acc": "helps", "steps": "helps"}


@pytest.mark.parametrize(
    ("change", "choice", "message"),
    [
        ({"better": "lower"}, {}, "metric acc: its runs need one value of metrics.better and have 'lower'"),
        ({"unit": "1"}, {}, "metric acc: its runs need one value of metrics.unit and have '1'"),
        ({}, {"metrics": ("accc",)}, "did you mean acc"),
        ({}, {"metrics": ("fd",)}, "Measured: acc, steps"),
    ],
)
def test_rows_that_disagree_and_unknown_names_are_refused(
    change: dict[str, str], choice: dict[str, Any], message: str
) -> None:
    made = rows()
    made["metrics"][0] |= change
    with pytest.raises(ResultsError) as error:
        findings_of(made, **choice)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_metric_that_some_runs_lack_is_not_judged_beside_those_that_all_have() -> None:
    made = rows()
    made["metrics"][0]["value"] = None
    found = findings_of(made)
    assert found.compared.headline == ("steps",)
    assert "not judged: acc (1 of 27 runs lack it); --metric shows it" in found.notes
    made["metrics"] = [row for row in made["metrics"] if row["metric"] == "acc"]
    assert findings_of(made).compared.headline == ("acc",)


def test_many_recorded_metrics_need_a_choice() -> None:
    made = rows()
    made["metrics"] += [
        {"run_id": run["run_id"], "metric": f"m{i}", "value": float(run["seed"]), "better": "lower"}
        for run in made["runs"]
        for i in range(9)
    ]
    with pytest.raises(ResultsError, match="recorded 11 metrics, and no plan says which count: acc, m0"):
        findings_of(made)
    assert findings_of(made, metrics=("acc", "m3")).compared.tests == 4


def test_a_diverged_run_counts_against_its_variant() -> None:
    made = rows()
    lost = made["runs"][9]
    lost["status"] = "diverged"
    made["metrics"] = [row for row in made["metrics"] if row["run_id"] != lost["run_id"]]
    verdicts = {one.label: one.verdict for one in findings_of(made).comparisons if one.metric == "acc"}
    assert verdicts == {"big": "undecided", "wide": "helps"}


def test_imported_runs_are_compared_with_the_baseline_that_they_name() -> None:
    made = rows(("base", "big"), preset="imported", data="scores.csv", baseline="base")
    found = findings_of(made)
    assert found.compared.against == "base"
    assert not any(one.exploratory for one in found.comparisons)
    assert rich(found).startswith("scores.csv: variants 2, runs 18")
