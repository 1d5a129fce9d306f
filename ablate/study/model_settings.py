"""The section `[model]`: the settings of one kind of model, and how a user's class becomes one."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, Field, create_model

from ablate.base.errors import PluginError
from ablate.base.text import one_line
from ablate.study.validation import Settings


class ModelSettings(Settings):
    """The section `[model]`: the settings of one kind of model.

    Attributes:
        kind: The name that the model is registered by.
        space: What is diffused: the images, or latents of 4 x 16 x 16.
        all_groups: Module groups that any model of this kind has, to report those that one lacks.
    """

    all_groups: ClassVar[tuple[str, ...]] = ()

    kind: str
    space: Literal["pixel", "latent"] = "pixel"

    def build(self, shape: tuple[int, int, int]) -> Any:
        """Return the network, an `nn.Module` with (z (B, C, S, S), t (B,) in [0, 1]) -> (B, C, S, S).

        Args:
            shape: (C, S, S) of what is diffused.
        """
        raise NotImplementedError

    def memory_sizes(self, shape: tuple[int, int, int]) -> tuple[int, int] | None:
        """Estimate the parameters, and the values per image that a backward pass keeps; None: unknown."""
        return None


def settings_of(where: str, name: str, cls: Any) -> type[ModelSettings]:
    """Return the settings class of a user's class."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise PluginError(f"{where}: model {name}: a field's type cannot be read: {one_line(error)}") from error
    fields: dict[str, Any] = {}
    if issubclass(cls, BaseModel):
        fields = {key: (field.annotation, field) for key, field in cls.model_fields.items()}
    else:
        for field in dataclasses.fields(cls):
            default = field.default if field.default is not dataclasses.MISSING else ...
            if field.default_factory is not dataclasses.MISSING:
                default = Field(default_factory=field.default_factory)
            hint = hints[field.name]
            # TOML has lists, no tuples.
            lenient = typing.get_origin(hint) is tuple or hint is tuple
            fields[field.name] = (Annotated[hint, Field(strict=False)] if lenient else hint, default)
    for key in fields:
        if hasattr(ModelSettings, key) or key in ModelSettings.model_fields:
            raise PluginError(f"{where}: model {name}: a field may not be called {key}; rename it")

    def build(self: ModelSettings, shape: tuple[int, int, int]) -> Any:
        return cls(**{key: getattr(self, key) for key in fields}).build(shape)

    try:
        fields_of_all: dict[str, Any] = {"kind": (Literal[name], name), **fields}
        made: Any = create_model(cls.__name__, __base__=ModelSettings, **fields_of_all)
    except Exception as error:  # a type that pydantic does not know
        raise PluginError(f"{where}: model {name}: {one_line(error)}") from error
    made.build = build
    return cast("type[ModelSettings]", made)
