"""Variants: resolution, combination, hashes and clear errors."""

import json
import typing
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from ablate.base.errors import VariantError
from ablate.diffusion.objectives import LOSS_SPACE, PREDICTION
from ablate.diffusion.solvers import SOLVERS
from ablate.models.kpn.backbone import DIFFUSION_SPACES
from ablate.models.kpn.denoiser import DRIFT, OUTPUT
from ablate.models.kpn.filters import KERNEL_WEIGHTS, SKIP, UPSAMPLING
from ablate.study import variants
from ablate.study.config import SOLVERS as NAMED_SOLVERS
from ablate.study.config import sections
from ablate.training.loop import TIMES


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants").mkdir()
    return tmp_path / "variants"


def write(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.toml").write_text(f'about = "a"\nsource = "s"\naxis = "x"\n{body}')


@pytest.mark.parametrize("preset", variants.presets())
@pytest.mark.parametrize("name", variants.names())
def test_every_packaged_file_resolves_and_differs_from_the_baseline(name: str, preset: str) -> None:
    config = variants.resolve(variants.load(name), preset)
    baseline = variants.resolve(variants.load(variants.BASELINE), preset)
    assert (config.hash == baseline.hash) == (name == variants.BASELINE)


def test_hashes_are_distinct_and_stable_under_the_order_of_parts() -> None:
    hashes = {variants.resolve(variants.load(name), "smoke").hash for name in variants.names()}
    assert len(hashes) == len(variants.names())
    one, two = variants.load("no_drift+v_pred"), variants.load("v_pred + no_drift+baseline")
    assert one == two
    assert one.name == "no_drift+v_pred"
    assert variants.resolve(one, "smoke").hash not in hashes


AXES = {  # the settings that each axis may change
    "kernel weights": {"model.kernel"},
    "drift": {"model.drift", "model.drift_kind", "model.drift_macs_to_backbone"},
    "prediction": {"diffusion.prediction", "diffusion.loss", "train.perceptual_weight", "train.grad_clip"},
    "times": {"diffusion.times"},
    "space": {"model.space"},
    "output head": {"model.output"},
    "upsampling": {"model.upsampling"},
    "skip": {"model.skip"},
    "loss": {"train.perceptual"},
}


@pytest.mark.parametrize("name", [name for name in variants.names() if name != variants.BASELINE])
def test_every_packaged_variant_claims_something_and_changes_its_axis_alone(name: str) -> None:
    loaded = variants.load(name)
    assert loaded.claims
    assert loaded.compound or (loaded.delta and set(loaded.delta) <= AXES[loaded.axis])


@pytest.mark.parametrize(
    ("section", "key", "table"),
    [
        ("model", "kernel", KERNEL_WEIGHTS),
        ("model", "drift_kind", DRIFT),
        ("diffusion", "times", TIMES),
        ("model", "upsampling", UPSAMPLING),
        ("model", "skip", SKIP),
        ("model", "output", OUTPUT),
        ("model", "space", DIFFUSION_SPACES),
        ("diffusion", "prediction", PREDICTION),
        ("diffusion", "loss", LOSS_SPACE),
    ],
)
def test_allowed_words_are_the_entries_of_the_dictionary(section: str, key: str, table: dict[str, object]) -> None:
    assert set(typing.get_args(sections("kpn")[section].model_fields[key].annotation)) == set(table)


def test_the_named_solvers_are_the_entries_of_the_dictionary() -> None:
    assert set(NAMED_SOLVERS) == set(SOLVERS)


def test_a_users_file_stands_beside_the_packaged_ones(user: Path) -> None:
    write(user, "mine", "[model]\ndrift_channels = 4\n")
    assert "mine" in variants.names()
    assert variants.resolve(variants.load("mine"), "smoke").model.drift_channels == 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "[model]\ndrfit = false\n",
            r"unknown key model.drfit; did you mean model.drift\? Allowed: kind, space, output",
        ),
        ("[modle]\ndrift = false\n", r"unknown key modle; did you mean model\?"),
        ("[model]\ndrift = 'no'\n", "model.drift is 'no'; it must be true or false"),
        ("[model]\nwidth = 2.5\n", "model.width is 2.5; it must be a whole number"),
        ("[model]\nkernel = 'tan'\n", r"model.kernel is 'tan'; did you mean tanh\?"),
        ("[train]\nlr = nan\n", "train.lr is nan; it must be a finite number"),
        ("[train]\nlr = -1.0\n", "train.lr is -1.0; it must be greater than 0"),
        ("[train]\nema = 1.5\n", "train.ema is 1.5; it must be at most 1"),
        ("[model]\nwidth = 33\n", "model: width 33 must be a multiple of"),
        ("[model]\nhead_channels = [1, 2]\n", r"model.head_channels is \[1, 2\]; it must have 3 entries"),
        ("[model]\nhead_channels = 3\n", "model.head_channels is 3; it must be a list"),
        ("[model]\ndrift = true\n", "model.drift = True is the baseline's value already"),
        ("model = 3\n", "model is 3; it must be a table"),
        ("", "it changes nothing; set a key of the configuration"),
        ("[model]\nhead_channels = [8, 8, true]\n", r"model.head_channels\[2\] is True; it must be a whole number"),
        ("[measure]\nfd_samples = 1\n", "measure.fd_samples is 1; it must be at least 2"),
        ("[quantize]\nsamples = 1\n", "quantize.samples is 1; it must be"),
        (
            "[measure]\nlatency_batches = [1, 8, 8]\n",
            r"measure.latency_batches is \[1, 8, 8\]; each may be listed once",
        ),
        ("[quantize]\nschemes = ['int8', 'int8']\n", "quantize.schemes is .*each may be listed once"),
        ("claim = { metric = 'fd' }\n", r"claim\[0\].expect is missing"),
        (
            "claim = { metric = 'fd', expect = 'bad', because = 'b' }\n",
            r"claim\[0\].expect is 'bad'; it must be one of: better, worse, same",
        ),
        (
            "claim = { metric = 'fd', expect = 'worse', because = 'b', margin = '5%' }\n",
            r"claim\[0\]: margin belongs to expect = 'same'; a claim of 'worse' has none",
        ),
        (
            "claim = { metric = 'fd', expect = 'same', because = 'b', margin = '0%' }\n",
            r"claim\[0\].margin is '0%'; it must be a positive number, or a percentage",
        ),
        ("compound = 1\n", "compound is 1; it must be true or false"),
        ("[model\n", "cannot be read as TOML"),
    ],
)
def test_a_bad_file_is_one_clear_line(user: Path, body: str, message: str) -> None:
    write(user, "bad", body)
    with pytest.raises(VariantError, match=message) as caught:
        variants.resolve(variants.load("bad"), "smoke")
    assert "\n" not in str(caught.value).strip()


