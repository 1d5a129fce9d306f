"""The tables of a report as text, each once: what a terminal and a Markdown page show of the findings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ablate.report import quantized_summary
from ablate.report.findings import VERDICTS, Claim, Comparison, Effect, Factorial, Findings, Front, Metric, Point, Value
from ablate.report.variant_rows import COST_HEADS, count

COUNTS = ("params", "macs", "train_macs", "macs_image", "bytes", "file_bytes")
UNITS = ((" T", 1e12), (" G", 1e9), (" M", 1e6), (" k", 1e3))
FRONT_HEADS = {
    "latency_image_ms": "ms/image",
    "latency_step_ms": "ms/step",
    "macs_image": "MACs/image",
    "file_bytes": "bytes",
}
MANY = 12  # names in a line
NONE = "none"


@dataclass(frozen=True)
class Sheet:
    """A table: `left` columns are text, the rest numbers; `verdicts`: the word of each line, where it has one; `drop`: columns to leave
    out, in this order, where there is no room."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    left: tuple[int, ...]
    legend: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    drop: tuple[int, ...] = ()


def title(findings: Findings) -> str:
    """Return what was compared, in a line."""
    compared = findings.compared
    digest = f" ({compared.data_digest[:8]})" if compared.data_digest else ""
    budget = "steps" if compared.budget == "steps" else "training MACs"
    what = f"preset {compared.preset}, data {compared.data or 'unknown'}{digest}, equal {budget}"
    return f"{what}: variants {compared.variants}, runs {compared.runs}"


def summary(findings: Findings) -> list[tuple[str, str]]:
    """Return each verdict word with the variants it holds for: by the first metric, or by the one in brackets; undecided: by none."""
    named: dict[str, dict[str, str]] = {word: {} for word in VERDICTS}
    for metric in findings.compared.headline:
        suffix = "" if metric == findings.compared.headline[0] else f" ({metric})"
        for comparison in (c for c in _ranked(findings) if c.metric == metric):
            named[comparison.verdict].setdefault(comparison.label, comparison.label + suffix)
    open_, *words = reversed(VERDICTS)
    named[open_] = {label: label for label in named[open_] if not any(label in named[word] for word in words)}
    lines = []
    for word, found in named.items():
        names = list(found.values())
        more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
        lines.append((word, ", ".join(names[:MANY]) + more if names else NONE))
    return lines


def explained(findings: Findings) -> str:
    """Return how verdicts come about, in a line."""
    compared = findings.compared
    many = f" after Holm's correction over {compared.family} tests" if compared.family > 1 else ""
    judged = f"by a paired sign-flip test at {compared.alpha:g}{many} and a 95 % interval without 0"
    most = max((comparison.n for comparison in findings.comparisons), default=0)
    few = (
        f" With fewer than {compared.least_seeds} seeds none of these tests can decide."
        if most < compared.least_seeds
        else ""
    )
    return (
        f"helps, hurts: better or worse than {compared.against}, {judged}. detects: the smallest true difference found with "
        f"probability {compared.power:g}. seeds: there are / are needed.{few}"
    )


def verdict_sheets(findings: Findings) -> list[Sheet]:
    """Return a table of verdicts per metric: helps first, then hurts, then undecided, the largest difference first."""
    return [_verdicts(findings, metric) for metric in findings.metrics] if findings.comparisons else []


def _ranked(findings: Findings) -> list[Comparison]:
    return sorted(findings.comparisons, key=lambda c: (VERDICTS.index(c.verdict), -abs(c.mean or 0.0)))


def _verdicts(findings: Findings, metric: Metric) -> Sheet:
    mine = [comparison for comparison in _ranked(findings) if comparison.metric == metric.name]
    decimals = difference_decimals(findings, metric.name)
    lines = tuple(
        (
            c.label,
            signed(c.mean, decimals),
            interval(c.low, c.high, decimals),
            p_value(c.p),
            p_value(c.p_holm),
            "-" if c.detectable is None else f"{c.detectable:,.{decimals}f}",
            seeds(c),
            c.verdict,
            c.why,
        )
        for c in mine
    )
    heads = (
        "variant",
        f"{metric.name} vs {findings.compared.against}",
        "95 % interval",
        "p",
        "p Holm",
        "detects",
        "seeds",
        "verdict",
        "why",
    )
    better = "higher is better" if metric.higher_is_better else "lower is better"
    words = tuple(c.verdict for c in mine)
    return Sheet(f"{metric.name}, {better}", heads, lines, (0, 7, 8), (), words, (8, 3, 5, 4, 1))


