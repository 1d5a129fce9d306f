"""The findings of a report: every number and verdict of one comparison, as pydantic models.

`ablate.report.builder` computes them once. The renderers only write them down, and the JSON of a
report is their dump. Its JSON Schema is `Findings.model_json_schema(mode="serialization")`.

One comparison covers one preset, one data set and one budget, measured with one extractor and one
number of samples. Nothing else is mixed in.

    difference = m(variant, seed) - m(against, seed)    over the seeds that both finished
    helps      = the change makes the metric better: the test and the interval both say so
    hurts      = the change makes it worse
    same       = any difference is smaller than the margin
    undecided  = the seeds so far cannot decide; `why` says what is missing

`low` and `high` are the 95 % interval of one mean or difference (Student's t over seeds); those of
`all_low` and `all_high` hold for all comparisons together. The evidence is p where the study was
planned (small decides), and e where it was grown (large decides); `adjusted` is corrected over
`Compared.tests` tests. An unknown number is None, never NaN.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict

from ablate.stats import paired

VerdictWord = Literal["helps", "hurts", "same", "undecided"]
ClaimWord = Literal["supported", "contradicted", "undecided"]
CurveKind = Literal["train_steps", "nfe"]
Design = Literal["planned", "grown"]
VERDICTS = get_args(VerdictWord)
CLAIM_VERDICTS = get_args(ClaimWord)


class Record(BaseModel):
    """A frozen part of a report. Unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )

    def to_json(self) -> str:
        """Return one strict JSON document.

        Raises:
            ValueError: A number is NaN or infinite.
        """
        return json.dumps(self.model_dump(), indent=2, allow_nan=False)


class Value(Record):
    """A mean over `n` seeds, its standard deviation, and its 95 % interval (Student's t)."""

    mean: float | None  # None for no seed
    sd: float | None  # None, as `low` and `high`, for fewer than two seeds
    low: float | None
    high: float | None
    n: int

    @classmethod
    def over(cls, values: Sequence[float]) -> Self:
        """Return the mean of values (n,), one per seed, with its standard deviation and interval."""
        return cls(**asdict(paired.summarise(values)))


class Metric(Record):
    """A metric that is judged."""

    name: str
    about: str
    unit: str | None  # of a recorded metric
    recorded: bool  # by a program or a table of scores; False: ablate measured it
    higher_is_better: bool
    n: int | None  # samples
    ref_n: int | None  # real images
    floor: float | None  # the metric of real images against real images
    floor_n: int | None  # images of that
    extractor: str | None  # the network that the metric uses
    extractor_digest: str | None  # of its weights
    warning: str | None


class Compared(Record):
    """What all numbers have in common, and what decides."""

    preset: str | None  # None, as `data`: there are no runs
    data: str | None
    data_digest: str | None
    budget: str  # what the variants have in common: `steps`, or training `macs`
    against: str | None  # label of the row that the others are compared with; None: it has no finished run
    headline: tuple[str, ...]  # the metrics; verdicts are sorted and summarised by the first
    why_headline: str  # why these, in a sentence
    design: Design  # `planned`: all seeds were chosen before any result was there; `grown`: they may have been added
    why_design: str  # what says so, in a clause
    where: str | None  # the condition of the runs that are not left out
    without_seeds: tuple[int, ...]  # left out
    left_out: int  # runs of the study that either leaves out: they are not judged, and the study counts as grown
    tests: int  # tests that are corrected for together: all variants by the judged metrics, shown or not
    least_seeds: int  # the fewest seeds with which any of them can be decided
    alpha: float  # the chance of any wrong verdict in a study without a difference; each factorial study has its own
    power: float  # the probability that `detectable` and `seeds_needed` hold for
    runs: int
    variants: int


class VariantRow(Record):
    """One variant in one configuration. `by_seed` and `run_ids` follow the order of `seeds`."""

    label: str  # the variant's name; with `@hash` where it has several configurations
    variant: str
    about: str  # what its file said when its newest run started
    axis: str | None
    config_hash: str | None
    seeds: tuple[int, ...]  # finished
    run_ids: tuple[str, ...]
    runs: int
    unfinished: dict[str, int]  # status -> seeds
    unstable: int  # finished seeds whose gradient norm left its own history
    values: dict[str, Value]  # metric -> over its finished seeds
    differences: dict[str, Value] | None  # None: this is the row that the others are compared with
    at_other_budget: (
        dict[str, Value] | None
    )  # differences at equal training MACs, if these are at equal steps; or vice versa
    by_seed: dict[str, tuple[float | None, ...]]  # metric -> its value at each seed
    costs: dict[str, float | None]  # medians over its seeds; times only of runs on the machine of the row compared with


class Difference(Record):
    """A paired difference in one metric, and its test."""

    metric: str
    n: int  # pairs
    mean: float | None  # None for no pair
    low: float | None  # None, as `high`, for fewer than two pairs
    high: float | None
    all_low: float | None  # None, as `all_high`, where the seeds cannot decide
    all_high: float | None
    alone: float | None  # p or e of this comparison alone; None: not judged
    adjusted: float | None  # corrected for all tests
    why: str  # reason of the verdict, in a sentence


