"""Training: one loop, its batches and its loss.

    loss = mean |a - b|^2 + weight * perceptual(x_hat, x),   a, b: x_hat and x in the loss space
In latent space x are latents, and the perceptual distance is that of the decoded x_hat to the picture.
AdamW, linear warm-up, linear decay to zero, global-norm clipping, averaged weights with decay min(ema, (1 + n) / (10 + n)).
Every random number is keyed by (seed, picture number), so a run that resumes after step n continues bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ablate.base import machine, rng
from ablate.base.errors import DivergedError
from ablate.diffusion.objectives import LOSS_SPACE, PREDICTION, expand, interpolate
from ablate.models.autoencoder import PIXEL_CODEC, ImageCodec
from ablate.models.kpn.backbone import DIFFUSION_SPACES
from ablate.models.kpn.denoiser import build
from ablate.study.config import Config, TrainConfig
from ablate.training.captured_steps import CapturedSteps
from ablate.training.checkpoint import SAVE_EVERY_S, TrainingState, stop_signals

LOG_EVERY = 10  # steps
LOGGED = ("loss", "loss_l2", "loss_perceptual", "grad_norm")

Draw = Callable[[int], list[Tensor]]  # a step's number -> what is drawn for it, on the CPU
Parts = Callable[..., list[Tensor]]  # what was drawn, on the training device -> the loss and its parts
Gradients = Callable[[int], list[Tensor]]  # a step's number -> the same, with gradients left in the parameters


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, constant, linear decay to zero."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    start = config.decay_from * config.steps
    return (
        config.lr * warm * (min(1.0, (config.steps - step) / (config.steps - start)) if start < config.steps else 1.0)
    )


class Batches:
    """The pictures of each training step; picture n of the run depends on (seed, n) alone."""

    def __init__(self, images: Tensor, config: TrainConfig, seed: int) -> None:
        """Draw from uint8 images (N, 3, S, S) on the training device."""
        self.images, self.config, self.seed = images, config, seed
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)

    def numbers(self, step: int) -> range:
        """Return the numbers of a step's pictures in the run."""
        return range(step * self.config.batch, (step + 1) * self.config.batch)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Return where a step's pictures stand, int64 (B,), and which of them are mirrored, bool (B,), on the CPU."""
        numbers = self.numbers(step)
        places = torch.tensor([self._pick(n) for n in numbers])
        if not self.config.flip:
            return places, torch.zeros(len(numbers), dtype=torch.bool)
        return places, rng.uniform(self.seed, "flip", numbers) < 0.5

    def take(self, places: Tensor, mirrored: Tensor) -> Tensor:
        """Return the pictures (B, 3, S, S) that were drawn, both on the training device, float32 in [-1, 1]."""
        x = self.images[places].float() / 127.5 - 1
        return torch.where(expand(mirrored, x), x.flip(3), x) if self.config.flip else x

    def __call__(self, step: int) -> Tensor:
        """Return the pictures (B, 3, S, S) of a step, float32 in [-1, 1]."""
        return self.take(*(x.to(self.images.device) for x in self.draw(step)))

    def _pick(self, number: int) -> int:
        epoch, position = divmod(number, len(self.images))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, rng.permutation(self.seed, "order", epoch, len(self.images))
        return int(self.order[position])


def add_perceptual(
    squared: Tensor,
    perceptual: nn.Module | None,
    weight: float,
    share: float,
    found: Callable[[int], Tensor],
    x: Tensor,
) -> list[Tensor]:
    """Return the loss, its squared error and its perceptual distance, float32 scalars.

    Args:
        squared: The squared error, a scalar.
        perceptual: Maps pictures and their targets to a distance per picture; None: the loss is the squared error.
        weight: Of the perceptual distance.
        share: Of the batch that the perceptual distance is taken of.
        found: Gives the first n predicted pictures (n, 3, S, S).
        x: The target pictures (B, 3, S, S).
    """
    if perceptual is None:
        return [squared, squared, torch.zeros_like(squared)]
    part = math.ceil(share * len(x))
    distance = perceptual(found(part), x[:part]).mean()
    return [squared + weight * distance, squared, distance]


