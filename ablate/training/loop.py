"""Training of the denoiser: batches, loss and loop.

    loss = mean |a - b|^2 + weight * perceptual(x_hat, x),   a, b: x_hat and x in the loss space

In latent space x is a latent; the perceptual distance compares the decoded x_hat with the image.
AdamW with linear warm-up, linear decay to zero and clipping of the global gradient norm; averaged
weights with decay min(ema, (1 + n) / (10 + n)) after n steps.

Every random number is keyed by (seed, position of the image), so a run that is resumed after step n
has the bits of an uninterrupted one.
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
from ablate.base.source_code import code_version
from ablate.diffusion.objectives import Flow, append_dims, objective_of
from ablate.models.autoencoder import PIXEL_CODEC, ImageCodec
from ablate.models.denoiser import build
from ablate.study.config import Config, TrainConfig
from ablate.training.captured_steps import CapturedSteps
from ablate.training.checkpoint import SAVE_EVERY_S, TrainingState, stop_signals

LOG_EVERY = 10  # steps
LOGGED = ("loss", "loss_l2", "loss_perceptual", "grad_norm")

# The terms of a loss are three float32 scalars: loss, squared error, perceptual distance.
DrawInputs = Callable[[int], list[Tensor]]  # step -> its random inputs, on the CPU
LossTerms = Callable[..., list[Tensor]]  # these inputs, on the training device -> the terms
Backward = Callable[[int], list[Tensor]]  # step -> the terms; leaves gradients in the parameters

# `diffusion.times` -> a step's times t (B,), from uniform u (B,).
TIMES: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda u: u,
    # Few times near 0 and 1 (Esser et al., arXiv 2403.03206, with mean 0 and scale 1).
    "logit_normal": lambda u: torch.special.ndtri(u).sigmoid(),
}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step (from 0 on): linear warm-up, constant, linear decay."""
    warmup = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    start = config.decay_from * config.steps
    decay = min(1.0, (config.steps - step) / (config.steps - start)) if start < config.steps else 1.0
    return config.lr * warmup * decay


