"""What a configuration is laid from: the settings of the baseline, and those of a preset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ablate.base.errors import VariantError, did_you_mean
from ablate.study.program import check_keys
from ablate.study.variant_file import file_models, kind_of, read_toml, settings_of, validated
from ablate.study.variants import (
    BASELINE,
    DEFAULT_KIND,
    DEFAULT_PRESET,
    PACKAGED,
    PRESETS,
    PROGRAM,
    is_program,
    own_baseline,
    own_folder,
    presets,
)


@dataclass(frozen=True)
class Layer:
    """What one file sets, by `section.key`, and the kind of model that it was written for."""

    kind: str
    settings: dict[str, Any]

    def of_kind(self, kind: str) -> dict[str, Any]:
        """Return the settings that hold for a kind of model."""
        if kind == self.kind:
            return self.settings
        return {key: value for key, value in self.settings.items() if not key.startswith("model.")}


def preset_layer(preset: str, extended: tuple[str, ...] = ()) -> Layer:
    """Return what a preset sets, over what the preset that it extends sets.

    Raises:
        VariantError: An unknown preset, or an invalid file.
    """
    if preset not in (allowed := presets()):
        raise VariantError(f"unknown preset {preset!r}{did_you_mean(preset, allowed)} Allowed: {', '.join(allowed)}")
    path, of_program = PRESETS / f"{preset}.toml", is_program()
    own = of_program or not path.is_file()
    path = own_folder() / "presets" / f"{preset}.toml" if own else path
    if of_program and preset == DEFAULT_PRESET and not path.exists():
        return Layer(PROGRAM, {})
    table = read_toml(path)
    kind = kind_of(str(path), table, baseline_layer().kind if own else DEFAULT_KIND)
    file = validated(str(path), file_models(kind).preset, table)
    extends = getattr(file, "extends", None)
    if extends in (*extended, preset):
        raise VariantError(f"{path}: it extends itself: {' extends '.join((*extended, preset, extends))}")
    below = preset_layer(extends, (*extended, preset)).of_kind(kind) if extends else {}
    layer = Layer(kind, below | settings_of(file))
    if of_program:
        check_keys(str(path), layer.settings, baseline_layer().settings, preset=True)
    if own and not of_program:
        missing = sorted(preset_layer(DEFAULT_PRESET).of_kind(kind).keys() - layer.settings.keys())
        if missing:
            raise VariantError(f'{path}: {missing[0]} is missing; set it, or begin with extends = "{DEFAULT_PRESET}"')
    return layer


def packaged_baseline() -> Layer:
    """Return what the packaged baseline sets."""
    return _layer(PACKAGED / f"{BASELINE}.toml")


def baseline_layer() -> Layer:
    """Return what the baseline sets: the packaged one, under the user's own if there is one.

    Raises:
        VariantError: An invalid file.
    """
    packaged, own = packaged_baseline(), own_baseline()
    if own is None:
        return packaged
    layer = _layer(own)
    if layer.kind == PROGRAM:
        return layer
    budget = _layer(PRESETS / f"{DEFAULT_PRESET}.toml", "preset").of_kind(layer.kind)
    for key in sorted(budget.keys() & layer.settings.keys()):
        raise VariantError(
            f'{own}: {key} is set by presets; set it in {own.parent}/presets/NAME.toml, with extends = "quick"'
        )
    return Layer(layer.kind, packaged.of_kind(layer.kind) | layer.settings)


def _layer(path: Path, form: Literal["variant", "preset"] = "variant") -> Layer:
    table = read_toml(path)
    kind = kind_of(str(path), table, DEFAULT_KIND)
    return Layer(kind, settings_of(validated(str(path), getattr(file_models(kind), form), table)))


def packaged_preset() -> Layer:
    """Return what the packaged default preset sets, whatever the user's own registry is."""
    return _layer(PRESETS / f"{DEFAULT_PRESET}.toml", "preset")
