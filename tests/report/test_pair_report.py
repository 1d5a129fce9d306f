"""Two variants or two runs side by side."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import synthetic
from rich.console import Console
from synthetic import frames

from ablate.base.errors import ResultsError
from ablate.report import pair_report
from ablate.report.pair_report import PairReport
from ablate.report.selection import Choice

TRUTH = {"baseline": 0.0, "no_drift": 5.0, "direct": -3.0}
MADE = synthetic.rows(TRUTH, range(9), spread=0.5)


def versus(a: str, b: str, made: synthetic.Rows = MADE, folder: Path = Path("r"), **choice: Any) -> PairReport:
    return pair_report.compare(frames(made), folder, a, b, Choice(**choice))[0]


def shown(a: str, b: str, folder: Path, width: int = 80, made: synthetic.Rows = MADE) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(pair_report.render(*pair_report.compare(frames(made), folder, a, b, Choice())))
    return console.file.getvalue()  # type: ignore[attr-defined]


def refused(a: str, b: str, made: synthetic.Rows = MADE) -> str:
    with pytest.raises(ResultsError) as error:
        versus(a, b, made)
    return str(error.value)


def test_two_variants_seed_by_seed() -> None:
    found = versus("direct", "no_drift")
    assert [comparison.metric for comparison in found.comparisons] == ["fd", "pd"]
    one = found.comparisons[0]
    assert (one.verdict, one.n) == ("hurts", 9)
    assert one.mean == pytest.approx(8.0, abs=1)
    assert [pair.seed for pair in found.pairs] == list(range(9))
    for pair, difference in zip(found.pairs, one.differences, strict=True):
        assert (pair.b["fd"] or 0) - (pair.a["fd"] or 0) == pytest.approx(difference)
        assert pair.run_b == f"no_drift-quick-cats-s{pair.seed}-00000000"
    turned = versus("no_drift", "direct").comparisons[0]
    assert (turned.verdict, turned.mean) == ("helps", pytest.approx(-(one.mean or 0)))


def test_runs_that_chose_a_setting_have_no_part_in_it() -> None:
    newer = {"run_id": "t", "seed": 1000, "purpose": "tuning", "config_hash": "1", "finished_at": None}
    newer["finished_at"] = MADE["runs"][-1]["finished_at"] + timedelta(days=1)
    found = versus("baseline", "no_drift", made=MADE | {"runs": [*MADE["runs"], MADE["runs"][0] | newer]})
    assert found == versus("baseline", "no_drift")


def test_means_are_over_the_seeds_that_both_have() -> None:
    more = synthetic.rows({"baseline": 500.0}, range(9, 12))
    both = {table: MADE[table] + more[table] for table in MADE}
    text = shown("baseline", "no_drift", Path("r"), made=both).replace("30 of 30 runs", "27 of 27 runs")
    assert text == shown("baseline", "no_drift", Path("r"))


def test_only_the_two_are_looked_at() -> None:
    made = {table: [dict(row) for row in rows] for table, rows in MADE.items()}
    for run in made["runs"]:
        if run["variant"] == "direct":
            run["fd_n"] = 64
    assert versus("baseline", "no_drift", made).comparisons[0].n == 9
    assert "unequal numbers of images" in refused("baseline", "direct", made)


def test_the_newest_configuration_counts() -> None:
    old = synthetic.rows({"no_drift": 50.0}, range(9), config_hash="old", finished_at=synthetic.START)
    for rows in old.values():
        for row in rows:
            row["run_id"] += "x"
    made = {table: old[table] + MADE[table] for table in MADE}
    one = versus("baseline", "no_drift", made)
    assert one.comparisons[0].mean == pytest.approx(5, abs=1)
    assert len(one.comparisons) == 2


def test_unequal_machines_are_told_where_a_cost_is_compared() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 1.0}, range(2))
    for run in made["runs"]:
        run["device"] = "cpu" if run["seed"] else "cuda"
    assert versus("baseline", "no_drift", made, metrics=("fd",)).notes == ()
    (note,) = versus("baseline", "no_drift", made, metrics=("latency_image_ms",)).notes
    assert note.startswith("times come from unequal machines")


def test_the_order_of_a_combination_does_not_matter() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift+v_pred": 1.0}, range(3))
    assert versus("baseline", "v_pred+no_drift", made).b == "no_drift+v_pred"


def test_two_runs_are_one_pair_and_undecided() -> None:
    found = versus("baseline-quick-cats-s3", "no_drift-quick-cats-s3")
    assert (found.a, found.b) == ("baseline-quick-cats-s3-00000000", "no_drift-quick-cats-s3-00000000")
    assert [(c.n, c.verdict) for c in found.comparisons] == [(1, "undecided")] * 2
    assert not any("not paired" in note for note in found.notes)
    other = versus("baseline-quick-cats-s3", "baseline-quick-cats-s4")
    assert other.comparisons[0].mean is not None
    assert any(note.startswith("not paired: the seeds are 3 and 4") for note in other.notes)


def test_two_runs_of_a_data_set_whose_name_looks_like_a_combination() -> None:
    made = {table: [dict(row) for row in rows] for table, rows in MADE.items()}
    for rows in made.values():
        for row in rows:
            row["run_id"] = row["run_id"].replace("-cats-", "-zoo+art-")
    assert versus("direct-quick-zoo+art-s3", "no_drift-quick-zoo+art-s3", made).comparisons[0].n == 1


def test_runs_that_do_not_compare_are_refused() -> None:
    made = {table: [dict(row) for row in rows] for table, rows in MADE.items()}
    made["runs"][3]["preset"] = "smoke"
    assert refused("baseline-quick-cats-s3", "no_drift-quick-cats-s3", made).startswith("presets that do not compare")


def test_names_that_are_not_there() -> None:
    assert (
        refused("baseline", "baseline") == "compare baseline baseline: twice the same; name two variants, or two runs"
    )
    assert "did you mean direct?" in refused("baseline", "dircet")
    assert "Variants in the results: baseline, direct, no_drift" in refused("x", "y")
    assert "name two variants, or two runs" in refused("baseline", "direct-quick-cats-s1")
    assert "9 finished runs begin with this: baseline-quick-cats-s0-00000000, " in refused(
        "baseline-quick", "direct-quick-cats-s1"
    )
    assert "both are baseline-quick-cats-s1" in refused("baseline-quick-cats-s1", "baseline-quick-cats-s1-0")
    failed = {table: [dict(row) for row in rows] for table, rows in MADE.items()}
    failed["runs"][0]["status"] = "failed"
    assert "its run is failed" in refused("baseline-quick-cats-s0", "direct-quick-cats-s1", failed)


def test_the_images_of_one_pair_are_named(tmp_path: Path) -> None:
    def draw(name: str, seed: int) -> str:
        image = tmp_path / "artifacts" / f"{name}-quick-cats-s{seed}-00000000" / "samples.png"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"")
        return image.as_posix()

    def named() -> list[str]:
        text = shown("baseline", "direct", tmp_path, 400)
        return [line.rstrip() for line in text.splitlines() if line.rstrip().endswith(".png")]

    assert named() == []
    alone = draw("direct", 0)
    first, second = versus("baseline", "direct", folder=tmp_path).pairs[:2]
    assert (first.images_a, first.images_b, second.images_b) == (None, alone, None)
    assert named() == [alone]
    both = [draw(name, seed) for seed in (3, 4) for name in ("baseline", "direct")]
    assert named() == both[:2]


@pytest.mark.slow
def test_a_pair_needs_as_many_seeds_as_in_the_report() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 0.0, "direct": 0.0, "no_skip": 0.0}, range(8), random=3)
    whole = synthetic.findings_of(made)
    for choice in ({"variants": ("no_drift",)}, {"metrics": ("fd",)}, {"variants": ("no_drift",), "metrics": ("fd",)}):
        part = synthetic.findings_of(made, **choice)
        needed = {c.metric: c.seeds_needed for c in part.comparisons if c.label == "no_drift"}
        assert needed.items() <= {c.metric: c.seeds_needed for c in whole.comparisons if c.label == "no_drift"}.items()
    for name in ("no_drift", "direct", "no_skip"):
        pair = {c.metric: c.seeds_needed for c in versus("baseline", name, made).comparisons}
        assert pair == {c.metric: c.seeds_needed for c in whole.comparisons if c.label == name}


@pytest.mark.parametrize("width", [60, 80, 140])
def test_it_fits_and_says_the_verdict(tmp_path: Path, width: int) -> None:
    text = shown("baseline", "no_drift", tmp_path, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "fd: no_drift hurts: worse, e = 7,366 over 9 seeds" in " ".join(text.split())


def test_no_number_is_cut_where_it_is_narrow(tmp_path: Path) -> None:
    def numbers(text: str) -> set[str]:
        return set(re.findall(r"[+-]?\d[\d,.]*", text))

    wide = shown("baseline", "no_drift", tmp_path, 200)
    for width in (40, 50, 60, 80):
        narrow = shown("baseline", "no_drift", tmp_path, width)
        assert numbers(narrow) <= numbers(wide)
        assert narrow.count("hurts") == wide.count("hurts")  # in the table too
        assert re.search(r"^ *seed ", narrow, re.MULTILINE)


def test_a_variant_of_unfinished_runs_alone_says_how_they_ended() -> None:
    made = {table: [dict(row) for row in rows] for table, rows in MADE.items()}
    for run in made["runs"]:
        if run["variant"] == "no_drift":
            run["status"] = "diverged"
    assert refused("baseline", "no_drift", made) == "compare no_drift: none of its runs here is finished (9 diverged)"


def test_json_is_strict(tmp_path: Path) -> None:
    document = json.loads(
        versus("baseline-quick-cats-s3", "direct-quick-cats-s3").to_json(), parse_constant=pytest.fail
    )
    assert document["comparisons"][0]["low"] is None
    assert document["pairs"][0]["run_b"] == "direct-quick-cats-s3-00000000"
