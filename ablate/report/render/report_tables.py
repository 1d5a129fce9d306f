"""The tables and sentences of a report: what every form of it shows of the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ablate.base.text import join_and, plural
from ablate.report.findings import (
    VERDICTS,
    Claim,
    Comparison,
    Effect,
    Factorial,
    Findings,
    Front,
    Metric,
    Point,
    VariantRow,
    VerdictWord,
)
from ablate.report.judged_metrics import COSTS
from ablate.report.machines import UNEQUAL_MACHINES
from ablate.report.render.curve_tables import curve_table, tuning_table
from ablate.report.render.number_text import (
    decimals_of,
    decimals_of_interval,
    evidence,
    interval,
    mean_sd,
    percent,
    quantity,
    rounded,
    signed,
)
from ablate.report.render.text_table import TextTable
from ablate.report.trade_offs import FRONT_WITHOUT_TIME
from ablate.store.schema import IMPORTED

EMPTY = "No runs yet: start some with `ablate run`."
ALL_INTERVALS = (
    " all: intervals that hold for all tests together; they are wider than the tests need, so one may include 0 where "
    "the test decides."
)
FRONT_HEADS = {
    "latency_image_ms": "ms/image",
    "latency_step_ms": "ms/step",
    "macs_image": "MACs/image",
    "file_bytes": "bytes",
}


def title(findings: Findings) -> str:
    """Return in one line what was compared."""
    compared = findings.compared
    digest = f" ({compared.data_digest[:8]})" if compared.data_digest else ""
    budget = equal_budget(findings)
    what = where(findings, digest) + (f", equal {budget}".replace("training steps", "steps") if budget else "")
    return f"{what}: variants {compared.variants}, runs {compared.runs}"


def where(findings: Findings, digest: str = "") -> str:
    """Return the preset and the data of all runs, or the name of the table that their scores were read from."""
    compared = findings.compared
    if compared.preset is None:
        return "No runs"
    if compared.preset == IMPORTED:
        return compared.data or IMPORTED
    if compared.data is None and all(metric.recorded for metric in findings.metrics):
        return f"preset {compared.preset}"  # of programs, which need not use a data set
    return f"preset {compared.preset}, data {compared.data or 'unknown'}{digest}"


def equal_budget(findings: Findings) -> str:
    """Return what all runs spend equally: training steps or MACs; empty: the runs did not record it."""
    finished = [row for row in findings.rows if row.seeds]
    if finished and all(row.costs[name] is None for row in finished for name in ("macs", "train_macs")):
        return ""
    return "training steps" if findings.compared.budget == "steps" else "training MACs"


def heading(metric: Metric) -> str:
    """Return the name of a metric with its unit."""
    return f"{metric.name}, {metric.unit}" if metric.unit else metric.name


def lead(findings: Findings) -> str:
    """Return what was judged, how, and with how many seeds, in one sentence."""
    compared = findings.compared
    if not findings.rows:
        return EMPTY
    if not findings.comparisons:
        return "Nothing to compare yet: that needs finished runs of the baseline and of a variant at the same seeds."
    metric = compared.headline[0]
    judged = [one for one in findings.comparisons if one.metric == metric]
    of_images = metric not in COSTS and not findings.metrics[0].recorded
    counts, what = Counter(one.verdict for one in judged), "the images" if of_images else metric
    words: dict[VerdictWord, tuple[str, str]] = {  # of one variant, of several
        "hurts": (f"makes {what} worse", f"make {what} worse"),
        "helps": (f"makes {what} better", f"make {what} better"),
        "same": ("is the same within the margin", "are the same within the margin"),
        "undecided": ("is undecided", "are undecided"),
    }
    said = [f"{n} {one if n == 1 else several}" for verdict, (one, several) in words.items() if (n := counts[verdict])]
    seeds = sorted({one.n for one in judged})
    many = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    how = "joint sign-flip tests of a planned study" if compared.design == "planned" else "e-values of a grown study"
    changes = f"Of {plural(len(judged), 'change')} to {compared.against}"
    tuned = f" Each is at its own best {' and '.join(findings.tuning.keys)}." if findings.tuning else ""
    return f"{changes}, {join_and(said)}: judged by {metric} over {many}, with {how}.{tuned}"


def explanation(findings: Findings, *, all_intervals: bool = True) -> list[str]:
    """Return the meaning of the verdicts and of the columns of the verdict tables, a line each."""
    compared = findings.compared
    tests = plural(compared.tests, "test")
    if compared.design == "planned":
        how = f"Joint sign-flip test, corrected for {tests} (step-down max-T). Decided where p is at most"
        how = f"Planned: {compared.why_design}. {how} {compared.alpha:g}"
    else:
        how = f"So e-values are used: they stay valid however seeds were added. Corrected for {tests}. Decided where e"
        how = f"Grown: {compared.why_design}. {how} is at least {1 / compared.alpha:g}"
    lines = [
        f"{how} and the 95 % interval excludes 0.",
        f"hurts: the change makes the metric worse than {compared.against}, so the part that it replaces earns its "
        "place. helps: the change makes it better.",
        "95 %: the interval of this difference alone." + (ALL_INTERVALS if all_intervals else ""),
        f"detects: the smallest true difference that is found with probability {compared.power:g}. "
        "needs: seeds in all to find the difference seen.",
    ]
    if any(comparison.exploratory for comparison in findings.comparisons):
        lines.append("exploratory: the study was not planned to be judged by this. Confirm it with new seeds.")
    if max((c.n + c.diverged for c in findings.comparisons), default=0) < compared.least_seeds:
        lines.append(f"With fewer than {compared.least_seeds} seeds none of these tests can decide.")
    return lines


def verdict_notes(findings: Findings) -> list[str]:
    """Return the notes that concern verdicts, without those on costs that are not judged."""
    judged = set(COSTS) & set(findings.compared.headline)
    costs = (FRONT_WITHOUT_TIME,) if judged else (FRONT_WITHOUT_TIME, UNEQUAL_MACHINES)
    return [note for note in findings.notes if not note.startswith(costs)]


def verdict_tables(findings: Findings) -> list[TextTable]:
    """Return a table of verdicts per metric: helps, hurts, undecided, the largest difference first."""
    return [_verdicts(findings, metric) for metric in findings.metrics] if findings.comparisons else []


def _verdicts(findings: Findings, metric: Metric) -> TextTable:
    mine = [comparison for comparison in findings.comparisons if comparison.metric == metric.name]
    decimals = difference_decimals(findings, metric.name)
    rows, design = {row.label: row for row in findings.rows}, findings.compared.design
    lines = [
        (
            c.label,
            signed(c.mean, decimals),
            interval(c.low, c.high, decimals),
            interval(c.all_low, c.all_high, decimals),
            evidence(c.adjusted, design),
            rounded(c.detectable, decimals),
            seeds(c.n, rows[c.label]),
            needs(c),
            c.verdict,
            c.why,
        )
        for c in sorted(mine, key=lambda c: (VERDICTS.index(c.verdict), -abs(c.mean or 0.0)))
    ]
    difference = f"{metric.name}\nvs {findings.compared.against}"
    heads = (
        "variant",
        difference,
        "95 %",
        "all",
        evidence_head(findings),
        "detects",
        "seeds",
        "needs",
        "verdict",
        "why",
    )
    better = "higher is better" if metric.higher_is_better else "lower is better"
    exploratory = ", exploratory" if any(c.exploratory for c in mine) else ""
    return TextTable(
        f"{heading(metric)}, {better}{exploratory}", heads, tuple(lines), (0, 6, 8, 9), drop=(9, 3, 5, 7, 4, 1)
    )


def evidence_head(findings: Findings, tests: int | None = None) -> str:
    """Return the head of a column of evidence that is corrected for some tests; None: all of the study."""
    letter = "p" if findings.compared.design == "planned" else "e"
    return f"{letter} of {findings.compared.tests if tests is None else tests}"


def difference_decimals(findings: Findings, metric: str) -> int:
    """Return the decimals of differences of a metric: they show two digits of half an interval."""
    halves = sorted(
        (c.high - c.low) / 2
        for c in findings.comparisons
        if c.metric == metric and c.low is not None and c.high is not None
    )
    decimals = decimals_of([row.values[metric].mean for row in findings.rows if metric in row.values])
    return max(decimals, decimals_of_interval(halves[len(halves) // 2])) if halves else decimals


def seeds(n: int, row: VariantRow) -> str:
    """Return how many seeds count, of how many: `8`, `6/8, 2 diverged`, `8, 3 unstable`."""
    more = [f"{k} {status}" for status, k in row.unfinished.items() if k]
    more += [f"{row.unstable} unstable"] if row.unstable else []
    return ", ".join([f"{n}" if n == row.runs else f"{n}/{row.runs}", *more])


def needs(one: Comparison | Claim) -> str:
    """Return how many seeds an undecided verdict needs in all."""
    if one.verdict != "undecided" or one.seeds_needed == one.n:
        return "-"
    return "many" if one.seeds_needed is None else f"{one.seeds_needed:,}"


def budget_table(findings: Findings) -> TextTable | None:
    """Return differences at equal steps beside those at equal training MACs, if a study has both."""
    both = [row for row in findings.rows if row.differences is not None and row.at_other_budget is not None]
    if not both:
        return None
    here, other = ("steps", "MACs") if findings.compared.budget == "steps" else ("MACs", "steps")
    heads, lines = ["variant"], [[row.label] for row in both]
    for metric in findings.metrics:
        heads += [f"{metric.name}, equal {here}", f"{metric.name}, equal {other}"]
        decimals = difference_decimals(findings, metric.name)
        for row, line in zip(both, lines, strict=True):
            for differences in (row.differences, row.at_other_budget):
                value = (differences or {}).get(metric.name)
                line.append("-" if value is None else mean_sd(value, decimals, " ", sign=True).removesuffix(" -"))
    legend = "Mean difference and its sd over the seeds finished by both. Verdicts on the other budget: --budget."
    return TextTable("At either budget", tuple(heads), tuple(map(tuple, lines)), (0,), (legend,))


def claim_table(findings: Findings) -> TextTable | None:
    """Return the claims of the variants' files with their verdicts."""
    if not findings.claims:
        return None
    lines = []
    for claim in findings.claims:
        decimals = claim_decimals(findings, claim)
        margin = f" within {claim.margin}" if claim.margin else ""
        lines.append(
            (
                claim.label,
                f"{claim.metric} {claim.expect}{margin}",
                signed(claim.mean, decimals),
                interval(claim.low, claim.high, decimals),
                evidence(claim.adjusted, findings.compared.design),
                f"{claim.n}",
                needs(claim),
                claim.verdict,
                claim.why,
                claim.because,
            )
        )
    tested = evidence_head(findings)
    heads = ("variant", "claim", "difference", "95 %", tested, "seeds", "needs", "verdict", "why", "because")
    return TextTable("Claims", heads, tuple(lines), (0, 1, 7, 8, 9), drop=(9, 8, 4, 6, 2))


