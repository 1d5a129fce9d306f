"""The gate: it fails where the whole interval is too bad, says so where it cannot tell, and seldom cries wolf."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import synthetic
from rich.console import Console
from scipy import stats as scipy_stats
from synthetic import frames

from ablate.base.errors import ResultsError
from ablate.report import gate
from ablate.report.gate import GateReport, Tolerance, judge, parse_tolerance
from ablate.report.selection import Choice

FIVE = Tolerance(0.05, relative=True)


def gated(truth: dict[str, float], seeds: int, tolerance: Tolerance, metric: str = "fd", **choice: Any) -> GateReport:
    made = synthetic.rows({"baseline": 0.0} | truth, range(seeds))
    return gate.gate(frames(made), metric, tolerance, Choice(**choice))


def verdicts(found: GateReport) -> dict[str, str]:
    return {one.label: one.verdict for one in found.variants}


def test_worse_by_more_than_allowed_fails() -> None:
    found = gated({"no_drift": 12.0, "direct": 1.0, "no_skip": -9.0}, 8, FIVE)
    assert found.failed
    assert verdicts(found) == {"no_drift": "failed", "direct": "passed", "no_skip": "passed"}
    (one,) = [one for one in found.variants if one.label == "no_drift"]
    assert one.regression == pytest.approx(0.12, abs=0.03)
    assert (one.low or 0) > 0.05
    assert found.level == pytest.approx(1 - 0.05 / 3)


def test_what_the_interval_does_not_exclude_does_not_fail() -> None:
    found = gated({"no_drift": 5.0}, 8, FIVE)
    assert not found.failed
    assert verdicts(found) == {"no_drift": "undecided"}
    assert "8 seeds are too few: the interval includes the allowed 5%" in found.variants[0].why
    one_seed = gated({"no_drift": 500.0}, 1, FIVE)
    assert (one_seed.failed, one_seed.variants[0].why) == (False, "1 seed finished by both: an interval needs two")


def test_a_number_is_in_the_metrics_unit_and_a_cost_is_a_metric() -> None:
    assert verdicts(gated({"no_drift": 12.0}, 8, Tolerance(4, relative=False))) == {"no_drift": "failed"}
    assert verdicts(gated({"no_drift": 12.0}, 8, Tolerance(20, relative=False))) == {"no_drift": "passed"}
    slow = gated({"no_drift": 400.0}, 8, FIVE, metric="latency_image_ms")  # 40 ms of 160
    assert verdicts(slow) == {"no_drift": "failed"}


def test_unequal_machines_are_told_where_times_are_judged() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 1.0}, range(2))
    for run in made["runs"]:
        run["device"] = "cpu" if run["seed"] else "cuda"
    for metric, told in (("fd", 0), ("latency_image_ms", 1)):
        found = gate.gate(frames(made), metric, FIVE, Choice())
        assert sum(note.startswith("times come from unequal machines") for note in found.notes) == told


def test_higher_may_be_better() -> None:
    better = gated({"no_drift": -200.0}, 8, FIVE, metric="psnr_db")  # + 2 dB of 21
    worse = gated({"no_drift": 200.0}, 8, FIVE, metric="psnr_db")
    assert (verdicts(better), verdicts(worse)) == ({"no_drift": "passed"}, {"no_drift": "failed"})


def test_chosen_variants_and_another_reference() -> None:
    truth = {"no_drift": 12.0, "direct": 1.0}
    assert verdicts(gated(truth, 8, FIVE, variants=("direct",))) == {"direct": "passed"}
    assert gated(truth, 8, FIVE, variants=("direct",)).level == pytest.approx(0.95)
    assert verdicts(gated(truth, 8, FIVE, against="no_drift")) == {"baseline": "passed", "direct": "passed"}


def test_what_cannot_be_judged_is_an_error() -> None:
    made = frames(synthetic.rows({"baseline": 0.0}, range(3)))
    with pytest.raises(ResultsError, match="nothing to judge: the results hold only baseline"):
        gate.gate(made, "fd", FIVE, Choice())
    with pytest.raises(ResultsError, match="--against baseline: it has no finished run here"):
        gate.gate(frames(synthetic.rows({"direct": 0.0}, range(3))), "fd", FIVE, Choice())
    with pytest.raises(ResultsError, match="no such metric; did you mean fd"):
        gate.gate(made, "fdd", FIVE, Choice())


def test_what_diverged_has_not_passed() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 0.0}, range(8))
    made["runs"][-1] |= {"status": "diverged", "fd": None}
    (one,) = gate.gate(frames(made), "fd", FIVE, Choice()).variants
    assert (one.verdict, one.why) == ("failed", "1 diverged of 8 seeds")
    (one,) = gate.gate(frames(made), "fd", FIVE, Choice(), allow_diverged=True).variants
    assert (one.n, one.verdict) == (7, "undecided")
    assert one.why == "the whole interval is within 5% where it finished, but 1 seed diverged or failed"
    made["runs"][-1]["status"] = "interrupted"  # that will go on
    assert verdicts(gate.gate(frames(made), "fd", FIVE, Choice())) == {"no_drift": "passed"}


def test_a_candidate_without_a_finished_seed_fails() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 0.0}, range(3))
    for run in made["runs"][3:]:
        run |= {"status": "failed" if run["seed"] else "diverged", "fd": None}
    for allowed in (False, True):
        report = gate.gate(frames(made), "fd", FIVE, Choice(), allow_diverged=allowed)
        assert report.failed
        assert report.variants[0].why == "1 diverged, 2 failed of 3 seeds: none has finished"


def test_only_the_newest_configurations_stand_at_the_gate() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 0.0}, range(8), spread=0.1)
    older = synthetic.rows({"baseline": 60.0, "no_drift": 60.0}, range(8), config_hash="0")
    for row in (row for rows in older.values() for row in rows):
        row["run_id"] += "-old"
    for run in older["runs"]:
        run["finished_at"] -= timedelta(days=1)
    found = gate.gate(frames(older, made), "fd", parse_tolerance("5%"), Choice())
    assert [(one.label.split()[0], one.verdict) for one in found.variants] == [("no_drift", "passed")]
    assert found.level == 0.95


def test_an_interval_in_small_units_shows_its_digits() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(gated({"no_drift": 0.0}, 8, parse_tolerance("0.0005"), "pd"))
    assert re.search(r"\[[+-]0\.000\d+,", console.file.getvalue())  # type: ignore[attr-defined]


def test_unequal_steps_are_not_judged() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 50.0}, range(8))
    for run in made["runs"][8:]:
        run["steps"] = 3000
    found = gate.gate(frames(made), "fd", FIVE, Choice())
    assert (found.failed, found.variants[0].verdict) == (False, "undecided")
    assert "unequal budget" in found.variants[0].why


@pytest.mark.parametrize(
    ("text", "size", "relative"), [("5%", 0.05, True), ("2.5", 2.5, False), (" 0% ", 0.0, True), ("0", 0.0, False)]
)
def test_tolerances(text: str, size: float, relative: bool) -> None:
    assert parse_tolerance(text) == Tolerance(pytest.approx(size), relative)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "%", "x", "-1", "-5%", "nan", "inf", "5%%", "5 per cent"])
def test_what_is_no_tolerance(text: str) -> None:
    with pytest.raises(ResultsError, match=r"--max-regression .*not a tolerance; allowed: a percentage as in 5%"):
        parse_tolerance(text)


def test_a_share_of_nothing_means_nothing() -> None:
    zero = np.array([-1.0, 1.0, -1.0, 1.0])
    assert judge("x", zero + 5, zero, FIVE, alpha=0.05).why.startswith("the other's mean is 0")
    wide = np.array([1.0, -100.0, 120.0, 3.0])
    assert judge("x", wide + 5, wide, FIVE, alpha=0.05).why == "4 seeds spread too widely for an interval"


@pytest.mark.slow
def test_fieller_is_the_interval_of_a_ratio() -> None:
    random, trials, covered = np.random.default_rng(0), 2000, 0
    for _ in range(trials):
        theirs = random.normal(100, 20, 7)
        lost = 0.3 * theirs + random.normal(0, 5, 7)
        low, high = gate.fieller(lost, theirs, 0.05)
        covered += low <= 0.3 <= high
        # Its ends are where Student's t of `lost - r theirs` reaches its quantile.
        t = scipy_stats.ttest_1samp(lost - high * theirs, 0).pvalue
        assert t == pytest.approx(0.05, abs=1e-6)
    assert covered / trials == pytest.approx(0.95, abs=0.016)


@pytest.mark.parametrize("variants", [1, 5])
@pytest.mark.parametrize("tolerance", [Tolerance(0.0, relative=True), Tolerance(0.0, relative=False)], ids=str)
def test_equal_variants_raise_false_alarms_at_most_at_the_nominal_rate(variants: int, tolerance: Tolerance) -> None:
    """A/A: 500 simulated studies of variants that do not differ, at the strictest tolerance."""
    random, studies, alarms = np.random.default_rng(variants), 500, 0
    for _ in range(studies):
        common = random.normal(100, 10, 6)
        theirs, *others = (common + random.normal(0, 2, 6) for _ in range(variants + 1))
        found = [judge("x", mine, theirs, tolerance, alpha=0.05 / variants) for mine in others]
        alarms += any(one.verdict == "failed" for one in found)
    assert alarms <= scipy_stats.binom.ppf(0.99, studies, 0.025)


@pytest.mark.slow
def test_the_whole_gate_on_equal_variants() -> None:
    """A/A by way of the tables: 60 studies, three variants each, nothing allowed."""
    alarms = 0
    for i in range(60):
        made = synthetic.rows({"baseline": 0.0, "a": 0.0, "b": 0.0, "c": 0.0}, range(6), random=i)
        # The synthetic baseline has no noise of its own beside what is shared: each variant's difference is independent.
        alarms += gate.gate(frames(made), "fd", Tolerance(0.0, relative=True), Choice()).failed
    assert alarms <= scipy_stats.binom.ppf(0.99, 60, 0.025)


def test_a_real_regression_is_caught_as_often_as_its_interval_says() -> None:
    random, caught = np.random.default_rng(9), 0
    for _ in range(300):
        theirs = random.normal(100, 10, 8)
        caught += judge("x", theirs + random.normal(15, 4, 8), theirs, FIVE, alpha=0.05).verdict == "failed"
    assert caught > 290


def test_json_is_strict() -> None:
    document = json.loads(gated({"no_drift": 5.0}, 1, FIVE).to_json(), parse_constant=pytest.fail)
    assert document["variants"][0]["low"] is None
    assert document["failed"] is False
