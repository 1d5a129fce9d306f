"""Making a study: all of its runs, or seed by seed until its variants are decided.

A study that goes on until its variants are decided needs the verdicts of the report, which
`ablate.launch` must not know. Its plan says so (`plans.max_seeds`), so the report uses a test that
stays valid when seeds are added after looking.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ablate.base.progress import Progress
from ablate.base.text import plural
from ablate.launch.ray_cluster import kept_connection
from ablate.launch.stale import stale_note, stale_runs
from ablate.launch.study import chosen_settings, forecast_study, run_study
from ablate.launch.study_runs import study_runs
from ablate.report.builder import build, read
from ablate.report.findings import Findings
from ablate.report.selection import Choice
from ablate.runs.rows import Row
from ablate.store import tables
from ablate.study.plan import Planned
from ablate.study.request import StudyRequest
from ablate.study.variants import BASELINE

Run = tuple[str, int]  # variant and seed
ENDED = ("done", "diverged")  # training again would end in the same way


@dataclass(frozen=True)
class Standing:
    """The verdicts on one variant so far.

    Attributes:
        variant: Its name.
        seeds: Seeds that both it and the baseline finished.
        verdicts: Headline metric -> verdict, or `not judged`.
    """

    variant: str
    seeds: int
    verdicts: dict[str, str]

    @property
    def decided(self) -> bool:
        """Whether more seeds would change nothing: each metric is decided, or cannot be judged."""
        return bool(self.verdicts) and "undecided" not in self.verdicts.values()

    def __str__(self) -> str:
        """Return the verdicts in one line."""
        seeds = plural(self.seeds, "seed")
        metrics = ", ".join(f"{metric} {verdict}" for metric, verdict in self.verdicts.items())
        return f"{self.variant}: {'decided' if self.decided else 'undecided'} with {seeds}: {metrics or 'no pair'}"


@kept_connection()
def make_study(
    request: StudyRequest,
    *,
    progress: Progress,
    on_row: Callable[[Row, str], None],
    on_missing: Callable[[str, str], None],
    say: Callable[[str], None],
) -> None:
    """Make the runs that were asked for: `ablate run` and `ablate.run()` are this function.

    With `until_decided` the seeds asked for are made first. Then every variant that is undecided
    gets its next seed, and the baseline with it, until all are decided or have `max_seeds`. Runs
    that have finished or diverged are not made again, so the same call goes on after an
    interruption. With `tune` each variant's setting is chosen before all of that. A run that fails
    raises, as in every study.

    Args:
        request: What to do.
        progress: Shows what is under way.
        on_row: Called after each run, as in `run_study`.
        on_missing: Called once for each network whose weights are missing, with its name and why.
        say: Called with a line for each variant: its chosen setting; at the end its verdicts, where
            the study goes on until decided.

    Raises:
        AblateError: As `run_study`, or runs in the folder that do not compare with these.
        KeyboardInterrupt: Interrupted, after saving.
    """
    told: set[str] = set()

    def missing(network: str, why: str) -> None:
        if network not in told:
            told.add(network)
            on_missing(network, why)

    if request.tune:
        chosen_settings(request)  # refuses tuning seeds that are judged before a run is made
        run_study(request, tuning=True, progress=progress, on_row=on_row, on_missing=missing)
        for tuned in chosen_settings(request) or ():
            say(str(tuned))
    if not request.until_decided:
        run_study(request, progress=progress, on_row=on_row, on_missing=missing)
        return
    planned = forecast_study(request)
    _tell_stale(request, planned, progress)
    tried: set[Run] = set()
    while True:
        standings = judge(request, planned)
        undecided = [one.variant for one in standings if not one.decided]
        to_make = _to_make(request, planned) - tried
        runs = _next_runs(request, to_make, undecided)
        if not runs:
            break
        seeds = ", ".join(map(str, sorted({seed for _, seed in runs})))
        progress.say(f"seed {seeds}: {len(undecided)} of {len(standings)} variants are undecided")
        later = {run for run in to_make if run[0] in (BASELINE, *undecided)}
        run_study(request, part=runs, later=later, progress=progress, on_row=on_row, on_missing=missing)
        tried |= runs
    for one in standings:
        say(str(one))


def judge(request: StudyRequest, planned: Sequence[Planned]) -> list[Standing]:
    """Return the verdicts on each variant of a study, by the tables of its folder as they are now."""
    configs = {run.spec.variant: run.spec.config.hash for run in planned}
    runs = tables.read(request.results, "runs")
    done = runs[runs["run_id"].isin([run.run_id for run in planned]) & (runs["status"] == "done")]
    digests, found = done["data_digest"].dropna(), None
    if len(digests):
        of_study = set(configs.items())
        found = comparable_findings(request.results, request.preset, digests.iloc[0], request.budget, of_study)
    return standings_of(found, configs)


def standings_of(found: Findings | None, configs: Mapping[str, str]) -> list[Standing]:
    """Return the verdicts on each variant of a study.

    Args:
        found: What a report finds in its runs; None: nothing.
        configs: Variant -> hash of the configuration that is judged.
    """
    names = [name for name in configs if name != BASELINE]
    of_label = {} if found is None else {row.label: row.config_hash for row in found.rows}
    verdicts: dict[str, dict[str, str]] = {name: {} for name in names}
    seeds = dict.fromkeys(names, 0)
    for one in () if found is None else found.comparisons:
        if one.variant in names and of_label[one.label] == configs[one.variant]:
            judged = one.adjusted is not None or not one.n
            verdicts[one.variant][one.metric] = one.verdict if judged else "not judged"
            seeds[one.variant] = max(seeds[one.variant], one.n)
    return [Standing(name, seeds[name], verdicts[name]) for name in names]


def comparable_findings(
    results: Path, preset: str, digest: str, budget: str, configs: Collection[tuple[str, str]]
) -> Findings | None:
    """Return what a report finds in the runs of a folder that compare with a study; None: there are none.

    Args:
        results: The results folder.
        preset: The study's preset.
        digest: Of its data.
        budget: `steps` or `macs`.
        configs: Variant and hash of each of its configurations.

    Raises:
        ResultsError: The folder cannot be read, or finished runs of the study do not compare.
    """
    frames = read(results)
    runs = frames["runs"]
    comparable = runs[(runs["preset"] == preset) & (runs["data_digest"] == digest)]
    own = [pair in configs for pair in zip(comparable["variant"], comparable["config_hash"], strict=True)]
    alike = comparable[pd.Series(own, comparable.index, dtype=bool)]
    # Other runs of the folder may have been measured with other numbers of images.
    sizes = alike.loc[alike["status"] == "done", ["fd_n", "fd_ref_n"]].dropna().drop_duplicates()
    samples = [f"{n}/{ref_n}" for n, ref_n in sizes.itertuples(index=False)]
    choice = Choice(budget=budget, claims=False, samples=samples[0] if len(samples) == 1 else None)
    return build(frames | {"runs": comparable}, choice) if len(comparable) else None


def _to_make(request: StudyRequest, planned: Sequence[Planned]) -> set[Run]:
    """Return the planned runs that have not ended."""
    table = tables.read(request.results, "runs", ("run_id", "status"))
    ended = set(table.loc[table["status"].isin(ENDED), "run_id"])
    return {(run.spec.variant, run.spec.seed) for run in planned if run.run_id not in ended}


def _next_runs(request: StudyRequest, to_make: Collection[Run], undecided: Iterable[str]) -> set[Run]:
    """Return the runs of the next round: each undecided variant at the seeds asked for, then at its next seed."""
    runs: set[Run] = set()
    for variant in undecided:
        lacking = {seed: {(variant, seed), (BASELINE, seed)}.intersection(to_make) for seed in request.all_seeds}
        asked = {run for seed in request.seeds for run in lacking[seed]}
        runs |= asked or next((missing for missing in lacking.values() if missing), set())
    return runs


def _tell_stale(request: StudyRequest, planned: Sequence[Planned], progress: Progress) -> None:
    """Say that finished runs of the study, which are not made again, were computed by other code."""
    specs = [run.spec for run in planned]
    stale = stale_runs(tables.read(request.results, "runs"), study_runs(request, specs).code(specs))
    skipped = [stale[run.run_id] for run in planned if run.run_id in stale]
    if skipped:
        progress.say(stale_note(skipped))
