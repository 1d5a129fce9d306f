"""Variants: TOML deltas over `baseline.toml`, resolved once into a frozen `Config`.

    config = baseline.toml <- presets/PRESET.toml <- variants/NAME.toml

The baseline says what the model is, the preset what may be spent on it, the variant what is changed. Every key of `Config` stands in
exactly one of baseline and preset. The packaged files lie in `variants/` at the top of the repository, in a wheel in
`ablate/variants/`. A user's own variants lie in `./variants/`, which in a checkout may be that very folder.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ablate.base.errors import VariantError, did_you_mean
from ablate.study.claims import check_claim
from ablate.study.config import SECTIONS, Config, check_config, flatten

_ROOT = Path(__file__).resolve().parents[2]
# In a wheel the files lie inside the package, in a checkout beside it.
PACKAGED = next(
    folder for folder in (_ROOT / "ablate/variants", _ROOT / "variants") if (folder / "baseline.toml").is_file()
)
PRESETS = PACKAGED / "presets"
USER = Path("variants")
BASELINE = "baseline"
DEFAULT_PRESET = "quick"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # it becomes part of folders' names, and is shown as it stands
MAX_BYTES = 2**20  # of a TOML file


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
    own = USER.is_dir() and USER.resolve() != PACKAGED
    user = sorted(p.stem for p in USER.glob("*.toml") if not p.name.startswith(".")) if own else []
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
    values = _baseline_values() | flatten(path, _read_toml(path)) | dict(variant.delta)
    sections: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        keys = [f.name for f in dataclasses.fields(kind)]
        missing = [f"{section}.{key}" for key in keys if f"{section}.{key}" not in values]
        if missing:
            raise VariantError(f"{path.name}: {missing[0]} is set neither by the baseline nor by the preset")
        sections[section] = kind(**{key: values[f"{section}.{key}"] for key in keys})
    config = Config(**sections)
    check_config(f"{variant.name} at preset {preset}", config)
    return config


def from_json(text: str, preset: str) -> Config:
    """Return the configuration of a run from the JSON in its row; what it leaves out (an autoencoder, a later key) is the preset's.

    Raises:
        VariantError: Not such JSON, or values that do not fit together.
    """
    try:
        config = resolve(load(BASELINE), preset)
        for name, value in flatten(Path("a run's configuration"), json.loads(text)).items():
            section, _, key = name.partition(".")
            config = dataclasses.replace(
                config, **{section: dataclasses.replace(getattr(config, section), **{key: value})}
            )
        check_config("a run's configuration", config)
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
    delta = flatten(path, {key: table[key] for key in table if key in SECTIONS})
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
    return flatten(path, {key: value for key, value in table.items() if key in SECTIONS})


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read_text(path, MAX_BYTES))
    # Not there, damaged or not UTF-8, with numbers of thousands of digits; nested too deeply.
    except (OSError, ValueError, RecursionError) as error:
        raise VariantError(f"{path}: cannot be read as TOML: {error}") from error


def _read_text(path: Path, most: int) -> str:
    """Read a small UTF-8 file.

    Raises:
        OSError: It cannot be read, or is not a regular file: a pipe would be waited for.
        ValueError: It has more than `most` bytes, or is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.stat().st_size:,} bytes; allowed: {most:,}")
    return content.decode()
