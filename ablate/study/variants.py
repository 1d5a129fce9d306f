"""Variants: TOML deltas over `baseline.toml`, resolved once into a frozen `Config`.

    config = baseline.toml <- presets/PRESET.toml <- variants/NAME.toml

The baseline sets what the model is, the preset its budget, the variant what is changed. Every key of
`Config` is set by the baseline or by the preset, never by both. The packaged files are in
`variants/` at the top of the repository, and in `ablate/variants/` of a wheel. A user's own variants
and presets are in `./variants/` or another folder (see `registry`), which in a checkout can be the
same folder. If that folder has a `baseline.toml`, the study is the user's own: that file is laid over
the packaged baseline, and the packaged variants are left out.

Settings of `[model]` are of one kind of model. A file may name another kind than the baseline's; then
no file of another kind says anything about its model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from ablate.base.errors import VariantError, did_you_mean
from ablate.study.overrides import parse_name, settings_text

if TYPE_CHECKING:  # pydantic is imported when a file is read: `ablate --help` does not wait for it
    from ablate.study.claims import Claim
    from ablate.study.config import Config
    from ablate.study.layers import Layer

_ROOT = Path(__file__).resolve().parents[2]
# In a wheel the files lie inside the package, in a checkout beside it.
PACKAGED = next(
    folder for folder in (_ROOT / "ablate/variants", _ROOT / "variants") if (folder / "baseline.toml").is_file()
)
PRESETS = PACKAGED / "presets"
FOLDER_VARIABLE = "ABLATE_VARIANTS"
BASELINE = "baseline"
DEFAULT_PRESET = "quick"
DEFAULT_KIND = "kpn"  # of a model
PROGRAM = "program"  # in the place of a kind of model: a user's own program
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # it becomes part of folders' names and is printed
NOT_OF_A_VARIANT = {
    "data": "is the same for all variants of a study; set it in baseline.toml or in a preset",
    "model": "is no setting; write a variant that names the kind and its settings",
}
_MISSING = object()
_registry: ContextVar[Path | None] = ContextVar("registry", default=None)


@dataclass(frozen=True)
class Variant:
    """A named delta over the baseline: `delta` maps `section.key` to its value."""

    name: str
    about: str
    source: str
    axis: str
    claims: tuple[Claim, ...]
    delta: MappingProxyType[str, Any]
    compound: bool = False  # it changes more than its axis
    kind: str = DEFAULT_KIND  # of its model


@contextmanager
def registry(folder: Path | None) -> Iterator[None]:
    """Take the user's variants and presets from a folder; None: `ABLATE_VARIANTS`, else `./variants`.

    Raises:
        VariantError: There is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise VariantError(f"{folder}: no such folder; it should hold variants as NAME.toml, and presets in presets/")
    token = _registry.set(folder)
    try:
        yield
    finally:
        _registry.reset(token)


def own_folder() -> Path:
    """Return the folder of the user's own variants."""
    return _registry.get() or Path(os.environ.get(FOLDER_VARIABLE) or "variants")


def names() -> list[str]:
    """Return every variant's name, the baseline first, the packaged ones before the user's.

    Raises:
        VariantError: A file of the user's has a packaged variant's name, or one not allowed.
    """
    own = _own_names(own_folder(), PACKAGED, "variant")
    packaged = [] if own_baseline() else sorted(path.stem for path in PACKAGED.glob("*.toml"))
    return [BASELINE, *(name for name in (*packaged, *own) if name != BASELINE)]


def own_baseline() -> Path | None:
    """Return the user's own `baseline.toml`, which replaces the packaged variants; None: there is none."""
    path = own_folder() / f"{BASELINE}.toml"
    return path if path.is_file() and own_folder().resolve() != PACKAGED else None


def is_program() -> bool:
    """Return whether the user's own baseline is a program (`ablate.study.program`).

    Raises:
        VariantError: It cannot be read.
    """
    from ablate.study.variant_file import read_toml

    own = own_baseline()
    return own is not None and PROGRAM in read_toml(own)


def presets() -> list[str]:
    """Return the presets, the packaged ones first, of those the cheapest first.

    The packaged ones are of a torch model. Of a program `DEFAULT_PRESET` is the baseline as it is,
    unless the user has a file of that name.

    Raises:
        VariantError: As for `names`.
    """
    if is_program():
        own = _own_names(own_folder() / "presets", PRESETS, "preset")
        return own if DEFAULT_PRESET in own else [DEFAULT_PRESET, *own]
    rank = {name: at for at, name in enumerate(("smoke", "quick", "standard", "published", "paper"))}
    packaged = sorted((path.stem for path in PRESETS.glob("*.toml")), key=lambda name: (rank.get(name, 9), name))
    return [*packaged, *_own_names(own_folder() / "presets", PRESETS, "preset")]


