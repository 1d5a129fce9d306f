"""Small grids of samples drawn while a run trains, with the averaged weights, at a few steps.

    steps / 2, steps / 4, steps / 8, ...  as many as MACS_SHARE of its MACs pays for, at least LEAST

Their time counts in `train_wall_s`, their MACs are not counted. A short training pays more than
MACS_SHARE for them. They show the first images that the finished run draws, from the same noise:
the same place in two grids is the same image at two steps. Noise is keyed by (seed, image), and
drawing changes no weight: a run has the same digests with and without previews.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.models.autoencoder import ImageCodec
from ablate.runs.context import RunContext
from ablate.store.image_grids import save_grid

IMAGES = 16  # in a grid
MACS_SHARE = 0.015  # of the training's MACs
LEAST, MOST = 2, 6  # grids


def preview_steps(steps: int, train_macs: int, grid_macs: int) -> list[int]:
    """Return the steps after which a grid is drawn, in order.

    Args:
        steps: Training steps.
        train_macs: Multiply-accumulates of the whole training.
        grid_macs: Multiply-accumulates of one grid.
    """
    count = min(MOST, max(LEAST, int(MACS_SHARE * train_macs / grid_macs)))
    return sorted({steps >> halvings for halvings in range(1, count + 1)} - {0})


def previews(context: RunContext, codec: ImageCodec) -> Callable[[int, nn.Module], None]:
    """Return a function of a step and the averaged weights: it draws `samples_<step>.png` at the chosen steps.

    The steps follow from the costs of training and sampling in the run's row.
    """
    spec, row = context.spec, context.rows.run
    grid_macs = IMAGES * (row["nfe"] * row["macs"] + row["decode_macs"])
    steps = preview_steps(spec.config.train.steps, row["train_macs"], grid_macs)

    def draw(step: int, model: nn.Module) -> None:
        if step in steps:
            precision = context.precision
            images = sample_images(model, spec.config, spec.seed, range(IMAGES), precision=precision, codec=codec)
            save_grid(preview_path(context.artifacts, step), to_uint8(images))

    return draw


def preview_path(folder: Path, step: int) -> Path:
    """Return the file of a grid among a run's artifacts."""
    return folder / f"samples_{step}.png"
