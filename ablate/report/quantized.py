"""Number formats in a report: what each costs in quality and saves in bytes and time, by variant, scheme and scope; and the claims on them.

change = mean over seeds of  m(scheme) - m(fp32),   both from the same noise;  times and bytes as ratios to the float32 graph
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ablate import stats, variant
from ablate.errors import VariantError

FLOAT = "fp32"
ORDER = ("kpn", "backbone", "upscaler", "heads", "filters", "decoder", "drift", "all")
HIGHER_IS_BETTER = ("psnr_db",)
Cells = dict[tuple[str, str], dict[int, dict[str, Any]]]  # (scheme, scope) -> seed -> row


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
class QuantizedClaim:
    """A claim of a variant's file on a number format, and its verdict."""

    label: str
    metric: str
    expect: str
    because: str
    verdict: stats.Verdict


@dataclass(frozen=True)
class Quantized:
    """The quantised accuracy of a group of runs."""

    rows: tuple[QuantizedRow, ...]
    most_sensitive: tuple[str, ...]  # a line for each variant and scheme of which several module groups were measured
    claims: tuple[QuantizedClaim, ...]


def summarise(
    table: pd.DataFrame, runs: Mapping[str, Mapping[int, Mapping[str, Any]]], baseline: str | None
) -> Quantized | None:
    """Summarise the table `quantized` for runs that may be compared.

    Args:
        table: As `ablate.results.read` returns it.
        runs: A row's label -> seed -> the finished run's row of `runs`.
        baseline: The baseline's label.

    Returns:
        None where nothing was measured.
    """
    by_run: dict[str, list[dict[str, Any]]] = {}
    for found in table.astype(object).where(table.notna(), None).to_dict("records"):
        by_run.setdefault(found["run_id"], []).append({str(k): v for k, v in found.items()})
    cells: dict[str, Cells] = {}
    for label, seeds in runs.items():
        cells[label] = {}
        for seed, run in seeds.items():
            for record in by_run.get(run["run_id"], []):
                cells[label].setdefault((record["scheme"], record["scope"]), {})[seed] = record
    rows = [
        _row(label, key, some) for label, some in cells.items() for key in sorted(some, key=_place) if key[0] != FLOAT
    ]
    if not rows:
        return None
    names = {label: next(iter(seeds.values()))["variant"] for label, seeds in runs.items() if seeds}
    return Quantized(tuple(rows), _sensitive(rows), _claims(cells, names, baseline))


def _place(key: tuple[str, str]) -> tuple[str, int]:
    return key[0], ORDER.index(key[1]) if key[1] in ORDER else len(ORDER)


def _row(label: str, key: tuple[str, str], cells: Cells) -> QuantizedRow:
    found = cells[key]
    floats = {seed: row for (scheme, _), some in cells.items() if scheme == FLOAT for seed, row in some.items()}

    def mean(column: str) -> float | None:
        values = [float(row[column]) for row in found.values() if row[column] is not None]
        return statistics.fmean(values) if values else None

    def ratio(column: str) -> float | None:
        pairs = [(floats[seed][column], row[column]) for seed, row in found.items() if seed in floats]
        values = [float(a) / float(b) for a, b in pairs if a is not None and b]
        return statistics.median(values) if values else None

    one = next(iter(found.values()))
    return QuantizedRow(
        label=label,
        scheme=key[0],
        scope=key[1],
        simulated=bool(one["simulated"]),
        seeds=len(found),
        n=None if one["n"] is None else int(one["n"]),
        **{name: mean(name) for name in ("psnr_db", "pd", "lpips", "fd_change", "macs_share")},
        # Of other pictures of the same run: of several seeds there is no such interval.
        **{name: mean(name) if len(found) == 1 else None for name in ("fd_change_low", "fd_change_high")},
        smaller=ratio("file_bytes"),
        faster=ratio("latency_step_ms"),
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


def _claims(cells: Mapping[str, Cells], names: Mapping[str, str], baseline: str | None) -> tuple[QuantizedClaim, ...]:
    found: list[QuantizedClaim] = []
    for label, name in names.items():
        try:
            claims = variant.load(name).claims
        except VariantError:  # a user's file that is gone: its runs are still shown
            continue
        for claim in claims:
            scheme, _, metric = claim["metric"].partition("_")
            if scheme not in ("bf16", "fp8", "int8", "int4") or baseline is None or label == baseline:
                continue
            mine, theirs = (cells[one].get((scheme, "kpn"), {}) for one in (label, baseline))
            shared = [s for s in mine if s in theirs and None not in (mine[s][metric], theirs[s][metric])]
            differences = [float(mine[s][metric]) - float(theirs[s][metric]) for s in sorted(shared)]
            said = stats.judge(differences, claim["expect"], higher_is_better=metric in HIGHER_IS_BETTER)
            found.append(QuantizedClaim(label, claim["metric"], claim["expect"], claim["because"], said))
    return tuple(found)


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
    """Return what the table means, the sensitivities and the verdicts, a line each."""
    n = quantized.rows[0].n
    lines = [
        f"Number formats: N = {n} samples against those of the float32 graph from the same noise; fd change: with its 95 % interval for "
        "other samples of the same model. *: simulated by rounding, so without file and time. kpn: all but the drift network.",
        "MACs: the share computed in the format. smaller, faster: the float32 graph's bytes, and its time at batch 1, over this one's.",
        *quantized.most_sensitive,
    ]
    for claim in quantized.claims:
        v = claim.verdict
        mean = (
            ""
            if v.mean is None
            else f" (variant - baseline {v.mean:+.3g}"
            + ("" if v.low is None else f" [{v.low:+.3g}, {v.high:+.3g}]")
            + ")"
        )
        lines.append(f"claim: {claim.label} is {claim.expect} in {claim.metric}: {v.verdict}: {v.why}{mean}")
    return lines