def loss_parts(
    config: Config,
    perceptual: nn.Module | None,
    output: Tensor,
    x: Tensor,
    z: Tensor,
    t: Tensor,
    codec: ImageCodec = PIXEL_CODEC,
    pictures: Tensor | None = None,
) -> list[Tensor]:
    """Return the loss, its squared error and its perceptual distance, float32 scalars, of an output for z (B, C, S, S), t (B,).

    Args:
        config: The configuration.
        perceptual: Maps pictures and their targets to a distance per picture, or None.
        output: The network's output (B, C, S, S).
        x: The clean target (B, C, S, S).
        z: What the network saw (B, C, S, S).
        t: Its times (B,).
        codec: Decodes x.
        pictures: What x encodes, (B, 3, S, S); None: x itself.
    """
    space, clip = LOSS_SPACE[config.diffusion.loss], config.diffusion.clip
    x_hat = PREDICTION[config.diffusion.prediction](output, z, t, clip)
    squared = (space(x_hat, z, t, clip) - space(x, z, t, clip)).square().mean()
    weight, share = config.train.perceptual_weight, config.train.perceptual_share
    pictures = x if pictures is None else pictures
    return add_perceptual(squared, perceptual, weight, share, lambda n: codec.decode(x_hat[:n]), pictures)


def objective(
    config: Config,
    network: nn.Module,
    batches: Batches,
    seed: int,
    *,
    perceptual: nn.Module | None,
    precision: str,
    codec: ImageCodec = PIXEL_CODEC,
) -> tuple[Draw, Parts]:
    """Return what draws a step's random numbers, and what maps them to the loss and its parts, as `loss_parts` does.

    Args:
        config: The configuration.
        network: (z (B, C, S, S), t (B,)) -> output.
        batches: The pictures of each step.
        seed: The run's seed.
        perceptual: As in `train`.
        precision: `fp32`, or `bf16` for autocast.
        codec: Between pictures and what is diffused.
    """
    device, (channels, size, _) = batches.images.device, DIFFUSION_SPACES[config.model.space]

    def draw(step: int) -> list[Tensor]:
        numbers = batches.numbers(step)
        noise = rng.normal(seed, "noise", numbers, (channels, size, size))
        return [*batches.draw(step), noise, rng.uniform(seed, "time", numbers)]

    def parts_of(places: Tensor, mirrored: Tensor, eps: Tensor, t: Tensor) -> list[Tensor]:
        pictures = batches.take(places, mirrored)
        x = codec.encode(pictures)
        z = interpolate(x, eps, t).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = network(z, t)
        # Outside autocast: depthwise convolutions are slower in bfloat16 on a CPU (docs/log.md).
        return loss_parts(config, perceptual, output, x, z, t, codec, pictures)

    return draw, parts_of


def gradients_of(draw: Draw, parts_of: Parts, state: TrainingState, steps: int) -> Gradients:
    """Return what maps a step's number to its loss and the loss's parts, and leaves the loss's gradients in the parameters.

    Args:
        draw: Gives a step's random numbers.
        parts_of: Maps them, on the training device, to the loss and its parts.
        state: Whose parameters get gradients.
        steps: The training's.
    """
    device = state.sums.device
    if device.type == "cuda":
        return CapturedSteps(draw, parts_of, state.parameters, steps)

    def gradients(step: int) -> list[Tensor]:
        parts = parts_of(*(x.to(device) for x in draw(step)))
        parts[0].backward()
        return parts

    return gradients


