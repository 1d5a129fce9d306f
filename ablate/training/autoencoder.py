"""The latent space of a run: an autoencoder trained on the run's pictures under its seed, or the same one from the cache.

    loss = mean |x_hat - x|^2 + weight * perceptual(x_hat, x) + kl_weight * KL
It sees the pictures in the order in which the denoiser will. The cache is keyed by content: the data set's digest, the seed, the settings
that the autoencoder depends on and the precision. So variants of one seed share it, and its training time is charged to each of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ablate.base import rng
from ablate.base.errors import ResultsError
from ablate.base.machine import arithmetic
from ablate.diffusion.sampling import BATCH
from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.pair_distances import PerceptualDistance
from ablate.models.autoencoder import Autoencoder, ImageCodec, latent_codec
from ablate.models.kpn.backbone import DIFFUSION_SPACES
from ablate.models.kpn.denoiser import initialise
from ablate.models.weight_files import digest, save_tensors
from ablate.store.cache import cache_folder
from ablate.study.config import Config, TrainConfig
from ablate.training.checkpoint import SAVE_EVERY_S, TrainingState, previous_of
from ablate.training.loop import LOGGED, Batches, add_perceptual, fit, gradients_of

VERSION = 1  # of the autoencoder's code: raised when the same settings give other weights


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A trained autoencoder."""

    codec: ImageCodec
    tensors: Mapping[str, Tensor]  # its weights, and `shift` and `scale` of the latents, on the CPU
    digest: str  # SHA-256 of the tensors
    wall_s: float  # what its training took, now or when the cache was filled
    mixed_arithmetic: str | None = (
        None  # what it was computed in, where that changed on the way: such a one is not cached
    )


def prepare(
    config: Config,
    images: Tensor,
    data_digest: str,
    seed: int,
    *,
    precision: str,
    checkpoint: Path,
    cache: Path | None = None,
    save_every_s: float = SAVE_EVERY_S,
    on_step: Callable[[TrainingState], None] = lambda state: None,
) -> TrainedAutoencoder:
    """Return the autoencoder of a data set and seed, from the cache or trained now.

    Args:
        config: The variant's configuration.
        images: (N, 3, 64, 64) uint8, on the device to train on.
        data_digest: The data set's fingerprint.
        seed: The run's seed.
        precision: `fp32`, or `bf16` for autocast.
        checkpoint: Where an interrupted training is kept; the cache's file takes its place.
        cache: The cache's folder; None: the user's.
        save_every_s: Seconds between checkpoints.
        on_step: Called before the first training step and after each.

    Raises:
        DivergedError: A loss or gradient norm is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the training was saved first.
    """
    budget = _budget(config)
    key = _key(config, budget, data_digest, seed, arithmetic(images.device, precision))
    path = (cache or cache_folder()) / "autoencoders" / f"{key}.safetensors"
    tensors, wall_s = _read(path) or ({}, 0.0)
    mixed = None
    if not tensors:
        state = _train(config, budget, images, seed, precision, checkpoint, on_step, save_every_s)
        assert isinstance(state.ema, Autoencoder)
        shift, scale = _moments(state.ema, images, precision)
        tensors = {name: p.detach().cpu() for name, p in state.ema.named_parameters()}
        tensors |= {"shift": shift.cpu(), "scale": scale.cpu()}
        wall_s, mixed = state.wall_s, state.mixed_arithmetic
        if mixed is None:
            with suppress(ResultsError):  # a full or read-only cache: the checkpoints have to do
                save_tensors(path, tensors, {"sha256": digest(tensors), "wall_s": json.dumps(wall_s)})
                for left in (checkpoint, previous_of(checkpoint)):
                    left.unlink(missing_ok=True)
    return TrainedAutoencoder(
        codec_from_tensors(config, tensors, images.device, precision), tensors, digest(tensors), wall_s, mixed
    )


def codec_from_tensors(config: Config, tensors: dict[str, Tensor], device: torch.device, precision: str) -> ImageCodec:
    """Return the codec of an autoencoder's weights, shift and scale."""
    model = Autoencoder(config.autoencoder)
    model.load_state_dict({name: t for name, t in tensors.items() if name not in ("shift", "scale")})
    model.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    return latent_codec(model, tensors["shift"].to(device), tensors["scale"].to(device), precision)


def _budget(config: Config) -> TrainConfig:
    """The autoencoder's training: its own settings, and the preset's for the rest."""
    own = config.autoencoder
    return dataclasses.replace(
        config.train,
        steps=own.steps,
        batch=own.batch,
        lr=own.lr,
        perceptual="efficientnet_lite0",
        perceptual_weight=own.perceptual_weight,
    )


def _key(config: Config, budget: TrainConfig, data_digest: str, seed: int, computed: str) -> str:
    content = [
        VERSION,
        data_digest,
        seed,
        computed,
        dataclasses.asdict(config.autoencoder),
        dataclasses.asdict(budget),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _train(
    config: Config,
    budget: TrainConfig,
    images: Tensor,
    seed: int,
    precision: str,
    checkpoint: Path,
    on_step: Callable[[TrainingState], None],
    save_every_s: float,
) -> TrainingState:
    device = images.device

    def build() -> Autoencoder:
        model = Autoencoder(config.autoencoder)
        initialise(model, seed)
        return model.to(device).to(memory_format=torch.channels_last)

    state = TrainingState(build(), build(), budget, len(LOGGED))
    batches = Batches(images, budget, seed)
    perceptual = PerceptualDistance(efficientnet_lite0(device), stages=budget.perceptual_stages)
    channels, size, _ = DIFFUSION_SPACES["latent"]

    def draw(step: int) -> list[Tensor]:
        return [*batches.draw(step), rng.normal(seed, "posterior", batches.numbers(step), (channels, size, size))]

    def parts_of(places: Tensor, mirrored: Tensor, eps: Tensor) -> list[Tensor]:
        x = batches.take(places, mirrored)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            x_hat, kl = state.model(x, eps)
        squared = (x_hat - x).square().mean()
        parts = add_perceptual(
            squared, perceptual, budget.perceptual_weight, budget.perceptual_share, lambda n: x_hat[:n], x
        )
        return [parts[0] + config.autoencoder.kl_weight * kl, *parts[1:]]

    gradients = gradients_of(draw, parts_of, state, budget.steps)
    return fit(state, budget, gradients, checkpoint, on_step, save_every_s, arithmetic=arithmetic(device, precision))


def _moments(model: Autoencoder, images: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel's latents over pictures, (4,) float32."""
    plain = latent_codec(
        model, images.new_zeros(1, dtype=torch.float32), images.new_ones(1, dtype=torch.float32), precision
    )
    z = torch.cat([plain.encode(some.float() / 127.5 - 1).double().cpu() for some in images.split(BATCH)])
    return z.mean((0, 2, 3)).float(), z.std((0, 2, 3)).clamp(min=1e-6).float()


def _read(path: Path) -> tuple[dict[str, Tensor], float] | None:
    """What a file of the cache holds, or None where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
        wall_s = float(metadata["wall_s"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return (tensors, wall_s) if metadata.get("sha256") == digest(tensors) else None
