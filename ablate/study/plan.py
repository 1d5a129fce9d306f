"""The runs of a study: variants x seeds, or every combination of the levels of some axes."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from ablate.base.errors import VariantError, did_you_mean
from ablate.study import variants
from ablate.study.overrides import joined

if TYPE_CHECKING:
    from ablate.study.config import Config

MAX_SEEDS = 1000


@dataclass(frozen=True)
class RunSpec:
    """One run: a configuration and a seed."""

    variant: str
    axis: str
    preset: str
    seed: int
    config: Config
    budget: str = "steps"  # equal to the baseline's: `steps`, or training `macs`
    added: bool = False  # the baseline, which nobody named: made if it has not finished, never again
    about: str = ""  # what the variant's file says of it now
    claims: str = "[]"  # its claims as a JSON list
    plan_id: str | None = None  # the recorded plan that this run belongs to
    recorded_id: str | None = None  # the name it has in the results folder already
    purpose: str | None = None  # `tuning` or `curve`: such a run is never judged
    tuned: str | None = None  # how its setting was chosen, as `runs.tuned`

    def run_id(self, data: str, digest: str) -> str:
        """Return the run's name: readable parts, and a digest of configuration, data and seed."""
        if self.recorded_id is not None:
            return self.recorded_id
        name = re.sub(r"[^A-Za-z0-9._+-]", "_", data)[:40]
        # A file's name has at most 255 bytes. The digest keeps cut names apart.
        # Brackets are patterns to a shell. No variant's own name contains @.
        variant = self.variant.replace("[", "@").replace("]", "@")[:120]
        return f"{variant}-{self.preset}-{name}-{self._content(digest)}"

    def _content(self, digest: str) -> str:
        content = hashlib.sha256(f"{self.config.to_json()}/{digest}/{self.seed}".encode()).hexdigest()[:8]
        return f"s{self.seed}-{content}"

    def as_recorded(self, data: str, digest: str, runs: pd.DataFrame) -> RunSpec:
        """Return this run under the name that it has in a results folder, if it has a row there.

        The name contains that of the data set, which may have changed. The images decide.

        Args:
            data: What the data set is called now.
            digest: The data set's digest.
            runs: The table `runs`.
        """
        if (runs["run_id"] == self.run_id(data, digest)).any():
            return self
        same = runs[(runs["data_digest"] == digest) & (runs["variant"] == self.variant)]
        same = same[same["preset"] == self.preset]
        names = [name for name in same["run_id"] if name.endswith(f"-{self._content(digest)}")]
        return replace(self, recorded_id=names[-1]) if names else self


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0`, `0-4` or `0,3,7-9`, in order, each once.

    Raises:
        VariantError: Not of that form, negative, or a range that runs backwards.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if match is None:
            raise VariantError(f"{part.strip()!r} is not a seed; seeds are whole numbers from 0, as in 0-4 or 0,3,7-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise VariantError(f"the range {first}-{last} runs backwards; did you mean {last}-{first}?")
        if last - first >= MAX_SEEDS:
            raise VariantError(f"{last - first + 1} seeds; at most {MAX_SEEDS} are allowed")
        seeds.extend(range(first, last + 1))
    return list(dict.fromkeys(seeds))


def factor_combinations(text: str) -> list[str]:
    """Return all combinations of some axes' levels: the baseline and each variant of the axis.

    Args:
        text: Axes as in `drift,prediction`; a space in a name may be written `_` or `-`.

    Raises:
        VariantError: An unknown axis, or one named twice.
    """
    levels: dict[str, list[str]] = {}
    for variant in map(variants.load, variants.names()):
        if variant.name != variants.BASELINE and not variant.compound:
            levels.setdefault(variant.axis, [variants.BASELINE]).append(variant.name)
    axes = [re.sub(r"[_\s-]+", " ", part.strip()) for part in text.split(",")]
    for axis in axes:
        if axis not in levels:
            raise VariantError(
                f"unknown axis {axis!r}{did_you_mean(axis, levels)} Allowed: {', '.join(sorted(levels))}"
            )
        if axes.count(axis) > 1:
            raise VariantError(f"{axis} is named twice")
    return ["+".join(parts) for parts in itertools.product(*(levels[axis] for axis in axes))]


def plan(
    names: Sequence[str],
    seeds: Sequence[int],
    preset: str,
    match: Callable[[Config, Config], Config] | None = None,
    *,
    add_baseline: bool = False,
    choices: Mapping[str, str] | None = None,
    at_steps: Sequence[int] = (),
    array: str = "",
) -> list[RunSpec]:
    """Return the runs of a study, seed by seed: an interrupted study has whole pairs.

    Args:
        names: Variants, `a+b` for a combination, `all` for every one.
        seeds: The seeds.
        preset: The preset.
        match: Gives a variant's configuration the training MACs of the baseline's; None: equal
            steps.
        add_baseline: Put the baseline first if it is not named.
        choices: Variant -> settings as `overrides.sweep` returns them: its own best, under its name.
        at_steps: Also make every variant with these numbers of training steps, for curves.
        array: The array of an `.npz` that holds the images; empty: as the configuration says.

    Raises:
        VariantError: An unknown name, an invalid file or an unknown preset.
    """
    wanted = [name for given in names for name in (variants.names() if given == "all" else [given])]
    used = (variants.without_idle_settings(name, preset) for name in wanted)
    loaded = {v.name: v for v in map(variants.load, used)}
    added = add_baseline and variants.BASELINE not in loaded
    if added:
        loaded = {variants.BASELINE: variants.load(variants.BASELINE)} | loaded
    best = choices or {}
    configs = {
        name: variants.resolve(variants.load(joined(name, best[name])) if name in best else v, preset)
        for name, v in loaded.items()
    }
    if array:
        configs = {name: config.replaced(data={"array": array}) for name, config in configs.items()}
    budgets = dict.fromkeys(configs, "steps")
    if match is not None:
        baseline = variants.resolve(variants.load(variants.BASELINE), preset)
        for name, config in configs.items():
            configs[name] = match(config, baseline)
            budgets[name] = "steps" if configs[name] == config else "macs"
    runs = [
        RunSpec(
            v.name,
            v.axis,
            preset,
            seed,
            configs[v.name],
            budgets[v.name],
            added and v.name == variants.BASELINE,
            v.about,
            json.dumps([claim.model_dump(exclude_none=True) for claim in v.claims]),
        )
        for seed in seeds
        for v in loaded.values()
    ]
    return [made for spec in runs for made in (*_at_steps(spec, at_steps), spec)] if at_steps else runs


def _at_steps(spec: RunSpec, at_steps: Sequence[int]) -> list[RunSpec]:
    """Return a run with other numbers of training steps. The schedule follows, so each is a training of its own."""
    own = spec.config.train.steps
    return [
        replace(
            spec,
            variant=joined(spec.variant, f"[train.steps={steps}]"),
            config=spec.config.replaced(train={"steps": steps}),
            purpose="curve",
            claims="[]",
        )
        for steps in at_steps
        if steps != own
    ]


@dataclass(frozen=True)
class Planned:
    """A run of a forecast.

    Attributes:
        spec: The run.
        run_id: Its name.
        finished: It is not to be made.
        wall_s: Estimated seconds; None: no past run tells.
        disk_bytes: Estimated size of its files when it has finished.
        more_disk_bytes: Estimated size of its checkpoints, which exist while it is made.
        train_macs: Its training MACs; None: unknown, as those of a program.
    """

    spec: RunSpec
    run_id: str
    finished: bool
    wall_s: float | None
    disk_bytes: int = 0
    more_disk_bytes: int = 0
    train_macs: int | None = None