def _own_names(folder: Path, packaged: Path, kind: str) -> list[str]:
    if not folder.is_dir() or folder.resolve() == packaged:
        return []
    # Editors and file managers leave hidden files.
    own = sorted(path.stem for path in folder.glob("*.toml") if not path.name.startswith("."))
    replaced = own_baseline() is not None if kind == "variant" else is_program()
    for name in own:
        if not NAME.fullmatch(name):
            allowed = "at most 64 of a-z A-Z 0-9 _ . and -, the first a letter or digit"
            raise VariantError(
                f"{folder}/{name!a}.toml: this cannot be a {kind}'s name; allowed: {allowed}; rename the file"
            )
        if (packaged / f"{name}.toml").is_file() and not replaced:
            raise VariantError(f"{folder / name}.toml: the name {name} is taken by a packaged {kind}; rename the file")
    return own


def load(name: str) -> Variant:
    """Read one variant, or several joined by `+`.

    Args:
        name: `no_drift`, or `no_drift+v_pred`: the deltas are joined; their order does not matter.
            `no_drift[train.lr=0.0003]` also sets keys of the configuration.

    Raises:
        VariantError: An unknown name, a damaged or invalid file, or two parts that set one key differently.
    """
    names_given, overrides = parse_name(name)
    if overrides:
        return _overridden(load("+".join(names_given)), overrides)
    parts = canonical(name).split("+")
    variants = [_load_one(part) for part in parts]
    if len(variants) == 1:
        return variants[0]
    delta: dict[str, Any] = {}
    kinds = {v.kind: v.name for v in variants if any(key.startswith("model.") for key in v.delta)}
    if len(kinds) > 1:
        listed = ", ".join(f"{part} of {kind}" for kind, part in kinds.items())
        raise VariantError(f"{name}: these set different kinds of model: {listed}; choose one")
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
        kind=next(iter(kinds), variants[0].kind),
    )


def load_packaged(name: str) -> Variant | None:
    """Return the packaged variant of a name, whatever lies in `./variants`; None if there is none."""
    if not NAME.fullmatch(name) or not (PACKAGED / f"{name}.toml").is_file():
        return None
    from ablate.study import layers

    return _read_variant(PACKAGED / f"{name}.toml", layers.packaged_baseline())


def canonical(name: str) -> str:
    """Return the name of a combination: its parts sorted, without the baseline; then what is set.

    Raises:
        VariantError: Settings in brackets that cannot be read.
    """
    parts, overrides = parse_name(name)
    return "+".join(sorted(set(parts) - {BASELINE}) or [BASELINE]) + settings_text(overrides)


def resolve(variant: Variant, preset: str) -> Config:
    """Return the full configuration of a variant at a preset: of a program a `ProgramConfig`.

    Raises:
        VariantError: An unknown preset, or values that do not fit together.
    """
    from ablate.study import layers
    from ablate.study.variant_file import configuration

    kind = variant.kind
    if kind == PROGRAM:
        settings = layers.baseline_layer().settings | layers.preset_layer(preset).settings | dict(variant.delta)
        root = own_folder().resolve().parent  # results say the same wherever the command is typed
        settings["program.workdir"] = str((root / settings.get("program.workdir", "")).resolve())
        what = f"{own_baseline()}, {variant.name} at preset {preset}"
        return cast("Config", configuration(what, kind, settings))
    settings = layers.baseline_layer().of_kind(kind) | layers.preset_layer(preset).of_kind(kind) | dict(variant.delta)
    return cast("Config", configuration(f"{variant.name} at preset {preset}", kind, settings))


def without_idle_settings(name: str, preset: str) -> str:
    """Return a variant's name without the settings in brackets that it has anyway at this preset.

    A sweep may contain the value that the variant has already: that run is the variant's own.

    Raises:
        VariantError: As for `load` and `resolve`.
    """
    parts, overrides = parse_name(name)
    if not overrides:
        return canonical(name)
    base = canonical("+".join(parts))
    settings = load(name).delta  # the values as the configuration holds them
    own = resolve(load(base), preset).model_dump()
    changed = {key: value for key, value in overrides.items() if settings[key] != _value_at(own, key)}
    return base + settings_text(changed)


def _value_at(config: dict[str, Any], dotted: str) -> Any:
    section, _, key = dotted.partition(".")
    if key in config[section]:
        return config[section][key]
    table, _, key = key.partition(".")
    return config[section].get(table, {}).get(key)