class Batches:
    """The images of each training step; the n-th image of a run depends only on (seed, n)."""

    def __init__(self, images: Tensor, config: TrainConfig, seed: int) -> None:
        """Take images from a data set (N, 3, S, S), uint8, on the training device."""
        self.images, self.config, self.seed = images, config, seed
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)

    def positions(self, step: int) -> range:
        """Return the positions of a step's images in the run, from 0 on."""
        return range(step * self.config.batch, (step + 1) * self.config.batch)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Return indices into the data set, int64 (B,), and flips, bool (B,), on the CPU."""
        positions = self.positions(step)
        indices = torch.tensor([self._index(position) for position in positions])
        if not self.config.flip:
            return indices, torch.zeros(len(positions), dtype=torch.bool)
        return indices, rng.uniform(self.seed, "flip", positions) < 0.5

    def gather(self, indices: Tensor, flipped: Tensor) -> Tensor:
        """Return images (B, 3, S, S), float32 in [-1, 1], for indices and flips on the device."""
        x = self.images[indices].float() / 127.5 - 1
        return torch.where(append_dims(flipped, x), x.flip(3), x) if self.config.flip else x

    def __call__(self, step: int) -> Tensor:
        """Return the images (B, 3, S, S) of a step, float32 in [-1, 1], on the training device."""
        return self.gather(*(x.to(self.images.device) for x in self.draw(step)))

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.images))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, rng.permutation(self.seed, "order", epoch, len(self.images))
        return int(self.order[place])


def add_perceptual(
    squared_error: Tensor,
    perceptual: nn.Module | None,
    weight: float,
    fraction: float,
    predict: Callable[[int], Tensor],
    images: Tensor,
) -> list[Tensor]:
    """Return the loss, the squared error and the perceptual distance, float32 scalars.

    Args:
        squared_error: A scalar.
        perceptual: (predicted, true images) -> distance per image (B,), or None.
        weight: Weight of the perceptual distance in the loss.
        fraction: Fraction of the batch, rounded up, whose perceptual distance is computed.
        predict: Maps n to the first n predicted images (n, 3, S, S).
        images: The true images (B, 3, S, S).
    """
    if perceptual is None:
        return [squared_error, squared_error, torch.zeros_like(squared_error)]
    count = math.ceil(fraction * len(images))
    distance = perceptual(predict(count), images[:count]).mean()
    return [squared_error + weight * distance, squared_error, distance]


def loss_terms(
    config: Config,
    perceptual: nn.Module | None,
    output: Tensor,
    x: Tensor,
    z: Tensor,
    t: Tensor,
    codec: ImageCodec = PIXEL_CODEC,
    images: Tensor | None = None,
    eps: Tensor | None = None,
) -> list[Tensor]:
    """Return the loss, the squared error and the perceptual distance, float32 scalars.

    Args:
        config: The run's configuration.
        perceptual: As in `add_perceptual`.
        output: The network's output (B, C, S, S).
        x: The clean sample (B, C, S, S).
        z: The noisy sample (B, C, S, S).
        t: Times (B,) in [0, 1].
        codec: Decodes x to images.
        images: The images (B, 3, S, S) that x encodes; None if x is the image itself.
        eps: The noise in z (B, C, S, S), for an objective of a plug-in.
    """
    how = objective_of(config.diffusion)
    x_hat = how.denoise(output, z, t)
    if isinstance(how, Flow):
        squared_error = how.error(x_hat, x, z, t)
    else:
        assert eps is not None
        squared_error = how.loss(output, x, eps, z, t)
    weight, fraction = config.train.perceptual_weight, config.train.perceptual_share
    images = x if images is None else images
    return add_perceptual(squared_error, perceptual, weight, fraction, lambda n: codec.decode(x_hat[:n]), images)


def objective(
    config: Config,
    network: nn.Module,
    batches: Batches,
    seed: int,
    *,
    perceptual: nn.Module | None,
    precision: str,
    codec: ImageCodec = PIXEL_CODEC,
) -> tuple[DrawInputs, LossTerms]:
    """Return a function that draws a step's random inputs, and one that maps them to `loss_terms`.

    Args:
        config: The run's configuration.
        network: (z (B, C, S, S), t (B,)) -> output (B, C, S, S).
        batches: The images of each step.
        seed: The run's seed.
        perceptual: As in `add_perceptual`.
        precision: `fp32`, or `bf16` for autocast.
        codec: Encodes images to samples of the diffusion space, and decodes them.
    """
    device, how = batches.images.device, objective_of(config.diffusion)

    def draw_inputs(step: int) -> list[Tensor]:
        positions = batches.positions(step)
        eps = rng.normal(seed, "noise", positions, config.shape)
        u = rng.uniform(seed, "time", positions)
        return [*batches.draw(step), eps, TIMES[config.diffusion.times](u)]

    def terms(indices: Tensor, flipped: Tensor, eps: Tensor, u: Tensor) -> list[Tensor]:
        images = batches.gather(indices, flipped)
        x = codec.encode(images)
        z, t = how.draw(x, eps, u)
        z = z.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = network(z, t)
        # Outside autocast: on a CPU the perceptual network's depthwise convolutions are slower in
        # bfloat16 (docs/log.md).
        return loss_terms(config, perceptual, output.float(), x, z, t, codec, images, eps)

    return draw_inputs, terms


def make_backward(draw_inputs: DrawInputs, terms: LossTerms, state: TrainingState, steps: int) -> Backward:
    """Return a function that computes a step's loss terms and gradients.

    On a GPU it is captured as a CUDA graph.

    Args:
        draw_inputs: Draws a step's random inputs.
        terms: Maps them, on the training device, to the loss terms.
        state: Its parameters get the gradients.
        steps: Steps of the training.
    """
    device = state.sums.device
    if device.type == "cuda":
        return CapturedSteps(draw_inputs, terms, state.parameters, steps)

    def backward(step: int) -> list[Tensor]:
        values = terms(*(x.to(device) for x in draw_inputs(step)))
        values[0].backward()
        return values

    return backward


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
    """Train a denoiser; resume from the checkpoint if there is one.

    Args:
        config: The run's configuration.
        images: The data set (N, 3, S, S), uint8, on the training device.
        seed: The run's seed.
        perceptual: Frozen, on the training device; as in `add_perceptual`.
        precision: `fp32`, or `bf16` for autocast.
        compiled: Whether the model is compiled, or the parts that it names.
        checkpoint: The file to resume from and to save to.
        codec: Encodes images to samples of the diffusion space, and decodes them.
        save_every_s: Seconds between checkpoints.
        on_step: Called before the first step and after each.

    Raises:
        DivergedError: A loss or gradient norm is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved.
    """
    device = images.device
    model = build(config, seed, device)
    if compiled:
        getattr(model, "compile_parts", model.compile)()
    state = TrainingState(model, build(config, seed, device), config.train, len(LOGGED))
    if config.sample.guided:
        state.guide_step = max(1, round(config.sample.guide_after * config.train.steps))
    batches = Batches(images, config.train, seed)
    backward = make_backward(
        *objective(config, model, batches, seed, perceptual=perceptual, precision=precision, codec=codec),
        state,
        config.train.steps,
    )
    arithmetic = machine.arithmetic(device, precision, compiled=compiled)
    return run_loop(state, config.train, backward, checkpoint, on_step, save_every_s, arithmetic=arithmetic, seed=seed)


def run_loop(
    state: TrainingState,
    config: TrainConfig,
    backward: Backward,
    checkpoint: Path,
    on_step: Callable[[TrainingState], None],
    save_every_s: float = SAVE_EVERY_S,
    *,
    arithmetic: str,
    seed: int,
) -> TrainingState:
    """Run the training loop from the checkpoint's step, or else the state's, to the last.

    Args:
        state: The state at the start.
        config: Steps, learning rate, clipping and averaging.
        backward: Leaves a step's gradients in the parameters; returns the loss terms.
        checkpoint: The file to resume from and to save to; the one before it is kept too.
        on_step: Called before the first step and after each.
        save_every_s: Seconds between checkpoints.
        arithmetic: How the steps are computed, from `machine.arithmetic`.
        seed: The run's seed.

    Raises:
        DivergedError: A loss or gradient norm is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved.
    """
    state.load(checkpoint)
    state.record_arithmetic(arithmetic)
    state.record_code(code_version())
    start_s = time.monotonic() - state.wall_s
    logged_s, timed_step = time.monotonic(), state.step  # the start of the interval whose speed is logged
    saved_s = -math.inf  # the first step saves, so that a full disk shows at once
    with stop_signals() as stopped:
        on_step(state)
        while state.step < config.steps:
            torch.manual_seed(rng.derive(seed, "model", state.step))  # a network with dropout draws from it
            terms = backward(state.step)
            lr = learning_rate(config, state.step)
            norm = state.update(lr, config.grad_clip, config.ema)
            state.sums += torch.stack([*terms, norm]).detach()
            state.wall_s = time.monotonic() - start_s
            if state.step % LOG_EVERY == 0 or state.step == config.steps:
                count = state.step - state.logged_step
                means = dict(zip(LOGGED, (state.sums / count).tolist(), strict=True))
                if not all(map(math.isfinite, means.values())):
                    loss, norm_mean = means["loss"], means["grad_norm"]
                    raise DivergedError(f"loss {loss:g}, gradient norm {norm_mean:g} near step {state.step}")
                rate = (state.step - timed_step) * config.batch / (time.monotonic() - logged_s)
                row = {"step": state.step, "images_seen": state.step * config.batch, "lr": lr, "images_per_s": rate}
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