def train(
    config: Config,
    images: Tensor,
    seed: int,
    *,
    perceptual: nn.Module | None,
    precision: str,
    compiled: bool = False,
    checkpoint: Path,
    codec: ImageCodec = PIXEL_CODEC,
    save_every_s: float = SAVE_EVERY_S,
    on_step: Callable[[TrainingState], None] = lambda state: None,
) -> TrainingState:
    """Train a denoiser, resuming from the checkpoint where there is one.

    Args:
        config: What to train.
        images: (N, 3, 64, 64) uint8, on the device to train on.
        seed: The run's seed.
        perceptual: The frozen perceptual distance on the same device, or None; maps (x_hat, x) to a distance per picture.
        precision: `fp32`, or `bf16` for autocast.
        compiled: Compile the transformer blocks.
        checkpoint: The file to resume from and to save to.
        codec: Between pictures and what is diffused.
        save_every_s: Seconds between checkpoints.
        on_step: Called before the first step and after each.

    Raises:
        DivergedError: A loss or gradient norm is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    device = images.device
    model = build(config.model, seed, device)
    if compiled:
        model.backbone.compile_blocks()
    state = TrainingState(model, build(config.model, seed, device), config.train, len(LOGGED))
    batches = Batches(images, config.train, seed)
    draw, parts_of = objective(config, model, batches, seed, perceptual=perceptual, precision=precision, codec=codec)
    arithmetic = machine.arithmetic(device, precision, compiled=compiled)
    return fit(
        state,
        config.train,
        gradients_of(draw, parts_of, state, config.train.steps),
        checkpoint,
        on_step,
        save_every_s,
        arithmetic=arithmetic,
    )


def fit(
    state: TrainingState,
    budget: TrainConfig,
    gradients: Gradients,
    checkpoint: Path,
    on_step: Callable[[TrainingState], None],
    save_every_s: float = SAVE_EVERY_S,
    *,
    arithmetic: str,
) -> TrainingState:
    """Run the training loop from the state's step, or the checkpoint's, to the budget's last.

    Args:
        state: The model to train, and where it stands.
        budget: Steps, learning rate, clipping and averaging.
        gradients: Leaves a step's gradients in the parameters; gives the loss, its squared error and its perceptual distance.
        checkpoint: The file to resume from and to save to.
        on_step: Called before the first step and after each.
        save_every_s: Seconds between checkpoints; the last two are kept.
        arithmetic: What the steps are computed in, as `machine.arithmetic` tells.

    Raises:
        DivergedError: A loss or gradient norm is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    state.load(checkpoint)
    state.record_arithmetic(arithmetic)
    start_s = time.monotonic() - state.wall_s
    logged_s, saved_s = time.monotonic(), -math.inf  # the first step saves: whether there is room shows at once
    timed_step = state.step  # since `logged_s`
    with stop_signals() as stopped:
        on_step(state)
        while state.step < budget.steps:
            parts = gradients(state.step)
            lr = learning_rate(budget, state.step)
            norm = state.update(lr, budget.grad_clip, budget.ema)
            state.sums += torch.stack([*parts, norm]).detach()
            state.wall_s = time.monotonic() - start_s
            if state.step % LOG_EVERY == 0 or state.step == budget.steps:
                count = state.step - state.logged_step
                means = dict(zip(LOGGED, (state.sums / count).tolist(), strict=True))
                if not all(map(math.isfinite, means.values())):
                    raise DivergedError(
                        f"loss {means['loss']:g}, gradient norm {means['grad_norm']:g} near step {state.step}"
                    )
                rate = (state.step - timed_step) * budget.batch / (time.monotonic() - logged_s)
                row = {"step": state.step, "images_seen": state.step * budget.batch, "lr": lr, "images_per_s": rate}
                state.curve.append(row | means)
                state.sums.zero_()
                state.logged_step, timed_step, logged_s = state.step, state.step, time.monotonic()
            on_step(state)
            if stopped() or time.monotonic() - saved_s > save_every_s:
                state.save(checkpoint)
                saved_s = time.monotonic()
            if stopped():
                raise KeyboardInterrupt
    if state.saved_step != state.step:
        state.save(checkpoint)
    return state
