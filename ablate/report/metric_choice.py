"""Which metrics a report shows, and which of them the study is judged by.

A study is judged by its headline metrics: the better of each pair that all finished runs have, and
those that its plan names. Runs that have none of these are judged by what they recorded themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from shlex import quote

import pandas as pd

from ablate.base.errors import ResultsError
from ablate.base.text import plural
from ablate.report.judged_metrics import COSTS, HEADLINES
from ablate.report.recorded_metrics import RecordedMetrics
from ablate.study.metric_names import METRICS

MOST_JUDGED = 8  # recorded metrics that are judged though neither a plan nor the user names them


def choose_metrics(
    done: pd.DataFrame,
    measured: Collection[str],
    recorded: RecordedMetrics,
    asked: Sequence[str],
    named: Sequence[str],
    notes: list[str],
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Return the metrics to show, those that the study is judged by, and why these.

    Args:
        done: Finished runs of the whole study.
        measured: What ablate measured of them, as `measured_names` returns it.
        recorded: Their recorded metrics.
        asked: Metrics to show; empty: those that the study is judged by.
        named: Metrics that the study's plan names.
        notes: Notes are appended.

    Raises:
        ResultsError: A metric that does not exist or that no finished run has, or too many recorded
            metrics to judge all.
    """
    names, why = _headlines(done, keep_unmeasured=not recorded.names)
    names += [name for name in named if name in measured or name in recorded]
    if not names:
        names, why = _recorded(done, recorded, asked, notes)
    judged = tuple(dict.fromkeys(names))
    if not asked:
        return judged, judged, "; ".join(why) or ("measured of every run" if len(done) else "no run is finished")
    for name in asked:
        recorded.describe(name)
        if len(done) and name not in measured and name not in recorded:
            what = ", ".join([*(metric for metric in METRICS if metric in measured), *recorded.names])
            raise ResultsError(f"--metric {name}: no finished run here has it. Measured: {what or 'nothing'}")
    return tuple(dict.fromkeys(asked)), judged, "asked for"


def _headlines(done: pd.DataFrame, *, keep_unmeasured: bool) -> tuple[list[str], list[str]]:
    """Return the headline metrics that ablate measured, and why the second of a pair replaces the first.

    Args:
        done: Finished runs of the whole study.
        keep_unmeasured: Also return metrics that no finished run has.
    """
    names, why = [], []
    for best, embedded in HEADLINES:
        if keep_unmeasured or done[[best, embedded]].notna().any(axis=None):
            lacking = int(done[best].isna().sum())
            names.append(best if len(done) and not lacking else embedded)
            if lacking:
                why.append(f"{embedded} instead of {best}, which {lacking:,} of {plural(len(done), 'run')} lack")
    return names, why


def _recorded(
    done: pd.DataFrame, recorded: RecordedMetrics, asked: Sequence[str], notes: list[str]
) -> tuple[list[str], list[str]]:
    """Return the recorded metrics to judge by, and why: those of all finished runs, or else of some."""
    counts = {name: int(done["run_id"].map(recorded.values(name)).notna().sum()) for name in recorded.names}
    whole = [name for name, n in counts.items() if n == len(done)]
    rest = [name for name, n in counts.items() if 0 < n < len(done)]
    judged = whole or rest or recorded.names
    if len(judged) > MOST_JUDGED:
        listed = f"{', '.join(judged[:MOST_JUDGED])}, ..."
        chosen = [name for name in asked if name in judged]
        if not chosen:
            raise ResultsError(
                f"these runs recorded {len(judged)} metrics, and no plan says which count: {listed}; "
                f"choose, as in --metric {quote(judged[0])}"
            )
        notes.append(f"judged by the metrics asked for: these runs recorded {len(judged)}, and no plan names any")
        return chosen, []
    if whole and rest:
        total = plural(len(done), "run")
        lacking = ", ".join(f"{name} ({len(done) - counts[name]:,} of {total} lack it)" for name in rest)
        notes.append(f"not judged: {lacking}; --metric shows it")
    return judged, ["recorded by every run" if whole else "recorded by some of the runs"]


def measured_names(done: pd.DataFrame, fidelity: pd.DataFrame) -> set[str]:
    """Return the metrics and costs that ablate measured of finished runs.

    Args:
        done: Finished runs.
        fidelity: The table of that name.
    """
    known = done[[name for name in (*METRICS, *COSTS) if name in done.columns]].notna().any()
    names = set(known.index[known])
    if len(fidelity):
        names |= set(fidelity.loc[fidelity["run_id"].isin(done["run_id"]), "metric"]) & set(METRICS)
    return names


def in_fidelity(fidelity: pd.DataFrame, metric: str) -> pd.Series:
    """Return the values of a metric in the table `fidelity` by run_id."""
    if not len(fidelity):
        return pd.Series(dtype="float64")
    values = fidelity.loc[fidelity["metric"] == metric, ["run_id", "value"]]
    return values.drop_duplicates("run_id", keep="last").set_index("run_id")["value"]