class Comparison(Difference):
    """The difference of one variant in one metric, and its verdict."""

    label: str
    variant: str
    axis: str | None
    seeds: tuple[int, ...]
    differences: tuple[float, ...]  # in the order of `seeds`
    diverged: int  # further seeds at which one of the two diverged: in tests they are the largest difference
    e_by_seed: tuple[float, ...] | None  # of a grown study, if judged: e alone after each seed; `e_seeds` says which
    e_seeds: tuple[int, ...] | None
    exploratory: bool  # by a metric or against a variant that the study was not to be judged by
    margin: float | None  # of `same`, in the metric's unit
    sd: float | None  # None for fewer than two pairs
    relative: float | None  # mean / mean of the other over the same seeds
    detectable: float | None  # smallest true difference that is detected with probability `power` at this n and sd
    seeds_needed: int | None  # in all, for the difference and spread seen; None: more than `stats.paired.MOST_SEEDS`
    verdict: VerdictWord


class Claim(Difference):
    """A claim from a variant's file, stated before it was measured, and its verdict.

    Its metric may have a number format in front: int8_psnr_db.
    """

    label: str
    variant: str
    expect: str  # better, worse or same
    because: str
    margin: str | None  # of `same`, as in the file: `5%` of the other's mean, or a number in the metric's unit
    seeds_needed: int | None
    verdict: ClaimWord


class Effect(Difference):
    """One effect of a factorial study, corrected over the effects of that study and metric.

    One level: a main effect, averaged over the levels of the other axes. Several levels: their
    interaction, which is what they do together beyond the sum of what each does alone.
    """

    levels: tuple[str, ...]  # names of variants
    axes: tuple[str, ...]
    verdict: VerdictWord


class Factorial(Record):
    """Axes of which every combination was run, and their effects on one metric, main effects first."""

    axes: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]  # of each axis, the baseline's first
    metric: str
    seeds: tuple[int, ...]  # finished by every combination
    effects: tuple[Effect, ...]


class Point(Record):
    """One variant, in one number format, among the objectives of a front: means over its seeds."""

    label: str
    scheme: str | None  # None: as trained
    seeds: int
    values: tuple[float, ...]  # in the order of `Front.objectives`
    on_front: bool  # no other point is as good in every objective and better in one
    share: float | None  # of resamples of the seeds that put it on the front; None for fewer than two seeds
    dominated_by: str | None  # a point that beats it


class Front(Record):
    """A Pareto front: quality against costs."""

    title: str
    objectives: tuple[str, ...]  # quality first, then costs
    higher_is_better: tuple[bool, ...]
    resamples: int
    points: tuple[Point, ...]  # those on the front first, then by quality


class QuantizedRow(Record):
    """One variant in one number format (scheme) and scope: means over its seeds."""

    label: str
    scheme: str
    scope: str
    simulated: bool  # computed in float32 and rounded
    seeds: int
    n: int | None  # samples
    psnr_db: float | None  # against the samples of the float32 graph from the same noise
    pd: float | None
    lpips: float | None
    fd_change: float | None  # fd in this format - fd in float32
    fd_change_low: float | None
    fd_change_high: float | None
    macs_share: float | None  # of MACs computed in the format
    smaller: float | None  # bytes of the float32 graph / bytes of this one
    faster: float | None  # time of the float32 graph / time of this one


class Quantized(Record):
    """What number formats cost in quality and save in bytes and time."""

    rows: tuple[QuantizedRow, ...]
    most_sensitive: tuple[str, ...]  # a line per variant and scheme of which several module groups were measured


class CurvePoint(Record):
    """One variant at one budget."""

    x: int
    value: Value
    difference: Value | None  # paired, to `Curve.against` at the same x; None: no such pair


class CurveLine(Record):
    """The points of one variant, sorted by x."""

    label: str
    points: tuple[CurvePoint, ...]


class Curve(Record):
    """A metric over a budget. Its intervals are not corrected for their number, and nothing is decided by them."""

    kind: CurveKind
    metric: str
    higher_is_better: bool
    against: str | None
    lines: tuple[CurveLine, ...]

    @property
    def over(self) -> str:
        """What x counts, in words."""
        return {"train_steps": "training steps", "nfe": "network evaluations"}[self.kind]


class TunedVariant(Record):
    """How the setting of one variant was chosen. `scores` follow the order of `settings`."""

    label: str
    choice: str | None  # as in `train.lr=0.0003`; None: every setting diverged, so it keeps its own
    edge: tuple[str, ...]  # keys whose chosen value is the smallest or the largest tried
    settings: tuple[str, ...]
    scores: tuple[float | None, ...]  # mean over the tuning seeds; None: it diverged at one of them
    wall_s: float  # of the runs that chose


class Tuning(Record):
    """How each variant's setting was chosen, on seeds that are not judged."""

    metric: str
    higher_is_better: bool
    seeds: tuple[int, ...]
    variants: tuple[TunedVariant, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that were tuned, as in `train.lr`."""
        settings = (setting for one in self.variants for text in one.settings for setting in text.split(","))
        return tuple(dict.fromkeys(setting.partition("=")[0] for setting in settings))


class Findings(Record):
    """Everything that a report shows of one comparison."""

    version: Literal[2] = 2  # of this document
    compared: Compared
    metrics: tuple[Metric, ...]
    rows: tuple[VariantRow, ...]  # the row that the others are compared with comes first
    comparisons: tuple[Comparison, ...]  # by metric, then in the order of `rows`
    claims: tuple[Claim, ...]
    factorials: tuple[Factorial, ...]
    fronts: tuple[Front, ...]
    quantized: Quantized | None
    tuning: Tuning | None
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]
