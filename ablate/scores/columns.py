"""Which column of a table is the variant, the seed, and so on: named by the user, or guessed by usual names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from ablate.base.errors import ResultsError, did_you_mean
from ablate.base.text import one_line, some_of
from ablate.scores.cells import read_numbers, read_seed
from ablate.scores.files import RawScores

VARIANT = (
    *("variant", "model", "method", "arm", "condition", "treatment", "algorithm", "algo", "ablation", "setting"),
    *("system", "group", "config", "configuration", "experiment", "name", "run_name", "runname", "run"),
)
RUN_NAMES = ("experiment", "name", "run_name", "runname", "run")
SEED = ("seed", "random_seed", "rng_seed", "global_seed", "fold", "split", "repeat", "replicate", "rep", "trial")
METRIC, VALUE = ("metric", "metric_name", "measure"), ("value", "score", "metric_value", "result")
STEP = ("step", "_step", "global_step", "trainer/global_step", "epoch", "iteration", "iter")
STATUS, BETTER, UNIT = ("status", "state"), ("better", "direction"), ("unit", "units")
PREFIXES = ("params.", "tags.mlflow.", "tags.", "config.", "config/", "metrics.", "summary.", "summary/")
FINISHED = ("finished", "done", "completed", "complete", "success", "succeeded", "ok")
FAILED = ("failed", "crashed", "killed", "error", "diverged", "timeout")
UNDER_WAY = ("running", "scheduled", "queued", "pending", "preempting", "preempted", "interrupted")
SEED_IN_NAME = re.compile(
    r"^(?P<before>.*)(?:seed[-_=. ]*|(?<=[-_. /])s)(?P<seed>\d{1,9})(?P<after>(?:[-_. /].*)?)$", re.IGNORECASE
)


@dataclass(frozen=True)
class Roles:
    """The columns by role; None: the table has no such column."""

    variant: str
    seed: str | None  # None: names of variants hold the seed, as in `base-seed3`
    metric: str | None  # of a long table
    value: str | None
    step: str | None
    status: str | None
    better: str | None
    unit: str | None
    guessed: tuple[str, ...]  # what was not named by the user, as in `variant = model`

    @property
    def columns(self) -> set[str | None]:
        """The columns that are no metric of a wide table."""
        return {self.variant, self.seed, self.metric, self.value, self.step, self.status, self.better, self.unit}


def plain(column: str) -> str:
    """Return the name of a column without the prefix of an export: `params.lr` -> `lr`."""
    return next((column[len(prefix) :] for prefix in PREFIXES if column.startswith(prefix)), column)


def find(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the columns of some usual names, in the order of these names."""
    by_name: dict[str, list[str]] = {}
    for column in columns:
        by_name.setdefault(plain(column).lower().replace(" ", "_"), []).append(column)
    return [column for name in names for column in by_name.get(name, ())]


def choose_roles(raw: RawScores, variant: str | None, seed: str | None) -> Roles:
    """Find the columns of a table.

    Args:
        raw: The table.
        variant: The column that the user named; None: guess it.
        seed: The same.

    Raises:
        ResultsError: A column that the user named is not there, or one cannot be guessed.
    """
    columns = [name for name in raw.frame.columns if not is_index(name)]
    seed_column = _named(raw, columns, "--seed", seed) or _guess_seed(raw, columns)
    others = [name for name in columns if name != seed_column]
    variant_column = _named(raw, columns, "--variant", variant) or _guess_variant(raw, others, seed_column)
    in_names = _seed_in_names(raw.frame[variant_column])
    if seed is None and in_names and (seed_column is None or raw.frame[seed_column].nunique() < 2):
        seed_column = None
    elif seed_column is None:
        raise ResultsError(
            f"{raw.name}: no column says the seed, by which variants are paired; name it, as in --seed COLUMN. "
            f"Columns: {some_of(columns, 12)}"
        )
    rest = [name for name in columns if name not in (variant_column, seed_column)]
    metric, value = _first(rest, METRIC), _first(rest, VALUE)
    long = metric is not None and value is not None
    status = _first(rest, STATUS)
    guesses = {"variant": (variant, variant_column), "seed": (seed, seed_column or f"the number in {variant_column}")}
    guessed = [
        f"{role} = {one_line(column)}"
        for role, (given, column) in guesses.items()
        if given is None and column.lower() != role  # nothing to say of a column that is called so
    ]
    return Roles(
        variant=variant_column,
        seed=seed_column,
        metric=metric if long else None,
        value=value if long else None,
        step=_first(rest, STEP),
        status=status if status is not None and _is_status(raw.frame[status]) else None,
        better=_first(rest, BETTER) if long else None,
        unit=_first(rest, UNIT) if long else None,
        guessed=tuple(guessed),
    )


