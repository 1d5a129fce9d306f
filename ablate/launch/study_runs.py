"""The runs of a study, of a torch model or of a user's own program: what a launcher must know of them.

torch takes seconds to import, and a program may not need it: it is imported for a torch model only.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.base.progress import Progress
from ablate.base.text import one_line
from ablate.launch.queue import AS_FAILED
from ablate.launch.stale import stale_runs
from ablate.launch.time_left import StudyClock, counted
from ablate.runs.rows import Data, Row
from ablate.stats.paired import ALPHA
from ablate.store import tables
from ablate.store.plans import Plan
from ablate.study.plan import Planned, RunSpec
from ablate.study.program import ProgramConfig
from ablate.study.request import Rerun
from ablate.study.run_times import RunTimes

if TYPE_CHECKING:
    from ablate.metrics.networks import MetricNetworks
    from ablate.study.request import StudyRequest

Networks = Callable[[], "MetricNetworks"]  # loads what images are measured with when it is first needed


def is_program(specs: Sequence[RunSpec]) -> bool:
    """Return whether the runs are of a program. A study has runs of one kind."""
    return bool(specs) and isinstance(specs[0].config, ProgramConfig)


def study_runs(request: StudyRequest, specs: Sequence[RunSpec]) -> StudyRuns:
    """Return the runs of a study, of either kind."""
    if is_program(specs):
        from ablate.launch.program_runs import ProgramRuns

        return ProgramRuns(request, specs)
    from ablate.launch.model_runs import ModelRuns

    return ModelRuns(request, specs)


def named_metrics(request: StudyRequest, specs: Sequence[RunSpec]) -> tuple[str, ...]:
    """Return the metrics that a study names: those asked for, else those that a program's settings name."""
    config: object = specs[0].config if specs else None
    if request.metrics or not isinstance(config, ProgramConfig):
        return request.metrics
    return tuple(config.program.metrics)


