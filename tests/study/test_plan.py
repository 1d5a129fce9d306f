"""Seeds and the plan of a study."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.base.errors import DataError, VariantError
from ablate.study.config import Config
from ablate.study.images import load_images
from ablate.study.plan import factor_combinations, parse_seeds, plan
from ablate.study.request import StudyRequest
from ablate.study.run_times import RunTimes
from ablate.study.variants import from_json


@pytest.mark.parametrize(("text", "seeds"), [("0", [0]), ("0-4", [0, 1, 2, 3, 4]), ("3, 1,1-2", [3, 1, 2])])
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "'-1' is not a seed"),
        ("5-2", r"5-2 runs backwards; did you mean 2-5\?"),
        ("a", "'a' is not a seed"),
        ("", "'' is not a seed"),
        ("0-99999", "at most 1000"),
    ],
)
def test_bad_seeds_are_refused(text: str, message: str) -> None:
    with pytest.raises(VariantError, match=message):
        parse_seeds(text)


def test_plan_goes_seed_by_seed_and_names_runs_by_content() -> None:
    specs = plan(["baseline", "no_drift", "no_drift"], [0, 1], "smoke")
    assert [(s.variant, s.seed) for s in specs] == [("baseline", 0), ("no_drift", 0), ("baseline", 1), ("no_drift", 1)]
    ids = {s.run_id("cats", "digest") for s in specs}
    assert len(ids) == 4
    assert specs[0].run_id("cats", "other") not in ids
    assert "/" not in specs[0].run_id("../my cats", "digest")


def test_factors_give_every_combination_of_levels_once() -> None:
    names = factor_combinations("drift,prediction")
    assert names[0] == "baseline+baseline"
    assert len(names) == 4 * 4
    specs = plan(names, [0], "smoke")
    assert [s.variant for s in specs][:4] == ["baseline", "eps_pred", "v_pred", "x_pred_v_loss"]
    assert "no_drift+x_pred_v_loss" in {s.variant for s in specs}
    assert len({s.config.hash for s in specs}) == 16
    assert factor_combinations("kernel-weights") == factor_combinations(" kernel weights ") != names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drfit", r"unknown axis 'drfit'; did you mean drift\? Allowed: drift, kernel weights"),
        ("drift,", "unknown axis ''"),
        ("drift,drift", "drift is named twice"),
        ("baseline", "unknown axis 'baseline'"),
    ],
)
def test_bad_factors_are_refused(text: str, message: str) -> None:
    with pytest.raises(VariantError, match=message):
        factor_combinations(text)


def test_matching_changes_the_runs_name_and_says_so() -> None:
    def fewer(config: Config, baseline: Config) -> Config:
        if config.model.drift:
            return config
        return config.replaced(train={"steps": baseline.train.steps - 1})

    equal = plan(["baseline", "no_drift"], [0], "smoke")
    matched = plan(["baseline", "no_drift"], [0], "smoke", fewer)
    assert [s.budget for s in matched] == ["steps", "macs"]
    assert matched[0] == equal[0]
    assert matched[1].config.train.steps == 11
    assert matched[1].run_id("cats", "d") != equal[1].run_id("cats", "d")


def test_time_is_estimated_by_the_same_configuration_else_by_the_work() -> None:
    baseline, no_drift = plan(["baseline", "no_drift"], [1], "smoke")
    columns = ["status", "preset", "config_hash", "wall_s", "train_macs", "train_wall_s"]
    rows = [
        ("done", "smoke", baseline.config.hash, 10.5, 100, 6.0),
        ("done", "smoke", baseline.config.hash, 30.5, 100, 24.0),
        ("done", "quick", "other", 1000.0, 100, 0.0),
        ("failed", "smoke", no_drift.config.hash, 7.0, 100, 0.0),
    ]
    past = pd.DataFrame(rows, columns=columns).assign(environment="there", load_wall_s=0.5, autoencoder_wall_s=None)
    times = RunTimes(past, "smoke", ["here"])
    assert times.wall_s(baseline.config.hash, 100) == 20.0
    assert times.wall_s(no_drift.config.hash, 50) == 10.0
    assert times.wall_s("of a program") == 20.0  # whose MACs are not known
    assert times.after_training_s(baseline.config.hash) == 5.0
    assert RunTimes(past, "standard", ["here"]).wall_s(no_drift.config.hash, 50) is None
    elsewhere = past.assign(environment=["here", "there", "there", "there"])
    assert RunTimes(elsewhere, "smoke", ["here"]).wall_s(baseline.config.hash) == 10.0
    assert RunTimes(elsewhere, "smoke", ["nowhere"]).wall_s(baseline.config.hash) == 20.0


def test_the_array_of_a_data_set_is_part_of_the_configuration(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "set.npz", train=noise[0], test=noise[1])
    (default,), (spec,) = plan(["baseline"], [0], "smoke"), plan(["baseline"], [0], "smoke", array="test")
    assert "array" not in default.config.to_json()
    assert spec.config.hash != default.config.hash
    recorded = from_json(spec.config.to_json(), "smoke")
    assert recorded.hash == spec.config.hash
    for form in (spec.config.data, recorded.data):
        data = load_images(str(tmp_path / "set.npz"), form)
        assert "array test of shape (40, 8, 8, 3)" in data.notes[0]
    with pytest.raises(DataError, match=r"2 arrays can be images: .*choose one with --array NAME"):
        load_images(str(tmp_path / "set.npz"), default.config.data)
    for source in ("cats", str(tmp_path)):
        with pytest.raises(DataError, match=r"--array test: only an \.npz file has arrays"):
            load_images(source, spec.config.data)
    assert StudyRequest(array="test", data=str(tmp_path)).specs()[0].config.data.array == "test"
