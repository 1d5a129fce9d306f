"""What may be compared with what: everything else is refused in a line that says what to choose."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import synthetic
from synthetic import findings_of
from typer.testing import CliRunner

import ablate
from ablate import cli
from ablate.base.errors import ResultsError
from ablate.report.gate import gate, parse_tolerance
from ablate.report.pair_report import compare
from ablate.report.selection import Choice
from ablate.store import tables

TWO = {"baseline": 0.0, "no_drift": 5.0}


def other(mark: str, *seeds: int, **columns: Any) -> synthetic.Rows:
    """A study with other columns, and run ids of its own."""
    made = synthetic.rows(TWO, seeds, **columns)
    for rows in made.values():
        for row in rows:
            row["run_id"] += mark
    return made


def refused(*studies: synthetic.Rows, **choice: Any) -> str:
    with pytest.raises(ResultsError) as error:
        findings_of(*studies, **choice)
    assert "\n" not in str(error.value)
    return str(error.value)


MAIN = synthetic.rows(TWO, range(3))


def test_presets_are_never_mixed() -> None:
    smoke = other("x", 0, preset="smoke")
    said = refused(MAIN, smoke)
    assert said == "presets that do not compare: quick (6 runs), smoke (2 runs); choose one, as in --preset quick"
    assert findings_of(MAIN, smoke, preset="quick").rows == findings_of(MAIN).rows
    assert findings_of(MAIN, smoke, preset="smoke").compared.runs == 2
    said = refused(MAIN, smoke, preset="quikc")
    assert said == "no run with preset 'quikc'; did you mean quick? Found in the results: quick, smoke"


def test_a_preset_without_a_finished_run_is_no_reason_to_refuse() -> None:
    failed = other("x", 0, preset="smoke", status="failed")
    assert findings_of(MAIN, failed).rows == findings_of(MAIN).rows


def test_data_sets_are_never_mixed() -> None:
    dogs = other("x", 0, data="dogs", data_digest="d" * 64)
    said = refused(MAIN, dogs)
    assert said == (
        "data sets that do not compare: cats 55555555 (6 runs), dogs dddddddd (2 runs); choose one, as in --data cats"
    )
    for name in ("dogs", "/images/dogs.zip", "dddddd"):
        assert findings_of(MAIN, dogs, data=name).compared.data == "dogs"
    assert refused(MAIN, dogs, data="x") == "no run with data 'x'. Found in the results: cats, dogs"


def test_hints_are_quoted_for_the_shell() -> None:
    odd = other("x", 0, data="a b", data_digest="d" * 64)
    assert refused(MAIN, odd).endswith("choose one, as in --data 'a b'")
    assert refused(MAIN, other("x", 0, preset="a b")).endswith("choose one, as in --preset 'a b'")


def test_data_sets_of_one_name_are_told_apart_by_their_digest() -> None:
    later = other("x", 0, data_digest="6" * 64)
    assert refused(MAIN, later).endswith("choose one, as in --data 55555555")
    assert findings_of(MAIN, later, data="66666666").compared.runs == 2
    assert findings_of(MAIN, later, data="55555555").rows == findings_of(MAIN).rows


@pytest.mark.slow
def test_a_data_set_under_two_names_is_one() -> None:
    """The name that is shown is the newest one; each name chooses the data set."""
    renamed = other("x", 3, 4, 5, data="kittens")
    for run in renamed["runs"]:
        run["finished_at"] += timedelta(days=1)
    dogs = other("y", 0, data="dogs", data_digest="d" * 64)
    found = findings_of(MAIN, renamed)
    assert (found.compared.data, found.compared.runs) == ("kittens", 12)
    assert [one.seeds for one in found.comparisons if one.metric == "fd"] == [(0, 1, 2, 3, 4, 5)]
    for name in ("cats", "kittens", "/images/cats.zip", "55555555"):
        assert findings_of(MAIN, renamed, dogs, data=name).rows == found.rows
    tables = synthetic.frames(MAIN, renamed, dogs)
    report, _ = compare(tables, Path(), "baseline", "no_drift", Choice(data="cats"))
    assert (report.data, [pair.seed for pair in report.pairs]) == ("kittens", [0, 1, 2, 3, 4, 5])
    judged = gate(tables, "fd", parse_tolerance("5%"), Choice(data="cats"))
    assert (judged.data, judged.variants[0].n) == ("kittens", 6)
    assert refused(MAIN, renamed, dogs).startswith("data sets that do not compare: dogs dddddddd (2 runs), kittens")


def test_a_name_with_dots_chooses_its_data_set_alone() -> None:
    versions = [other(str(i), 0, data=f"photos{dot}", data_digest=str(i) * 64) for i, dot in enumerate(("", ".v2"), 1)]
    for name, digest in (("photos", "1"), ("photos.v2", "2"), ("/images/photos.v2", "2"), ("photos.v2.zip", "2")):
        assert findings_of(*versions, data=name).compared.data_digest == digest * 64


def test_budgets_are_never_mixed() -> None:
    matched = other("x", 0, 1, budget="macs", steps=2000, config_hash="m")
    steps, macs = (findings_of(MAIN, matched, budget=budget) for budget in ("steps", "macs"))
    assert [row.differences for row in steps.rows] == [row.differences for row in findings_of(MAIN).rows]
    assert "left out: 4 runs with the baseline's training MACs (see --budget macs)" in steps.notes
    assert macs.compared.budget == "macs"


def test_equal_macs_are_those_of_the_newest_baseline() -> None:
    older = other("old", *range(8), config_hash="0" * 12, train_macs=5 * 10**12)
    for run in older["runs"]:
        run["finished_at"] -= timedelta(days=1)
    new = synthetic.rows(TWO, range(8))
    for run in new["runs"]:
        run["train_macs"] = 10**13 if run["variant"] == "baseline" else 5 * 10**12
    at_macs = findings_of(older, new, budget="macs")
    assert [row.label for row in at_macs.rows] == ["baseline"]
    assert any("no run with the baseline's training MACs" in note and "no_drift" in note for note in at_macs.notes)


def test_equal_macs_do_not_need_the_baseline_among_what_is_shown() -> None:
    made = synthetic.rows({"baseline": 0.0, "normalized": 5.0, "v_pred": 0.0}, range(8))
    findings = findings_of(made, budget="macs", against="normalized", variants=("v_pred",))
    assert [row.label for row in findings.rows] == ["normalized", "v_pred"]


def test_numbers_of_samples_are_never_mixed() -> None:
    few = other("x", 7, fd_n=256)
    said = refused(MAIN, few)
    assert said == (
        "runs measured with unequal numbers of images (samples/real) do not compare: 256/2048 (2 runs), 512/2048 (6 runs); "
        "choose one, as in --samples 256/2048, or run the others again"
    )
    assert findings_of(MAIN, few, samples="512").rows == findings_of(MAIN).rows
    assert findings_of(MAIN, few, samples="256/2048").metrics[0].n == 256
    assert refused(MAIN, few, samples="100").startswith(
        "--samples 100: no run was measured with so many. Found: 256/2048"
    )
    more = other("y", 8, fd_ref_n=4096)
    assert "512/2048 (6 runs), 512/4096 (2 runs)" in refused(MAIN, more, samples="512")
    assert findings_of(MAIN, few, metrics=("pd",)).compared.runs == 8  # image by image: any number of them
    assert "unequal numbers" in refused(MAIN, few, metrics=("pd", "precision"))


def test_extractors_are_never_mixed() -> None:
    odd = other("x", 7)
    for row in odd["fidelity"]:
        row["weights_digest"] = "a" * 64
    said = refused(MAIN, odd)
    assert said.startswith(
        "runs measured with different weights of efficientnet-lite0 do not compare: 555555555555 (6 runs)"
    )
    assert "as in --extractor aaaaaaaaaaaa" in said
    assert findings_of(MAIN, odd, extractor="5555").rows == findings_of(MAIN).rows
    chosen = findings_of(MAIN, odd, extractor="aaaa")
    assert chosen.compared.runs == 2
    assert chosen.metrics[0].extractor_digest == "a" * 64
    assert "--extractor bbbb: no run was measured with such weights" in refused(MAIN, odd, extractor="bbbb")
    assert findings_of(MAIN, odd, metrics=("psnr_db",)).compared.runs == 8  # no network


def test_extractors_of_runs_that_are_not_compared_do_not_matter() -> None:
    odd = other("x", 7, preset="smoke")
    for row in odd["fidelity"]:
        row["weights_digest"] = "a" * 64
    assert findings_of(MAIN, odd, preset="quick").metrics[0].extractor_digest == synthetic.DIGEST


def test_variants_are_chosen_and_compared_against_any() -> None:
    three = synthetic.rows(TWO | {"direct": 1.0}, range(3))
    one = findings_of(three, variants=("direct",))
    assert [row.label for row in one.rows] == ["baseline", "direct"]
    turned = findings_of(three, against="direct")
    assert turned.compared.against == "direct"
    assert [row.label for row in turned.rows] == ["direct", "baseline", "no_drift"]
    assert turned.comparisons[0].mean == pytest.approx(-(one.comparisons[0].mean or 0))
    assert turned.claims == ()
    assert "claims are not judged: they are about the baseline, not direct" in turned.notes
    assert "did you mean direct?" in refused(three, against="dircet")
    assert "no run of variant 'latent'" in refused(three, variants=("latent",))


def test_the_order_of_a_combination_does_not_matter(tmp_path: Path) -> None:
    tables.append(tmp_path, synthetic.rows(TWO | {"no_drift+v_pred": 1.0}, range(3)))
    three = ablate.load_results(tmp_path)
    assert [row.label for row in three.findings(variants="v_pred+no_drift").rows] == ["baseline", "no_drift+v_pred"]
    assert three.findings(against="v_pred + no_drift").compared.against == "no_drift+v_pred"
    words = ["report", "--results", str(tmp_path), "--format", "json", "--variant", "no_drift", "--against"]
    made = CliRunner().invoke(cli.app, [*words, "v_pred+no_drift"])
    assert json.loads(made.stdout)["compared"]["against"] == "no_drift+v_pred"


def test_metrics_by_name() -> None:
    by = findings_of(MAIN, metrics=("precision", "latency_image_ms"))
    assert [metric.name for metric in by.metrics] == ["precision", "latency_image_ms"]
    assert [metric.higher_is_better for metric in by.metrics] == [True, False]
    assert by.rows[0].values["precision"].n == 3
    assert by.compared.why_headline == "asked for"
    assert "did you mean psnr_db?" in refused(MAIN, metrics=("psnr",))
    said = refused(MAIN, metrics=("fid",))
    assert said == (
        "--metric fid: no finished run here has it. Measured: "
        "fd, fd_inf, kd, precision, recall, diversity_pd, nearest_pd, pd, psnr_db"
    )


def test_headlines_say_why() -> None:
    both = other("x", 8, fid=30.0, lpips=0.2)
    assert findings_of(both).compared.headline == ("fid", "lpips")
    assert findings_of(both).compared.why_headline == "measured of every run"
    mixed = findings_of(MAIN, both)
    assert mixed.compared.headline == ("fd", "pd")
    assert (
        mixed.compared.why_headline
        == "fd instead of fid, which 6 of 8 runs lack; pd instead of lpips, which 6 of 8 runs lack"
    )