def from_json(text: str, preset: str) -> Config:
    """Return the configuration of a run from the JSON in its row.

    What it leaves out (an autoencoder, a key that is newer than the row) is the preset's.

    Raises:
        VariantError: Not such JSON, or values that do not fit together.
    """
    from ablate.study import layers
    from ablate.study.program import ProgramConfig
    from ablate.study.variant_file import configuration, file_models, kind_of, settings_of, validated

    what = "a run's configuration"
    if not isinstance(text, str):
        raise VariantError(f"{what}: the row has none; a run that was imported from a table has no model")
    try:
        table = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise VariantError(f"{what} cannot be read: {' '.join(str(error).split())}") from error
    kind = kind_of(what, table if isinstance(table, dict) else {}, DEFAULT_KIND)
    if kind == PROGRAM:
        return cast("Config", validated(what, ProgramConfig, table))
    file = validated(what, file_models(kind).settings, table)
    # A user's own preset may not be here, and a program has none for a torch model.
    known = preset in presets() and not is_program()
    budget = layers.preset_layer(preset) if known else layers.packaged_preset()
    rest = layers.packaged_baseline().of_kind(kind) | budget.of_kind(kind)
    return cast("Config", configuration(what, kind, rest | settings_of(file), getattr(file, "plugins", None)))


def _load_one(name: str) -> Variant:
    from ablate.study import layers

    known = names()
    if name not in known:
        raise VariantError(f"unknown variant {name!r}{did_you_mean(name, known)} Allowed: {', '.join(known)}")
    path = PACKAGED / f"{name}.toml"
    own = path if path.is_file() and not own_baseline() else own_folder() / f"{name}.toml"
    return _read_variant(path if path.is_file() and not own.is_file() else own, layers.baseline_layer())


def _overridden(variant: Variant, overrides: dict[str, Any]) -> Variant:
    """Return the variant with other settings, which win over its own."""
    from ablate.study import layers
    from ablate.study.program import check_keys
    from ablate.study.variant_file import file_models, settings_of, validated

    name = variant.name + settings_text(overrides)
    table: dict[str, Any] = {}
    for dotted, value in overrides.items():
        section, dot, key = dotted.partition(".")
        if section == "quantize":
            raise VariantError(f"{name}: {dotted} is no part of a variant; use --quantize and --scopes")
        if section == "data" or dotted == "model.kind":
            raise VariantError(f"{name}: {dotted} {NOT_OF_A_VARIANT[section]}")
        if dot:
            table.setdefault(section, {})[key] = value
        else:
            table[section] = value
    settings = settings_of(validated(name, file_models(variant.kind).settings, table))
    if variant.kind == PROGRAM:
        check_keys(name, settings, layers.baseline_layer().settings)
    axes = [] if variant.name == BASELINE else [variant.axis]
    return Variant(
        name=name,
        about=f"{variant.about} With {settings_text(overrides)[1:-1]}.",
        source=variant.source,
        axis="+".join([*axes, *sorted(overrides)]),
        claims=(),
        delta=MappingProxyType(dict(variant.delta) | settings),
        compound=True,
        kind=variant.kind,
    )


def _read_variant(path: Path, baseline: Layer) -> Variant:
    from ablate.study.program import check_keys
    from ablate.study.variant_file import file_models, kind_of, read_toml, settings_of, validated

    name, table = path.stem, read_toml(path)
    kind = kind_of(str(path), table, baseline.kind)
    if kind == PROGRAM != baseline.kind:
        raise VariantError(f"{path}: [program] needs a baseline.toml with [program] in the same folder")
    file: Any = validated(str(path), file_models(kind).variant, table)
    delta = {} if name == BASELINE else settings_of(file)
    if name != BASELINE:
        if not delta:
            raise VariantError(
                f"{path}: it changes nothing; set a key of the configuration, as in "
                f"{'[options] lr = 0.1' if kind == PROGRAM else '[model] drift = false'}"
            )
        if kind == PROGRAM:
            check_keys(str(path), delta, baseline.settings)
        for key, value in delta.items():
            if key.startswith("data."):
                raise VariantError(f"{path}: {key} {NOT_OF_A_VARIANT['data']}")
            if baseline.of_kind(kind).get(key, _MISSING) == value:
                raise VariantError(f"{path}: {key} = {value!r} is the baseline's value already; leave it out")
    return Variant(name, file.about, file.source, file.axis, file.claim, MappingProxyType(delta), file.compound, kind)
