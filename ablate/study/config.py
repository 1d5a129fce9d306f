"""The configuration of a run: frozen pydantic models, one a section, with what each value may be.

A run's name contains a digest of its configuration: a field that is renamed or added renames
every run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ablate.study.validation import Settings

MAX_INT = 10**12  # of a setting


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may be listed once")
    return values


def _with_one(values: Sequence[int]) -> Sequence[int]:
    if 1 not in values:
        raise ValueError("it must contain 1")
    return values


Count = Annotated[int, Field(gt=0, le=MAX_INT)]
CountOrZero = Annotated[int, Field(ge=0, le=MAX_INT)]
SampleCount = Annotated[int, Field(ge=2, le=MAX_INT)]  # a distance between sets needs at least 2
Positive = Annotated[float, Field(gt=0)]
PositiveOrZero = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Three = Field(min_length=3, max_length=3, strict=False)
Distinct = AfterValidator(_distinct)


class ModelConfig(Settings):
    """Sizes and parts of the denoiser; lengths in channels unless said otherwise."""

    space: Literal["pixel", "latent"]  # of the images that are diffused: 3 x 64 x 64, or latents of 4 x 16 x 16
    output: Literal["kpn", "direct"]  # filters on the noisy image, or colours straight from the features
    kernel: Literal["tanh", "softmax", "sigmoid", "l1", "gaussian"]  # from kernel parameters to kernel weights
    upsampling: Literal["gaussian", "bilinear"]
    skip: Literal["lerp", "none"]  # how a scale's filtered image joins the upsampled one
    drift: bool
    drift_macs_to_backbone: bool  # without a drift network: widen the transformer by its MACs
    drift_channels: Count
    width: Count  # of a token
    depth: Count  # transformer blocks
    attention_heads: Count
    upscaler_channels: Annotated[tuple[Count, ...], Three]  # at 16, 32 and 64 pixels
    head_channels: Annotated[tuple[CountOrZero, ...], Three]  # hidden, of the filter heads; 0: one 1x1 convolution

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % (4 * self.attention_heads):
            least = 4 * self.attention_heads
            raise ValueError(f"width {self.width} must be a multiple of 4 x attention_heads = {least}")
        if self.drift and self.drift_macs_to_backbone:
            raise ValueError("drift_macs_to_backbone needs drift = false: otherwise there are no MACs to give")
        return self


class DiffusionConfig(Settings):
    """What the network predicts, and in which space its error is measured."""

    prediction: Literal["x", "v", "eps"]
    loss: Literal["x", "v", "eps"]
    clip: Fraction  # lower bound of t and 1 - t wherever they divide


class TrainConfig(Settings):
    """The training budget and its optimiser (AdamW, linear warm-up, linear decay to zero)."""

    perceptual: Literal["efficientnet_lite0", "none"]
    perceptual_weight: PositiveOrZero
    perceptual_stages: Annotated[int, Field(gt=0, le=5)]  # of the network's five, the shallowest first
    perceptual_share: Fraction  # of the batch: the images that the perceptual distance is computed on
    steps: Count
    batch: Count
    lr: Positive
    weight_decay: PositiveOrZero
    warmup: CountOrZero  # steps
    decay_from: Fraction  # of the steps, after which the learning rate falls
    ema: Fraction  # upper bound of the decay of the averaged weights, per step
    grad_clip: Positive  # global norm
    flip: bool  # mirror half of the images


class AutoencoderConfig(Settings):
    """The autoencoder of the latent space and its training; the rest is as in `TrainConfig`."""

    channels: Annotated[tuple[Annotated[Count, Field(multiple_of=8)], ...], Three]  # at 64, 32 and 16 pixels
    steps: Count
    batch: Count
    lr: Positive
    perceptual_weight: PositiveOrZero
    kl_weight: PositiveOrZero  # of the divergence per latent number


class SampleConfig(Settings):
    """How images are sampled from the model."""

    solver: Literal["euler", "heun"]
    num_steps: Count


class MeasureConfig(Settings):
    """How many images each metric uses."""

    fd_samples: SampleCount
    fd_reference: SampleCount
    denoise_images: Count
    nearest_train: Count  # training images that are searched for each sample's nearest, at most
    latency_batches: Annotated[tuple[Count, ...], Field(strict=False), Distinct, AfterValidator(_with_one)]
    latency_samples: Count


class QuantizeConfig(Settings):
    """Which other number formats are measured. It is no part of a run's name."""

    schemes: Annotated[tuple[Literal["bf16", "fp8", "int8", "int4"], ...], Field(strict=False), Distinct]
    scopes: Annotated[
        tuple[Literal["kpn", "backbone", "upscaler", "heads", "filters", "decoder", "drift", "all"], ...],
        Field(strict=False),
        Distinct,
    ]
    samples: SampleCount  # images that are compared
    calibration: Count  # images whose sampling shows the range of every activation


class Config(Settings):
    """A variant at a preset: all that a run depends on except data, seed and machine."""

    model: ModelConfig
    diffusion: DiffusionConfig
    train: TrainConfig
    autoencoder: AutoencoderConfig
    sample: SampleConfig
    measure: MeasureConfig
    quantize: QuantizeConfig

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return section -> key -> value of what the trained model and its metrics depend on.

        Number formats are left out, and in pixel space the autoencoder.
        """
        unused = {"quantize"} | ({"autoencoder"} if self.model.space == "pixel" else set())
        return self.model_dump(exclude=unused)

    def to_json(self) -> str:
        """Return the settings as canonical JSON (sorted keys, no spaces)."""
        return json.dumps(self.settings(), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 digest of `to_json()`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


SECTIONS: dict[str, type[Settings]] = {
    name: field.annotation  # type: ignore[misc]
    for name, field in Config.model_fields.items()
}
