"""Settings in variants' names and the sweeps of `--set`."""

import pytest

from ablate.base.errors import AblateError, VariantError
from ablate.study import variants
from ablate.study.request import StudyRequest, as_options


def names(**options):
    return [spec.variant for spec in StudyRequest.of(as_options, options).specs()]


def test_a_sweep_makes_one_variant_per_value_and_the_baseline():
    assert names(set=["train.lr=1e-3,3e-4"]) == ["baseline", "baseline[train.lr=0.001]", "baseline[train.lr=0.0003]"]
    assert names(variant="v_pred+no_drift", set="train.lr=3e-4") == ["baseline", "no_drift+v_pred[train.lr=0.0003]"]
    assert names(set=["train.steps=1e3", "train.flip=false"])[1:] == ["baseline[train.flip=false,train.steps=1000]"]


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
    assert names(variant="baseline[train.flip=false,train.lr=1],no_drift")[1:] == [
        "baseline[train.flip=false,train.lr=1]",
        "no_drift",
    ]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lrr=1", "did you mean lr"),
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
