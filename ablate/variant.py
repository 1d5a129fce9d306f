"""Variants: TOML deltas over `baseline.toml`, resolved once into a frozen `Config`.

    config = baseline.toml <- presets/PRESET.toml <- variants/NAME.toml

The baseline says what the model is, the preset what may be spent on it, the variant what is changed. Every key of `Config` stands in
exactly one of baseline and preset. The packaged files lie beside this module; a user's own variants lie in `./variants/`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ablate.errors import VariantError, did_you_mean
from ablate.files import read_text
from ablate.variant_claims import check_claim

PACKAGED = Path(__file__).parent / "variants"
PRESETS = Path(__file__).parent / "presets"
USER = Path("variants")
BASELINE = "baseline"
DEFAULT_PRESET = "quick"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # it becomes part of folders' names, and is shown as it stands
MAX_BYTES = 2**20  # of a TOML file
MAX_INT = 10**12  # of a setting


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and parts of the denoiser; lengths in channels unless said otherwise."""

    space: Literal["pixel", "latent"]  # of the pictures that are diffused: 3 x 64 x 64, or an autoencoder's 4 x 16 x 16
    output: Literal["kpn", "direct"]  # filters on the noisy picture, or colours straight from the features
    kernel: Literal["tanh", "softmax", "sigmoid", "l1", "gaussian"]  # how kernel weights are made from a head's numbers
    upsampling: Literal["gaussian", "bilinear"]
    skip: Literal["lerp", "none"]  # how a scale's filtered picture joins the upsampled one
    drift: bool
    drift_macs_to_backbone: bool  # without a drift network: widen the transformer by its MACs
    drift_channels: int
    width: int  # of a token
    depth: int  # transformer blocks
    attention_heads: int
    upscaler_channels: tuple[int, ...]  # at 16, 32 and 64 pixels
    head_channels: tuple[
        int, ...
    ]  # hidden channels of the filter heads at 16, 32 and 64 pixels; 0: one 1x1 convolution


@dataclass(frozen=True)
class DiffusionConfig:
    """What the network predicts, and in which space its error is measured."""

    prediction: Literal["x", "v", "eps"]
    loss: Literal["x", "v", "eps"]
    clip: float  # lower bound of t and 1 - t wherever they divide


@dataclass(frozen=True)
class TrainConfig:
    """The training budget and its optimiser (AdamW, linear warm-up, linear decay to zero)."""

    perceptual: Literal["efficientnet_lite0", "none"]
    perceptual_weight: float
    perceptual_stages: int  # of the network's five, the shallowest first
    perceptual_share: float  # of the batch that the perceptual distance is taken of
    steps: int
    batch: int
    lr: float
    weight_decay: float
    warmup: int  # steps
    decay_from: float  # share of the steps after which the learning rate falls
    ema: float  # upper bound of the decay of the averaged weights, per step
    grad_clip: float  # global norm
    flip: bool  # mirror half of the pictures


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder of the latent space and its training, whose other settings are those of `TrainConfig`."""

    channels: tuple[int, ...]  # at 64, 32 and 16 pixels
    steps: int
    batch: int
    lr: float
    perceptual_weight: float
    kl_weight: float  # of the divergence per latent number


@dataclass(frozen=True)
class SampleConfig:
    """How pictures are drawn from the model."""

    solver: Literal["euler", "heun"]
    num_steps: int


@dataclass(frozen=True)
class MeasureConfig:
    """How many pictures each metric uses."""

    fd_samples: int
    fd_reference: int
    denoise_images: int
    nearest_train: int  # training pictures among which samples' nearest are looked for, at most
    latency_batches: tuple[int, ...]
    latency_samples: int


@dataclass(frozen=True)
class QuantizeConfig:
    """What is measured of the trained model in other number formats: afterwards, so a run's name does not depend on it."""

    schemes: tuple[Literal["bf16", "fp8", "int8", "int4"], ...]
    scopes: tuple[Literal["kpn", "backbone", "upscaler", "heads", "filters", "decoder", "drift", "all"], ...]
    samples: int  # pictures that are compared
    calibration: int  # pictures whose sampling shows the range of every activation


