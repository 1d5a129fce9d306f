"""Leaving runs out of a report: `--where` and `--without-seed`."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ablate.base.errors import ResultsError
from ablate.base.text import plural
from ablate.report.selection import Choice
from ablate.store.row_filter import rows_where


def without_left_out(frames: Mapping[str, pd.DataFrame], choice: Choice) -> dict[str, pd.DataFrame]:
    """Return the tables without the runs that a choice leaves out.

    A run of the variant that the others are compared with stays if a run that pairs with it stays.

    Raises:
        ResultsError: The condition is none, no run fits it, or no run has a seed to leave out.
    """
    if not choice.filters:
        return dict(frames)
    runs = frames["runs"]
    judged = runs["purpose"].isna() if "purpose" in runs else pd.Series(True, runs.index)
    kept = ~runs["seed"].isin(choice.without_seeds)
    for seed in choice.without_seeds:
        if len(runs) and not (judged & (runs["seed"] == seed)).any():
            raise ResultsError(f"--without-seed {seed}: no run here has this seed")
    if choice.where is not None:
        fits, other = rows_where(runs, choice.where), runs["variant"] != choice.against
        pairs = pd.MultiIndex.from_frame(runs[["preset", "data_digest", "seed"]].astype("string").fillna(""))
        kept &= fits | (~other & pairs.isin(pairs[fits & other]))
    if judged.any() and not (judged & kept).any():
        raise ResultsError(
            f"{choice.filters}: this leaves out all {plural(int(judged.sum()), 'run')}; ablate ls shows them"
        )
    return {**frames, "runs": runs[kept]}
