"""What plots draw: the raw rows of the runs that are compared, paired by seed, and the findings' own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pages
import pandas as pd
import pytest
import synthetic

from ablate.report import plot_data
from ablate.report.builder import build, read
from ablate.report.render import trade_off_plot, verdict_plots
from ablate.report.render.html import to_html
from ablate.report.render.label_places import apart, places
from ablate.report.render.number_text import change, number
from ablate.store import tables

RUNS = {"b0": ("baseline", 0), "b1": ("baseline", 1), "a0": ("other", 0), "a2": ("other", 2)}


def test_denoising_is_paired_by_seed_and_noise_level() -> None:
    values = {"b0": 20.0, "b1": 30.0, "a0": 21.5, "a2": 40.0, "stray": 99.0}
    frame = pd.DataFrame(
        [{"run_id": name, "t": t, "psnr_db": db + t} for name, db in values.items() for t in (0.1, 0.9)]
    )
    frame = frame.assign(pd=np.nan, lpips=np.nan, lpips_vgg=np.nan)
    found = plot_data.denoising(frame, RUNS, "baseline").set_index(["variant", "seed", "t"])
    assert set(found["measure"]) == {"psnr_db"}
    assert len(found) == 8
    assert found.loc[("other", 0, 0.1), "difference"] == pytest.approx(1.5)
    assert found.loc[("other", 0, 0.9), "difference"] == pytest.approx(1.5)
    assert found.loc["baseline", "difference"].tolist() == [0.0] * 4
    assert np.isnan(found.loc[("other", 2, 0.1), "difference"])  # the baseline lacks that seed
    assert plot_data.denoising(frame, RUNS, None)["difference"].isna().all()


def test_curves_are_means_over_seeds_and_stretches() -> None:
    steps = range(1, 1001)
    frame = pd.DataFrame(
        [
            {"run_id": name, "step": step, "loss": loss * step}
            for name, loss in (("b0", 1.0), ("b1", 3.0))
            for step in steps
        ]
    )
    found = plot_data.curves(frame, RUNS)
    assert found["step"].tolist() == list(range(20, 1001, 20))
    assert found["loss"].tolist() == pytest.approx([2.0 * (step - 9.5) for step in found["step"]])


def test_plots_hold_the_findings_numbers(tmp_path: Path) -> None:
    folder = pages.make(tmp_path, images=False)
    found = build(read(folder))
    plot = verdict_plots.differences(found, found.metrics[0])
    assert plot is not None
    rows = [row for data in json.loads(plot.spec)["datasets"].values() for row in data if "variant" in row]
    told = {one.label: (one.mean, one.low, one.high, one.verdict) for one in found.comparisons if one.metric == "fd"}
    assert {row["variant"]: (row["mean"], row["low"], row["high"], row["verdict"]) for row in rows} == told
    assert [row["variant"] for row in rows] == ["direct", "v_pred", "no_drift"]  # the best above
    front = found.fronts[0]
    drawn = trade_off_plot.trade_off(front, 0)
    assert drawn is not None
    rows = [row for data in json.loads(drawn.spec)["datasets"].values() for row in data]
    assert len(rows) == len(front.points) * (len(front.objectives) - 1)
    on = {point.label for point in front.points if point.on_front}
    assert {row["name"] for row in rows if row["front"] == "on the front"} == on
    assert {row["shown"] for row in rows} == {point.label for point in front.points}  # the beaten ones have names too
    runs = plot_data.compared_runs(found)
    assert set(runs) == set(tables.read(folder, "runs")["run_id"])
    assert runs["direct-quick-cats-s3-00000000"] == ("direct", 3)


def test_an_interval_far_wider_than_the_others_does_not_hide_them(tmp_path: Path) -> None:
    found = build(read(pages.make(tmp_path, images=False)))
    first, *others = (one for one in found.comparisons if one.metric == "fd")
    wide = found.model_copy(
        update={"comparisons": (first.model_copy(update={"all_low": -1e4, "all_high": 1e4}), *others)}
    )
    plot = verdict_plots.differences(wide, found.metrics[0])
    assert plot is not None
    domains = [layer["encoding"]["x"].get("scale", {}).get("domain") for layer in json.loads(plot.spec)["layer"]]
    low, high = next(domain for domain in domains if domain)
    assert -500 < low < min(one.low or 0.0 for one in others)
    assert max(one.high or 0.0 for one in others) < high < 500


def test_names_in_a_plot_do_not_collide() -> None:
    crowd = [(200.0, 20.0 * i, f"variant_{i}") for i in range(6)] + [(200.0, 0.0, "the_same_point_and_more")]
    found = places(crowd, 250)
    assert all(found[:6])
    assert found[6] is None  # no room: the table has its name
    alone = places([(20.0, 20.0, "a"), (230.0, 20.0, "a_long_name")], 250)
    assert [place.align for place in alone if place] == ["left", "right"]
    heights = apart([100.0, 101.0, 102.0, 3.0], 12, 110)
    assert heights[3] == 3.0
    assert sorted(heights)[1:] == [86.0, 98.0, 110.0]


def test_a_front_of_two_points_is_a_sentence_and_a_heat_map_of_two_cells_a_table(tmp_path: Path) -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 4.0}, range(3), schemes=["int8"])
    found = build(read(synthetic.save(tmp_path, made)))
    trained = found.fronts[0]
    assert len(trained.points) == 2
    assert trade_off_plot.trade_off(trained, 0) is None
    said = str(trade_off_plot.front_sentence(trained))
    assert said.startswith("Trade-offs as trained: baseline (fd ")
    assert "no_drift (fd " in said
    assert trade_off_plot.front_sentence(found.fronts[1]) is None  # four points
    assert verdict_plots.sensitivity(found) is None
    text = to_html(found, tmp_path)
    assert "front-0" not in text
    assert said in text
    assert 'id="sensitivity"' not in text
    assert '<section id="formats"' in text


@pytest.mark.parametrize(
    ("value", "shown", "difference"),
    [
        (0.0, "0.00", "+0.00"),
        (12345.6, "12,346", "+12,346"),
        (-0.01234, "-0.0123", "-0.0123"),
        (9.876, "9.88", "+9.88"),
        (None, "-", "-"),
        (3e-7, "3.0e-07", "+3.0e-07"),
    ],
)
def test_numbers_have_three_digits(value: float | None, shown: str, difference: str) -> None:
    assert (number(value), change(value)) == (shown, difference)
