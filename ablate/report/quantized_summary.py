"""Number formats in a report: what each costs in quality and saves in bytes and time, by variant, scheme and scope.

change = mean over seeds of  m(scheme) - m(fp32),   both from the same noise;  times and bytes as ratios to the float32 graph
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

FLOAT = "fp32"
INTERVAL = ("fd_change_low", "fd_change_high")
MEANS = ("psnr_db", "pd", "lpips", "fd_change", *INTERVAL, "macs_share")
ORDER = ("kpn", "backbone", "upscaler", "heads", "filters", "decoder", "drift", "all")


@dataclass(frozen=True)
class QuantizedRow:
    """One variant in one scheme and scope: means over seeds. `smaller` and `faster` are ratios of the float32 graph to this one."""

    label: str
    scheme: str
    scope: str
    simulated: bool
    seeds: int
    n: int | None
    psnr_db: float | None
    pd: float | None
    lpips: float | None
    fd_change: float | None
    fd_change_low: float | None
    fd_change_high: float | None
    macs_share: float | None
    smaller: float | None
    faster: float | None


@dataclass(frozen=True)
class Quantized:
    """The quantised accuracy of a group of runs."""

    rows: tuple[QuantizedRow, ...]
    most_sensitive: tuple[str, ...]  # a line for each variant and scheme of which several module groups were measured


def summarise(found: pd.DataFrame) -> Quantized | None:
    """Summarise the table `quantized` for runs that may be compared.

    Args:
        found: Its rows of these runs, with their `label` (what a row of the report is called) and `seed`.

    Returns:
        None where nothing was measured.
    """
    if not len(found):
        return None
    order = {label: i for i, label in enumerate(dict.fromkeys(found["label"]))}
    floats = found.loc[found["scheme"] == FLOAT, ["run_id", "file_bytes", "latency_step_ms"]].drop_duplicates("run_id")
    found = found[found["scheme"] != FLOAT].merge(floats, on="run_id", how="left", suffixes=("", "_float"))
    if not len(found):
        return None
    if "float_latency_step_ms" in found:  # of the same session; earlier rows have none
        beside = found["float_latency_step_ms"].astype("float64")
        found["latency_step_ms_float"] = beside.fillna(found["latency_step_ms_float"].astype("float64"))
    for ratio, column in (("smaller", "file_bytes"), ("faster", "latency_step_ms")):
        this = found[column].astype("float64")
        found[ratio] = found[f"{column}_float"].astype("float64") / this.where(this != 0)
    groups = found.groupby(["label", "scheme", "scope"])
    means = groups[[*MEANS]].mean().astype("float64").replace(np.nan, None)
    medians = groups[["smaller", "faster"]].median().astype("float64").replace(np.nan, None)
    table = pd.concat([means, medians, groups[["simulated", "n"]].first()], axis=1).assign(seeds=groups.size())
    records = {tuple(map(str, key)): row for key, row in zip(table.index, table.to_dict("records"), strict=True)}
    keys = sorted(records, key=lambda key: (order[key[0]], _place(key[1:])))
    rows = [_row(key, {str(name): value for name, value in records[key].items()}) for key in keys]
    return Quantized(tuple(rows), _sensitive(rows))


def _place(key: tuple[str, ...]) -> tuple[str, int]:
    scheme, scope = key
    return scheme, ORDER.index(scope) if scope in ORDER else len(ORDER)


def _row(key: tuple[str, ...], found: dict[str, Any]) -> QuantizedRow:
    label, scheme, scope = key
    return QuantizedRow(
        label=label,
        scheme=scheme,
        scope=scope,
        simulated=bool(found["simulated"]),
        seeds=int(found["seeds"]),
        n=None if pd.isna(found["n"]) else int(found["n"]),
        **{name: found[name] for name in MEANS if name not in INTERVAL},
        # Of other pictures of the same run: of several seeds there is no such interval.
        **{name: found[name] if found["seeds"] == 1 else None for name in INTERVAL},
        smaller=found["smaller"],
        faster=found["faster"],
    )


def _sensitive(rows: Sequence[QuantizedRow]) -> tuple[str, ...]:
    lines = []
    groups: dict[tuple[str, str], list[QuantizedRow]] = {}
    for row in rows:
        if row.scope not in ("kpn", "all") and row.psnr_db is not None:
            groups.setdefault((row.label, row.scheme), []).append(row)
    for (label, scheme), some in groups.items():
        if len(some) > 1:
            ranked = sorted(some, key=lambda row: row.psnr_db or 0.0)
            listed = ", ".join(f"{row.scope} {row.psnr_db:.1f}" for row in ranked)
            lines.append(f"{label} in {scheme}, module groups alone, the most sensitive first (dB): {listed}")
    return tuple(lines)


def cells(quantized: Quantized) -> list[list[str]]:
    """Return the rows as text, heads first."""
    lines = [["variant", "scheme", "scope", "seeds", "PSNR dB", "pd", "fd change", "MACs", "smaller", "faster"]]
    for row in quantized.rows:
        change = "-" if row.fd_change is None else f"{row.fd_change:+.3g}"
        if row.fd_change_low is not None and row.fd_change_high is not None:
            change += f" [{row.fd_change_low:+.3g}, {row.fd_change_high:+.3g}]"
        lines.append(
            [
                row.label,
                row.scheme + ("*" if row.simulated else ""),
                row.scope,
                str(row.seeds),
                "-" if row.psnr_db is None else f"{row.psnr_db:.1f}",
                "-" if row.pd is None else f"{row.pd:.4f}",
                change,
                "-" if row.macs_share is None else f"{100 * row.macs_share:.0f} %",
                "-" if row.smaller is None else f"{row.smaller:.2f}x",
                "-" if row.faster is None else f"{row.faster:.2f}x",
            ]
        )
    return lines


def legend(quantized: Quantized) -> list[str]:
    """Return what the table means, and the sensitivities, a line each."""
    n = quantized.rows[0].n
    lines = [
        f"Number formats: N = {n} samples against those of the float32 graph from the same noise; fd change: with its 95 % interval for "
        "other samples of the same model. *: simulated by rounding, so without file and time. kpn: all but the drift network.",
        "MACs: the share computed in the format. smaller, faster: the float32 graph's bytes, and its time at batch 1, over this one's.",
        *quantized.most_sensitive,
    ]
    return lines