def test_the_configuration_of_every_variant_and_of_every_recorded_run_keeps_its_hash() -> None:
    """A run's name contains it: finished rows would be made again."""
    known = json.loads((Path(__file__).parents[1] / "fixtures" / "config_hashes.json").read_text())
    now = {f"{n}@{p}": variants.resolve(variants.load(n), p).hash for n in variants.names() for p in variants.presets()}
    assert {name: now[name] for name in known} == known
    for table in (Path(__file__).parents[2] / "results" / "studies").glob("*/runs.parquet"):
        rows = pd.read_parquet(table, columns=["config", "preset", "config_hash"])
        configs = map(variants.from_json, rows["config"], rows["preset"])
        assert [config.hash for config in configs] == list(rows["config_hash"])


def test_a_configuration_is_frozen_and_a_changed_copy_is_validated() -> None:
    config = variants.resolve(variants.load("baseline"), "smoke")
    longer = config.replaced(train={"steps": 99, "lr": 1})
    assert (longer.train.steps, longer.train.lr, longer.train.batch) == (99, 1.0, config.train.batch)
    assert type(longer.train.lr) is float
    assert config.train.steps == 12
    with pytest.raises(ValidationError, match="greater than 0"):
        config.replaced(train={"steps": 0})
    with pytest.raises(ValidationError, match="multiple of 4 x attention_heads"):
        config.model.replaced(width=33)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.steps = 1  # type: ignore[misc]


def test_a_claim_is_read_with_its_margin_and_a_byte_order_mark_is_skipped(user: Path) -> None:
    claim = "claim = { metric = 'fd', expect = 'same', because = 'b', margin = 2.5 }"
    text = f"\ufeffabout = 'a'\nsource = 's'\naxis = 'x'\n{claim}\n[model]\ndrift_channels = 4\n"
    (user / "mine.toml").write_text(text, "utf-8")
    (found,) = variants.load("mine").claims
    assert (found.metric, found.expect, found.because, found.margin) == ("fd", "same", "b", "2.5")


def test_missing_words_are_named(user: Path) -> None:
    (user / "bad.toml").write_text('about = "a"\naxis = "x"\n')
    with pytest.raises(VariantError, match="source is missing"):
        variants.load("bad")


def test_a_packaged_name_may_not_be_shadowed(user: Path) -> None:
    write(user, "no_drift", "[model]\nkernel = 'softmax'\n")
    with pytest.raises(VariantError, match="no_drift is taken by a packaged variant"):
        variants.load("baseline")


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(VariantError, match=r"unknown variant 'no_drfit'; did you mean no_drift\?"):
        variants.load("no_drfit")
    with pytest.raises(VariantError, match=r"unknown preset 'quik'; did you mean quick\?"):
        variants.resolve(variants.load("baseline"), "quik")


@pytest.mark.parametrize("name", ["../secret", "a/b", "", "+"])
def test_odd_names_never_reach_the_file_system(name: str) -> None:
    if name.strip("+"):
        with pytest.raises(VariantError, match="unknown variant"):
            variants.load(name)
    else:
        with pytest.raises(VariantError, match="unknown variant ''"):
            variants.load(name)


def test_conflicting_parts_are_refused(user: Path) -> None:
    write(user, "wide", "[model]\ndrift_channels = 8\n")
    write(user, "narrow", "[model]\ndrift_channels = 4\n")
    with pytest.raises(VariantError, match=r"model\.drift_channels"):
        variants.load("wide+narrow")
