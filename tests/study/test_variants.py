"""Variants: resolution, combination, hashes and clear errors."""

from pathlib import Path

import pytest

from ablate.base.errors import VariantError
from ablate.diffusion.objectives import LOSS_SPACE, PREDICTION
from ablate.diffusion.solvers import SOLVERS
from ablate.models.kpn.backbone import DIFFUSION_SPACES
from ablate.models.kpn.denoiser import OUTPUT
from ablate.models.kpn.filters import KERNEL_WEIGHTS, SKIP, UPSAMPLING
from ablate.study import variants
from ablate.study.config import SECTIONS


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
    "drift": {"model.drift", "model.drift_macs_to_backbone"},
    "prediction": {"diffusion.prediction", "diffusion.loss"},
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
        ("model", "upsampling", UPSAMPLING),
        ("model", "skip", SKIP),
        ("model", "output", OUTPUT),
        ("model", "space", DIFFUSION_SPACES),
        ("diffusion", "prediction", PREDICTION),
        ("diffusion", "loss", LOSS_SPACE),
        ("sample", "solver", SOLVERS),
    ],
)
def test_allowed_words_are_the_entries_of_the_dictionary(section: str, key: str, table: dict[str, object]) -> None:
    import typing

    assert set(typing.get_args(typing.get_type_hints(SECTIONS[section])[key])) == set(table)


def test_a_users_file_stands_beside_the_packaged_ones(user: Path) -> None:
    write(user, "mine", "[model]\ndrift_channels = 4\n")
    assert "mine" in variants.names()
    assert variants.resolve(variants.load("mine"), "smoke").model.drift_channels == 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[model]\ndrfit = false\n", r"unknown key model.drfit; did you mean drift\? Allowed: space, output"),
        ("[modle]\ndrift = false\n", r"unknown key modle; did you mean model\?"),
        ("[model]\ndrift = 'no'\n", "model.drift is 'no'; it must be true or false"),
        ("[model]\nwidth = 2.5\n", "model.width is 2.5; it must be a whole number"),
        ("[model]\nkernel = 'tan'\n", r"model.kernel is 'tan'; did you mean tanh\?"),
        ("[train]\nlr = nan\n", "train.lr is nan; it must be a finite number"),
        ("[train]\nlr = -1.0\n", "train.lr is -1.0; it must be positive"),
        ("[train]\nema = 1.5\n", "train.ema is 1.5; it must be at most 1"),
        ("[model]\nwidth = 33\n", "model.width 33 must be a multiple of"),
        ("[model]\nhead_channels = [1, 2]\n", "need three numbers"),
        ("[model]\nhead_channels = 3\n", "must be a list of whole numbers"),
        ("[model]\ndrift = true\n", "is what the baseline says already"),
        ("model = 3\n", "model is not a section"),
        ("[measure]\nfd_samples = 1\n", "measure.fd_samples is 1; a distance between sets needs at least 2"),
        ("[quantize]\nsamples = 1\n", "quantize.samples is 1; a distance"),
        (
            "[measure]\nlatency_batches = [1, 8, 8]\n",
            r"measure.latency_batches is \[1, 8, 8\]; each may stand there once",
        ),
        ("[quantize]\nschemes = ['int8', 'int8']\n", "quantize.schemes is .*each may stand there once"),
        ("claim = { metric = 'fd' }\n", "claim has metric; it needs"),
        (
            "claim = { metric = 'fd', expect = 'bad', because = 'b' }\n",
            "claim.expect is 'bad'. Allowed: better, worse, same",
        ),
        ("[model\n", "cannot be read as TOML"),
    ],
)
def test_a_bad_file_is_one_clear_line(user: Path, body: str, message: str) -> None:
    write(user, "bad", body)
    with pytest.raises(VariantError, match=message) as caught:
        variants.resolve(variants.load("bad"), "smoke")
    assert "\n" not in str(caught.value).strip()


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
