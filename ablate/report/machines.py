"""The machines that runs were computed on: times compare only on one of them."""

from __future__ import annotations

from typing import Any

import pandas as pd

UNEQUAL_MACHINES = "times come from unequal machines, precisions or threads and do not compare"
MACHINE = ("device", "processor", "arithmetic", "threads", "vector_units")


def unequal_machines(done: pd.DataFrame) -> list[str]:
    """Return a note if the times of finished runs do not compare, else nothing."""
    machines = done.groupby([*MACHINE], dropna=False).size()
    if len(machines) < 2:
        return []
    names = [_machine(*key[:-1]) for key in machines.index]
    # Vector units are a long list: show them only where machines differ in nothing else.
    listed = sorted(
        f"{name or 'unknown'}{f' {units}' if names.count(name) > 1 and not pd.isna(units) else ''} ({n} runs)"
        for name, (*_, units), n in zip(names, machines.index, machines, strict=True)
    )
    return [f"{UNEQUAL_MACHINES}: {', '.join(listed)}"]


def on_one_machine(done: pd.DataFrame, against: str | None) -> pd.Series:
    """Return which finished runs have times that compare: those on the main machine of `against`.

    The main machine is the one with most of its runs, or with most of all runs if it has none.
    """
    machine = done.groupby([*MACHINE], dropna=False).ngroup()
    mine = machine[done["label"] == against]
    counts = (mine if len(mine) else machine).value_counts(sort=False)
    return machine == counts.idxmax() if len(counts) else machine == 0


def _machine(device: Any, processor: Any, arithmetic: Any, threads: Any) -> str:
    in_words = None if pd.isna(threads) else f"{threads:g} thread{'s' * (threads != 1)}"
    return " ".join(str(part) for part in (device, processor, arithmetic, in_words) if not pd.isna(part))
