"""A user's own program in the model's place: its command, its options, and how the command is filled in.

    [program]
    command = ["python", "train.py", "--seed", "{seed}", "--out", "{out}", "{options}"]

    [options]
    lr = 0.1

{seed}, {out} and {preset} stand for the run's own; {options}, a word of its own, for every option
that no other placeholder names; {lr} for one option. A brace that is no placeholder is doubled.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ablate.base.errors import VariantError, did_you_mean
from ablate.study.claims import Line
from ablate.study.config import Positive, RunConfig
from ablate.study.validation import Settings
from ablate.study.variants import PROGRAM

OPTIONS = "options"
_OF_THE_STUDY = ("images", "reference", "metrics", "data", "workdir")  # keys of [program] for all runs alike
OF_RUN = ("seed", "out", "preset")  # placeholders that stand for the run's own
DATA = PROGRAM  # the label of the data unless the file names another
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

Scalar = bool | int | float | str


def _scalar(value: Any) -> Any:
    if (isinstance(value, float) and value in (float("inf"), float("-inf"))) or value != value:
        raise ValueError("it must be a finite number")
    if not isinstance(value, Scalar):
        raise ValueError("it must be a number, a text, true or false")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("it must not contain a NUL character")
    return value


def _text(value: Any) -> Any:
    if isinstance(value, int | float):
        return option_text(value)
    if isinstance(value, str) and "\0" in value:
        raise ValueError("it must not contain a NUL character")
    return value


def _option_names(options: dict[str, Scalar]) -> dict[str, Scalar]:
    for name in options:
        if name in (*OF_RUN, OPTIONS):
            raise ValueError(f"{{{name}}} is a placeholder of ablate; give the option {name} another name")
        if not _OPTION.fullmatch(name):
            raise ValueError(f"{name!r} cannot be an option; allowed: letters, digits, _ . and -, the first a letter")
    return options


def _variable_names(environment: dict[str, str]) -> dict[str, str]:
    for name in environment:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} cannot be an environment variable; allowed: letters, digits and _")
    return environment


def _below_out(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "~")) or ".." in parts:
        raise ValueError("it must be a path below {out}, as in samples or samples.npz")
    return path


def _list(given: Any) -> Any:
    if isinstance(given, str):
        with suppress(ValueError):
            given = json.dumps(shlex.split(given))
        raise ValueError(f"it must be a list of words, as in {given}")
    return given


def _words(command: tuple[str, ...]) -> tuple[str, ...]:
    if not command or not command[0].strip():
        raise ValueError("it must name a program, as in ['python', 'train.py']")
    for word in command:
        if "\0" in word:
            raise ValueError("a word must not contain a NUL character")
    return command


def _direction(given: Any) -> Any:
    return {"better": given} if isinstance(given, str) else given


Word = Annotated[str, BeforeValidator(_text)]
Value = Annotated[Scalar, BeforeValidator(_scalar)]


class MetricSettings(Settings):
    """What a number of `metrics.json` means; `"higher"` alone is its direction."""

    better: Literal["higher", "lower"]
    unit: Line | None = None


class ProgramSettings(Settings):
    """The program, and what it writes below {out}."""

    command: Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_list), AfterValidator(_words)]  # no shell
    timeout_s: Positive | None = None  # of one run
    environment: Annotated[dict[str, Word], AfterValidator(_variable_names)] = Field({})
    images: Annotated[str, AfterValidator(_below_out)] | None = None  # a folder or .npz below {out}
    reference: str | None = None  # real images that these are measured against
    metrics: dict[str, Annotated[MetricSettings, BeforeValidator(_direction)]] = Field({})  # of `metrics.json`
    data: Line = DATA  # a label: runs of two labels are never compared
    workdir: str | None = None  # where the command runs; None: the folder that holds the registry

    @model_validator(mode="after")
    def _reference_needs_images(self) -> Self:
        if self.reference is not None and self.images is None:
            raise ValueError("reference needs images: name the folder or .npz below {out} that is measured against it")
        return self


class ProgramConfig(RunConfig):
    """A variant of a program at a preset."""

    program: ProgramSettings
    options: Annotated[dict[str, Value], AfterValidator(_option_names)] = Field({})

    @model_validator(mode="after")
    def _fills_in(self) -> Self:
        used = {name for word in self.program.command for name in _placeholders(word, self.options)}
        for name, why in (("seed", "every seed would be the same run"), ("out", "a run could not return its results")):
            if name not in used:
                raise ValueError(f"program.command has no {{{name}}}: {why}; add it, as in --{name} {{{name}}}")
        unused = [name for name in self.options if name not in used and OPTIONS not in used]
        if unused:
            raise ValueError(f"program.command does not use the option {unused[0]}; add the word {{options}}")
        return self

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return section -> key -> value of what the results depend on: no time limit, no label."""
        program: dict[str, Any] = {"command": self.program.command, "environment": self.program.environment}
        if self.program.images is not None:
            program["images"] = self.program.images
        return {"program": program, "options": self.options}


