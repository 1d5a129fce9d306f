"""Settings in variants' names and the sweeps of `--set`."""

import pytest

from ablate.base.errors import AblateError, VariantError
from ablate.study import variants
from ablate.study.request import StudyRequest, as_options


def names(**options):
    return [spec.variant for spec in StudyRequest.of(as_options, options).specs()]


def test_a_sweep_makes_one_variant_per_value_and_the_baseline():
    assert names(set=["train.lr=2e-3,3e-4"]) == ["baseline", "baseline[train.lr=0.002]", "baseline[train.lr=0.0003]"]
    assert names(variant="v_pred+no_drift", set="train.lr=3e-4") == ["baseline", "no_drift+v_pred[train.lr=0.0003]"]
    assert names(set=["train.steps=1e3", "train.flip=true"])[1:] == ["baseline[train.flip=true,train.steps=1000]"]


def test_a_set_variant_has_the_value_its_own_hash_and_its_own_run_id():
    plain, low = (s for s in StudyRequest.of(as_options, {"set": "train.lr=3e-5"}).specs())
    assert low.config.train.lr == 3e-5
    assert low.config.hash != plain.config.hash
    assert low.run_id("cats", "d").startswith("baseline@train.lr=3e-05@-quick-cats-s0-")


def test_every_spelling_has_one_name():
    for name in ("v_pred[train.lr=3e-4]+no_drift", "no_drift + v_pred[ train.lr = 0.0003 ]"):
        assert variants.canonical(name) == "no_drift+v_pred[train.lr=0.0003]"
        assert variants.load(name).name == "no_drift+v_pred[train.lr=0.0003]"
    assert variants.canonical("baseline[train.lr=1e+20]") == "baseline[train.lr=1e20]"
    assert names(variant="baseline[train.flip=true,train.lr=1],no_drift")[1:] == [
        "baseline[train.flip=true,train.lr=1]",
        "no_drift",
    ]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lrr=1", "did you mean train.lr?"),
        ("train.lr=fast", "must be a number"),
        ("train.lr", "not a setting"),
        ("model.kernel=tan", "tanh"),
        ("quantize.samples=4", "--quantize"),
        ("train.lr=a/b", "not a number"),
    ],
)
def test_a_bad_setting_is_one_line(setting, words):
    with pytest.raises(AblateError) as caught:
        names(set=[setting])
    assert words.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_one_key_with_two_values_is_refused():
    with pytest.raises(VariantError, match="choose one"):
        variants.load("baseline[train.lr=1]+v_pred[train.lr=2]")


def test_a_value_that_the_variant_has_already_is_its_own_run():
    assert names(preset="smoke", set="train.lr=1e-3,2e-3") == ["baseline[train.lr=0.001]", "baseline"]
    assert names(variant="no_drift", set="model.drift=false") == ["baseline", "no_drift"]


OWN_PRESET = """extends = "smoke"
[train]
steps = 7
"""


def test_own_variants_and_presets_of_another_folder(tmp_path, monkeypatch):
    (tmp_path / "mine" / "presets").mkdir(parents=True)
    (tmp_path / "mine" / "presets" / "tiny.toml").write_text(OWN_PRESET)
    (tmp_path / "mine" / "flat.toml").write_text('about = "a"\nsource = "s"\naxis = "depth"\n[model]\ndepth = 1\n')
    with variants.registry(tmp_path / "mine"):
        tiny = variants.resolve(variants.load("flat"), "tiny")
        smoke = variants.resolve(variants.load("flat"), "smoke")
    assert (tiny.train.steps, tiny.train.batch, tiny.model.depth) == (7, smoke.train.batch, 1)
    assert "flat" not in variants.names()
    monkeypatch.setenv("ABLATE_VARIANTS", str(tmp_path / "mine"))
    assert variants.presets()[-1] == "tiny"
    with pytest.raises(VariantError, match="no such folder"), variants.registry(tmp_path / "none"):
        pass


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("quick", OWN_PRESET, "taken by a packaged preset"),
        ("tiny", OWN_PRESET.replace("smoke", "smok"), "did you mean smoke"),
        ("tiny", OWN_PRESET.replace("smoke", "tiny"), "extends itself"),
        ("tiny", "[train]\nsteps = 7\n", "is missing; set it, or begin with extends"),
        ("tiny", OWN_PRESET + "step = 1\n", "did you mean train.steps?"),
    ],
)
def test_a_bad_preset_is_one_line(name, text, words, tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATE_VARIANTS", str(tmp_path))
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / f"{name}.toml").write_text(text)
    with pytest.raises(VariantError) as caught:
        variants.resolve(variants.load("baseline"), "tiny")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
