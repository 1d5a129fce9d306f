"""The values of a table: one for each variant, seed and metric.

A wide table has a column for each metric. A long one has a column of names and one of values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from shlex import quote

import numpy as np
import pandas as pd

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import one_line, some_of
from ablate.scores.cells import MISSING, Numbers, read_numbers, read_seed
from ablate.scores.columns import FAILED, UNDER_WAY, Roles, is_index, is_measured, plain, split_seed
from ablate.scores.files import RawScores
from ablate.store.schema import DIRECTIONS
from ablate.study.metric_names import direction

MOST_METRICS = 8  # that are judged though the user names none
KEY = ["variant", "seed", "metric"]


@dataclass
class Values:
    """The values of a table.

    Attributes:
        runs: Columns variant, seed, status, step and row (of the table): a row of each row of the table.
        cells: Columns variant, seed, step, row, metric, value, not_finite: the values of finished runs.
        better: Metric -> `higher` or `lower`.
        units: Metric -> its unit, where the table says it.
        unused: Columns, or metrics of a long table, that are not read.
        notes: What was left out.
    """

    runs: pd.DataFrame
    cells: pd.DataFrame
    better: dict[str, str]
    units: dict[str, str]
    unused: list[str]
    notes: list[str] = field(default_factory=list)


def read_values(raw: RawScores, roles: Roles, metrics: Sequence[str], better: Sequence[str]) -> Values:
    """Read the values of a table.

    Args:
        raw: The table.
        roles: Its columns.
        metrics: The metrics to read; empty: those whose direction is known.
        better: `higher` or `lower`, or `NAME=higher`, of metrics whose name does not say it.

    Raises:
        ResultsError: A cell that is wrong, or a metric or direction that the user must name.
    """
    runs = _runs(raw, roles)
    values = _Reader(raw, roles, runs, tuple(metrics), tuple(better)).values()
    return _one_of_each(raw, roles, values)


def _runs(raw: RawScores, roles: Roles) -> pd.DataFrame:
    """Return variant, seed, status and step of each row."""
    names = raw.frame[roles.variant]
    empty = names.isna() | names.astype(str).str.strip().str.lower().isin(MISSING)
    if empty.any():
        place = raw.place(int(np.flatnonzero(empty)[0]))
        raise ResultsError(f"{place}: no {one_line(roles.variant)}; say which variant it is, or delete the row")
    # In labels of reports, ` @` separates a variant from its configuration.
    variant = names.map({name: one_line(name).replace(" @", "@")[:120] for name in names.unique()})
    seed = None if roles.seed is None else _seeds(raw, roles.seed)
    parts = {name: split_seed(name) for name in variant.unique()}
    if all(parts.values()):  # names as in `base-seed3`
        in_name = variant.map({name: part[1] for name, part in parts.items() if part})
        if seed is None or (in_name == seed).all():
            seed, variant = in_name, variant.map({name: part[0] for name, part in parts.items() if part})
    assert seed is not None  # the roles have a column of it unless every name holds one
    status = pd.Series("done", raw.frame.index)
    if roles.status is not None:
        words = raw.frame[roles.status].astype(str).str.strip().str.lower()
        status = status.mask(words.isin(FAILED), "failed").mask(words == "diverged", "diverged")
        status = status.mask(words.isin(UNDER_WAY), "running")
    step = np.full(len(raw.frame), np.nan) if roles.step is None else read_numbers(raw.frame[roles.step]).values
    return pd.DataFrame(
        {"variant": variant, "seed": seed.astype("int64"), "status": status, "step": step, "row": range(len(raw.frame))}
    )


def _seeds(raw: RawScores, column: str) -> pd.Series:
    seeds = raw.frame[column].map({cell: read_seed(cell) for cell in raw.frame[column].unique()})
    if seeds.isna().any():
        row = int(np.flatnonzero(seeds.isna())[0])
        raise ResultsError(
            f"{raw.place(row)}: {one_line(column)} is {one_line(raw.frame[column].iloc[row])!r}, which is no whole "
            "number; correct it, or name the column of the seeds, as in --seed COLUMN"
        )
    return seeds


@dataclass
class _Reader:
    raw: RawScores
    roles: Roles
    runs: pd.DataFrame
    asked: tuple[str, ...]
    said: tuple[str, ...]

    def values(self) -> Values:
        """Return the values of the metrics to read.

        Raises:
            ResultsError: A cell is no number, or no metric or direction is known.
        """
        frame, long = self.raw.frame, self.roles.metric is not None
        columns, rows = self._in_rows() if long else self._in_columns()
        numbers = {
            name: read_numbers(frame[column].iloc[rows[name]].reset_index(drop=True), commas=self.raw.commas)
            for name, column in columns.items()
        }
        chosen = self._choose(numbers)
        parts, units, notes = [], dict[str, str](), []
        for name in chosen:
            one = numbers[name]
            if one.text.any():
                row = int(rows[name][int(np.flatnonzero(one.text)[0])])
                cell = one_line(frame[columns[name]].iloc[row])[:40]
                raise ResultsError(
                    f"{self.raw.place(row)}: {one_line(name)} is {cell!r}, which is no number; correct it, or leave it "
                    "empty"
                )
            cells = self.runs.iloc[rows[name]].assign(metric=name, value=one.values, not_finite=one.not_finite)
            parts.append(cells[~one.missing])
            stated = self._stated(self.labels == name, self.roles.unit) if long else None
            units |= {name: unit} if (unit := stated or one.unit) else {}
            if one.comma:
                notes.append(f"{self.raw.name}: the commas in {one_line(name)} are read as decimal points")
        better = self._directions(chosen)
        unused = [
            name if long else columns[name]
            for name, one in numbers.items()
            if name not in better and (long or one.any_number)
        ]
        return Values(self.runs, pd.concat(parts), better, units, unused, notes)

    def _in_columns(self) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        """Return the column of each metric of a wide table, and its rows: all."""
        names = [name for name in self.raw.frame.columns if name not in self.roles.columns and not is_index(name)]
        names = [name for name in names if name.startswith(("metrics.", "summary."))] or names
        shared = Counter(map(plain, names))
        # `loss` for `metrics.loss`, unless there are two
        columns = {plain(name) if shared[plain(name)] == 1 else name: name for name in names}
        return columns, dict.fromkeys(columns, np.arange(len(self.raw.frame)))

    def _in_rows(self) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        """Return the column of the values of a long table for each metric, and the metric's rows."""
        cells, labels = self.raw.frame[self.roles.metric], self.labels
        empty = cells.isna() | labels.str.lower().isin(MISSING)
        if empty.any():
            place = self.raw.place(int(np.flatnonzero(empty)[0]))
            raise ResultsError(f"{place}: no {one_line(cells.name)}; say which metric it is, or delete the row")
        rows = {str(name): np.asarray(one) for name, one in labels.groupby(labels, sort=False).indices.items()}
        return dict.fromkeys(rows, str(self.roles.value)), rows

    @cached_property
    def labels(self) -> pd.Series:
        """The metric of each row of a long table."""
        cells = self.raw.frame[self.roles.metric]
        return cells.map({name: one_line(name) for name in cells.unique()})

    def _choose(self, columns: Mapping[str, Numbers]) -> list[str]:
        """Return the metrics to read: those asked for, or those whose direction is known, or the only one."""
        for name in self.asked:
            if name not in columns:
                near = did_you_mean(name, columns)
                listed = some_of([name for name, one in columns.items() if one.any_number], 12) or "none"
                raise ResultsError(f"{self.raw.name}: --metric {name}: no such metric{near} Metrics: {listed}")
        if self.asked:
            return list(self.asked)
        measured = {name: one for name, one in columns.items() if is_measured(name)}
        known = {name: one for name, one in measured.items() if self._direction(name) is not None}
        numbers = {name: one for name, one in measured.items() if one.any_number and not one.text.any()}
        for some, most in ((_varying(known, self.runs), MOST_METRICS), (_varying(numbers, self.runs), 1), (known, 1)):
            if 0 < len(some) <= most:
                return list(some)
            if some:
                raise ResultsError(
                    f"{self.raw.name}: {len(some)} columns could be the metric: {some_of(list(some), 8)}; "
                    f"name those to judge, as in --metric {quote(next(iter(some)))}"
                )
        raise ResultsError(f"{self.raw.name}: no column of numbers that could be a metric; name it: --metric NAME")

    def _directions(self, names: Sequence[str]) -> dict[str, str]:
        """Return which values are better of each metric: as the user or the table says, or the name."""
        directions = {}
        for name in names:
            found = self._direction(name, alone=len(names) == 1)
            if found is None:
                one = "" if len(names) == 1 else f"{name}="
                raise ResultsError(
                    f"{self.raw.name}: is a higher or a lower {one_line(name)} better? Say so: "
                    f"--better {quote(one + 'higher')} or --better {quote(one + 'lower')}"
                )
            directions[name] = found
        return directions

    def _direction(self, name: str, *, alone: bool = False) -> str | None:
        general = None
        for text in self.said:
            named, _, word = text.rpartition("=")
            if word.strip().lower() not in DIRECTIONS:
                raise ResultsError(
                    f"{self.raw.name}: --better {text}: allowed: higher, lower, or one metric's, as in loss=lower"
                )
            if named.strip() == name:
                return word.strip().lower()
            general = general if named else word.strip().lower()
        if alone and general is not None:
            return general
        in_table = None
        if self.roles.better is not None and self.roles.metric is not None:
            in_table = self._stated(self.labels == name, self.roles.better)
        return in_table or self.raw.better.get(name) or direction(name) or general

    def _stated(self, rows: pd.Series, column: str | None) -> str | None:
        """Return what a column says of a metric; refuse two answers."""
        if column is None:
            return None
        cells = self.raw.frame.loc[rows, column].dropna().astype(str).str.strip()
        said = [one_line(cell) for cell in cells.unique() if cell.lower() not in MISSING]
        allowed = DIRECTIONS if column == self.roles.better else said
        odd = next((word for word in said if word not in allowed), None)
        if odd is not None or len(said) > 1:
            row = int(np.flatnonzero(rows & (self.raw.frame[column].astype(str).str.strip() == (odd or said[1])))[0])
            need = f"allowed: {', '.join(DIRECTIONS)}" if odd else f"other rows of its metric say {said[0]!r}"
            raise ResultsError(f"{self.raw.place(row)}: {one_line(column)} is {(odd or said[1])!r}; {need}")
        return said[0] if said else None


