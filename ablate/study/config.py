"""The configuration of a run: frozen pydantic models, one a section, with what each value may be.

A run's name contains a digest of its configuration: a field that is renamed or added renames
every run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, create_model, model_validator

from ablate.base.errors import did_you_mean
from ablate.study import plugins
from ablate.study.model_settings import ModelSettings
from ablate.study.validation import Settings

MAX_INT = 10**12  # of a setting
LATENT_SHAPE = (4, 16, 16)  # (channels, height, width)
SOLVERS = ("euler", "heun")
OBJECTIVES = ("flow",)  # rectified flow, z = t x + (1 - t) eps


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may be listed once")
    return values


def _named(group: str, own: tuple[str, ...]) -> AfterValidator:
    """Allow the package's names and those of plug-ins."""

    def known(name: str) -> str:
        if name not in own and name not in (registered := plugins.names(group)):
            allowed = [*own, *registered]
            near = did_you_mean(name, allowed)[1:].strip()
            raise ValueError(
                f"{near} Allowed: {', '.join(allowed)}" if near else f"it must be one of: {', '.join(allowed)}"
            )
        return name

    return AfterValidator(known)


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


class DataConfig(Settings):
    """The form that images are read in, the same for all variants of a study."""

    size: Annotated[int, Field(ge=8, le=1024)] = 64  # width and height, pixels
    channels: Literal[1, 3] = 3  # 1: grey
    array: str = ""  # of an .npz: the one that holds the images; empty: the only one that can


class DiffusionConfig(Settings):
    """What the network predicts, in which space its error is measured, and at which times."""

    newer: ClassVar[tuple[str, ...]] = ("objective", "times")

    objective: Annotated[str, _named("objective", OBJECTIVES)] = OBJECTIVES[0]
    prediction: Literal["x", "v", "eps"]
    loss: Literal["x", "v", "eps"]
    clip: Fraction  # lower bound of t and 1 - t wherever they divide
    times: Literal["uniform", "logit_normal"] = "uniform"  # distribution of t in training


class TrainConfig(Settings):
    """The training budget and its optimiser (AdamW, linear warm-up, linear decay to zero)."""

    perceptual: Literal["efficientnet_lite0", "lpips_vgg", "none"]  # lpips_vgg: needs weights of VGG16
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

    solver: Annotated[str, _named("solver", SOLVERS)]
    num_steps: Count
    guidance: Annotated[float, Field(ge=1, le=100)] = 1.0  # scale of autoguidance; 1: none
    guide_after: Fraction = 0.2  # of the training's steps: whose averaged weights guide

    @property
    def guided(self) -> bool:
        """Whether samples are guided by an earlier average of the weights."""
        return self.guidance != 1

    @property
    def networks(self) -> int:
        """Network evaluations for each of the solver's."""
        return 2 if self.guided else 1


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
    scopes: Annotated[tuple[str, ...], Field(strict=False), Distinct]  # module groups of the model, or `all`
    samples: SampleCount  # images that are compared
    calibration: Count  # images whose sampling shows the range of every activation


class RunConfig(Settings):
    """All that a run depends on except data, seed and machine."""

    def settings(self) -> dict[str, Any]:
        """Return section -> key -> value of what the run's results depend on."""
        return self.model_dump()

    def to_json(self) -> str:
        """Return the settings as canonical JSON (sorted keys, no spaces)."""
        return json.dumps(self.settings(), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 digest of `to_json()`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


class Config(RunConfig):
    """A variant of a torch model at a preset. `config_class` returns the class for a kind of model.

    Attributes:
        plugins: Plug-ins that the run uses, as in `model unet`, and the digests of their code.
    """

    model: ModelSettings
    data: DataConfig = DataConfig()
    diffusion: DiffusionConfig
    train: TrainConfig
    autoencoder: AutoencoderConfig
    sample: SampleConfig
    measure: MeasureConfig
    quantize: QuantizeConfig
    plugins: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.model.space == "latent" and (self.data.size, self.data.channels) != (64, 3):
            raise ValueError("the latent space needs images of 64 pixels in colour: data.size = 64, data.channels = 3")
        return self

    @model_validator(mode="before")
    @classmethod
    def _with_plugins(cls, given: Any) -> Any:
        """Record the plug-ins in use, unless the configuration comes from a run that says which they were."""
        if not isinstance(given, dict) or given.get("plugins"):
            return given
        used = [("model", _value(given, "model", "kind")), ("objective", _value(given, "diffusion", "objective"))]
        used.append(("solver", _value(given, "sample", "solver")))
        digests = {f"{group} {name}": plugins.digest(group, name) for group, name in used if isinstance(name, str)}
        return given | {"plugins": {name: digest for name, digest in digests.items() if digest}}

    def __reduce__(self) -> Any:
        """Pickle by kind, with the code of the loaded plug-ins: the class is made for the kind."""
        return _restored, (self.model.kind, dict(self.model_dump(), model=self._model_values()), plugins.loaded_code())

    def _model_values(self) -> dict[str, Any]:
        return {name: getattr(self.model, name) for name in type(self.model).model_fields}

    def changed_plugins(self) -> list[str]:
        """Return the plug-ins whose code is not the one that this configuration was recorded with."""
        return [name for name, digest in self.plugins.items() if plugins.digest(*name.split(" ", 1)) != digest]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what is diffused."""
        return LATENT_SHAPE if self.model.space == "latent" else (self.data.channels, self.data.size, self.data.size)

    def settings(self) -> dict[str, Any]:
        """Return section -> key -> value of what the trained model and its metrics depend on.

        Number formats are left out, in pixel space the autoencoder, and sections and keys that are
        newer than the first rows where they have their default.
        """
        unused = {"quantize"} | ({"autoencoder"} if self.model.space == "pixel" else set())
        unused |= {"data"} if self.data == DataConfig() else set()
        unused |= set() if self.plugins else {"plugins"}
        table = self.model_dump(exclude=unused)
        if "data" in table and not self.data.array:
            del table["data"]["array"]
        for name, section in (("model", self.model), ("diffusion", self.diffusion)):
            for key in section.newer:
                if getattr(section, key) == type(section).model_fields[key].default:
                    del table[name][key]
        if not self.sample.guided:
            del table["sample"]["guidance"], table["sample"]["guide_after"]
        return table


def config_class(kind: str) -> type[Config]:
    """Return the configuration of a kind of model.

    Raises:
        PluginError: No such model is registered.
    """
    return _config_class(plugins.find("model", kind).target)


@lru_cache(maxsize=32)
def _config_class(model: type[ModelSettings]) -> type[Config]:
    made: type[Config] = create_model("Config", __base__=Config, model=(model, ...))
    return made


def sections(kind: str) -> dict[str, type[Settings]]:
    """Return the sections of the configuration of a kind of model.

    Raises:
        PluginError: No such model is registered.
    """
    fields = config_class(kind).model_fields
    return {name: field.annotation for name, field in fields.items() if name != "plugins"}  # type: ignore[misc]


def _restored(kind: str, values: dict[str, Any], code: Any) -> Config:
    plugins.load_code(code)
    return config_class(kind).model_validate(values)


def _value(given: dict[str, Any], section: str, key: str) -> Any:
    table = given.get(section)
    return table.get(key) if isinstance(table, dict) else getattr(table, key, None)
