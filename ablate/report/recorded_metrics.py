"""Metrics that a program or a table of scores recorded: the table `metrics` of the compared runs.

ablate measures a built-in metric itself and knows its direction. A recorded metric brings its
direction and unit along, and any name. A name that ablate measured of these runs is the built-in one.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import one_line, some_of
from ablate.report import judged_metrics
from ablate.report.clean_rows import finite
from ablate.store.schema import DIRECTIONS
from ablate.study import metric_names


class RecordedMetrics:
    """The recorded metrics of some runs, and the built-in ones behind them.

    Args:
        frame: The table `metrics`; None: there is none.
        runs: The runs that may be compared.
        measured: Names that ablate measured of these runs.
    """

    def __init__(self, frame: pd.DataFrame | None, runs: pd.DataFrame, measured: Collection[str]) -> None:
        self._rows: dict[str, pd.DataFrame] = {}
        if frame is None or not len(frame):
            return
        mine = frame.loc[frame["run_id"].isin(runs["run_id"]), ["run_id", "metric", "value", "unit", "better"]]
        mine = finite(mine.assign(metric=mine["metric"].astype(object).map(one_line)))
        for name, rows in mine.groupby("metric"):  # sorted by name
            if name not in measured:
                self._rows[str(name)] = rows.drop_duplicates("run_id", keep="last")

    @property
    def names(self) -> list[str]:
        """The recorded metrics, sorted by name."""
        return list(self._rows)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def column(self, name: str) -> str:
        """Return the column of a metric in a table of runs: a recorded one may have the name of another column."""
        return f"metric {name}" if name in self else name

    def values(self, name: str) -> pd.Series:
        """Return the values of a recorded metric by run_id."""
        return self._rows[name].set_index("run_id")["value"].astype("float64")

    def higher_is_better(self, name: str) -> bool:
        """Return whether higher values of a metric are better.

        Raises:
            ResultsError: Rows of a recorded metric disagree.
        """
        if name not in self:
            return metric_names.higher_is_better(name)
        return self._one(name, "better", DIRECTIONS) == "higher"

    def unit(self, name: str) -> str | None:
        """Return the unit of a recorded metric; None: it has none, or the metric is built in.

        Raises:
            ResultsError: Rows disagree.
        """
        return one_line(self._one(name, "unit")) or None if name in self else None

    def describe(self, name: str) -> str:
        """Return the meaning of a metric or cost in a few words.

        Raises:
            ResultsError: There is no such metric.
        """
        if name in self:
            return "as the runs recorded it"
        if self._rows and name not in {*judged_metrics.ABOUT, *judged_metrics.COSTS, *metric_names.METRICS}:
            near = did_you_mean(name, self.names)
            raise ResultsError(f"--metric {name}: no such metric{near} Recorded here: {', '.join(self.names)}")
        return judged_metrics.describe(name)

    def _one(self, name: str, column: str, allowed: Collection[str] = ()) -> str:
        """Return the value that all rows of a metric have in a column; empty: none has one."""
        rows = self._rows[name]
        known = rows[rows[column].notna()].drop_duplicates(column)
        said = {str(value): str(run) for value, run in zip(known[column], known["run_id"], strict=True)}
        unknown = [value for value in said if allowed and value not in allowed]
        if len(said) > 1 or unknown or (allowed and not said):
            listed = some_of([f"{value!r} ({run})" for value, run in said.items()]) or "nothing"
            need = f"; allowed: {', '.join(allowed)}" if allowed else ""
            raise ResultsError(
                f"metric {name}: its runs need one value of metrics.{column} and have {listed}{need}; "
                "correct and record those runs again, or leave them out with --where"
            )
        return next(iter(said), "")