def _varying(columns: Mapping[str, Numbers], runs: pd.DataFrame) -> dict[str, Numbers]:
    """Return the columns whose numbers differ within some variant: those of a setting, such as a rate, do not."""
    variants = runs["variant"].to_numpy()
    several = pd.Series(variants).duplicated().any()

    def varies(one: Numbers) -> bool:
        if len(one.values) != len(variants):  # of a long table: a metric by its name
            return one.any_number
        return bool((pd.Series(one.values).groupby(variants).nunique() > 1).any()) or bool(one.not_finite.any())

    return {name: one for name, one in columns.items() if one.any_number and (varies(one) or not several)}


def _one_of_each(raw: RawScores, roles: Roles, values: Values) -> Values:
    """Keep one value of each variant, seed and metric: of the last step, or of equal rows."""
    runs, cells, notes = values.runs, values.cells, values.notes
    if (runs["status"] != "done").any():
        finished = pd.MultiIndex.from_frame(runs.loc[runs["status"] == "done", KEY[:2]])
        again = pd.MultiIndex.from_frame(runs[KEY[:2]]).isin(finished) & (runs["status"] != "done")
        under_way = (runs["status"] == "running") & ~again
        if under_way.any():
            notes.append(f"{raw.name}: rows of runs that have not ended are left out: {under_way.sum()}")
        runs = runs[~again & ~under_way]
        cells = cells[cells["row"].isin(runs.loc[runs["status"] == "done", "row"])]
    if roles.step is not None and cells.duplicated(KEY).any():
        cells = cells.sort_values("step", kind="stable", na_position="first")
        last = cells.groupby(KEY, sort=False)["step"].transform("max")
        cells = cells[(cells["step"] == last) | last.isna()]
        ends = cells["step"].dropna()
        span = f"{ends.min():g}" if ends.nunique() < 2 else f"{ends.min():g} to {ends.max():g}"
        notes.append(f"{raw.name}: of each run the last {one_line(roles.step)} with a value is used ({span})")
    twice = cells[cells.duplicated(KEY, keep=False)]
    if len(twice):
        unequal = twice[twice.groupby(KEY)["value"].transform("nunique", dropna=False) > 1]
        if len(unequal):
            raise _unequal(raw, roles, unequal)
        repeated = len(twice) - len(twice.drop_duplicates(KEY))
        notes.append(f"{raw.name}: rows that repeat another are read once: {repeated:,} of {len(raw.frame):,}")
    values.runs, values.cells = runs, cells.drop_duplicates(KEY, keep="last")
    return values


def _unequal(raw: RawScores, roles: Roles, rows: pd.DataFrame) -> ResultsError:
    """Return the error of two rows of one variant, seed and metric with unequal values."""
    first = rows.iloc[0]
    same = rows[(rows[KEY] == first[KEY]).all(axis=1)]
    other = same[same["value"].ne(first["value"])].iloc[0] if same["value"].nunique() > 1 else same.iloc[1]
    a, b = raw.frame.iloc[int(first["row"])], raw.frame.iloc[int(other["row"])]
    elsewhere = raw.place(int(other["row"])).removeprefix(f"{raw.file.iloc[int(first['row'])]}: ")
    metrics = {first["metric"], roles.value}
    differ = [name for name in raw.frame.columns if name not in metrics and str(a[name]) != str(b[name])]
    differ = [one_line(name) for name in differ if not is_index(name)]
    hint = f"they differ in {some_of(differ)}: keep the rows of one kind" if differ else "keep one of them"
    return ResultsError(
        f"{raw.place(int(first['row']))} and {elsewhere}: both are {first['variant']}, "
        f"seed {first['seed']}, with {one_line(first['metric'])} {first['value']:g} and {other['value']:g}; {hint}, or "
        "name the columns of variant and seed"
    )
