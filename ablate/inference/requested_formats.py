"""The number formats and scopes that a command asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from ablate.base.errors import AblateError, did_you_mean, require
from ablate.inference import simulated_formats
from ablate.models.denoiser import construct
from ablate.models.denoiser import groups_of as groups_of_network
from ablate.study.config import Config, QuantizeConfig
from ablate.study.plan import RunSpec

SCHEMES = tuple(simulated_formats.FORMATS)
ALL_BUT_DRIFT = "kpn"  # a scope of the model of that name
EXPORTER = "onnxscript"  # one of the packages that export graphs


def scopes_of(config: Config) -> tuple[str, ...]:
    """Return the scopes of a configuration's model: its module groups, and all of them together."""
    settings = config.model
    groups = settings.all_groups or groups_of_network(construct(config))
    decoder = ("decoder",) if settings.all_groups or settings.space == "latent" else ()
    return (*((ALL_BUT_DRIFT,) if settings.kind == ALL_BUT_DRIFT else ()), *groups, *decoder, "all")


def parse_formats(schemes: str | None, scopes: str | None, config: Config) -> QuantizeConfig:
    """Return the settings that `--quantize` and `--scopes` ask for.

    Args:
        schemes: A list with commas, `all` or `none`; None keeps the preset's schemes.
        scopes: A list with commas, `each` (every scope) or `none`; None keeps the preset's scopes.
        config: The run's configuration, with the preset's settings.

    Raises:
        AblateError: An unknown scheme or scope.
    """
    default = config.quantize
    chosen = {
        "schemes": _words("--quantize", schemes, SCHEMES, default.schemes),
        # `all` is a scope itself, the whole network; every scope is `each`.
        "scopes": _words("--scopes", scopes, scopes_of(config) if scopes else (), default.scopes, every="each"),
    }
    return default.replaced(**chosen)


def with_formats(specs: Sequence[RunSpec], schemes: str | None, scopes: str | None) -> tuple[list[RunSpec], bool]:
    """Return runs with the formats asked for, and whether finished runs may lack some of them.

    Args:
        specs: The runs.
        schemes: As for `parse_formats`.
        scopes: As for `parse_formats`.

    Raises:
        AblateError: An unknown scheme or scope, or the packages that export graphs are missing.
    """
    if schemes is None and scopes is None:
        return list(specs), False
    wanted = [parse_formats(schemes, scopes, spec.config) for spec in specs]
    asked = any(settings.schemes and settings.scopes for settings in wanted)
    if asked:
        require("--quantize", EXPORTER)
    return [
        dataclasses.replace(spec, config=spec.config.replaced(quantize=one))
        for spec, one in zip(specs, wanted, strict=True)
    ], asked


def _words(
    option: str, text: str | None, allowed: Sequence[str], default: tuple[str, ...], *, every: str = "all"
) -> tuple[str, ...]:
    if text is None:
        return default
    if text.strip() == "none":
        return ()
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in (*allowed, every):
            near = did_you_mean(word, (*allowed, every))
            raise AblateError(f"{option} {text}: unknown {word!r}{near} Allowed: {', '.join((*allowed, every))}, none")
    return tuple(dict.fromkeys(w for word in words for w in (allowed if word == every else [word])))


def groups_of(scope: str, there: Collection[str]) -> list[str]:
    """Return the module groups of a scope, out of those that a network has."""
    return [group for group in there if scope in ("all", group) or (scope == ALL_BUT_DRIFT and group != "drift")]
