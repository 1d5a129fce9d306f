"""The runs of a torch model that this machine trains.

What trains and measures takes seconds to import. A dry run needs neither, so methods import it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, cast

from ablate.base.machine import device_bytes, environment, pick_device, use_threads
from ablate.base.progress import Progress
from ablate.data.datasets import ImageSet
from ablate.launch.study_runs import Networks, StudyRuns
from ablate.metrics.weights import BACKBONE_OF, BACKBONES, Search, local_file, loss_weights, networks_of, obtainable
from ablate.models import memory
from ablate.models.cost import Cost, cost
from ablate.runs.lacking_metrics import lacking_networks
from ablate.runs.rows import Row
from ablate.store import tables
from ablate.study.config import Config
from ablate.study.images import study_images
from ablate.study.metric_names import FEATURES, headline_of
from ablate.study.plan import Planned, RunSpec
from ablate.study.request import StudyRequest
from ablate.study.run_times import RunTimes

IMAGE_BYTES = 1_500_000  # of a run's grids
CHECKPOINT_BYTES = 32  # per parameter: two checkpoints, each with weights, their average and two moments in float32


class ModelRuns(StudyRuns):
    """The runs of a torch model."""

    measured_file = "model.safetensors"
    always_measured = True

    @property
    def image_side(self) -> int:  # type: ignore[override]
        """Width and height of the images, in pixels."""
        return self.specs[0].config.data.size

    @property
    def environment(self) -> str:
        """As in the base class."""
        return environment(pick_device(self.request.device))

    @property
    def images(self) -> ImageSet:
        """The data set."""
        return cast("ImageSet", self.data)

    def prepare(self, part: Collection[tuple[str, int]] | None, progress: Progress) -> None:
        """As in the base class; the losses of runs to be made may need weights."""
        request, available = self.request, device_bytes(pick_device(self.request.device))
        for variant, config in self._configs.items():
            memory.check(variant, config, available)
        if not any(loss_weights(config.train) for config in self._configs.values()):
            return
        from ablate.training.perceptual import check_loss

        search = Search(request.weights, download=not request.offline)
        planned = [run for run in self.forecast(tables.read(request.results, "runs")) if not run.finished]
        mine = [run.spec for run in planned if part is None or (run.spec.variant, run.spec.seed) in part]
        for variant, config in {spec.variant: spec.config for spec in mine}.items():
            check_loss(variant, config, search, progress)

    def threads(self) -> AbstractContextManager[object]:
        """As in the base class."""
        return use_threads(self.request.threads)

    def make(self, spec: RunSpec, networks: Networks, progress: Progress, **options: Any) -> Row:
        """Train a model, sample from it and measure."""
        from ablate.runs.pipeline import execute_run

        options |= {"load_wall_s": self.load_wall_s, "save_every_s": self.request.save_every_s}
        options |= {"compile": self.request.compile, "progress": progress}
        return execute_run(spec, self.images, self.request.results, networks=networks(), **options)

    def measure_more(
        self, spec: RunSpec, run_id: str, networks: Networks, progress: Progress, *, lacking: bool, session: str | None
    ) -> int:
        """As in the base class."""
        from ablate.inference import number_formats
        from ablate.runs.loading import load_run
        from ablate.runs.missing_metrics import add_missing_metrics

        request, added = self.request, 0
        finished = load_run(request.results, run_id, pick_device(request.device))
        if lacking:
            added += add_missing_metrics(request.results, finished, spec, self.images, networks(), progress=progress)
        if session is None:
            return added
        if request.quantize is not None or request.scopes is not None:
            formats = spec.config.quantize
            added += number_formats.add_missing_formats(
                request.results, finished, self.images, networks(), formats, session=session, progress=progress
            )
        return added + self.add_curves(spec, run_id, networks, progress)

    def add_curves(self, spec: RunSpec, run_id: str, networks: Networks, progress: Progress) -> int:
        """As in the base class; points of curves have no curves themselves."""
        request = self.request
        if not request.nfe or spec.purpose is not None:
            return 0
        from ablate.runs.evaluation_curve import add_evaluations
        from ablate.runs.loading import load_run

        finished = load_run(request.results, run_id, pick_device(request.device))
        return add_evaluations(request.results, finished, self.images, networks(), request.nfe, progress=progress)

    def _load_data(self) -> ImageSet:
        return study_images(self.request.data, self.specs)

    def _planned(self, spec: RunSpec, run_id: str, finished: bool, times: RunTimes) -> Planned:
        spent = self._costs[spec.variant]
        train_macs = spent.train_macs(spec.config.train.steps)
        wall_s = times.wall_s(spec.config.hash, train_macs)
        kept = 4 * (spent.total_params + FEATURES["fd"] * spec.config.measure.fd_samples) + IMAGE_BYTES
        return Planned(spec, run_id, finished, wall_s, kept, CHECKPOINT_BYTES * spent.total_params, train_macs)

    @cached_property
    def _configs(self) -> dict[str, Config]:
        return {spec.variant: spec.config for spec in self.specs}

    @cached_property
    def _costs(self) -> dict[str, Cost]:
        return {variant: cost(config) for variant, config in self._configs.items()}


def expected_measuring(request: StudyRequest, planned: Sequence[Planned]) -> list[str]:
    """Return lines that say what a study will download, and which finished runs get missing metrics."""
    wanted, lines = networks_of(request.asked_metrics), []
    search = Search(request.weights, download=not request.offline)
    available = [network for network in wanted if obtainable(BACKBONE_OF[network], search)]
    for network in wanted:
        backbone = BACKBONES[BACKBONE_OF[network]]
        if local_file(backbone.name, search) is not None:
            continue
        first = headline_of(network)
        what = f"{backbone.megabytes} MB from {backbone.url}"
        if network in available:
            lines.append(f"to be downloaded for {first}: {what}")
        else:
            lines.append(f"not measured: {first}, whose weights are not here (ablate weights --fetch downloads them)")
    losses = {loss_weights(run.spec.config.train): run.spec.variant for run in planned if not run.finished}
    for name, variant in losses.items():
        if name is None or local_file(name, search) is not None:
            continue
        backbone = BACKBONES[name]
        if obtainable(name, search):
            what = f"{backbone.megabytes} MB from {backbone.url}"
            lines.append(f"to be downloaded for the loss of {variant}: {what}")
        else:
            how = f"ablate weights --fetch {name} downloads them"
            lines.append(f"{variant} cannot train: the weights of its loss are not here ({how})")
    finished = [run.run_id for run in planned if run.finished]
    if lacking := lacking_networks(request.results, finished, available):
        networks = ", ".join(network for network in available if any(network in some for some in lacking.values()))
        lines.append(f"{len(lacking)} finished, without the metrics of {networks}: they are added without training")
    return lines
