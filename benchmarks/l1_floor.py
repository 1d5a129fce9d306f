"""Why `l1_normalized` has a floor: `python benchmarks/l1_floor.py`, a second.

    w = a / max(S, floor),   a = tanh(logits),   S = sum |a| over the 25 taps

Without a floor w does not depend on the scale of a, so nothing holds S, and the gradient grows as
1/S. The first table shows the gradient of a filter's loss at the same logits times ever smaller
factors. `--steps 700 --seed 6` also trains a run of the study and shows how small S becomes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ablate.base import machine
from ablate.models.kpn.filters import KERNEL_WEIGHTS, TAPS, filter_pixels
from ablate.study import variants
from ablate.study.images import load_images
from ablate.training import loop
from ablate.training.checkpoint import TrainingState
from ablate.training.perceptual import perceptual_loss

FORMS = {"without": "l1", "with": "l1_floored"}  # the floor -> `model.kernel`
FACTORS = (1.0, 0.1, 0.01, 0.001, 0.0001)  # of the logits


def main(
    steps: Annotated[int, typer.Option(help="Steps of a training to watch.")] = 0,
    seed: Annotated[int, typer.Option(help="Its seed.")] = 6,
    preset: Annotated[str, typer.Option(help="Its preset.")] = "quick",
    floor: Annotated[bool, typer.Option(help="Train with the floor.")] = False,
    data: Annotated[str, typer.Option(help="Its images, as for ablate run.")] = "cats",
) -> None:
    """Print the gradients, and watch a training."""
    table = Table("logits times", "median S", *(f"gradient {how} floor" for how in FORMS))
    for factor in FACTORS:
        median, norms = gradients_at(factor)
        table.add_row(f"{factor:g}", f"{median:.2g}", *(f"{norm:.3g}" for norm in norms))
    Console().print(table)
    if steps:
        watch(steps, seed, preset, FORMS["with" if floor else "without"], data)


def gradients_at(factor: float) -> tuple[float, list[float]]:
    """Return the median of S at random logits times a factor, and the gradient's norm in each form."""
    generator = torch.Generator().manual_seed(0)
    image, target = torch.randn(2, 4, 3, 16, 16, generator=generator)
    logits = factor * torch.randn(4, TAPS, 16, 16, generator=generator)
    norms = []
    for kernel in FORMS.values():
        leaf = logits.clone().requires_grad_()
        loss = (filter_pixels(image, KERNEL_WEIGHTS[kernel].apply(leaf)) - target).square().mean()
        norms.append(float(torch.autograd.grad(loss, leaf)[0].norm()))
    return float(logits.tanh().abs().sum(1).median()), norms


def watch(steps: int, seed: int, preset: str, kernel: str, data: str) -> None:
    """Train the first steps of a run; print S at the finest scale, and the gradient's norm before clipping."""
    name = "l1_normalized" if kernel == FORMS["with"] else f"l1_normalized[model.kernel={kernel}]"
    config = variants.resolve(variants.load(name), preset)
    device = torch.device("cpu")  # a graph captured on a GPU could not be observed
    least: list[float] = []

    def observe(module: nn.Module, inputs: tuple[Tensor, ...], params: Tensor) -> None:
        least.append(float(params.detach()[:, :TAPS].float().tanh().abs().sum(1).min()))

    def on_step(state: TrainingState) -> None:
        if state.step == 0:
            state.model.filters.filter_params[-1].register_forward_hook(observe)  # type: ignore[union-attr, index]
        elif state.step % loop.LOG_EVERY == 0:
            row = state.curve[-1]
            typer.echo(
                f"step {state.step}: least S {min(least):.3g}, gradient {row['grad_norm']:.3g}, loss {row['loss']:.3f}"
            )
            least.clear()
        if state.step == steps:
            raise typer.Exit

    images = torch.from_numpy(load_images(data, config.data).train).to(device)
    with tempfile.TemporaryDirectory() as folder, machine.deterministic():
        loop.train(
            config, images, seed, perceptual=perceptual_loss(config.train, device), on_step=on_step,
            precision=machine.pick_precision(device), checkpoint=Path(folder) / "checkpoint.safetensors",
        )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