def claim_decimals(findings: Findings, claim: Claim) -> int:
    """Return the decimals of a claim's difference: as in the verdict table, if its metric has one."""
    if claim.metric in findings.compared.headline:
        return difference_decimals(findings, claim.metric)
    size = claim.mean if claim.low is None or claim.high is None else (claim.high - claim.low) / 2
    return decimals_of_interval(abs(size)) if size else 1


def factorial_table(findings: Findings, study: Factorial) -> TextTable:
    """Return the effects of a factorial study."""
    decimals = difference_decimals(findings, study.metric)

    def line(effect: Effect) -> tuple[str, ...]:
        difference = (signed(effect.mean, decimals), interval(effect.low, effect.high, decimals))
        tests = (evidence(effect.adjusted, findings.compared.design), str(effect.n), effect.verdict, effect.why)
        return (" x ".join(effect.levels), *difference, *tests)

    legend = (
        "One level: its effect averaged over the levels of the other axes. Several, joined by x: their interaction, "
        "which is what they do together beyond the sum of each."
    )
    return TextTable(
        f"Effects of {' x '.join(study.axes)} on {study.metric}",
        ("effect", "difference", "95 %", evidence_head(findings, len(study.effects)), "seeds", "verdict", "why"),
        tuple(map(line, study.effects)),
        (0, 5, 6),
        (legend,),
        (6,),
    )


