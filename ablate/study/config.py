"""The configuration of a run: a frozen `Config` of sections, and what its values may be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ablate.base.errors import VariantError, did_you_mean

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


def flatten(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    """Turn {section: {key: value}} into {section.key: value}, with every value checked against the dataclass.

    Args:
        path: The file that the table is of, for messages.
        table: Section -> key -> value, as TOML has them.

    Raises:
        VariantError: An unknown section or key, or a value of another kind.
    """
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


def check_config(what: str, config: Config) -> None:
    """Refuse values outside their range, and sizes that do not divide.

    Args:
        what: Whose configuration it is, for messages.
        config: The configuration.

    Raises:
        VariantError: Such a value; the message names its key.
    """
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
    for name, number in {
        "measure.fd_samples": config.measure.fd_samples,
        "measure.fd_reference": config.measure.fd_reference,
        "quantize.samples": config.quantize.samples,
    }.items():
        if number < 2:
            raise VariantError(f"{what}: {name} is {number}; a distance between sets needs at least 2")
    for name, listed in {
        "measure.latency_batches": config.measure.latency_batches,
        "quantize.schemes": config.quantize.schemes,
        "quantize.scopes": config.quantize.scopes,
    }.items():
        if len(set(listed)) < len(listed):
            raise VariantError(f"{what}: {name} is {list(listed)}; each may stand there once")
    if config.train.perceptual_stages > 5:
        raise VariantError(f"{what}: train.perceptual_stages is {config.train.perceptual_stages}; the network has 5")
