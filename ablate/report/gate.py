"""A gate for continuous integration: does a variant's metric get worse by more than is allowed?

    regression = (mean of the variant - mean of the other) / mean of the other      (or their difference, for a tolerance that is a number)

failed = the interval of the regression lies above the tolerance; passed = it lies at or below it; undecided = it does neither. The
intervals are 95 % for all variants together (Bonferroni), so equal variants raise a false alarm in at most 2.5 % of studies.
A share's interval is Fieller's: the paired seeds' own spread of numerator and denominator, exact for normal numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from ablate.base.errors import ResultsError
from ablate.report.judged_metrics import COSTS, higher_is_better
from ablate.report.render import report_tables, terminal
from ablate.report.render.report_tables import Sheet
from ablate.report.selection import Choice, select
from ablate.report.variant_rows import make_rows, unequal_machines
from ablate.report.verdicts import unjudged
from ablate.stats import paired


@dataclass(frozen=True)
class Tolerance:
    """What may be lost: a share of the other's mean, or a number in the metric's unit."""

    size: float
    relative: bool

    def __str__(self) -> str:
        return f"{100 * self.size:g}%" if self.relative else f"{self.size:g}"


@dataclass(frozen=True)
class Gated:
    """One variant at the gate; `regression` (positive is worse) and its interval in the tolerance's unit, None where there is none."""

    label: str
    n: int
    regression: float | None
    low: float | None
    high: float | None
    verdict: str  # passed, failed or undecided
    why: str


@dataclass(frozen=True)
class Gate:
    """All variants at the gate: it has failed if one has."""

    metric: str
    against: str
    preset: str | None
    data: str | None
    max_regression: float
    relative: bool
    level: float  # of each interval
    failed: bool
    variants: tuple[Gated, ...]
    notes: tuple[str, ...]


def parse_tolerance(text: str) -> Tolerance:
    """Return the tolerance of `5%` or `2.5`.

    Raises:
        ResultsError: Not of that form, or negative.
    """
    number = text.strip()
    try:
        size = float(number.removesuffix("%"))
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise ResultsError(
            f"--max-regression {text}: not a share as in 5%, nor a number of 0 or more in the metric's unit"
        )
    relative = number.endswith("%")
    return Tolerance(size / 100 if relative else size, relative)


def judge(
    label: str,
    mine: np.ndarray,
    theirs: np.ndarray,
    tolerance: Tolerance,
    *,
    alpha: float,
    higher_is_better: bool = False,
) -> Gated:
    """Judge one variant.

    Args:
        label: Its name.
        mine: Its metric (n,), one per seed.
        theirs: The other's, of the same seeds.
        tolerance: What may be lost.
        alpha: 1 - the level of the interval.
        higher_is_better: Of the metric.
    """
    n, sign = len(mine), -1.0 if higher_is_better else 1.0
    untold = partial(Gated, label, n, None, None, None, "undecided")
    if n < 2:
        return untold(f"{n or 'no'} seed{'s' if n != 1 else ''} finished by both: an interval needs two")
    lost = sign * (mine - theirs)
    whole = float(theirs.mean())
    if tolerance.relative and whole <= 0:
        return untold(f"the other's mean is {whole:.3g}: a share of it means nothing; give a number")
    if tolerance.relative:
        low, high = fieller(lost, theirs, alpha)
        seen = float(lost.mean()) / whole
    else:
        reach = paired.reach(n, float(lost.std(ddof=1)), alpha)
        seen = float(lost.mean())
        low, high = seen - reach, seen + reach
    if not math.isfinite(low) or not math.isfinite(high):
        return Gated(label, n, seen, None, None, "undecided", f"{n} seeds spread too widely for an interval")
    if low > tolerance.size:
        return Gated(label, n, seen, low, high, "failed", f"the whole interval is worse than {tolerance} allows")
    if high <= tolerance.size:
        return Gated(label, n, seen, low, high, "passed", f"the whole interval is within {tolerance}")
    why = f"{n} seeds cannot tell: the interval reaches to both sides of {tolerance}"
    return Gated(label, n, seen, low, high, "undecided", why)


def fieller(upper: np.ndarray, lower: np.ndarray, alpha: float) -> tuple[float, float]:
    """Return the 1 - alpha interval of mean(upper) / mean(lower) for paired numbers (n,); infinite where the denominator may be 0.

    The ratios r for which the mean of `upper - r lower` is not told from 0 by Student's t (Fieller 1954).
    """
    n = len(upper)
    far = paired.reach(n, 1.0, alpha) ** 2
    spread = np.cov(upper, lower)
    u, v = float(upper.mean()), float(lower.mean())
    a = v * v - far * spread[1, 1]
    b = u * v - far * spread[0, 1]
    c = u * u - far * spread[0, 0]
    if a <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a


