"""What a study says beyond pairs: effects of factorial studies, and what quality costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ablate.report.findings import Effect, Factorial, Front, Point, Row
from ablate.report.judged_metrics import higher_is_better
from ablate.report.variant_rows import MACHINE, Grid, Rows
from ablate.report.verdicts import unjudged
from ablate.stats import factorial, paired, pareto
from ablate.study.variants import BASELINE

BYTES_PER_PARAMETER = 4  # float32
FRONT_OF_WORK = "the front is over multiply-accumulates of a picture instead of its time: the machines differ"


def make_factorials(made: Rows, budget: str, notes: list[str]) -> tuple[Factorial, ...]:
    """Return the effects of every complete factorial study among the rows, by every metric.

    Args:
        made: The rows and their numbers.
        budget: `steps` or `macs`, what the runs have in common.
        notes: Is added to: what is missing of an incomplete one.
    """
    labels = _cells([row for row in made.rows if row.label in made.newest])
    axis_of = {next(iter(cell)): row.axis for cell, row in labels.items() if len(cell) == 1 and row.axis}
    for cell, row in labels.items():  # a level that was run in combinations alone: its axis stands at its place
        axes = (row.axis or "").split("+")
        if len(axes) == len(cell):
            axis_of |= {part: axis for part, axis in zip(sorted(cell), axes, strict=True) if part not in axis_of}
    found = []
    for design in factorial.designs(labels, axis_of):
        if design.missing:
            names = ", ".join(sorted("+".join(sorted(cell)) or BASELINE for cell in design.missing)[:3])
            more = f" and {len(design.missing) - 3} more" if len(design.missing) > 3 else ""
            notes.append(f"no effects of {' x '.join(design.axes)}: no finished run of {names}{more}")
            continue
        for metric, values in made.values.items():
            refused = unjudged(made, budget, metric)
            odd = sorted(label for cell in design.cells() if (label := labels[cell].label) in refused)
            if odd:
                notes.append(f"no effects of {' x '.join(design.axes)} on {metric}: {odd[0]}: {refused[odd[0]]}")
            else:
                found.append(_factorial(design, metric, values, labels))
    return tuple(found)


def _cells(rows: Sequence[Row]) -> dict[factorial.Cell, Row]:
    """The finished combinations."""
    return {frozenset(row.variant.split("+")) - {BASELINE}: row for row in rows if row.seeds}


def _factorial(design: factorial.Design, metric: str, values: Grid, labels: Mapping[factorial.Cell, Row]) -> Factorial:
    numbers = {cell: values.of(labels[cell].label) for cell in design.cells()}
    known = ~np.isnan(np.stack([*numbers.values()])).any(axis=0)
    numbers = {cell: x[known] for cell, x in numbers.items()}
    contrasts = list(factorial.effects(design, numbers))
    pairs = [paired.paired(contrast) for _, _, contrast in contrasts]
    corrected = paired.holm([1.0 if pair.p is None else pair.p for pair in pairs])
    made = []
    for (some, axes, _), pair, p_holm in zip(contrasts, pairs, corrected, strict=True):
        said = paired.compare(pair, p_holm, len(pairs), higher_is_better=higher_is_better(metric))
        made.append(
            Effect(
                levels=some,
                axes=axes,
                metric=metric,
                n=pair.n,
                mean=pair.mean,
                low=pair.low,
                high=pair.high,
                p=pair.p,
                p_holm=None if pair.p is None else p_holm,
                verdict=said.word,
                why=said.why,
            )
        )
    levels = tuple((BASELINE, *own) for own in design.levels)
    return Factorial(design.axes, levels, metric, tuple(values.seeds[known].tolist()), tuple(made))


def make_fronts(made: Rows, formats: pd.DataFrame, notes: list[str]) -> tuple[Front, ...]:
    """Return what may be traded: variants as trained, and variants in their number formats.

    Args:
        made: The rows and their numbers; the first metric is the quality.
        formats: The rows of `quantized` of these runs, with their `label` and `seed`.
        notes: Is added to.
    """
    fronts = [_trained(made, notes)]
    if len(formats):
        fronts.append(_formats(formats))
    return tuple(front for front in fronts if front is not None)


def _trained(made: Rows, notes: list[str]) -> Front | None:
    metric = next(iter(made.values))
    done = made.done[made.done[metric].notna()]
    if not len(done):
        return None
    done = done.assign(bytes=done["params"].astype("Float64") * BYTES_PER_PARAMETER)
    costs = ["latency_image_ms", "bytes"]
    if len(done[[*MACHINE]].drop_duplicates()) > 1:
        # Times of unequal machines do not compare; the work does.
        work = done[["macs", "nfe", "decode_macs"]].astype("Float64")
        done = done.assign(macs_image=work["macs"] * work["nfe"] + work["decode_macs"].fillna(0))
        costs = ["macs_image", "bytes"]
        notes.append(FRONT_OF_WORK)
    return _front("as trained", done.assign(point=done["label"], scheme=None), [metric, *costs])


def _formats(formats: pd.DataFrame) -> Front | None:
    """Variants x number formats that an engine really computes, by the Frechet distance at the number of samples that formats share."""
    real = ~formats["simulated"].fillna(True).astype(bool)
    found = formats[real & formats["scope"].isin(["kpn", "all"])]
    metric = "fid" if len(found) and found["fid"].notna().all() else "fd"
    found = found[found[metric].notna()]
    if found["scheme"].nunique() < 2 or len(found[["n", "fd_ref_n"]].drop_duplicates()) > 1:
        return None
    # A scheme whose whole network was measured too keeps the row that was asked for: all but the drift network.
    found = found.sort_values("scope").drop_duplicates(["run_id", "scheme"], keep="last")
    if (
        "float_latency_step_ms" in found
    ):  # the float32 graph's time beside what it is compared with, not of another session
        beside = found.dropna(subset="float_latency_step_ms").groupby("run_id")["float_latency_step_ms"].first()
        of_float = found["run_id"].map(beside).where(found["scheme"] == "fp32").astype("float64")
        found = found.assign(latency_step_ms=of_float.fillna(found["latency_step_ms"].astype("float64")))
    found = found.assign(point=found["label"] + " " + found["scheme"])
    n = int(found["n"].iloc[0]) if found["n"].notna().any() else 0
    return _front(f"in number formats, N = {n:,}", found, [metric, "latency_step_ms", "file_bytes"])


def _front(title: str, runs: pd.DataFrame, objectives: list[str]) -> Front | None:
    runs = runs[runs[objectives].notna().all(axis=1)]
    if not len(runs):
        return None
    up = tuple(higher_is_better(name) for name in objectives)
    sign = np.where(up, -1.0, 1.0)
    at, names = pd.factorize(runs["point"])
    seeds, of_seed = np.unique(runs["seed"].to_numpy(np.int64), return_inverse=True)
    values = np.full((len(names), len(seeds), len(objectives)), np.nan)
    values[at, of_seed] = runs[objectives].astype("float64").to_numpy() * sign
    means = np.nanmean(values, axis=1)
    beaten = pareto.beaten(values)
    shares, resamples = pareto.shares(values)
    first = runs.drop_duplicates("point")
    points = []
    for i, (label, scheme) in enumerate(zip(first["label"], first["scheme"], strict=True)):
        by = np.flatnonzero(beaten[i])
        count = int((~np.isnan(values[i, :, 0])).sum())
        points.append(
            Point(
                label=str(label),
                scheme=None if pd.isna(scheme) else str(scheme),
                seeds=count,
                values=tuple(float(x) for x in means[i] * sign),
                on_front=not len(by),
                share=float(shares[i]) if count > 1 else None,
                dominated_by=names[by[means[by, 0].argmin()]] if len(by) else None,
            )
        )
    points.sort(key=lambda point: (not point.on_front, point.values[0] * sign[0]))
    return Front(title, tuple(objectives), up, resamples, tuple(points))
