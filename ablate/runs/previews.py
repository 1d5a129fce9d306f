"""What a run draws while it trains, so that one can look in: small grids by the averaged weights, at a few steps.

    steps / 2, steps / 4, steps / 8, ...   as many as SHARE of the training's MACs pays for, LEAST at least
Their time is in `train_wall_s`, their MACs are in no account: a short training pays more than SHARE for them.
The pictures are the first of those that the finished run draws, from the same noise: the same place is the same picture, only younger.
Noise is keyed by (seed, picture), and drawing changes no weight: a run has the same digests with and without it.
"""

from __future__ import annotations

from pathlib import Path

from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.models.autoencoder import ImageCodec
from ablate.models.kpn.denoiser import Denoiser
from ablate.runs.job import Job
from ablate.store.image_grids import save_grid

PICTURES = 16
SHARE = 0.015  # of the training's MACs
LEAST, MOST = 2, 6  # grids


def moments(steps: int, train_macs: int, grid_macs: int) -> list[int]:
    """Return the steps after which a grid is drawn, in order.

    Args:
        steps: Of the training.
        train_macs: Multiply-accumulates of the whole training.
        grid_macs: Those of one grid.
    """
    count = min(MOST, max(LEAST, int(SHARE * train_macs / grid_macs)))
    return sorted({steps >> halvings for halvings in range(1, count + 1)} - {0})


class Sketches:
    """Draws `samples_<step>.png` into the run's working folder when its step has come."""

    def __init__(self, job: Job, codec: ImageCodec) -> None:
        """Choose the steps by what the run's row says that training and sampling cost."""
        self.job, self.codec = job, codec
        row = job.tables.run
        grid_macs = PICTURES * (row["nfe"] * row["macs"] + row["decode_macs"])
        self.moments = moments(job.spec.config.train.steps, row["train_macs"], grid_macs)

    def __call__(self, step: int, model: Denoiser) -> None:
        """Draw if this is one of the steps; `model` has the averaged weights."""
        if step in self.moments:
            job = self.job
            config, seed = job.spec.config, job.spec.seed
            drawn = sample_images(model, config, seed, range(PICTURES), precision=job.precision, codec=self.codec)
            save_grid(sketch_path(job.artifacts, step), to_uint8(drawn))


def sketch_path(folder: Path, step: int) -> Path:
    """Return the file of a grid, among a run's artifacts."""
    return folder / f"samples_{step}.png"