class StudyRuns(ABC):
    """The runs of a study.

    Attributes:
        request: What the study was asked to do.
        specs: All of its runs.
        load_wall_s: Seconds that loading `data` took.
        image_side: The shorter side of the images, in pixels; None: unknown.
        always_measured: Every run has images, which are measured.
    """

    load_wall_s = 0.0
    image_side: int | None = None
    always_measured = False

    def __init__(self, request: StudyRequest, specs: Sequence[RunSpec]) -> None:
        """Take what was asked for; nothing is loaded yet."""
        self.request, self.specs = request, specs

    @cached_property
    def data(self) -> Data:
        """What the runs are compared on: a data set, or the label of a program's data.

        Raises:
            DataError: The data cannot be used.
        """
        start = time.monotonic()
        data = self._load_data()
        self.load_wall_s = time.monotonic() - start
        return data

    @property
    @abstractmethod
    def environment(self) -> str:
        """The column `environment` of runs that would be made now."""

    @property
    @abstractmethod
    def measured_file(self) -> str | None:
        """The file or folder in a finished run's folder that metrics can be measured of; None: nothing."""

    @abstractmethod
    def _load_data(self) -> Data: ...

    @abstractmethod
    def _planned(self, spec: RunSpec, run_id: str, finished: bool, times: RunTimes) -> Planned: ...

    @abstractmethod
    def make(self, spec: RunSpec, networks: Networks, progress: Progress, **options: Any) -> Row:
        """Make a run in the results folder, write its rows, and return its row of `runs`.

        `options` are `finished_before` and `still_ours` of `execute_run`; errors are as there.
        """

    @abstractmethod
    def measure_more(
        self, spec: RunSpec, run_id: str, networks: Networks, progress: Progress, *, lacking: bool, session: str | None
    ) -> int:
        """Measure what a finished run lacks, and return the number of rows added.

        Args:
            spec: The run.
            run_id: Its name.
            networks: Loads what images are measured with.
            progress: Bars to show.
            lacking: It lacks metrics that can be measured.
            session: Names the latencies of the number formats that it lacks; None: measure no formats.
        """

    def add_curves(self, spec: RunSpec, run_id: str, networks: Networks, progress: Progress) -> int:
        """Sample a finished run with the numbers of evaluations asked for; return the number of rows added."""
        return 0

    def prepare(  # noqa: B027 (a program needs nothing)
        self, part: Collection[tuple[str, int]] | None, progress: Progress
    ) -> None:
        """Check, before the first run starts, that this machine can make the runs and has the weights they need.

        Args:
            part: Variant and seed of the runs to make; None: all.
            progress: Shows downloads.

        Raises:
            AblateError: The device does not exist, a run needs more memory than it has, or weights are missing.
        """

    def threads(self) -> AbstractContextManager[object]:
        """Compute with the threads that were asked for in the block."""
        return nullcontext()

    def code(self, specs: Sequence[RunSpec]) -> Mapping[str, str] | None:
        """Return name of a run -> the code that would run it now; None: ablate's own."""
        return None

    def forecast(self, past: pd.DataFrame) -> list[Planned]:
        """Return the runs that a launcher would make, with an estimate of their time.

        With `--failed` those that did not fail are left out.

        Args:
            past: The table `runs`. Estimates come from runs of this machine, or of others where this
                machine has none.

        Raises:
            AblateError: The data or the device cannot be used.
        """
        data, rerun = self.data, self.request.rerun
        named = [spec.as_recorded(data.name, data.digest, past) for spec in self.specs]
        status = dict(zip(past["run_id"], past["status"], strict=True))
        stale = stale_runs(past, self.code(named)) if rerun is Rerun.stale else {}
        times = RunTimes(past, self.specs[0].preset, [self.environment])
        planned = []
        for spec in named:
            run_id = spec.run_id(data.name, data.digest)
            if rerun is Rerun.failed and status.get(run_id) not in AS_FAILED:
                continue
            made_again = run_id in stale if rerun is Rerun.stale else rerun is Rerun.all and not spec.added
            finished = status.get(run_id) == "done" and not made_again
            planned.append(self._planned(spec, run_id, finished, times))
        return planned

    def clock(self, part: Collection[tuple[str, int]] | None, later: Collection[tuple[str, int]]) -> StudyClock:
        """Return a clock that counts the study's runs from now on; arguments as of `ablate.launch.local.launch`."""

        def planned() -> list[Planned]:
            return counted(self.forecast(tables.read(self.request.results, "runs")), part, later)

        return StudyClock(self.request.results, planned, lambda: self.environment, at_most=bool(later))

    def plan(self, part: Collection[tuple[str, int]] | None = None) -> tuple[Plan | None, list[RunSpec]]:
        """Return the plan of the study, and its runs with the plan's name. Runs that are never judged have no plan.

        Launchers record it before the first run starts. Runs that the results folder has under
        another name of the data set keep their name there.

        Args:
            part: Variant and seed of the runs to return; None: all.
        """
        request, data = self.request, self.data
        runs = tables.read(request.results, "runs")
        chosen = [spec for spec in self.specs if part is None or (spec.variant, spec.seed) in part]
        named = [spec.as_recorded(data.name, data.digest, runs) for spec in chosen]
        judged = [spec for spec in self.specs if spec.purpose is None]
        if not judged:
            return None, named
        plan = Plan(
            preset=request.preset,
            data=data.name,
            data_digest=data.digest,
            budget=request.budget,
            variants=[(spec.variant, spec.config.hash) for spec in judged],
            seeds=request.all_seeds,
            metrics=named_metrics(request, judged),
            level=ALPHA,
            max_seeds=len(request.all_seeds) if request.until_decided else None,
            tuning=[spec.tuned for spec in judged if spec.tuned],
        )
        return plan, [replace(spec, plan_id=plan.plan_id) if spec.purpose is None else spec for spec in named]

    def lacking_metrics(self, run_ids: Sequence[str], progress: Progress) -> Collection[str]:
        """Return the finished runs that lack metrics which can be measured now, after downloading weights."""
        kept, request = self.measured_file, self.request
        if kept is None or not run_ids:
            return ()
        from ablate.metrics.weights import BACKBONE_OF, Search, fetch, networks_of
        from ablate.runs.lacking_metrics import lacking_networks

        wanted = networks_of(request.asked_metrics)
        if not lacking_networks(request.results, run_ids, wanted, kept):
            return ()
        search = Search(request.weights, download=not request.offline)
        unavailable = fetch([BACKBONE_OF[network] for network in wanted], search, progress)
        available = [network for network in wanted if BACKBONE_OF[network] not in unavailable]
        return lacking_networks(request.results, run_ids, available, kept)

    def load_networks(self, device: str, progress: Progress, on_missing: Callable[[str, str], None]) -> MetricNetworks:
        """Load the networks that images are measured with.

        Args:
            device: A name as for `pick_device`.
            progress: Shows downloads, and the notes on the data.
            on_missing: Called for each network whose weights are missing, with its name and why.
        """
        from ablate.base.machine import pick_device
        from ablate.metrics.networks import load_networks
        from ablate.metrics.weights import networks_of

        request, wanted = self.request, networks_of(self.request.asked_metrics)
        options: dict[str, Any] = {"smallest_side": self.image_side, "progress": progress, "offline": request.offline}
        networks = load_networks(wanted, request.weights, pick_device(device), **options)
        for network, reason in networks.missing.items():
            on_missing(network, reason)
        for note in self.data.notes:
            progress.say(f"note: {one_line(request.data)}: {note}", once=True)
        return networks
