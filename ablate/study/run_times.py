"""How long runs take, by finished runs of the same preset.

The estimate is the median over finished runs of the same configuration, on the same machine if there
are any. For a configuration without one, it is scaled by training MACs. Loading the data does not
count: a process loads it once for all of its runs.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import pandas as pd

# Of the table `runs`.
COLUMNS = (
    "status",
    "preset",
    "config_hash",
    "environment",
    "train_macs",
    "load_wall_s",
    "autoencoder_wall_s",
    "train_wall_s",
    "wall_s",
)


class RunTimes:
    """The times of finished runs of a preset."""

    def __init__(self, runs: pd.DataFrame, preset: str, environments: Collection[str]) -> None:
        """Take the times of runs in these environments, or of all where these have none.

        Args:
            runs: The table `runs`, with `COLUMNS` at least.
            preset: The preset.
            environments: The machines, as in the column `environment`.
        """
        done = runs[(runs["status"] == "done") & (runs["preset"] == preset) & runs["wall_s"].notna()]
        here = done[done["environment"].isin(environments)]
        self._done = here if len(here) else done
        self._done = self._done.assign(run_s=self._done["wall_s"] - self._done["load_wall_s"].fillna(0.0))
        self._like: dict[str, pd.DataFrame] = {}

    def wall_s(self, config_hash: str, train_macs: int | None = None) -> float | None:
        """Return the estimated seconds of a run; None: no finished run tells.

        Args:
            config_hash: Of its configuration.
            train_macs: Its training MACs; None: unknown, as those of a program.
        """
        same = self._of(config_hash)
        if len(same):
            return float(same["run_s"].median())
        if train_macs is None:
            return float(self._done["run_s"].median()) if len(self._done) else None
        return None if self._s_per_mac is None else self._s_per_mac * train_macs

    def after_training_s(self, config_hash: str) -> float | None:
        """Return the estimated seconds from the end of a run's training to its own; None: no finished run tells."""
        same = self._of(config_hash)
        if not len(same):
            return None
        before = same[["autoencoder_wall_s", "train_wall_s"]].astype("float64").fillna(0.0).sum(axis=1)
        return float((same["run_s"] - before).clip(lower=0.0).median())

    @cached_property
    def _s_per_mac(self) -> float | None:
        rates = (self._done["run_s"] / self._done["train_macs"].astype("float64")).dropna()
        return float(rates.median()) if len(rates) else None

    def _of(self, config_hash: str) -> pd.DataFrame:
        if config_hash not in self._like:
            self._like[config_hash] = self._done[self._done["config_hash"] == config_hash]
        return self._like[config_hash]
