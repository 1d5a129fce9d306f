"""The machines that runs were computed on: times compare only on one of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from ablate.report.clean_rows import tuples

UNEQUAL_MACHINES = "times come from unequal machines, precisions or threads and do not compare"
MACHINE = ("device", "processor", "arithmetic", "threads", "vector_units")


def unequal_machines(done: pd.DataFrame) -> list[str]:
    """Return a note if the times of finished runs do not compare, else nothing."""
    machines = Counter(machines_of(done))
    if len(machines) < 2:
        return []
    names = [_machine(*key[:-1]) for key in machines]
    # Vector units are a long list: show them only where machines differ in nothing else.
    listed = sorted(
        f"{name or 'unknown'}{f' {units}' if names.count(name) > 1 and not pd.isna(units) else ''} ({n} runs)"
        for name, ((*_, units), n) in zip(names, machines.items(), strict=True)
    )
    return [f"{UNEQUAL_MACHINES}: {', '.join(listed)}"]


def machines_of(done: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return what each run was computed on: the values of the columns `MACHINE`, None for missing ones."""
    return tuples(done, MACHINE)


def on_one_machine(done: pd.DataFrame, against: str | None) -> np.ndarray:
    """Return which finished runs have times that compare: those on the main machine of `against`.

    The main machine is the one with most of its runs, or with most of all runs if it has none.
    """
    machines = machines_of(done)
    mine = [machine for machine, label in zip(machines, done["label"], strict=True) if label == against]
    main = next((machine for machine, _ in Counter(mine or machines).most_common(1)), None)
    return np.array([machine == main for machine in machines], bool)


def _machine(device: Any, processor: Any, arithmetic: Any, threads: Any) -> str:
    in_words = None if pd.isna(threads) else f"{threads:g} thread{'s' * (threads != 1)}"
    return " ".join(str(part) for part in (device, processor, arithmetic, in_words) if not pd.isna(part))
