"""Runs that are left out by `--where` and `--without-seed`: said in every form, never judged as planned, never a smaller family."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import synthetic
from command import ablate
from synthetic import findings_of, frames, planned

from ablate.base.errors import ResultsError
from ablate.report import gate
from ablate.report.builder import build
from ablate.report.selection import Choice
from ablate.stats import family

TRUTH = {"baseline": 0.0, "no_drift": 4.0, "direct": -1.0, "no_skip": 0.0}
STUDY = planned(synthetic.rows(TRUTH, range(10)))


def adjusted(**choice: Any) -> dict[tuple[str, str], float]:
    return {(one.label, one.metric): one.adjusted or 0.0 for one in findings_of(STUDY, **choice).comparisons}


def test_a_seed_left_out_makes_a_planned_study_grown() -> None:
    whole = findings_of(STUDY).compared
    assert (whole.design, whole.left_out) == ("planned", 0)
    found = findings_of(STUDY, without_seeds=(3,))
    assert found.compared.design == "grown"
    assert found.compared.why_design == "4 of its 40 runs are left out by --without-seed 3"
    assert (found.compared.without_seeds, found.compared.left_out) == ((3,), 4)
    assert found.compared.tests == whole.tests
    assert {seed for row in found.rows for seed in row.seeds} == {0, 1, 2, *range(4, 10)}


@pytest.mark.parametrize("where", ["variant == 'no_drift'", "variant in ('no_drift', 'direct') and seed < 9"])
def test_variants_left_out_still_count_as_tests(where: str) -> None:
    found = findings_of(STUDY, where=where)
    assert found.compared.tests == findings_of(STUDY).compared.tests == 6
    assert found.compared.design == "grown"


@pytest.mark.slow
def test_leaving_out_comparisons_never_makes_the_others_easier() -> None:
    where = "variant in ('no_drift', 'direct') and seed < 9"
    for metrics in ((), ("psnr_db",)):
        few, every = adjusted(where=where, metrics=metrics), adjusted(without_seeds=(9,), metrics=metrics)
        assert few["no_drift", "psnr_db" if metrics else "fd"] < every["no_drift", "psnr_db" if metrics else "fd"]
        assert all(few[key] <= every[key] for key in few)


def test_padding_is_the_most_that_a_left_out_test_could_cost() -> None:
    import numpy as np

    columns = np.random.default_rng(0).normal(3, 1, (9, 2))
    alone, padded = family.grown(columns, [None, 1.0]), family.grown(columns, [None, 1.0], least_tests=7)
    assert (alone.tests, padded.tests) == (3, 7)
    for one, other in zip(alone.evidence, padded.evidence, strict=True):
        assert other.difference == pytest.approx(min(one.alone / 5, one.difference * 3 / 7), rel=0.5)
        assert other.difference < one.difference
    assert padded.least_seeds >= alone.least_seeds


def test_the_baseline_stays_at_the_seeds_that_stay() -> None:
    found = findings_of(STUDY, where="variant == 'no_drift' and seed < 7")
    assert [(row.label, row.seeds) for row in found.rows] == [(v, tuple(range(7))) for v in ("baseline", "no_drift")]
    found = findings_of(STUDY, where="variant == 'no_drift' and seed < 7", against="direct")
    assert [row.label for row in found.rows] == ["direct", "no_drift"]


def test_runs_of_another_preset_are_no_part_of_the_study() -> None:
    other = synthetic.rows({"baseline": 0.0}, [0], preset="smoke")
    for rows in other.values():
        for row in rows:
            row["run_id"] += "x"
    with pytest.raises(ResultsError, match="presets that do not compare"):
        findings_of(STUDY, other)
    found = findings_of(STUDY, other, where="preset == 'quick'")
    assert (found.compared.design, found.compared.left_out) == ("planned", 0)


@pytest.mark.slow
def test_every_form_says_so(tmp_path: Path) -> None:
    synthetic.save(tmp_path / "results", planned(synthetic.rows({"baseline": 0.0, "no_drift": 4.0}, range(6))))
    words = ("report", "--without-seed", "3", "--without-seed", "4", "--where", "variant != 'no_skip' and seed > 0")
    filters = "--where \"variant != 'no_skip' and seed > 0\" --without-seed 3 --without-seed 4"
    for name in ("r.md", "r.html", "r.json", "r.tex"):
        done = ablate(*words, "-o", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        text = re.sub(r"\\(.)", r"\1", html.unescape((tmp_path / name).read_text()))
        assert f"left out, not judged: 6 runs of this study, by {filters}" in text, name
        if name != "r.tex":
            assert f"Grown: 6 of its 12 runs are left out by {filters}" in text or name == "r.json", name
    assert "Left out: 6 runs (seed 3, seed 4, all but " in (tmp_path / "r.tex").read_text().partition("caption")[2]
    document = json.loads((tmp_path / "r.json").read_text())["compared"]
    assert document["why_design"] == f"6 of its 12 runs are left out by {filters}"
    assert [document["without_seeds"], document["left_out"]] == [[3, 4], 6]
    assert filters in " ".join(ablate(*words, cwd=tmp_path).stdout.split())


def test_compare_leaves_out_the_same(tmp_path: Path) -> None:
    synthetic.save(tmp_path / "results", STUDY)
    words = ("compare", "baseline", "no_drift", "--json", "--where", "seed < 7 and variant == 'no_drift'")
    document = json.loads(ablate(*words, "--without-seed", "2", cwd=tmp_path).stdout)
    assert [pair["seed"] for pair in document["pairs"]] == [0, 1, 3, 4, 5, 6]
    found = findings_of(STUDY, where="seed < 7 and variant == 'no_drift'", without_seeds=(2,))
    evidence = {one.metric: one.adjusted for one in found.comparisons}
    assert {one["metric"]: one["adjusted"] for one in document["comparisons"]} == evidence
    done = ablate("compare", "baseline", "no_drift", "--where", "variant == 'direct'", cwd=tmp_path)
    assert done.stderr == ("error: compare no_drift: all of its runs are left out by --where \"variant == 'direct'\"\n")


def test_the_gate_keeps_the_level_of_all_variants() -> None:
    def level(**choice: Any) -> float:
        found = gate.gate(frames(STUDY), "fd", gate.Tolerance(0.05, relative=True), Choice(**choice))
        assert bool(choice.get("where")) == ('runs are left out by --where "' in " ".join(found.notes))
        return found.level

    assert level(where="variant == 'no_drift'") == level()
    assert level(where="variant == 'no_drift'", variants=("no_drift",)) == level(variants=("no_drift",))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"without_seeds": (77,)}, "--without-seed 77: no run here has this seed"),
        ({"where": "seed > 70"}, '--where "seed > 70": this leaves out all 40 runs'),
        ({"where": "sed > 70"}, "no column 'sed'; did you mean seed"),
    ],
)
def test_what_cannot_be_left_out_is_one_line(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultsError, match=r"^--") as error:
        build(frames(STUDY), Choice(**choice))
    assert message in str(error.value)


def test_a_condition_that_only_tuning_runs_fit_is_one_line() -> None:
    tried = [row | {"run_id": "t", "seed": 1000, "purpose": "tuning"} for row in STUDY["runs"][:1]]
    for choice in ({"where": "seed > 70"}, {"without_seeds": (1000,)}):
        with pytest.raises(ResultsError, match=r"this leaves out all 40 runs|no run here has this seed"):
            build(frames(STUDY, {"runs": tried}), Choice(**choice))  # type: ignore[arg-type]


def test_runs_that_are_removed_make_their_study_grown() -> None:
    kept = STUDY | {"runs": [row for row in STUDY["runs"] if (row["variant"], row["seed"]) != ("no_drift", 3)]}
    compared = findings_of(kept).compared
    assert (compared.design, compared.why_design) == ("grown", "its plan is not finished: 1 of 40 runs are missing")