def is_index(column: str) -> bool:
    """Return whether a column is the row number that pandas writes."""
    return column in ("", "Unnamed: 0")


def split_seed(name: str) -> tuple[str, int] | None:
    """Return variant and seed of `base-seed3`; None: the name holds no seed."""
    match = SEED_IN_NAME.match(name)
    if match is None:
        return None
    variant = (match["before"].rstrip("-_. /") + match["after"]).strip("-_. /")
    return (variant, int(match["seed"])) if variant else None


def _seed_in_names(names: pd.Series) -> bool:
    return all(split_seed(str(name)) is not None for name in names.dropna().unique())


def _named(raw: RawScores, columns: Sequence[str], option: str, name: str | None) -> str | None:
    """Return the column that the user named, with or without the prefix of an export."""
    if name is None or name in columns:
        return name
    same = [column for column in columns if plain(column) == name]
    if len(same) != 1:
        near = did_you_mean(name, columns)
        raise ResultsError(f"{raw.name}: {option} {name}: no such column{near} Columns: {some_of(columns, 12)}")
    return same[0]


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next(iter(find(columns, names)), None)


def _guess_seed(raw: RawScores, columns: Sequence[str]) -> str | None:
    candidates = find(columns, SEED)
    whole = [
        c for c in candidates if all(read_seed(cell) is not None for cell in raw.frame[c].dropna().unique()[:1000])
    ]
    return next(iter([*whole, *(c for c in candidates if plain(c).lower() == "seed")]), None)


def _guess_variant(raw: RawScores, columns: Sequence[str], seed: str | None) -> str:
    candidates = find(columns, VARIANT)
    several = [name for name in candidates if raw.frame[name].nunique() > 1] or candidates
    if seed is not None and raw.frame[seed].nunique() > 1:
        several = [name for name in several if not _names_one_run(raw.frame[name])] or _crossing(
            raw.frame, columns, seed
        )
    if not several:
        raise ResultsError(
            f"{raw.name}: no column says which variant a row is; a row must be one variant at one seed, and --variant "
            "names the column. "
            f"Columns: {some_of(columns, 12)}"
        )
    return several[0]


def _names_one_run(names: pd.Series) -> bool:
    """Return whether a column of names of runs differs in every row and holds no seed: it pairs nothing."""
    of_runs = plain(str(names.name)).lower().replace(" ", "_") in RUN_NAMES
    return of_runs and names.nunique() == len(names) and not _seed_in_names(names)


def _crossing(frame: pd.DataFrame, columns: Sequence[str], seed: str) -> list[str]:
    """Return the column that names each row together with the seed, of texts before numbers; none if several do."""
    few = [name for name in columns if 1 < frame[name].nunique() <= len(frame) / 2]
    crossing = [name for name in few if not frame.duplicated([name, seed]).any()]
    texts = [name for name in crossing if not read_numbers(frame[name]).any_number]
    return next((some for some in (texts, crossing) if len(some) == 1), [])


def _is_status(cells: pd.Series) -> bool:
    known = {*FINISHED, *FAILED, *UNDER_WAY, ""}
    return {str(cell).strip().lower() for cell in cells.dropna().unique()} <= known


def is_measured(column: str) -> bool:
    """Return whether a name can be that of a metric: not of its error, and not of a chart's range."""
    words = set(re.split(r"[^a-z0-9]+", column.lower()))
    return not words & {"stderr", "std", "sem", "stdev", "variance", "ci"} and not column.endswith(("__MIN", "__MAX"))