def difference_decimals(findings: Findings, metric: str) -> int:
    """Return how many decimals differences of a metric need: two digits of half an interval."""
    reach = sorted(
        (c.high - c.low) / 2
        for c in findings.comparisons
        if c.metric == metric and c.low is not None and c.high is not None
    )
    values = decimals_of([row.values[metric].mean for row in findings.rows if metric in row.values])
    return max(values, decimals_of_interval(reach[len(reach) // 2])) if reach else values


def decimals_of_interval(reach: float) -> int:
    """Return how many decimals show two digits of half an interval."""
    return max(0, min(6, 1 - math.floor(math.log10(reach)))) if reach > 0 else 0


def seeds(found: Comparison | Claim) -> str:
    """Return how many seeds there are, and how many are needed where the verdict is open."""
    if found.verdict != "undecided" or found.seeds_needed == found.n:
        return f"{found.n}"
    return f"{found.n}/{'many' if found.seeds_needed is None else f'{found.seeds_needed:,}'}"


def budget_sheet(findings: Findings) -> Sheet | None:
    """Return the differences at equal steps beside those at equal training MACs, where a study has both."""
    both = [row for row in findings.rows if row.differences is not None and row.at_other_budget is not None]
    if not both:
        return None
    here, there = ("steps", "MACs") if findings.compared.budget == "steps" else ("MACs", "steps")
    heads, lines = ["variant"], [[row.label] for row in both]
    for metric in findings.metrics:
        heads += [f"{metric.name}, equal {here}", f"{metric.name}, equal {there}"]
        decimals = difference_decimals(findings, metric.name)
        for row, line in zip(both, lines, strict=True):
            for some in (row.differences, row.at_other_budget):
                value = (some or {}).get(metric.name)
                line.append("-" if value is None else spread(value, decimals, " ", "+").removesuffix(" -"))
    legend = "Mean difference and its sd, over the seeds finished by both; verdicts on the other budget: --budget."
    return Sheet("At either budget", tuple(heads), tuple(map(tuple, lines)), (0,), (legend,))


def claim_sheet(findings: Findings) -> Sheet | None:
    """Return the claims of the variants' files with their verdicts."""
    if not findings.claims:
        return None
    lines = []
    for claim in findings.claims:
        known = claim.metric in findings.compared.headline
        decimals = difference_decimals(findings, claim.metric) if known else _decimals_of_interval(claim)
        margin = f" within {claim.margin}" if claim.margin else ""
        lines.append(
            (
                claim.label,
                f"{claim.metric} {claim.expect}{margin}",
                signed(claim.mean, decimals),
                interval(claim.low, claim.high, decimals),
                p_value(claim.p_holm),
                seeds(claim),
                claim.verdict,
                claim.why,
                claim.because,
            )
        )
    heads = ("variant", "claim", "difference", "95 % interval", "p Holm", "seeds", "verdict", "why", "because")
    words = tuple(claim.verdict for claim in findings.claims)
    return Sheet("Claims", heads, tuple(lines), (0, 1, 6, 7, 8), (), words, (8, 7, 4, 2))


def _decimals_of_interval(claim: Claim) -> int:
    """Two digits of half the interval, or three of the difference."""
    size = claim.mean if claim.low is None or claim.high is None else (claim.high - claim.low) * 5
    return max(0, min(6, 2 - math.floor(math.log10(abs(size))))) if size else 1


def factorial_sheets(findings: Findings) -> list[Sheet]:
    """Return the effects of each factorial study."""
    return [_factorial(findings, one) for one in findings.factorials]


def _factorial(findings: Findings, study: Factorial) -> Sheet:
    decimals = difference_decimals(findings, study.metric)

    def line(effect: Effect) -> tuple[str, ...]:
        name = effect.levels[0] if len(effect.levels) == 1 else " x ".join(effect.levels)
        numbers = (signed(effect.mean, decimals), interval(effect.low, effect.high, decimals))
        return (name, *numbers, p_value(effect.p), p_value(effect.p_holm), str(effect.n), effect.verdict, effect.why)

    legend = (
        "One level: its effect averaged over the other axes' levels. Several, joined by x: what they do together beyond the sum of each.",
    )
    return Sheet(
        f"Effects of {' x '.join(study.axes)} on {study.metric}",
        ("effect", "difference", "95 % interval", "p", "p Holm", "seeds", "verdict", "why"),
        tuple(line(effect) for effect in study.effects),
        (0, 6, 7),
        legend,
        tuple(effect.verdict for effect in study.effects),
        (7, 3),
    )


def front_sheets(findings: Findings) -> list[Sheet]:
    """Return what may be traded, the front first."""
    return [_front(front) for front in findings.fronts]


def _front(front: Front) -> Sheet:
    decimals = decimals_of([point.values[0] for point in front.points])

    def line(point: Point) -> tuple[str, ...]:
        numbers = (
            f"{point.values[0]:,.{decimals}f}",
            *(quantity(name, value) for name, value in zip(front.objectives[1:], point.values[1:], strict=True)),
        )
        share = "-" if point.share is None else f"{point.share:.0%}"
        return (
            f"{point.label} {point.scheme}" if point.scheme else point.label,
            *numbers,
            str(point.seeds),
            share,
            "on the front" if point.on_front else f"beaten by {point.dominated_by}",
        )

    heads = [FRONT_HEADS.get(name, name) for name in front.objectives]
    legend = (
        "On the front: nothing is as good everywhere and better somewhere, over the seeds that both have. "
        f"share: of {front.resamples:,} resamples of the seeds, those in which it is there."
        + (" bytes: parameters in float32." if "bytes" in front.objectives else ""),
    )
    last = len(heads) + 3
    return Sheet(
        f"Trade-offs {front.title}",
        ("", *heads, "seeds", "share", "front"),
        tuple(map(line, front.points)),
        (0, last),
        legend,
        (),
        (len(heads) + 1,),
    )


def format_sheet(findings: Findings) -> Sheet | None:
    """Return the table of number formats."""
    if findings.quantized is None:
        return None
    head, *rows = quantized_summary.cells(findings.quantized)
    return Sheet(
        "Number formats",
        tuple(head),
        tuple(map(tuple, rows)),
        (0, 1, 2),
        tuple(quantized_summary.legend(findings.quantized)),
    )


def legend(findings: Findings, sign: str) -> list[str]:
    """Return what the table of quality and costs means."""
    down = all(not metric.higher_is_better for metric in findings.metrics)
    against = findings.compared.against or "baseline"
    lines = [f"Lower is better. Mean {sign} sd over seeds; vs {against}: the same of the differences seed by seed."]
    if not down:
        lines[0] = lines[0].replace("Lower is better. ", "")
    for metric in findings.metrics:
        line = f"{metric.name}: {metric.about}"
        if metric.higher_is_better:
            line += ", higher is better"
        if metric.n is not None:
            line += f", N = {count(metric.n)} samples against {count(metric.ref_n)} real pictures"
        if metric.floor is not None:
            at = "" if metric.floor_n == metric.n else f" at N = {count(metric.floor_n)}"
            line += f"; real against real{at}: {metric.floor:.4g}"
        if metric.warning is not None:
            line += f"; {metric.warning}"
        lines.append(line + ".")
    lines.append(f"Metrics: {findings.compared.why_headline}.")
    lines.append("Costs: medians over seeds; MACs, ms/step: one network evaluation; ms/image: nfe evaluations.")
    return lines


def quality_cells(findings: Findings, sign: str) -> list[list[str]]:
    """Return the table of quality and costs, heads first: variant, axis, seeds, each metric with its difference, the costs."""
    names = [metric.name for metric in findings.metrics]
    against = findings.compared.against or "baseline"
    heads = [f"{name}{suffix}" for name in names for suffix in ("", f" vs {against}")]
    lines = [["variant", "axis", "seeds", *heads, *COST_HEADS.values()]]
    decimals = {name: decimals_of([row.values[name].mean for row in findings.rows]) for name in names}
    for row in findings.rows:
        done = f"{len(row.seeds)}" if len(row.seeds) == row.runs else f"{len(row.seeds)}/{row.runs}"
        line = [row.label, row.axis or "-", done]
        for name in names:
            line.append(spread(row.values[name], decimals[name], sign, ""))
            line.append("" if row.differences is None else spread(row.differences[name], decimals[name], sign, "+"))
        lines.append([*line, *(quantity(name, row.costs[name]) for name in COST_HEADS)])
    return lines


def spread(value: Value, decimals: int, sign: str, plus: str) -> str:
    """Return `mean +- sd`."""
    if value.mean is None:
        return "-"
    mean = f"{round(value.mean, decimals) + 0.0:{plus},.{decimals}f}"  # + 0.0: no negative zero
    return f"{mean}{sign}{'-' if value.sd is None else f'{value.sd:,.{decimals}f}'}"


def signed(number: float | None, decimals: int) -> str:
    """Return a number with its sign, or a dash."""
    return "-" if number is None else f"{round(number, decimals) + 0.0:+,.{decimals}f}"


def interval(low: float | None, high: float | None, decimals: int) -> str:
    """Return `[low, high]`, or a dash."""
    return "-" if low is None or high is None else f"[{signed(low, decimals)}, {signed(high, decimals)}]"


def p_value(p: float | None) -> str:
    """Return a p-value of two digits, or a dash."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def decimals_of(values: Iterable[float | None]) -> int:
    """Return the decimals of a column: four digits for its largest number, four decimals at most."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 4 if largest < 1 else max(0, 3 - math.floor(math.log10(largest)))


def quantity(name: str, value: float | None) -> str:
    """Return a cost: counts with a unit, times with three digits."""
    if value is None:
        return "-"
    if name in COUNTS:
        for unit, size in UNITS:
            if value >= size:
                return _three_digits(value / size) + unit
    return f"{value:,.0f}" if name in COUNTS or name == "nfe" else _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:,.{min(4, max(0, 2 - math.floor(math.log10(value))))}f}" if value > 0 else "0"
