"""What every phase of a training run needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from ablate.base.errors import check_lease
from ablate.base.progress import Progress, Task
from ablate.data.datasets import ImageSet
from ablate.metrics.networks import MetricNetworks
from ablate.runs.rows import RunRows
from ablate.study.plan import RunSpec
from ablate.training.checkpoint import SAVE_EVERY_S


@dataclass(frozen=True)
class RunContext:
    """The inputs, the rows and the settings of one run.

    Attributes:
        spec: What is run.
        data: The images.
        rows: The rows, filled phase by phase.
        artifacts: The folder that the run writes its files to.
        networks: What samples are measured with.
        device: Where everything computes.
        precision: `fp32` or `bf16`.
        compiled: Whether the training step is compiled.
        progress: Bars to show.
        save_every_s: Seconds between checkpoints.
        cache: Folder of trained autoencoders; None: the user's.
        previews: Draw small grids during training.
        still_ours: Returns False once another process has taken the run over.
    """

    spec: RunSpec
    data: ImageSet
    rows: RunRows
    artifacts: Path
    networks: MetricNetworks
    device: torch.device
    precision: str
    compiled: bool
    progress: Progress
    save_every_s: float = SAVE_EVERY_S
    cache: Path | None = None
    previews: bool = False
    still_ours: Callable[[], bool] = lambda: True

    def check_lease(self) -> None:
        """Stop if another process has taken the run over, as `ablate.base.errors.check_lease`."""
        check_lease(self.rows.run["run_id"], self.still_ours)

    def task(self, name: str, total: int) -> AbstractContextManager[Task]:
        """Show a bar for a phase of this run."""
        return self.progress.task(f"{self.spec.variant} s{self.spec.seed}: {name}", total)
