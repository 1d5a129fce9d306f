"""The TOML files of variants and presets as pydantic models: what each may hold, and reading one.

A setting is written `section.key` outside the files. Every error is one line that names the file.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, create_model

from ablate.base.errors import PluginError, VariantError
from ablate.base.toml import parse_toml
from ablate.study.claims import Claim, Line
from ablate.study.config import Config, config_class, sections
from ablate.study.plugins import find
from ablate.study.program import ProgramConfig, ProgramSettings, Value
from ablate.study.validation import Location, Settings, dotted, explain
from ablate.study.variants import PROGRAM

MAX_BYTES = 2**20  # of a TOML file

TABLES = ("program.environment", "program.metrics")  # each key of these is a setting of its own
NOT_SETTINGS = {"about", "source", "axis", "claim", "compound", "extends", "plugins"}

Model = TypeVar("Model", bound=Settings)


def _optional(section: type[Settings]) -> type[Settings]:
    """Return the section with every key optional: a file sets some of them."""
    fields = {}
    for name, field in section.model_fields.items():
        fields[name] = (field.annotation, own := copy.copy(field))
        own.default, own.default_factory = None, None
    return create_model(section.__name__, __base__=Settings, **fields)  # type: ignore[call-overload]


class _Words(Settings):
    """What a variant's file says beside its settings."""

    about: Line
    source: Line
    axis: Line
    claim: Annotated[
        tuple[Claim, ...],
        BeforeValidator(lambda given: [given] if isinstance(given, dict) else given),
        Field(strict=False),
    ] = ()
    compound: bool = False  # changes more than its axis


class FileModels(NamedTuple):
    """The models of files whose section `[model]` is of one kind."""

    settings: type[Settings]
    preset: type[Settings]
    variant: type[Settings]


def file_models(kind: str) -> FileModels:
    """Return the models of files for a kind of model.

    Raises:
        PluginError: No such model is registered.
    """
    return _file_models_of(kind, None if kind == PROGRAM else config_class(kind))


@lru_cache(maxsize=32)
def _file_models_of(kind: str, config: type[Config] | None) -> FileModels:
    """Return the models of files for a kind of model as it is registered now."""
    settings: dict[str, Any]
    if config is None:
        settings = {"program": (_optional(ProgramSettings), None), "options": (dict[str, Value] | None, None)}
    else:
        settings = {name: (_optional(section), None) for name, section in sections(kind).items()}
    return _file_models(settings)


def _file_models(settings: dict[str, Any]) -> FileModels:
    return FileModels(
        create_model("SettingsTable", __base__=Settings, plugins=(dict[str, str] | None, None), **settings),
        create_model("PresetFile", __base__=Settings, extends=(Line | None, None), **settings),
        create_model("VariantFile", __base__=_Words, **settings),
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        VariantError: It cannot be read, or is not TOML.
    """
    try:
        return parse_toml(_read_text(path))
    # Missing, damaged or not UTF-8; with numbers of thousands of digits; nested too deeply.
    except (OSError, ValueError, RecursionError) as error:
        raise VariantError(f"{path}: cannot be read as TOML: {error}") from error


def kind_of(what: str, table: Mapping[str, Any], default: str) -> str:
    """Return the kind of model that a file's settings are for; `PROGRAM` for those of a program.

    Args:
        what: Begins the message of an error.
        table: The file's content.
        default: The kind where it names none.

    Raises:
        VariantError: No such model is registered.
    """
    if PROGRAM in table or default == PROGRAM:
        return PROGRAM
    section = table.get("model")
    kind = section.get("kind", default) if isinstance(section, dict) else default
    if not isinstance(kind, str):
        raise VariantError(f"{what}: model.kind is {kind!r}; it must be a string")
    try:
        find("model", kind)
    except PluginError as error:
        raise VariantError(f"{what}: model.kind: {error}") from None
    return kind


def validated(what: str, model: type[Model], table: object) -> Model:
    """Return a validated model.

    Args:
        what: Begins the message of an error: a file, or whose settings these are.
        model: What the table must be.
        table: Section -> key -> value.

    Raises:
        VariantError: An unknown key, or a value that is not allowed.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise VariantError(f"{what}: {explain(error, model, _subject)}") from None


def settings_of(file: Settings) -> dict[str, Any]:
    """Return what a file sets, by `section.key`."""
    sections = file.model_dump(exclude=NOT_SETTINGS, exclude_unset=True)
    settings = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    for table in TABLES:
        inner = settings.pop(table, {})
        settings |= {f"{table}.{key}": value for key, value in inner.items()}
    return settings


def configuration(
    what: str, kind: str, settings: Mapping[str, Any], plugins: Mapping[str, str] | None = None
) -> Config | ProgramConfig:
    """Return the configuration with these settings.

    Args:
        what: Begins the message of an error.
        kind: The kind of model.
        settings: By `section.key`.
        plugins: The plug-ins of a recorded run; None: those that are loaded.

    Raises:
        VariantError: A setting is missing, or they do not fit together.
    """
    table: dict[str, dict[str, Any]] = {}
    if kind != PROGRAM:
        table["model"] = {"kind": kind}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        inner, _, last = key.partition(".")
        if f"{section}.{inner}" in TABLES:
            table.setdefault(section, {}).setdefault(inner, {})[last] = value
        else:
            table.setdefault(section, {})[key] = value
    if kind == PROGRAM:
        return validated(what, ProgramConfig, table)
    if plugins:
        table["plugins"] = dict(plugins)
    return validated(what, config_class(kind), table)


def _subject(at: Location, given: Any) -> str:
    # A section's own check names the keys that do not fit.
    if isinstance(given, dict):
        return f"{dotted(at)}:" if at else ""
    return f"{dotted(at)} is {given!r};"


def _read_text(path: Path) -> str:
    """Read a small UTF-8 file, with or without a byte-order mark.

    Raises:
        OSError: It cannot be read, or is not a regular file: reading a pipe would block.
        ValueError: It is too large, or is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path.stat().st_size:,} bytes; allowed: {MAX_BYTES:,}")
    return content.decode("utf-8-sig")
