"""Quality against cost: Pareto fronts of variants as trained, and of variants in number formats."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ablate.report.findings import Front, Point
from ablate.report.machines import MACHINE, machines_of
from ablate.report.variant_rows import VariantRows
from ablate.stats import pareto

BYTES_PER_PARAMETER = 4  # float32
FORMATS = (  # columns of the number formats' rows that are needed
    *("run_id", "label", "seed", "scheme", "scope", "n", "fd_ref_n", "fd", "fid"),
    *("file_bytes", "latency_step_ms", "float_latency_step_ms"),
)
FRONT_WITHOUT_TIME = "trade-offs use the multiply-accumulates per image instead of its time: the machines differ"


def make_fronts(table: VariantRows, formats: pd.DataFrame, notes: list[str]) -> tuple[Front, ...]:
    """Return the front of the variants as trained, and that of the variants in their number formats.

    Args:
        table: The rows and their values; the first metric is the quality.
        formats: The rows of `quantized` of these runs, with their `label` and `seed`.
        notes: Notes are appended.
    """
    fronts = [_trained(table, notes)]
    if len(formats):
        machines = machines_of(table.done[table.done["run_id"].isin(formats["run_id"])])
        fronts.append(_formats(formats, timed=len(set(machines)) == 1))
    return tuple(front for front in fronts if front is not None)


def _trained(table: VariantRows, notes: list[str]) -> Front | None:
    metric = next(iter(table.values))
    quality = table.recorded.column(metric)
    columns = {"label", "seed", quality, "params", "latency_image_ms", "macs", "nfe", "decode_macs", *MACHINE}
    done = table.done.loc[table.done[quality].notna() & table.done["params"].notna(), [*columns]]
    if not len(done):
        return None
    done = done.assign(bytes=done["params"].astype("Float64") * BYTES_PER_PARAMETER)
    costs = ["latency_image_ms", "bytes"]
    if len(set(machines_of(done))) > 1:
        work = done[["macs", "nfe", "decode_macs"]].astype("Float64")
        done = done.assign(macs_image=work["macs"] * work["nfe"] + work["decode_macs"].fillna(0))
        costs = ["macs_image", "bytes"]
        notes.append(FRONT_WITHOUT_TIME)
    up = table.recorded.higher_is_better(metric)
    points = done.assign(point=done["label"], scheme=None)
    return _front("as trained", points, [quality, *costs], metric, higher_is_better=up)


def _formats(formats: pd.DataFrame, *, timed: bool) -> Front | None:
    """Return the front of variants in the number formats that an engine computes (not simulates).

    Quality is the Frechet distance at the number of samples that the formats share.
    """
    real = ~formats["simulated"].fillna(True).astype(bool)
    rows = formats.loc[real & formats["scope"].isin(["kpn", "all"]), [name for name in FORMATS if name in formats]]
    metric = "fid" if len(rows) and rows["fid"].notna().all() else "fd"
    rows = rows[rows[metric].notna()]
    if rows["scheme"].nunique() < 2 or len(rows[["n", "fd_ref_n"]].drop_duplicates()) > 1:
        return None
    # If the whole network was measured in a scheme too, keep the default scope: all but the drift network.
    rows = rows.sort_values("scope").drop_duplicates(["run_id", "scheme"], keep="last")
    if "float_latency_step_ms" in rows:  # time of the float32 graph in the session of the format's time
        beside = rows.dropna(subset="float_latency_step_ms").groupby("run_id")["float_latency_step_ms"].first()
        of_float = rows["run_id"].map(beside).where(rows["scheme"] == "fp32").astype("float64")
        rows = rows.assign(latency_step_ms=of_float.fillna(rows["latency_step_ms"].astype("float64")))
    rows = rows.assign(point=rows["label"] + " " + rows["scheme"])
    n = int(rows["n"].iloc[0]) if rows["n"].notna().any() else 0
    costs = ["latency_step_ms", "file_bytes"] if timed else ["file_bytes"]
    return _front(f"in number formats, N = {n:,}", rows, [metric, *costs], metric, higher_is_better=False)


def _front(title: str, runs: pd.DataFrame, columns: list[str], metric: str, *, higher_is_better: bool) -> Front | None:
    """Return the front of the points (column `point`): quality over the seeds of their runs, median costs.

    Args:
        title: Of the front.
        runs: The runs, or what was measured of them.
        columns: The objectives, quality first.
        metric: The name of the quality.
        higher_is_better: Whether higher values of it are better.
    """
    runs = runs.loc[runs[columns].notna().all(axis=1), ["point", "label", "scheme", "seed", *columns]]
    if not len(runs):
        return None
    objectives = [metric, *columns[1:]]
    up = (higher_is_better, *(False for _ in columns[1:]))  # less cost is better
    sign = np.where(up, -1.0, 1.0)
    of_point, names = pd.factorize(runs["point"])
    seeds, of_seed = np.unique(runs["seed"].to_numpy(np.int64), return_inverse=True)
    values = np.full((len(names), len(seeds), len(objectives)), np.nan)
    values[of_point, of_seed] = runs[columns].astype("float64").to_numpy() * sign
    costs = values[:, :, 1:]  # one busy moment is not a cost: the median over a point's seeds stands in each of them
    values[:, :, 1:] = np.where(np.isnan(costs), np.nan, np.nanmedian(costs, axis=1, keepdims=True))
    means = np.nanmean(values, axis=1)
    beaten = pareto.beaten(values)
    frequencies, resamples = pareto.front_frequencies(values)
    first = runs[["point", "label", "scheme"]].drop_duplicates("point")
    points = []
    for i, (label, scheme) in enumerate(zip(first["label"], first["scheme"], strict=True)):
        better = np.flatnonzero(beaten[i])
        count = int((~np.isnan(values[i, :, 0])).sum())
        points.append(
            Point(
                label=str(label),
                scheme=None if pd.isna(scheme) else str(scheme),
                seeds=count,
                values=tuple((means[i] * sign).tolist()),
                on_front=not len(better),
                share=float(frequencies[i]) if count > 1 else None,
                dominated_by=names[better[means[better, 0].argmin()]] if len(better) else None,
            )
        )
    points.sort(key=lambda point: (not point.on_front, point.values[0] * sign[0]))
    return Front(
        title=title, objectives=tuple(objectives), higher_is_better=up, resamples=resamples, points=tuple(points)
    )