def gate(frames: Mapping[str, pd.DataFrame], metric: str, tolerance: Tolerance, choice: Choice) -> Gate:
    """Judge every chosen variant in its newest configuration.

    Args:
        frames: The tables, as `ablate.report.builder.read` returns them.
        metric: By which.
        tolerance: What may be lost.
        choice: What is compared; its metrics are not looked at.

    Raises:
        ResultsError: What was chosen is not there or does not compare, or there is nothing to be judged.
    """
    selected = select(frames, replace(choice, metrics=(metric,)))
    notes = selected.notes
    made = make_rows(selected, choice.against, choice.budget, notes)
    if metric in COSTS:
        notes += unequal_machines(made.done)
    if made.against is None:
        raise ResultsError(f"--against {choice.against}: it has no finished run here; make one first: ablate run")
    others = [row for row in made.rows if row.label in made.newest and row.label != made.against]
    if not others:
        raise ResultsError(f"nothing to judge: the results hold {choice.against} alone here")
    refused, values = unjudged(made, choice.budget, metric), made.values[metric]
    alpha = paired.ALPHA / len(others)
    theirs, up, found = values.of(made.against), higher_is_better(metric), []
    for row in others:
        mine = values.of(row.label)
        shared = ~np.isnan(mine - theirs)
        if row.label in refused:
            found.append(Gated(row.label, int(shared.sum()), None, None, None, "undecided", refused[row.label]))
            continue
        one = judge(row.label, mine[shared], theirs[shared], tolerance, alpha=alpha, higher_is_better=up)
        lost = row.unfinished["diverged"] + row.unfinished["failed"]
        if lost and one.verdict == "passed":
            why = f"{one.why} where it finished, but {lost} seed{'' if lost == 1 else 's'} diverged or failed"
            one = replace(one, verdict="undecided", why=why)
        found.append(one)
    first = selected.done.iloc[-1]
    return Gate(
        metric=metric,
        against=made.against,
        preset=str(first["preset"]),
        data=None if pd.isna(first["data"]) else str(first["data"]),
        max_regression=tolerance.size,
        relative=tolerance.relative,
        level=1 - alpha,
        failed=any(one.verdict == "failed" for one in found),
        variants=tuple(found),
        notes=tuple(notes),
    )


def to_json(found: Gate) -> str:
    """Return one strict JSON document (no NaN)."""
    return json.dumps(asdict(found), indent=2, allow_nan=False)


def render(found: Gate) -> RenderableType:
    """Return what `rich` prints: a line that says it all, a table, the reasons."""
    return _Rendered(found)


@dataclass(frozen=True)
class _Rendered:
    found: Gate

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self.found
        word = (
            "failed"
            if found.failed
            else "passed"
            if all(one.verdict == "passed" for one in found.variants)
            else "undecided"
        )
        tolerance = Tolerance(found.max_regression, found.relative)
        counts = {
            verdict: sum(one.verdict == verdict for one in found.variants)
            for verdict in ("failed", "undecided", "passed")
        }
        listed = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
        said = f"gate on {found.metric} against {found.against}, at most {tolerance} worse (preset {found.preset}, data {found.data}): "
        yield Text.assemble(said, terminal.coloured(word), f" ({listed})")
        if word == "undecided":
            more = any(one.low is not None or one.n < 2 for one in found.variants if one.verdict == "undecided")
            yield Text(
                "This cannot be decided yet: neither that something is too much worse is shown, nor that nothing is"
                + ("; more seeds would tell." if more else ".")
            )
        yield Text("")
        scale, unit = (100, " %") if found.relative else (1, "")
        reach = sorted(
            (one.high - one.low) / 2 for one in found.variants if one.low is not None and one.high is not None
        )
        decimals = 1 if found.relative else report_tables.decimals_of_interval(reach[len(reach) // 2]) if reach else 3

        def line(one: Gated) -> tuple[str, ...]:
            low, high = (None if x is None else scale * x for x in (one.low, one.high))
            seen = None if one.regression is None else scale * one.regression
            shown = report_tables.signed(seen, decimals) + (unit if seen is not None else "")
            return one.label, shown, report_tables.interval(low, high, decimals), str(one.n), one.verdict

        heads = ("variant", "regression", f"{100 * found.level:.4g} % interval", "seeds", "verdict")
        sheet = Sheet("", heads, tuple(map(line, found.variants)), (0, 4))
        yield terminal.fit(sheet, options)
        yield Text("")
        reasons: dict[str, list[str]] = {}
        for one in found.variants:
            if one.verdict == "undecided":
                reasons.setdefault(one.why, []).append(one.label)
        for why, labels in reasons.items():
            yield Text(f"{', '.join(labels)}: {why}")
        for note in found.notes:
            yield Text(f"! {note}")
