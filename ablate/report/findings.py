"""The findings of a report: every number and verdict of one comparison.

They are computed once, by `ablate.report.builder`; the renderers only write them down.

One comparison is one preset on one data set at one budget, measured with one extractor and one number of samples: nothing else is mixed in.

    difference = m(variant, seed) - m(against, seed)      over the seeds finished by both
    helps      = the variant is better than what it is compared against: the difference is real, by test and interval, over the whole study
    hurts      = it is worse;   undecided = the seeds there are cannot tell, and `why` says what is missing

All intervals are 95 % (Student's t over seeds), not corrected; every p-value is of the two-sided sign-flip test, and `p_holm` is corrected
over `Compared.family` tests. What is not known is None, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from ablate.report.quantized_summary import Quantized

VERDICTS = ("helps", "hurts", "undecided")
CLAIM_VERDICTS = ("supported", "contradicted", "undecided")


@dataclass(frozen=True)
class Value:
    """A mean over `n` seeds and its spread: `mean` is None for no seed, `sd` for fewer than two."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class Metric:
    """A metric that is judged: `n` samples against `ref_n` real pictures; `floor`: real against real at `floor_n`."""

    name: str
    about: str
    higher_is_better: bool = False
    n: int | None = None
    ref_n: int | None = None
    floor: float | None = None
    floor_n: int | None = None
    extractor: str | None = None  # the network whose features or distances it uses
    extractor_digest: str | None = None  # of its weights
    warning: str | None = None


@dataclass(frozen=True)
class Compared:
    """What all numbers have in common, and what decides."""

    preset: str | None  # None, as `data`: there are no runs
    data: str | None
    data_digest: str | None
    budget: str  # what the variants have in common: `steps`, or training `macs`
    against: str | None  # the label of the row that the others are compared with; None: it has no finished run
    headline: tuple[str, ...]  # the metrics, the first is the one that verdicts are read by first
    why_headline: str  # why these, in a sentence
    family: int  # tests that Holm's correction covers
    least_seeds: int  # with which any of them can decide
    alpha: float  # share of studies without any difference in which a comparison or claim may say one; each factorial design has its own
    power: float  # for which `detectable` and `seeds_needed` hold
    runs: int
    variants: int


@dataclass(frozen=True)
class Row:
    """One variant in one configuration. Costs are medians over its seeds; `by_seed` and `run_ids` run along `seeds`."""

    label: str  # the variant's name; with `@hash` where it has several configurations
    variant: str
    axis: str | None
    config_hash: str | None
    seeds: tuple[int, ...]
    run_ids: tuple[str, ...]
    runs: int
    unfinished: dict[str, int]  # status -> seeds
    values: dict[str, Value]  # metric -> over its finished seeds
    differences: dict[str, Value] | None  # None: this is what the others are compared with
    at_other_budget: (
        dict[str, Value] | None
    )  # the differences at equal training MACs where these are at equal steps, and vice versa
    by_seed: dict[str, tuple[float | None, ...]]  # metric -> value of each seed
    costs: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """One variant by one metric: the paired difference to what it is compared against, and what may be said of it."""

    label: str
    variant: str
    axis: str | None
    metric: str
    n: int  # pairs
    seeds: tuple[int, ...]
    differences: tuple[float, ...]  # along `seeds`
    mean: float | None  # None for no pair
    sd: float | None  # None for fewer than two pairs, as `low` and `high`
    low: float | None
    high: float | None
    relative: float | None  # mean / mean of the other over the same seeds
    p: float | None
    p_holm: float | None
    detectable: (
        float | None
    )  # smallest true difference found with `power` at this n and sd; None: n cannot decide, or sd is unknown
    seeds_needed: (
        int | None
    )  # in all, for the difference and spread seen; None: more than `stats.MOST_SEEDS`, or spread unknown; n of what no seeds would decide
    verdict: str  # one of VERDICTS
    why: str  # in a sentence


@dataclass(frozen=True)
class Claim:
    """A claim of a variant's file, made before it was measured, and its verdict."""

    label: str
    variant: str
    metric: str  # a metric, or with its number format in front: int8_psnr_db
    expect: str  # better, worse or same
    because: str
    margin: str | None  # of `same`: as it stands in the file, `5%` of the other's mean or a number in the metric's unit
    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    seeds_needed: int | None
    verdict: str  # one of CLAIM_VERDICTS
    why: str


@dataclass(frozen=True)
class Effect:
    """A contrast of a factorial study: one level is a main effect, averaged over the other factors; several are their interaction.

    An interaction is what the levels do together beyond the sum of what each does alone.
    """

    levels: tuple[str, ...]  # variants' names
    axes: tuple[str, ...]
    metric: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None  # over the effects of this factorial study and metric
    verdict: str  # helps, hurts or undecided
    why: str


@dataclass(frozen=True)
class Factorial:
    """Axes whose combinations were all run, and their effects by one metric, the main ones first."""

    axes: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]  # of each axis, the baseline's first
    metric: str
    seeds: tuple[int, ...]  # finished by every combination
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Point:
    """One variant (in one number format) among the objectives of a front; means over `seeds` seeds."""

    label: str
    scheme: str | None  # None: as trained
    seeds: int
    values: tuple[float, ...]  # along `Front.objectives`
    on_front: bool  # no other point is as good everywhere and better somewhere
    share: float | None  # of resamples of the seeds in which it is on the front; None for fewer than two seeds
    dominated_by: str | None  # one that is


@dataclass(frozen=True)
class Front:
    """What may be traded: points, and those that nothing beats everywhere."""

    title: str
    objectives: tuple[str, ...]  # quality first, then costs
    higher_is_better: tuple[bool, ...]
    resamples: int
    points: tuple[Point, ...]  # those on the front first, then by quality


@dataclass(frozen=True)
class Findings:
    """One comparison with all that a report shows of it."""

    compared: Compared
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]  # what is compared against first
    comparisons: tuple[Comparison, ...]  # by metric, then as the rows
    claims: tuple[Claim, ...]
    factorials: tuple[Factorial, ...]
    fronts: tuple[Front, ...]
    quantized: Quantized | None
    notes: tuple[str, ...]