@dataclass(frozen=True)
class ProgramData:
    """What a program was run on, in the place of a data set: a label and its digest."""

    name: str
    digest: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, program: ProgramSettings, reference: str = "") -> ProgramData:
        """Return the data of a program; `reference` is the digest of the real images, if there are any."""
        content = f"ablate program/{program.data}/{reference}".encode()
        return cls(program.data, hashlib.sha256(content).hexdigest())


def command_words(config: ProgramConfig, *, seed: int, out: str, preset: str) -> list[str]:
    """Return the command with every placeholder filled in."""
    single = {name for word in config.program.command for name in _placeholders(word, config.options)}
    values = {"seed": str(seed), "out": out, "preset": preset}
    values |= {name: option_text(value) for name, value in config.options.items()}
    words: list[str] = []
    for word in config.program.command:
        if word == f"{{{OPTIONS}}}":
            for name, value in config.options.items():
                if name not in single and value is not False:
                    words += [f"--{name}"] if value is True else [f"--{name}", option_text(value)]
        else:
            words.append(_filled(word, values.__getitem__))
    return words


def check_keys(what: str, settings: Mapping[str, Any], baseline: Mapping[str, Any], *, preset: bool = False) -> None:
    """Refuse what a variant, or a preset, may not set, and options that the baseline does not have.

    Args:
        what: Begins the message of an error: a file or a name.
        settings: What is set, by `section.key`.
        baseline: What the baseline sets.
        preset: These are a preset's settings, which may have a time limit but no command.

    Raises:
        VariantError: There is such a setting.
    """
    refused = ("command" if preset else "timeout_s", *_OF_THE_STUDY)
    known = [name.removeprefix(f"{OPTIONS}.") for name in baseline if name.startswith(f"{OPTIONS}.")]
    for name in settings:
        section, _, key = name.partition(".")
        if section == PROGRAM and key.partition(".")[0] in refused:
            raise VariantError(f"{what}: {name} is the same for all runs of a study; set it in baseline.toml")
        if section == OPTIONS and key not in known:
            allowed = f"Allowed: those of baseline.toml ({', '.join(known) or 'none'})"
            raise VariantError(
                f"{what}: unknown option {key}{did_you_mean(key, known)} {allowed}; "
                "write it there first, with false for a flag that is off"
            )


def option_text(value: Scalar) -> str:
    """Return the value of an option as a word of a command: `true` and `false` as in TOML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _placeholders(word: str, options: Mapping[str, Any]) -> list[str]:
    """Return the names in braces; {options} counts only as a word of its own."""
    names: list[str] = []

    def noted(name: str) -> str:
        names.append(name)
        return ""

    _filled(word, noted)
    for name in names:
        if name == OPTIONS and word != f"{{{OPTIONS}}}":
            raise ValueError(f"program.command: {{options}} must be a word of its own, not a part of {word!r}")
        if name not in (*OF_RUN, OPTIONS, *options):
            known = [*OF_RUN, OPTIONS, *options]
            near = did_you_mean(name, known).replace("mean ", "mean {").replace("?", "}?")
            raise ValueError(
                f"program.command: unknown placeholder {{{name}}}{near} "
                f"Allowed: {', '.join(f'{{{one}}}' for one in known)}; a brace itself is doubled: {{{{"
            )
    return names


def _filled(word: str, value: Callable[[str], str]) -> str:
    def one(match: re.Match[str]) -> str:
        text = match[0]
        if text in ("{{", "}}"):
            return text[0]
        if text in ("{", "}"):
            raise ValueError(f"program.command: a single {text} in {word!r}; write {text}{text} for a brace itself")
        return value(match[1])

    return _BRACES.sub(one, word)
