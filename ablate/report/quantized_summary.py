"""Number formats in a report: what each costs in quality and saves in bytes and time.

change = mean over seeds of  m(scheme) - m(fp32),  both from the same noise
times and bytes are ratios of the float32 graph to this one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablate.report.findings import Quantized, QuantizedRow

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
    order = {label: i for i, label in enumerate(dict.fromkeys(formats["label"]))}
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
    groups = rows.groupby(["label", "scheme", "scope"])
    means = groups[[*MEANS]].mean().astype("float64").replace(np.nan, None)
    medians = groups[["smaller", "faster"]].median().astype("float64").replace(np.nan, None)
    table = pd.concat([means, medians, groups[["simulated", "n"]].first()], axis=1).assign(seeds=groups.size())
    records: dict[tuple[str, ...], dict[str, Any]] = {
        tuple(map(str, key)): {str(name): value for name, value in record.items()}
        for key, record in zip(table.index, table.to_dict("records"), strict=True)
    }
    keys = sorted(records, key=lambda key: (order[key[0]], key[1], _place(key[2])))
    summaries = tuple(_row(key, records[key]) for key in keys)
    return Quantized(rows=summaries, most_sensitive=_sensitivities(summaries))


def _place(scope: str) -> int:
    return SCOPES.index(scope) if scope in SCOPES else len(SCOPES)


def _row(key: tuple[str, ...], record: dict[str, Any]) -> QuantizedRow:
    label, scheme, scope = key
    seeds = int(record["seeds"])
    # The interval is for other images of one run; there is none over several seeds.
    record |= dict.fromkeys(INTERVAL) if seeds > 1 else {}
    record |= {"n": None if pd.isna(record["n"]) else int(record["n"]), "simulated": bool(record["simulated"])}
    return QuantizedRow(label=label, scheme=scheme, scope=scope, **(record | {"seeds": seeds}))


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
