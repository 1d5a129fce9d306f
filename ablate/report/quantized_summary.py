"""Number formats in a report: what each costs in quality and saves in bytes and time.

change = mean over seeds of  m(scheme) - m(fp32),  both from the same noise
times and bytes are ratios of the float32 graph to this one
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablate.report.findings import Quantized, QuantizedRow
from ablate.store.tables import to_records

FLOAT = "fp32"
INTERVAL = ("fd_change_low", "fd_change_high")
MEANS = ("psnr_db", "pd", "lpips", "fd_change", *INTERVAL, "macs_share")
SCOPES = ("kpn", "backbone", "upscaler", "heads", "filters", "decoder", "drift", "all")


def summarise(formats: pd.DataFrame) -> Quantized | None:
    """Summarise the rows of the table `quantized` by variant, scheme and scope.

    Args:
        formats: Its rows of runs that may be compared, with their `label` and `seed`.

    Returns:
        None if nothing was measured.
    """
    if not len(formats):
        return None
    is_float = formats["scheme"] == FLOAT
    floats = formats.loc[is_float, ["run_id", "file_bytes", "latency_step_ms"]].drop_duplicates("run_id")
    rows = formats[~is_float].merge(floats, on="run_id", how="left", suffixes=("", "_float"))
    if not len(rows):
        return None
    if "float_latency_step_ms" in rows:  # timed in the same session; older rows lack it
        beside = rows["float_latency_step_ms"].astype("float64")
        rows["latency_step_ms_float"] = beside.fillna(rows["latency_step_ms_float"].astype("float64"))
    for ratio, column in (("smaller", "file_bytes"), ("faster", "latency_step_ms")):
        this = rows[column].astype("float64")
        rows[ratio] = rows[f"{column}_float"].astype("float64") / this.where(this != 0)
    for name, known in (("label", formats["label"].unique()), ("scope", SCOPES)):  # the order of the groups
        rows[name] = pd.Categorical(rows[name], [*known, *sorted({*rows[name]} - {*known})])
    groups = rows.groupby(["label", "scheme", "scope"], observed=True)
    means = groups[[*MEANS]].mean().astype("float64").replace(np.nan, None)
    medians = groups[["smaller", "faster"]].median().astype("float64").replace(np.nan, None)
    table = pd.concat([means, medians, groups[["simulated", "n"]].first()], axis=1).assign(seeds=groups.size())
    # The interval is for other images of one run; there is none over several seeds.
    table.loc[table["seeds"] > 1, [*INTERVAL]] = None
    summaries = tuple(QuantizedRow(**record) for record in to_records(table.reset_index()))
    return Quantized(rows=summaries, most_sensitive=_sensitivities(summaries))


def _sensitivities(rows: Sequence[QuantizedRow]) -> tuple[str, ...]:
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for row in rows:
        if row.scope not in ("kpn", "all") and row.psnr_db is not None:
            groups.setdefault((row.label, row.scheme), []).append((row.psnr_db, row.scope))
    return tuple(
        f"{label} in {scheme}, module groups alone, the most sensitive first (PSNR, dB): "
        + ", ".join(f"{scope} {psnr_db:.1f}" for psnr_db, scope in sorted(group, key=lambda item: item[0]))
        for (label, scheme), group in groups.items()
        if len(group) > 1
    )