def front_table(front: Front) -> TextTable:
    """Return a Pareto front: the points on it first."""
    decimals = decimals_of([point.values[0] for point in front.points])
    costs = front.objectives[1:]

    def line(point: Point) -> tuple[str, ...]:
        return (
            f"{point.label} {point.scheme}" if point.scheme else point.label,
            rounded(point.values[0], decimals),
            *(quantity(name, value) for name, value in zip(costs, point.values[1:], strict=True)),
            str(point.seeds),
            percent(point.share),
            "on the front" if point.on_front else f"beaten by {point.dominated_by}",
        )

    heads = ("variant", *(FRONT_HEADS.get(name, name) for name in front.objectives), "seeds", "how often", "front")
    legend = (
        "On the front: no other point is as good in every column and better in one, over the seeds that both have. "
        f"how often: in how many of {front.resamples:,} resamples of the seeds it is on the front."
        + (" bytes: parameters in float32." if "bytes" in front.objectives else "")
    )
    last = len(heads) - 1
    return TextTable(
        f"Trade-offs {front.title}", heads, tuple(map(line, front.points)), (0, last), (legend,), (last - 1,)
    )


def format_table(findings: Findings) -> TextTable | None:
    """Return the table of number formats."""
    if findings.quantized is None:
        return None
    lines = []
    for row in findings.quantized.rows:
        fd_change = "-" if row.fd_change is None else f"{row.fd_change:+.3g}"
        if row.fd_change_low is not None and row.fd_change_high is not None:
            fd_change += f"\n[{row.fd_change_low:+.3g}, {row.fd_change_high:+.3g}]"
        scheme = row.scheme + ("*" if row.simulated else "")
        quality = (rounded(row.psnr_db, 1), rounded(row.pd, 4), fd_change)
        ratios = ("-" if ratio is None else f"{ratio:.2f}x" for ratio in (row.smaller, row.faster))
        lines.append((row.label, scheme, row.scope, str(row.seeds), *quality, percent(row.macs_share), *ratios))
    kpn = any(row.scope == "kpn" for row in findings.quantized.rows)
    heads = ("variant", "scheme", "scope", "seeds", "PSNR\ndB", "pd", "fd change", "MACs", "smaller", "faster")
    legend = (
        f"N = {findings.quantized.rows[0].n} samples, against those of the float32 graph from the same noise. "
        "fd change: with its 95 % interval for other samples of the same model. *: simulated by rounding, so without "
        "file size and time." + (" Scope kpn: all but the drift network." if kpn else ""),
        "MACs: computed in the format. "
        "smaller, faster: bytes, and time at batch 1, of the float32 graph / of this one.",
        *findings.quantized.most_sensitive,
    )
    return TextTable("Number formats", heads, tuple(lines), (0, 1, 2), legend, (3, 5, 7))


def other_tables(findings: Findings) -> Sequence[TextTable]:
    """Return the tables after quality and costs: budgets, factorial effects, trade-offs, number formats."""
    tables = [tuning_table(findings), *map(curve_table, findings.curves), budget_table(findings)]
    tables += [factorial_table(findings, study) for study in findings.factorials]
    tables += [front_table(front) for front in findings.fronts]
    return [table for table in (*tables, format_table(findings)) if table is not None]
