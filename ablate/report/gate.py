"""A gate for continuous integration: did a metric of a variant get worse by more than is allowed?

    regression = (mean of the variant - mean of the other) / mean of the other
    or, for a tolerance in the metric's unit:  mean of the variant - mean of the other

failed    = the interval of the regression lies above the tolerance
passed    = it lies at or below the tolerance
undecided = it includes the tolerance

The intervals hold at 95 % for all variants together (Bonferroni), so variants that do not differ
raise a false alarm in at most 2.5 % of studies. The interval of a relative regression is Fieller's:
exact for normal values, with numerator and denominator paired by seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ablate.base.errors import ResultsError
from ablate.base.text import plural
from ablate.report.differences import unjudged
from ablate.report.findings import Record
from ablate.report.judged_metrics import COSTS
from ablate.report.left_out import without_left_out
from ablate.report.machines import unequal_machines
from ablate.report.render import terminal
from ablate.report.render.number_text import decimals_of_interval, interval, signed
from ablate.report.render.text_table import TextTable, coloured
from ablate.report.selection import Choice, resolve, select
from ablate.report.variant_rows import make_rows
from ablate.stats import paired
from ablate.store.schema import IMPORTED
from ablate.study.claims import read_margin


@dataclass(frozen=True)
class Tolerance:
    """The regression that is allowed."""

    size: float  # a fraction of the other's mean, or a number in the metric's unit
    relative: bool

    def __str__(self) -> str:
        return f"{100 * self.size:g}%" if self.relative else f"{self.size:g}"


class GateResult(Record):
    """One variant at the gate."""

    label: str
    n: int
    regression: float | None  # positive is worse; in the tolerance's unit, as `low` and `high`
    low: float | None
    high: float | None
    verdict: str  # passed, failed or undecided
    why: str


class GateReport(Record):
    """All variants at the gate. It fails if one of them fails.

    `rich` prints the outcome in a line, a table, and the reasons.
    """

    metric: str
    against: str
    preset: str | None
    data: str | None
    max_regression: float
    relative: bool
    level: float  # of each interval
    failed: bool
    variants: tuple[GateResult, ...]
    notes: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        counts = Counter(one.verdict for one in self.variants)
        outcome = next(word for word in ("failed", "undecided", "passed") if counts[word])
        tolerance = Tolerance(self.max_regression, self.relative)
        listed = ", ".join(f"{counts[word]} {word}" for word in ("failed", "undecided", "passed") if counts[word])
        what = f"gate on {self.metric} against {self.against}, at most {tolerance} worse"
        where = f"preset {self.preset}, data {self.data}" if self.preset != IMPORTED else f"{self.data}"
        yield Text.assemble(what, f" ({where}): ", coloured(outcome), f" ({listed})")
        undecided = [one for one in self.variants if one.verdict == "undecided"]
        if outcome == "undecided":
            more = any(one.low is not None or one.n < 2 for one in undecided)
            yield Text(
                "This cannot be decided yet: the regression may be larger or smaller than is allowed"
                + ("; more seeds would decide." if more else ".")
            )
        yield Text("")
        yield terminal.fit(self._table(), options)
        yield Text("")
        reasons: dict[str, list[str]] = {}
        for one in (one for one in self.variants if one.verdict != "passed"):
            reasons.setdefault(one.why, []).append(one.label)
        for why, labels in reasons.items():
            yield Text(f"{', '.join(labels)}: {why}")
        for note in self.notes:
            yield Text(f"! {note}")

    def _table(self) -> TextTable:
        scale, unit = (100, " %") if self.relative else (1, "")
        halves = sorted((r.high - r.low) / 2 for r in self.variants if r.low is not None and r.high is not None)
        decimals = 1 if self.relative else decimals_of_interval(halves[len(halves) // 2]) if halves else 3

        def line(one: GateResult) -> tuple[str, ...]:
            regression, low, high = (None if x is None else scale * x for x in (one.regression, one.low, one.high))
            worse = signed(regression, decimals) + (unit if regression is not None else "")
            return one.label, worse, interval(low, high, decimals), str(one.n), one.verdict

        heads = ("variant", "regression", f"{100 * self.level:.4g} % interval", "seeds", "verdict")
        return TextTable("", heads, tuple(map(line, self.variants)), (0, 4))


def parse_tolerance(text: str) -> Tolerance:
    """Return the tolerance of `5%` or `2.5`.

    Raises:
        ResultsError: The text has another form, or the number is negative.
    """
    size = read_margin(text, 1.0)
    if not 0 <= size < math.inf:
        allowed = "allowed: a percentage as in 5%, or a number of 0 or more in the metric's unit"
        raise ResultsError(f"--max-regression {text}: not a tolerance; {allowed}")
    return Tolerance(size, text.strip().endswith("%"))


def judge(
    label: str,
    mine: np.ndarray,
    theirs: np.ndarray,
    tolerance: Tolerance,
    *,
    alpha: float,
    higher_is_better: bool = False,
) -> GateResult:
    """Judge one variant.

    Args:
        label: Its name.
        mine: Its metric (n,), one value per seed.
        theirs: The other variant's metric (n,) at the same seeds.
        tolerance: The regression that is allowed.
        alpha: 1 - the level of the interval.
        higher_is_better: Whether higher values of the metric are better.
    """
    n, sign = len(mine), -1.0 if higher_is_better else 1.0

    def result(verdict: str, why: str, *numbers: float | None) -> GateResult:
        regression, low, high = numbers or (None, None, None)
        return GateResult(label=label, n=n, regression=regression, low=low, high=high, verdict=verdict, why=why)

    if n < 2:
        what = plural(n, "seed") if n else "no seeds"
        return result("undecided", f"{what} finished by both: an interval needs two")
    worse = sign * (mine - theirs)
    their_mean = float(theirs.mean())
    if tolerance.relative and their_mean <= 0:
        why = f"the other's mean is {their_mean:.3g}: a percentage of it means nothing; give a number"
        return result("undecided", why)
    regression = float(worse.mean())
    if tolerance.relative:
        regression /= their_mean
        low, high = fieller(worse, theirs, alpha)
    else:
        half = paired.half_width(n, float(worse.std(ddof=1)), alpha)
        low, high = regression - half, regression + half
    if not math.isfinite(low) or not math.isfinite(high):
        return result("undecided", f"{n} seeds spread too widely for an interval", regression, None, None)
    numbers = (regression, low, high)
    if low > tolerance.size:
        return result("failed", f"the whole interval is worse than {tolerance} allows", *numbers)
    if high <= tolerance.size:
        return result("passed", f"the whole interval is within {tolerance}", *numbers)
    return result("undecided", f"{n} seeds are too few: the interval includes the allowed {tolerance}", *numbers)


def fieller(upper: np.ndarray, lower: np.ndarray, alpha: float) -> tuple[float, float]:
    """Return the 1 - alpha interval of mean(upper) / mean(lower) for paired values (n,).

    It holds the ratios r at which Student's t test does not reject that the mean of
    `upper - r lower` is 0. It is infinite if the denominator may be 0.

    Reference:
        Fieller, Some problems in interval estimation (1954).
    """
    n = len(upper)
    scale = paired.half_width(n, 1.0, alpha) ** 2
    covariance = np.cov(upper, lower)
    u, v = float(upper.mean()), float(lower.mean())
    a = v * v - scale * covariance[1, 1]
    b = u * v - scale * covariance[0, 1]
    c = u * u - scale * covariance[0, 0]
    if a <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a


def gate(
    frames: Mapping[str, pd.DataFrame],
    metric: str,
    tolerance: Tolerance,
    choice: Choice,
    *,
    allow_diverged: bool = False,
) -> GateReport:
    """Judge every chosen variant in its newest configuration.

    Args:
        frames: The tables, as `ablate.report.builder.read` returns them.
        metric: The metric or cost to judge by.
        tolerance: The regression that is allowed.
        choice: What to compare; its metrics are ignored.
        allow_diverged: Judge a variant by its finished seeds though others diverged. Without any it fails.

    Raises:
        ResultsError: What was chosen does not exist or does not compare, or there is nothing to judge.
    """
    choice = replace(resolve(frames, choice), metrics=(metric,))
    every, frames = frames, without_left_out(frames, choice)
    selected = select(frames, choice)
    notes = selected.notes
    table = make_rows(selected, choice.against, choice.budget, notes)
    if metric in COSTS and metric not in selected.recorded:
        notes += unequal_machines(table.done)
    if table.against is None:
        raise ResultsError(f"--against {choice.against}: it has no finished run here; make one first: ablate run")
    others = [row for row in table.rows if row.label in table.newest and row.label != table.against]
    if not others:
        raise ResultsError(f"nothing to judge: the results hold only {choice.against} here")
    refused, values = unjudged(table, choice.budget, metric), table.values[metric]
    tests = len(others)
    if choice.filters:
        notes.insert(0, f"runs are left out by {choice.filters}")
        whole = make_rows(select(every, selected.unfiltered(choice)), choice.against, choice.budget, [])
        shown = [label for label in whole.newest if not choice.variants or label.partition(" @")[0] in choice.variants]
        tests = max(tests, len({*shown} - {whole.against}))
    alpha = paired.ALPHA / tests
    theirs, up, results = values.of(table.against), table.recorded.higher_is_better(metric), []
    for row in others:
        mine = values.of(row.label)
        shared = ~np.isnan(mine - theirs)
        one = judge(row.label, mine[shared], theirs[shared], tolerance, alpha=alpha, higher_is_better=up)
        lost = row.unfinished["diverged"] + row.unfinished["failed"]
        diverged = row.unfinished["diverged"]
        if not row.seeds or (diverged and not allow_diverged):
            counts = ", ".join(f"{number} {status}" for status, number in row.unfinished.items() if number)
            why = f"{counts} of {row.runs} seeds" + ("" if row.seeds else ": none has finished")
            one = one.model_copy(update={"verdict": "failed", "why": why})
        elif row.label in refused:
            none = dict.fromkeys(("regression", "low", "high"))
            one = one.model_copy(update={**none, "verdict": "undecided", "why": refused[row.label]})
        elif lost and one.verdict == "passed":
            why = f"{one.why} where it finished, but {plural(lost, 'seed')} diverged or failed"
            one = one.model_copy(update={"verdict": "undecided", "why": why})
        results.append(one)
    first = selected.done.iloc[-1]
    return GateReport(
        metric=metric,
        against=table.against,
        preset=str(first["preset"]),
        data=None if pd.isna(first["data"]) else str(first["data"]),
        max_regression=tolerance.size,
        relative=tolerance.relative,
        level=1 - alpha,
        failed=any(one.verdict == "failed" for one in results),
        variants=tuple(results),
        notes=tuple(notes),
    )
