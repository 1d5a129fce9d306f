"""Verdicts on variants and on their claims: one family, nothing decided that the seeds cannot decide."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import synthetic
from synthetic import findings_of, frames, planned

from ablate.base.errors import ResultsError, VariantError
from ablate.report.builder import build
from ablate.report.findings import Claim, Comparison, Findings
from ablate.report.render.markdown import to_markdown
from ablate.stats import joint, paired, sequential
from ablate.study.variants import load

Write = Callable[[str, str], None]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a variant of a user's own, with a claim."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants").mkdir()

    def write(name: str, claim: str) -> None:
        text = f'about = "a"\nsource = "b"\naxis = "drift"\nclaim = {claim}\n[model]\ndrift_channels = 8\n'
        (tmp_path / "variants" / f"{name}.toml").write_text(text)

    return write


def comparison(findings: Findings, label: str, metric: str = "fd") -> Comparison:
    (one,) = [c for c in findings.comparisons if (c.label, c.metric) == (label, metric)]
    return one


def claim(findings: Findings, metric: str = "fd") -> Claim:
    (one,) = [c for c in findings.claims if c.metric == metric]
    return one


def test_differences_are_those_of_the_runs_seed_by_seed() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 5.0}, range(8))
    one = comparison(findings_of(made), "no_drift")
    values = {(run["variant"], run["seed"]): run["fd"] for run in made["runs"]}
    differences = [values["no_drift", seed] - values["baseline", seed] for seed in range(8)]
    assert one.differences == pytest.approx(differences)
    assert one.seeds == tuple(range(8))
    expected = paired.summarise(differences)
    assert (one.n, one.mean, one.sd) == (8, pytest.approx(expected.mean), pytest.approx(expected.sd))
    assert (one.low, one.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    theirs = sum(values["baseline", seed] for seed in range(8)) / 8
    assert one.relative == pytest.approx((expected.mean or 0) / theirs)
    critical = sequential.critical(8, paired.ALPHA / 2)  # two tests, seeds may have been added
    assert one.detectable == pytest.approx(paired.detectable(expected.sd, 8, critical))
    reach = critical * (expected.sd or 0) / 8**0.5
    assert (one.all_low, one.all_high) == (
        pytest.approx((one.mean or 0) - reach),
        pytest.approx((one.mean or 0) + reach),
    )


def test_what_helps_what_hurts_what_is_undecided() -> None:
    truth = {"baseline": 0.0, "no_drift": 5.0, "direct": -5.0, "no_skip": 0.0}
    findings = findings_of(synthetic.rows(truth, range(11), spread=0.5))
    assert {c.label: c.verdict for c in findings.comparisons if c.metric == "fd"} == {
        "no_drift": "hurts",
        "direct": "helps",
        "no_skip": "undecided",
    }
    assert comparison(findings, "no_drift").seeds_needed == 11
    assert (comparison(findings, "no_skip").seeds_needed or 9999) > 11
    turned = findings_of(
        synthetic.rows(truth, range(11), spread=0.5), metrics=("psnr_db",)
    )  # psnr_db falls as fd grows
    assert comparison(turned, "no_drift", "psnr_db").verdict == "hurts"
    assert (comparison(turned, "no_drift", "psnr_db").mean or 0) < 0


def test_what_is_undecided_needs_more_seeds_than_there_are() -> None:
    made = synthetic.rows({"baseline": 0.0, "gone": 0.0}, range(6))
    base = {run["seed"]: run["fd"] for run in made["runs"][:6]}
    for run, difference in zip(made["runs"][6:], [10, 10, 10, 10, 10, -0.1], strict=True):
        run["fd"] = base[run["seed"]] + difference
    one = comparison(findings_of(planned(made)), "gone")
    assert one.verdict == "undecided"  # one sign differs
    assert (one.seeds_needed or 0) > 6


def test_a_planned_study_is_judged_by_joint_sign_flips_over_all_its_tests() -> None:
    truth = {"baseline": 0.0, "no_drift": 5.0, "no_skip": 0.0, "direct": 0.0}
    findings = findings_of(planned(synthetic.rows(truth, range(8), spread=0.5, schemes=["int8"])))
    # Three variants by two metrics, and two claims of `direct` on int8: its claim on fd is a comparison already.
    assert (findings.compared.design, findings.compared.tests, findings.compared.least_seeds) == ("planned", 8, 6)
    assert findings.compared.why_design == "its 32 runs belong to one plan of 8 seeds"
    claims = [c for c in findings.claims if c.metric.startswith("int8")]
    columns = [
        comparison(findings, label, metric) for metric in ("fd", "pd") for label in ("no_drift", "no_skip", "direct")
    ]
    joint_p = joint.p_values(np.array([c.differences for c in columns]).T)[1]
    assert all(c.adjusted >= p - 1e-12 for c, p in zip(columns, joint_p, strict=True))  # the claims cost a little
    assert len(claims) == 2
    one = comparison(findings, "no_drift")
    assert (one.verdict, one.alone) == ("hurts", 2**-7)  # Holm's correction: 8 x 2^-7 > 0.05
    assert one.e_by_seed is None


@pytest.mark.parametrize("design", ["planned", "grown"])
def test_what_is_shown_does_not_change_what_is_judged(design: str) -> None:
    truth = {"baseline": 0.0, "no_drift": 1.2, "no_skip": 0.0, "direct": 0.0, "sigmoid": 3.0}
    made = synthetic.rows(truth, range(8), spread=1.0)
    made = planned(made) if design == "planned" else made
    every = findings_of(made)
    assert every.compared.design == design
    alone = findings_of(made, variants=("no_drift",), metrics=("fd",))
    assert [c.label for c in alone.comparisons] == ["no_drift"]
    assert alone.comparisons[0] == comparison(every, "no_drift")
    assert alone.compared.tests == every.compared.tests
    assert [c for c in every.claims if c.label == "no_drift"] == list(alone.claims)


def test_a_metric_that_is_asked_for_afterwards_is_exploratory() -> None:
    truth = {"baseline": 0.0, "no_drift": 5.0, "direct": 0.0}
    made = synthetic.rows(truth, range(8), spread=0.5)
    findings = findings_of(planned(made), metrics=("fd", "precision"))
    assert not comparison(findings, "no_drift", "fd").exploratory
    assert comparison(findings, "no_drift", "precision").exploratory
    assert comparison(findings, "no_drift", "fd") == comparison(findings_of(planned(made)), "no_drift", "fd")
    asked = findings_of(planned(made, metrics=["precision"]))  # the plan names it
    assert not comparison(asked, "no_drift", "precision").exploratory
    assert asked.compared.tests == findings.compared.tests + 2
    assert comparison(findings_of(planned(made), against="direct"), "no_drift").exploratory


GROWN = {
    "no plan": (lambda made: made["runs"][3].pop("plan_id"), "1 of 32 runs has no plan"),
    "two plans": (lambda made: made["runs"][3].update(plan_id="other"), "its runs belong to 2 plans"),
    "no record": (lambda made: made["plans"].clear(), "there is no record of its plan"),
    "a seed is missing": (lambda made: made["runs"].pop(), "its plan is not finished: 1 of 32 runs are missing"),
    "interrupted": (
        lambda made: made["runs"][-1].update(status="interrupted"),
        "its plan is not finished: 1 of 32 runs are missing",
    ),
    "until decided": (
        lambda made: made["plans"][0].update(max_seeds=16),
        "its seeds were added until decided, as planned",
    ),
    "older than the plan": (
        lambda made: made["runs"][3].update(started_at=synthetic.START - timedelta(days=9)),
        "runs are older than their plan",
    ),
}


@pytest.mark.parametrize("name", GROWN)
def test_everything_else_is_grown(name: str) -> None:
    change, why = GROWN[name]
    made = planned(synthetic.rows({"baseline": 0.0, "no_drift": 5.0, "no_skip": 0.0, "direct": 0.0}, range(8)))
    assert findings_of(made).compared.design == "planned"
    change(made)
    findings = findings_of(made)
    assert (findings.compared.design, findings.compared.why_design) == ("grown", why)
    one = comparison(findings, "no_drift")
    assert one.e_by_seed is not None
    assert one.alone == one.e_by_seed[-1] == sequential.e_values(one.differences)[-1]


def test_a_plan_whose_failed_runs_have_ended_is_planned() -> None:
    made = planned(synthetic.rows({"baseline": 0.0, "no_drift": 5.0}, range(8), spread=0.5))
    made["runs"][-1] |= {"status": "failed", "fd": None, "pd": None}
    findings = findings_of(made)
    assert findings.compared.design == "planned"
    assert comparison(findings, "no_drift").verdict == "hurts"
    assert comparison(findings, "no_drift").why.endswith("; of 8 seeds 1 failed")


@pytest.mark.parametrize("n", range(1, 6))
def test_fewer_than_six_planned_seeds_decide_nothing(n: int) -> None:
    findings = findings_of(planned(synthetic.rows({"baseline": 0.0, "no_drift": 900.0}, range(n), spread=0.01)))
    assert {c.verdict for c in (*findings.comparisons, *findings.claims)} == {"undecided"}
    assert all(f"{n} seed" in c.why for c in findings.comparisons)
    assert all((c.seeds_needed or 0) >= 6 for c in findings.comparisons)


def test_seeds_that_diverged_are_the_worst_in_the_test() -> None:
    made = planned(synthetic.rows({"baseline": 0.0, "no_drift": 0.0, "direct": 0.0}, range(8), spread=0.5))
    before = comparison(findings_of(made), "no_drift")
    for run in made["runs"][8:14]:
        run |= {"status": "diverged", "fd": None, "pd": None}
    one = comparison(findings_of(made), "no_drift")
    assert (before.verdict, one.verdict, one.n, one.diverged) == ("undecided", "hurts", 2, 6)
    assert "of 8 seeds 6 diverged" in one.why
    for run in made["runs"][14:16]:
        run |= {"status": "diverged", "fd": None, "pd": None}
    none_left = comparison(findings_of(made), "no_drift")
    assert (none_left.verdict, none_left.mean, none_left.alone) == ("hurts", None, 2**-7)
    made = planned(synthetic.rows({"baseline": 0.0, "no_drift": -3.0}, range(8), spread=0.5))
    for run in made["runs"][:8]:
        run |= {"status": "diverged", "fd": None, "pd": None} if run["seed"] < 7 else {}
    assert comparison(findings_of(made), "no_drift").verdict == "helps"  # the baseline diverged


def test_nothing_helps_while_a_seed_diverged() -> None:
    made = planned(synthetic.rows({"baseline": 0.0, "no_drift": -50.0}, range(12), spread=0.5))
    assert comparison(findings_of(made), "no_drift").verdict == "helps"
    made["runs"][-1] |= {"status": "diverged", "fd": None, "pd": None}
    assert comparison(findings_of(made), "no_drift").verdict == "undecided"


@pytest.mark.parametrize("design", ["planned", "grown"])
def test_a_difference_within_the_margin_is_the_same(design: str) -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 0.0, "direct": 50.0}, range(12), spread=0.3)
    made = planned(made) if design == "planned" else made
    findings = findings_of(made, same_within="2%")
    one = comparison(findings, "no_drift")
    assert (one.verdict, one.margin) == ("same", pytest.approx(2.0, rel=0.1))
    assert comparison(findings, "direct").verdict == "hurts"
    assert comparison(findings_of(made), "no_drift").verdict == "undecided"
    assert comparison(findings_of(made, same_within="0.01"), "no_drift").verdict == "undecided"


@pytest.mark.parametrize("text", ["0", "-1%", "much", "inf", ""])
def test_a_margin_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ResultsError, match=r"--same-within .*: not a margin; allowed: a percentage"):
        findings_of(synthetic.rows({"baseline": 0.0}, range(2)), same_within=text)


def test_what_differs_alone_but_not_among_many_is_said_so() -> None:
    truth = {"baseline": 0.0, "no_drift": 1.2, **{f"synthetic_{i}": 0.0 for i in range(12)}}
    made = synthetic.rows(truth, range(8), spread=0.8, random=1)
    one = comparison(findings_of(planned(made)), "no_drift")
    assert one.verdict == "undecided"
    assert one.why.startswith(f"differs by {one.mean:+.3g} [{one.low:+.3g}, {one.high:+.3g}], but not after correction")
    other = comparison(findings_of(planned(made)), "synthetic_0")
    assert other.why.startswith("no difference seen: p = ")


def test_without_a_baseline_there_is_nothing_to_judge() -> None:
    findings = findings_of(synthetic.rows({"no_drift": 0.0}, range(8)))
    assert (findings.comparisons, findings.claims, findings.compared.against) == ((), (), None)
    assert "the baseline has no finished run here: no differences" in findings.notes


def test_another_number_of_training_steps_is_not_judged() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 50.0, "direct": 50.0}, range(11))
    for run in made["runs"]:
        if run["variant"] == "no_drift":
            run["steps"] = 300
    findings = findings_of(made)
    one = comparison(findings, "no_drift")
    assert (one.verdict, one.adjusted) == ("undecided", None)
    assert one.why == "not judged: an unequal budget, 300 steps, nfe 15 against 1,500 steps, nfe 15"
    assert [c.verdict for c in findings.claims if c.label == "no_drift"] == ["undecided"]
    assert comparison(findings, "direct").verdict == "hurts"
    assert findings.compared.tests == 2  # of `direct` alone; its claims on int8 have no numbers


def test_claims_get_verdicts() -> None:
    truth = {"baseline": 0.0, "no_drift": 5.0, "x_pred_v_loss": 5.0, "no_skip": 0.0}
    findings = findings_of(synthetic.rows(truth, range(11), spread=0.5))
    assert {c.label: (c.expect, c.verdict) for c in findings.claims} == {
        "no_drift": ("worse", "supported"),
        "x_pred_v_loss": ("better", "contradicted"),
        "no_skip": ("worse", "undecided"),
    }
    assert all(c.because == load(c.variant).claims[0].because for c in findings.claims)


@pytest.mark.parametrize(("margin", "size"), [("5%", 5.0), ("2.0", 2.0)])  # of about 100
@pytest.mark.parametrize(("times", "verdict"), [(0.0, "supported"), (3.0, "contradicted"), (1.0, "undecided")])
def test_a_claim_of_the_same_is_judged_by_its_margin(
    user: Write, margin: str, size: float, times: float, verdict: str
) -> None:
    user("thin", f'{{ metric = "fd", expect = "same", because = "c", margin = "{margin}" }}')
    one = claim(findings_of(synthetic.rows({"baseline": 0.0, "thin": times * size}, range(11), random=4)))
    assert (one.margin, one.verdict) == (margin, verdict)


def test_a_claim_of_the_same_without_a_margin_is_undecided(user: Write) -> None:
    user("thin", '{ metric = "fd", expect = "same", because = "c" }')
    one = claim(findings_of(synthetic.rows({"baseline": 0.0, "thin": 0.0}, range(11))))
    assert (one.verdict, one.margin) == ("undecided", None)
    assert "states no margin" in one.why


@pytest.mark.parametrize("margin", ["true", '"x"', "0", "-1", '"-5%"', "inf", '"5 %%"', "[1]"])
def test_a_margin_is_a_positive_size(user: Write, margin: str) -> None:
    user("thin", f'{{ metric = "fd", expect = "same", because = "c", margin = {margin} }}')
    with pytest.raises(VariantError, match=r"claim\[0\]\.margin is .* must be a positive number"):
        load("thin")


def test_a_margin_belongs_to_sameness(user: Write) -> None:
    user("thin", '{ metric = "fd", expect = "worse", because = "c", margin = 1 }')
    with pytest.raises(VariantError, match="margin belongs to expect = 'same'"):
        load("thin")


@pytest.mark.parametrize(
    ("seeds", "loses", "verdict"), [(4, 5.0, "undecided"), (11, 5.0, "supported"), (11, -9.0, "contradicted")]
)
def test_claims_on_number_formats(seeds: int, loses: float, verdict: str) -> None:
    made = synthetic.rows({"baseline": 0.0, "direct": 0.0}, range(seeds), schemes=["int8"])
    for row in made["quantized"]:
        if row["scheme"] == "int8" and row["run_id"].startswith("direct"):
            row["psnr_db"] = 44.0 - loses + 0.01 * (row["fd"] % 7)
        elif row["scheme"] == "int8":
            row["psnr_db"] = 44.0
        if row["scheme"] == "int8":
            row["fd_change"] = 1.0
    findings = findings_of(made)
    assert claim(findings, "int8_psnr_db").verdict == verdict
    assert claim(findings, "int8_fd_change").verdict == "undecided"  # no difference at all


def test_claims_on_what_was_not_measured_say_so(user: Write) -> None:
    user(
        "thin",
        '[{ metric = "precision", expect = "better", because = "c" }, { metric = "beauty", expect = "better", because = "c" }]',
    )
    findings = findings_of(synthetic.rows({"baseline": 0.0, "thin": 5.0, "direct": 0.0}, range(11)))
    assert claim(findings, "beauty").why == "beauty is not a metric"
    assert claim(findings, "precision").verdict == "supported"  # in `fidelity` alone
    assert claim(findings, "int8_psnr_db").why == "no run was measured in int8"


def test_a_variant_whose_file_is_gone_is_still_shown() -> None:
    findings = findings_of(synthetic.rows({"baseline": 0.0, "gone": 5.0, "no_drift+v_pred": 5.0}, range(11)))
    assert {c.label for c in findings.comparisons} == {"gone", "no_drift+v_pred"}
    assert findings.claims == ()


def test_number_formats_measured_with_unequal_numbers_of_images_are_not_compared() -> None:
    made = synthetic.rows({"baseline": 0.0, "direct": 0.0}, range(11), schemes=["int8"])
    made["quantized"][1]["n"] = 64
    findings = build(frames(made))
    assert claim(findings, "int8_fd_change").why == "int8_fd_change was measured with unequal numbers of images"
    assert [front.title for front in findings.fronts] == ["as trained"]


def test_factorial_studies_get_effects() -> None:
    truth = {"baseline": 0.0, "no_drift": 5.0, "v_pred": 0.0, "no_drift+v_pred": -20.0}
    findings = findings_of(synthetic.rows(truth, range(9), spread=0.5))
    by_fd, by_pd = findings.factorials
    assert (by_fd.axes, by_fd.levels) == (("drift", "prediction"), (("baseline", "no_drift"), ("baseline", "v_pred")))
    assert (by_fd.metric, by_pd.metric, by_fd.seeds) == ("fd", "pd", tuple(range(9)))
    effects = {effect.levels: effect for effect in by_fd.effects}
    assert effects["no_drift",].mean == pytest.approx((5 - 20) / 2, abs=0.6)
    assert effects["v_pred",].mean == pytest.approx((0 - 25) / 2, abs=0.6)
    assert effects["no_drift", "v_pred"].mean == pytest.approx(-25, abs=1)
    assert {effect.verdict for effect in by_fd.effects} == {"helps"}
    assert [e.adjusted for e in by_fd.effects] == pytest.approx(sequential.adjusted([e.alone for e in by_fd.effects]))
    few = findings_of(synthetic.rows(truth, range(3), spread=0.5))
    assert {effect.verdict for effect in few.factorials[0].effects} == {"undecided"}


def test_effects_are_of_the_newest_configurations() -> None:
    truth = {"baseline": 0.0, "no_drift": 2.0, "v_pred": 5.0, "no_drift+v_pred": 7.0}
    made = synthetic.rows(truth, range(9), spread=0.1)
    before = findings_of(made, metrics=("fd",)).factorials
    older = synthetic.rows({"no_drift": 90.0}, range(9), config_hash="0")  # by its hash it comes first
    for row in (row for rows in older.values() for row in rows):
        row["run_id"] += "-old"
    for run in older["runs"]:
        run["finished_at"] -= timedelta(days=1)
    assert before
    assert findings_of(older, made, metrics=("fd",)).factorials == before


def test_latents_are_not_judged_by_images_that_other_noise_was_added_to() -> None:
    made = synthetic.rows({"baseline": 0.0, "latent": 50.0, "no_drift": 50.0}, range(9), spread=0.5)
    for run in made["runs"]:
        run["decode_macs"] = 10**8 if run["variant"] == "latent" else 0
    findings = findings_of(made)
    assert comparison(findings, "latent").verdict == "hurts"
    one = comparison(findings, "latent", "pd")
    assert (one.verdict, one.adjusted, one.seeds_needed) == ("undecided", None, 9)
    assert one.e_by_seed is None
    assert one.why == "not judged: one adds its noise to latents, the other to pixels"
    assert comparison(findings, "no_drift", "pd").verdict == "hurts"
    assert comparison(findings_of(made, against="latent"), "no_drift", "pd").adjusted is None


def test_the_work_of_an_image_counts_its_decoder() -> None:
    made = synthetic.rows({"baseline": 0.0, "latent": 5.0}, range(3))
    for run in made["runs"]:
        run["decode_macs"] = 10**8 if run["variant"] == "latent" else None
        run["threads"] = run["seed"] + 1  # times do not compare
    front = findings_of(made).fronts[0]
    assert front.objectives[1] == "macs_image"
    work = {point.label: point.values[1] for point in front.points}
    assert work == {"baseline": 15 * 298_000_000, "latent": 15 * 298_000_000 + 10**8}


def test_factorial_studies_of_unequal_budgets_get_none() -> None:
    truth = {"baseline": 0.0, "no_drift": 5.0, "v_pred": 0.0, "no_drift+v_pred": -20.0}
    made = synthetic.rows(truth, range(9), spread=0.5)
    for run in made["runs"]:
        if run["variant"] == "no_drift+v_pred":
            run["steps"] = 300
    findings = findings_of(made)
    assert findings.factorials == ()
    assert any(
        note.startswith("no effects of drift x prediction on fd: no_drift+v_pred: not judged: an unequal budget")
        for note in findings.notes
    )


def test_an_incomplete_factorial_study_says_what_is_missing() -> None:
    findings = findings_of(synthetic.rows({"baseline": 0.0, "no_drift": 5.0, "no_drift+v_pred": -20.0}, range(3)))
    assert findings.factorials == ()
    assert "no effects of drift x prediction: no finished run of v_pred" in findings.notes


def test_fronts_over_quality_time_and_bytes() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 10.0, "direct": 20.0}, range(4), schemes=["int8", "fp8"])
    for run in made["runs"]:
        run["latency_image_ms"] = {"baseline": 100.0, "no_drift": 120.0, "direct": 50.0}[run["variant"]]
        run["params"] = 1000
    made["runs"][0]["latency_image_ms"] = 5000.0  # the machine was busy
    trained, formats = findings_of(made).fronts
    assert trained.objectives == ("fd", "latency_image_ms", "bytes")
    points = {point.label: point for point in trained.points}
    assert {label: point.on_front for label, point in points.items()} == {
        "baseline": True,
        "direct": True,
        "no_drift": False,
    }
    assert points["no_drift"].dominated_by == "baseline"
    assert (points["no_drift"].share, points["direct"].share) == (0.0, 1.0)
    assert points["baseline"].values[1:] == (100.0, 4000.0)
    assert {point.scheme for point in formats.points} == {"fp32", "int8"}  # what is simulated takes no time
    assert formats.objectives == ("fd", "latency_step_ms", "file_bytes")
    for row in made["quantized"]:
        if row["scheme"] == "fp32":
            row["latency_step_ms"] = None
        elif not row["simulated"]:
            row["float_latency_step_ms"] = 20.0
    again = findings_of(made).fronts[1]
    assert {point.values[1] for point in again.points if point.scheme == "fp32"} == {20.0}
    made["runs"][0]["device"] = "cuda"
    findings = findings_of(made)
    assert findings.fronts[0].objectives == ("fd", "macs_image", "bytes")
    assert any("the machines differ" in note for note in findings.notes)


def test_one_seed_has_no_share() -> None:
    findings = findings_of(synthetic.rows({"baseline": 0.0, "no_drift": 10.0}, [0]))
    assert [point.share for point in findings.fronts[0].points] == [None, None]


def test_both_budgets_stand_side_by_side() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 10.0, "direct": 2.0}, range(3), spread=0.5)
    more = synthetic.rows({"no_drift": 4.0}, range(3), spread=0.5, budget="macs", steps=1700, config_hash="m")
    base = [run["fd"] for run in made["runs"][:3]]
    for run in made["runs"][3:6]:
        run["train_macs"] = 8 * 10**12
    for run, fd in zip(more["runs"], base, strict=True):
        run["fd"] = fd + 4
    for rows in more.values():
        for row in rows:
            row["run_id"] += "m"
    both = {table: made[table] + more[table] for table in made}
    steps, macs = findings_of(both), findings_of(both, budget="macs")
    rows = {row.label: row for row in steps.rows}
    assert rows["no_drift"].at_other_budget is not None
    assert rows["no_drift"].at_other_budget["fd"].mean == pytest.approx(4.0)
    assert (rows["baseline"].at_other_budget, rows["direct"].at_other_budget is None) == (None, False)
    turned = {row.label: row for row in macs.rows}["no_drift"]
    assert turned.differences is not None
    assert turned.differences["fd"] == rows["no_drift"].at_other_budget["fd"]
    assert turned.at_other_budget == rows["no_drift"].differences
    assert "### At either budget" in to_markdown(steps)
    assert "+4.0" in to_markdown(steps).split("At either budget")[1].split("###")[0]
    assert {row.at_other_budget is None for row in findings_of(made).rows} == {True}
    assert "At either budget" not in to_markdown(findings_of(made))


def test_claims_may_be_left_out() -> None:
    findings = findings_of(synthetic.rows({"baseline": 0.0, "direct": 0.0}, range(3), schemes=["int8"]), claims=False)
    assert (findings.claims, findings.compared.tests) == ((), 4)  # the family is the same


def test_claims_are_those_of_the_rows_wherever_the_report_is_made(user: Write, tmp_path: Path) -> None:
    user("thin", '{ metric = "fd", expect = "worse", because = "As it was." }')
    made = synthetic.rows({"baseline": 0.0, "thin": 5.0}, range(8))
    before = findings_of(made)
    assert (claim(before).because, claim(before).verdict) == ("As it was.", "supported")
    user("thin", '{ metric = "fd", expect = "better", because = "As it is now." }')
    assert findings_of(made) == before
    (tmp_path / "variants" / "thin.toml").unlink()
    (tmp_path / "variants" / "a b.toml").write_text("no variant's name")  # of no concern to a report
    assert findings_of(made) == before


def test_the_newest_run_says_what_is_claimed() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 5.0}, range(3))
    newest = max((run for run in made["runs"] if run["variant"] == "no_drift"), key=lambda run: run["finished_at"])
    newest["claims"] = '[{"metric": "pd", "expect": "better", "because": "Said last."}]'
    assert [(c.metric, c.because) for c in findings_of(made).claims] == [("pd", "Said last.")]


def test_rows_older_than_the_column_have_the_packaged_claims_and_damaged_ones_none() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 5.0}, range(3))
    for run in made["runs"]:
        del run["claims"], run["about"]
    assert [c.because for c in findings_of(made).claims] == [c.because for c in load("no_drift").claims]
    for text in ("{", "3", '[{"metric": 1}]', '["x"]', "null"):
        made["runs"][-1]["claims"] = text
        assert findings_of(made).claims == ()
