"""What `ablate plan` shows of a study before it is run, as a pydantic model: its JSON is the dump."""

from __future__ import annotations

from ablate.report.findings import Record


class PlannedRun(Record):
    """A run of the plan."""

    run_id: str
    variant: str
    seed: int
    finished: bool
    wall_s: float | None  # estimate; None: no run in the folder, on this machine, tells


class MetricPower(Record):
    """The differences of a variant in a metric that a plan detects, in the order of `PlanPreview.power_seeds`."""

    metric: str
    variant: str | None  # None: every variant that has no entry of its own for this metric
    sd: float | None  # of the paired differences; None: unknown
    sd_from: str  # where it comes from, in a few words
    detectable: tuple[float | None, ...]  # smallest true difference; None: nothing, or the sd is unknown


class PlanPreview(Record):
    """A plan, and the differences that it can detect."""

    plan_id: str
    recorded_at: str | None  # ISO 8601, UTC; None: not recorded
    preset: str
    data: str
    data_digest: str
    budget: str  # `steps` or `macs`
    variants: tuple[str, ...]  # the baseline too
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]  # that it is judged by
    tests: int  # variants without the baseline x metrics, and their claims on other metrics
    level: float  # share of studies in which any claim may be false
    power: float  # probability that `detectable` is for
    runs: tuple[PlannedRun, ...]
    of_other_plans: int  # finished runs that name another plan, or none
    power_seeds: tuple[int, ...]
    effects: tuple[float | None, ...]  # smallest difference / sd that so many seeds detect; None: nothing
    wall_s: tuple[float | None, ...]  # of all runs of so many seeds, one after another; None: unknown
    metric_power: tuple[MetricPower, ...]
    how: str  # how `effects` were computed, in a sentence