@dataclass(frozen=True)
class Config:
    """A resolved variant at a preset: all that a run depends on, but for its data, seed and machine."""

    model: ModelConfig
    diffusion: DiffusionConfig
    train: TrainConfig
    autoencoder: AutoencoderConfig
    sample: SampleConfig
    measure: MeasureConfig
    quantize: QuantizeConfig

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return section -> key -> value of what a run depends on: in pixel space there is no autoencoder."""
        sections = dataclasses.asdict(self)
        del sections["quantize"]
        if self.model.space == "pixel":
            del sections["autoencoder"]
        return sections

    def to_json(self) -> str:
        """Return the settings as canonical JSON (sorted keys, no spaces)."""
        return json.dumps(self.settings(), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 digest of `to_json()`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


SECTIONS: dict[str, type] = {f.name: typing.get_type_hints(Config)[f.name] for f in dataclasses.fields(Config)}


@dataclass(frozen=True)
class Variant:
    """A named delta over the baseline: `delta` maps `section.key` to its value."""

    name: str
    about: str
    source: str
    axis: str
    claims: tuple[MappingProxyType[str, str], ...]
    delta: MappingProxyType[str, Any]
    compound: bool = False  # changes more than its axis


def names() -> list[str]:
    """Return every variant's name, the baseline first, the packaged ones before the user's.

    Raises:
        VariantError: A file of `./variants` has the name of a packaged variant, or one that cannot be a name.
    """
    packaged = sorted(p.stem for p in PACKAGED.glob("*.toml"))
    # Hidden files are not meant: editors and file managers leave them.
    user = sorted(p.stem for p in USER.glob("*.toml") if not p.name.startswith(".")) if USER.is_dir() else []
    for name in user:
        if not NAME.fullmatch(name):
            allowed = "at most 64 of a-z A-Z 0-9 _ . and -, the first a letter or digit"
            raise VariantError(f"{USER}/{name!a}.toml: not a variant's name; allowed: {allowed}; rename the file")
        if name in packaged:
            raise VariantError(f"{USER / name}.toml: the name {name} is taken by a packaged variant; rename the file")
    return [BASELINE, *(name for name in packaged if name != BASELINE), *user]


def presets() -> list[str]:
    """Return the names of the presets, the cheapest first."""
    order = ["smoke", "quick", "standard", "paper"]
    return sorted(
        (p.stem for p in PRESETS.glob("*.toml")), key=lambda name: (order.index(name) if name in order else 9, name)
    )


def load(name: str) -> Variant:
    """Read one variant, or several joined by `+`.

    Args:
        name: `no_drift`, or `no_drift+v_pred`: the deltas are joined; their order does not matter.

    Raises:
        VariantError: An unknown name, a damaged or invalid file, or two parts that set one key differently.
    """
    parts = canonical(name).split("+")
    variants = [_load_one(part) for part in parts]
    if len(variants) == 1:
        return variants[0]
    delta: dict[str, Any] = {}
    for variant in variants:
        for key, value in variant.delta.items():
            if delta.get(key, value) != value:
                raise VariantError(
                    f"{name}: {variant.name} sets {key} to {value!r}, another part to {delta[key]!r}; choose one"
                )
            delta[key] = value
    return Variant(
        name="+".join(parts),
        about=" ".join(v.about for v in variants),
        source="; ".join(dict.fromkeys(v.source for v in variants)),
        axis="+".join(dict.fromkeys(v.axis for v in variants)),
        claims=(),
        delta=MappingProxyType(delta),
        compound=True,
    )


def canonical(name: str) -> str:
    """Return the name that a combination goes by, whatever the order of its parts."""
    return "+".join(sorted({part.strip() for part in name.split("+")} - {BASELINE}) or [BASELINE])


def resolve(variant: Variant, preset: str) -> Config:
    """Return the full configuration of a variant at a preset.

    Raises:
        VariantError: An unknown preset, or values that do not fit together.
    """
    if preset not in presets():
        raise VariantError(
            f"unknown preset {preset!r}{did_you_mean(preset, presets())} Allowed: {', '.join(presets())}"
        )
    path = PRESETS / f"{preset}.toml"
    values = _baseline_values() | _flatten(path, _read_toml(path)) | dict(variant.delta)
    sections: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        keys = [f.name for f in dataclasses.fields(kind)]
        missing = [f"{section}.{key}" for key in keys if f"{section}.{key}" not in values]
        if missing:
            raise VariantError(f"{path.name}: {missing[0]} is set neither by the baseline nor by the preset")
        sections[section] = kind(**{key: values[f"{section}.{key}"] for key in keys})
    config = Config(**sections)
    _check(f"{variant.name} at preset {preset}", config)
    return config


def from_json(text: str, preset: str) -> Config:
    """Return the configuration of a run from the JSON in its row; what it leaves out (an autoencoder, a later key) is the preset's.

    Raises:
        VariantError: Not such JSON, or values that do not fit together.
    """
    try:
        sections = json.loads(text)
        config = resolve(load(BASELINE), preset)
        for section, values in sections.items():
            known = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
            config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **known)})
        _check("a run's configuration", config)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise VariantError(f"a run's configuration cannot be read: {' '.join(str(error).split())}") from error
    return config


def _load_one(name: str) -> Variant:
    known = names()
    if name not in known:
        raise VariantError(f"unknown variant {name!r}{did_you_mean(name, known)} Allowed: {', '.join(known)}")
    path = PACKAGED / f"{name}.toml"
    if not path.is_file():
        path = USER / f"{name}.toml"
    table = _read_toml(path)
    words: dict[str, Any] = {"about": str, "source": str, "axis": str, "claim": (dict, list), "compound": bool}
    for key in table:
        if key not in words and key not in SECTIONS:
            allowed = [*words, *SECTIONS]
            raise VariantError(f"{path}: unknown key {key}{did_you_mean(key, allowed)} Allowed: {', '.join(allowed)}")
    for key, kind in words.items():
        if key in table and not isinstance(table[key], kind):
            wanted = {bool: "true or false", str: "a string"}.get(kind, "a table, or a list of tables")
            raise VariantError(f"{path}: {key} is {table[key]!r}; it must be {wanted}")
        if kind is str and not str(table.get(key, "")).isprintable():
            raise VariantError(f"{path}: {key} is {table[key]!a}; it must be one line without control characters")
        if key not in table and kind is str:
            raise VariantError(f"{path}: {key} is missing; every variant says about, source and axis")
    delta = _flatten(path, {key: table[key] for key in table if key in SECTIONS})
    if name == BASELINE:
        delta = {}
    else:
        baseline = _baseline_values()
        for key, value in delta.items():
            if key in baseline and baseline[key] == value:
                raise VariantError(f"{path}: {key} = {value!r} is what the baseline says already; leave it out")
    claims = table.get("claim", [])
    claims = [claims] if isinstance(claims, dict) else claims
    for claim in claims:
        check_claim(path, claim)
    return Variant(
        name=name,
        about=table["about"],
        source=table["source"],
        axis=table["axis"],
        claims=tuple(MappingProxyType(claim) for claim in claims),
        delta=MappingProxyType(delta),
        compound=table.get("compound", False),
    )


def _baseline_values() -> dict[str, Any]:
    path = PACKAGED / f"{BASELINE}.toml"
    table = _read_toml(path)
    return _flatten(path, {key: value for key, value in table.items() if key in SECTIONS})


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, MAX_BYTES))
    # Not there, damaged or not UTF-8, with numbers of thousands of digits; nested too deeply.
    except (OSError, ValueError, RecursionError) as error:
        raise VariantError(f"{path}: cannot be read as TOML: {error}") from error


def _flatten(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    """Turn {section: {key: value}} into {section.key: value}, with every value checked against the dataclass."""
    flat: dict[str, Any] = {}
    for section, values in table.items():
        if section not in SECTIONS or not isinstance(values, dict):
            raise VariantError(f"{path}: {section} is not a section. Allowed: {', '.join(SECTIONS)}")
        kinds = typing.get_type_hints(SECTIONS[section])
        for key, value in values.items():
            if key not in kinds:
                raise VariantError(
                    f"{path}: unknown key {section}.{key}{did_you_mean(key, kinds)} Allowed: {', '.join(kinds)}"
                )
            flat[f"{section}.{key}"] = _convert(path, f"{section}.{key}", value, kinds[key])
    return flat


def _convert(path: Path, key: str, value: Any, kind: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        if value not in (allowed := typing.get_args(kind)):
            near = did_you_mean(str(value), allowed)
            raise VariantError(f"{path}: {key} is {value!r}{near} Allowed: {', '.join(allowed)}")
        return value
    if typing.get_origin(kind) is tuple and typing.get_origin(typing.get_args(kind)[0]) is Literal:
        if not isinstance(value, list):
            raise VariantError(f"{path}: {key} is {value!r}; it must be a list")
        return tuple(_convert(path, key, item, typing.get_args(kind)[0]) for item in value)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            return tuple(value)
        raise VariantError(f"{path}: {key} is {value!r}; it must be a list of whole numbers")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        wanted = {int: "a whole number", float: "a finite number", bool: "true or false"}[kind]
        raise VariantError(f"{path}: {key} is {value!r}; it must be {wanted}")
    return value


def _check(what: str, config: Config) -> None:
    """Refuse values outside their range, and sizes that do not divide."""
    zero_allowed = {"train.warmup", "train.weight_decay", "train.perceptual_weight", "model.head_channels"}
    zero_allowed |= {"autoencoder.perceptual_weight", "autoencoder.kl_weight"}
    shares = {"train.perceptual_share", "train.decay_from", "train.ema", "diffusion.clip"}
    for section in SECTIONS:
        for key, value in dataclasses.asdict(getattr(config, section)).items():
            name = f"{section}.{key}"
            numbers = value if isinstance(value, tuple) else (value,)
            if any(type(n) in (int, float) and (n < 0 or (n == 0 and name not in zero_allowed)) for n in numbers):
                raise VariantError(
                    f"{what}: {name} is {value!r}; it must be {'zero or more' if name in zero_allowed else 'positive'}"
                )
            if any(type(n) is int and n > MAX_INT for n in numbers):
                raise VariantError(f"{what}: {name} is {value!r}; it must be at most {MAX_INT:,}")
            if name in shares and value > 1:
                raise VariantError(f"{what}: {name} is {value!r}; it must be at most 1")
    model = config.model
    if model.width % (4 * model.attention_heads):
        raise VariantError(
            f"{what}: model.width {model.width} must be a multiple of 4 x attention_heads = {4 * model.attention_heads}"
        )
    if len(model.upscaler_channels) != 3 or len(model.head_channels) != 3:
        raise VariantError(
            f"{what}: model.upscaler_channels and model.head_channels need three numbers each, for 16, 32 and 64 pixels"
        )
    if len(config.autoencoder.channels) != 3 or any(n % 8 for n in config.autoencoder.channels):
        raise VariantError(
            f"{what}: autoencoder.channels is {config.autoencoder.channels}; it needs three multiples of 8, for 64, 32 and 16 pixels"
        )
    if model.drift and model.drift_macs_to_backbone:
        raise VariantError(
            f"{what}: model.drift_macs_to_backbone needs model.drift = false: there is nothing to give back"
        )
    if 1 not in config.measure.latency_batches:
        raise VariantError(f"{what}: measure.latency_batches is {config.measure.latency_batches}; it must contain 1")
    if config.train.perceptual_stages > 5:
        raise VariantError(f"{what}: train.perceptual_stages is {config.train.perceptual_stages}; the network has 5")
