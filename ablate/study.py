"""A study: variants x seeds -> the list of runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ablate import variant as variants
from ablate.errors import VariantError
from ablate.variant import Config

MAX_SEEDS = 1000


@dataclass(frozen=True)
class RunSpec:
    """One run to be made: what is trained, and under which seed."""

    variant: str
    axis: str
    preset: str
    seed: int
    config: Config

    def run_id(self, data: str, digest: str) -> str:
        """Return the run's name: readable parts, and a digest of configuration, data set's fingerprint and seed."""
        content = hashlib.sha256(f"{self.config.to_json()}/{digest}/{self.seed}".encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9._+-]", "_", data)[:40]
        return f"{self.variant}-{self.preset}-{name}-s{self.seed}-{content}"


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0`, `0-4` or `0,3,7-9`, in order and once each.

    Raises:
        VariantError: Not of that form, negative, or a range that runs backwards.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if match is None:
            raise VariantError(
                f"--seeds {text}: {part.strip()!r} is not a seed; seeds are whole numbers from 0, as in 0-4 or 0,3,7-9"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise VariantError(f"--seeds {text}: the range {first}-{last} runs backwards; did you mean {last}-{first}?")
        if last - first >= MAX_SEEDS:
            raise VariantError(f"--seeds {text}: {last - first + 1} seeds; at most {MAX_SEEDS} are allowed")
        seeds.extend(range(first, last + 1))
    return list(dict.fromkeys(seeds))


def plan(names: Sequence[str], seeds: Sequence[int], preset: str) -> list[RunSpec]:
    """Return the runs of a study, seed by seed, so that an interrupted study has whole pairs.

    Args:
        names: Variants, `a+b` for a combination, `all` for every single one.
        seeds: The seeds.
        preset: The preset.

    Raises:
        VariantError: An unknown name, an invalid file or an unknown preset.
    """
    wanted = [name for given in names for name in (variants.names() if given == "all" else [given])]
    loaded = {v.name: v for v in map(variants.load, wanted)}
    configs = {name: variants.resolve(v, preset) for name, v in loaded.items()}
    return [RunSpec(v.name, v.axis, preset, seed, configs[v.name]) for seed in seeds for v in loaded.values()]
