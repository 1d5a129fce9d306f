"""What plots show of the raw tables: rows of the runs that are compared, with their variant's label, and not more than can be seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ablate.report.findings import Findings
from ablate.store.schema import BENCH_SESSION, RUN_SESSION

BINS = 50  # points of a training curve
TICKS = 41  # single calls that are shown of one variant
MEASURES = ("psnr_db", "pd", "lpips", "lpips_vgg")
Runs = Mapping[str, tuple[str, int]]  # run_id -> its variant's label, its seed


def compared_runs(findings: Findings) -> dict[str, tuple[str, int]]:
    """Return the finished runs that are compared, in the order of the rows."""
    return {
        run_id: (row.label, seed) for row in findings.rows for run_id, seed in zip(row.run_ids, row.seeds, strict=True)
    }


def of_runs(frame: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Return the rows of some runs with the columns `variant` (its label) and `seed`, variant by variant in their order."""
    kept = frame[frame["run_id"].isin(list(runs))]
    names = [str(run_id) for run_id in kept["run_id"]]
    labels = pd.Series([runs[name][0] for name in names], kept.index, dtype=object)  # text also where there is none
    kept = kept.assign(variant=labels, seed=[runs[name][1] for name in names])
    order = {label: i for i, label in enumerate(dict.fromkeys(label for label, _ in runs.values()))}
    return kept.sort_values("variant", key=lambda labels: labels.map(order), kind="stable")


def denoising(frame: pd.DataFrame, runs: Runs, against: str | None) -> pd.DataFrame:
    """Return one-step denoising in long form: variant, seed, t, measure, value, difference to `against` on the same seed (NaN: none)."""
    measures = [name for name in MEASURES if frame[name].notna().any()]
    long = of_runs(frame, runs).melt(["variant", "seed", "t"], measures, "measure", "value").dropna(subset="value")
    theirs = long[long["variant"] == against].set_index(["seed", "t", "measure"])["value"]
    keys = pd.MultiIndex.from_frame(long[["seed", "t", "measure"]])
    long["difference"] = long["value"].to_numpy() - theirs.reindex(keys).to_numpy()
    return long.reset_index(drop=True)


def curves(frame: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Return the training loss by variant and stretch of the training: step (the stretch's last), loss (mean over stretch and seeds)."""
    found = of_runs(frame, runs)[["variant", "step", "loss"]].dropna()
    longest = found.groupby("variant")["step"].transform("max")
    found["stretch"] = np.ceil(found["step"] * BINS / longest)
    return (
        found.groupby(["variant", "stretch"], sort=False).agg(step=("step", "max"), loss=("loss", "mean")).reset_index()
    )


def latency(frame: pd.DataFrame, runs: Runs) -> tuple[pd.DataFrame, str]:
    """Return times of single network evaluations, and where they come from in a sentence.

    Taken are those of the newest `ablate bench` of two runs or more, which timed them side by side; else what each run took of itself.

    Returns:
        Columns name (variant, and number format where there are several), batch, latency_ms: at most TICKS of each, evenly picked by rank.
    """
    found = of_runs(frame, runs)
    found = found[found["scope"] == "step"]
    session = found["session"].fillna(RUN_SESSION)
    several = found.groupby(session)["run_id"].nunique()
    benched = sorted(str(name) for name, count in several.items() if count > 1 and str(name).startswith(BENCH_SESSION))
    chosen = benched[-1] if benched else RUN_SESSION
    found = found[session == chosen]
    where = (
        "They were timed side by side by `ablate bench`."
        if benched
        else "Each run timed itself, at its own moment: on a busy machine they do not compare; `ablate bench` times them side by side."
    )
    how = found["scheme"].astype("string") + " / " + found["engine"].astype("string")
    name = found["variant"] + (", " + how if how.nunique() > 1 else "")
    return _picked(found.assign(name=name)), where


def _picked(found: pd.DataFrame) -> pd.DataFrame:
    """Order statistics of every name and batch, evenly spread over the ranks."""
    ordered = found.dropna(subset="latency_ms").sort_values("latency_ms")
    groups = ordered.groupby(["name", "batch"], sort=False)["latency_ms"]
    rank, count = groups.cumcount(), groups.transform("size")
    taken = count.clip(upper=TICKS)
    # Of `count` ranks those where the next of `taken` even steps begins: the first and the last are among them.
    per_rank = (taken - 1) / (count - 1).clip(lower=1)
    chosen = ordered[(rank == 0) | (np.floor(rank * per_rank + 1e-9) != np.floor((rank - 1) * per_rank + 1e-9))]
    order = list(dict.fromkeys(found["name"]))
    return chosen[["name", "batch", "latency_ms"]].sort_values(
        ["batch", "name"],
        key=lambda column: column.map(order.index) if column.name == "name" else column,
        kind="stable",
    )
