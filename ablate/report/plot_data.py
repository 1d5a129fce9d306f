"""The data of plots of raw tables: rows of the compared runs, by variant, reduced to what can be seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from ablate.report.findings import Findings
from ablate.store.schema import BENCH_SESSION, RUN_SESSION

BINS = 50  # points of a training curve
TICKS = 41  # single calls shown per variant
MEASURES = ("psnr_db", "pd", "lpips", "lpips_vgg")
Runs = Mapping[str, tuple[str, int]]  # run_id -> its variant's label, its seed


def compared_runs(findings: Findings) -> dict[str, tuple[str, int]]:
    """Return the finished runs that are compared, in the order of the rows of the report."""
    return {
        run_id: (row.label, seed) for row in findings.rows for run_id, seed in zip(row.run_ids, row.seeds, strict=True)
    }


def of_runs(frame: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Return the rows of some runs, ordered by variant, with columns `variant` (its label) and `seed`."""
    kept = frame[frame["run_id"].isin(list(runs))]
    names = [str(run_id) for run_id in kept["run_id"]]
    labels = pd.Series([runs[name][0] for name in names], kept.index, dtype=object)  # text even if there are no rows
    kept = kept.assign(variant=labels, seed=[runs[name][1] for name in names])
    order = {label: i for i, label in enumerate(dict.fromkeys(label for label, _ in runs.values()))}
    return kept.sort_values("variant", key=lambda labels: labels.map(order), kind="stable")


def denoising(frame: pd.DataFrame, runs: Runs, against: str | None) -> pd.DataFrame:
    """Return one-step denoising in long form.

    Returns:
        Columns variant, seed, t, measure, value, and difference: to `against` at the same seed, NaN if
        that seed is missing.
    """
    measures = [name for name in MEASURES if frame[name].notna().any()]
    long = of_runs(frame, runs).melt(["variant", "seed", "t"], measures, "measure", "value").dropna(subset="value")
    theirs = long[long["variant"] == against].set_index(["seed", "t", "measure"])["value"]
    keys = pd.MultiIndex.from_frame(long[["seed", "t", "measure"]])
    long["difference"] = long["value"].to_numpy() - theirs.reindex(keys).to_numpy()
    return long.reset_index(drop=True)


def curves(frame: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Return the training loss in bins of steps.

    Returns:
        Columns variant, bin, step (the last of the bin), loss (mean over the bin and all seeds).
    """
    rows = of_runs(frame, runs)[["variant", "step", "loss"]].dropna()
    longest = rows.groupby("variant")["step"].transform("max")
    rows["bin"] = np.ceil(rows["step"] * BINS / longest)
    return rows.groupby(["variant", "bin"], sort=False).agg(step=("step", "max"), loss=("loss", "mean")).reset_index()


def latency(frame: pd.DataFrame, runs: Runs, comparable: Collection[str]) -> tuple[pd.DataFrame, str]:
    """Return times of single network evaluations, and a sentence on their origin.

    They come from the newest `ablate bench` of two or more runs, which times them side by side. If
    there is none, they are what each run measured of itself; then only the runs in `comparable` count.

    Args:
        frame: The table `latency`.
        runs: The runs that are compared.
        comparable: Labels whose times come from one machine.

    Returns:
        Columns name (variant, with its number format if there are several), batch and latency_ms: at
        most TICKS times of each, evenly spread from the fastest to the slowest.
    """
    rows = of_runs(frame, runs)
    rows = rows[rows["scope"] == "step"]
    session = rows["session"].fillna(RUN_SESSION)
    per_session = rows.groupby(session)["run_id"].nunique()
    benches = [str(name) for name, n in per_session.items() if n > 1 and str(name).startswith(BENCH_SESSION)]
    if benches:
        rows = rows[session == max(benches)]
        origin = "They were timed side by side by `ablate bench`."
    else:
        rows = rows[(session == RUN_SESSION) & rows["variant"].isin([*comparable])]
        origin = (
            "Each run timed itself, at its own moment. On a busy machine such times do not compare: "
            "`ablate bench` times runs side by side."
        )
    how = rows["scheme"].astype("string") + " / " + rows["engine"].astype("string")
    name = rows["variant"] + (", " + how if how.nunique() > 1 else "")
    return _evenly(rows.assign(name=name)), origin


def _evenly(rows: pd.DataFrame) -> pd.DataFrame:
    """Return at most TICKS times of every name and batch, evenly spread over their ranks."""
    ordered = rows.dropna(subset="latency_ms").sort_values("latency_ms")
    groups = ordered.groupby(["name", "batch"], sort=False)["latency_ms"]
    rank, count = groups.cumcount(), groups.transform("size")
    # Cut the ranks into as many even steps as are kept, and keep the rank at which a step begins: with the
    # first and the last rank.
    per_rank = (count.clip(upper=TICKS) - 1) / (count - 1).clip(lower=1)
    chosen = ordered[(rank == 0) | (np.floor(rank * per_rank + 1e-9) != np.floor((rank - 1) * per_rank + 1e-9))]
    order = list(dict.fromkeys(rows["name"]))
    return chosen[["name", "batch", "latency_ms"]].sort_values(
        ["batch", "name"],
        key=lambda column: column.map(order.index) if column.name == "name" else column,
        kind="stable",
    )
