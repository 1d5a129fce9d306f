"""The autoencoder of a latent-space run: trained on the run's images under its seed, or cached.

    loss = mean |x_hat - x|^2 + weight * perceptual(x_hat, x) + kl_weight * KL

It sees the images in the same order as the denoiser. The cache is keyed by content: the data set's
digest, the seed, the settings that the autoencoder depends on, and the arithmetic. So the variants
of one seed share an autoencoder, and each is charged with its training time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ablate.base import rng
from ablate.base.errors import ResultsError
from ablate.base.machine import arithmetic
from ablate.diffusion.sampling import BATCH
from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.pair_distances import PerceptualDistance
from ablate.models.autoencoder import Autoencoder, ImageCodec, latent_codec
from ablate.models.kpn.denoiser import initialise
from ablate.models.weight_files import digest, read_tensors, save_tensors
from ablate.store.cache import cache_folder
from ablate.study.config import LATENT_SHAPE, Config, TrainConfig
from ablate.training.checkpoint import SAVE_EVERY_S, TrainingState, previous_of
from ablate.training.loop import LOGGED, Batches, add_perceptual, make_backward, run_loop

VERSION = 1  # of this code; raised when the same settings give other weights


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A trained autoencoder and how it was trained.

    Attributes:
        codec: Encodes and decodes images with it.
        tensors: Its weights, and `shift` and `scale` of the latents, on the CPU.
        digest: SHA-256 digest of the tensors.
        wall_s: Seconds of the training, now or when the cache was filled.
        code: As in `TrainingState`.
        mixed_arithmetic: As in `TrainingState`. Such an autoencoder is not cached.
    """

    codec: ImageCodec
    tensors: Mapping[str, Tensor]
    digest: str
    wall_s: float
    code: tuple[str, ...]
    mixed_arithmetic: str | None = None


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
        config: The run's configuration.
        images: The data set (N, 3, 64, 64), uint8, on the training device.
        data_digest: Digest of the data set.
        seed: The run's seed.
        precision: `fp32`, or `bf16` for autocast.
        checkpoint: The file that keeps an interrupted training; deleted once the result is cached.
        cache: The cache folder; None: the user's.
        save_every_s: Seconds between checkpoints.
        on_step: Called before the first training step and after each.

    Raises:
        DivergedError: A loss or gradient norm is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the training was saved.
    """
    train_config = _train_config(config)
    key = _key(config, train_config, data_digest, seed, arithmetic(images.device, precision))
    path = (cache or cache_folder()) / "autoencoders" / f"{key}.safetensors"
    tensors, wall_s, code = _read_cached(path) or ({}, 0.0, [])
    mixed = None
    if not tensors:
        state = _train(config, train_config, images, seed, precision, checkpoint, on_step, save_every_s)
        assert isinstance(state.ema, Autoencoder)
        shift, scale = _latent_moments(state.ema, images, precision)
        tensors = {name: p.detach().cpu() for name, p in state.ema.named_parameters()}
        tensors |= {"shift": shift.cpu(), "scale": scale.cpu()}
        wall_s, code, mixed = state.wall_s, state.code, state.mixed_arithmetic
        if mixed is None:
            with suppress(ResultsError):  # the cache is full or read-only: the checkpoints stay
                metadata = {"sha256": digest(tensors), "wall_s": json.dumps(wall_s), "code": json.dumps(code)}
                save_tensors(path, tensors, metadata)
                for file in (checkpoint, previous_of(checkpoint)):
                    file.unlink(missing_ok=True)
    codec = codec_from_tensors(config, tensors, images.device, precision)
    return TrainedAutoencoder(codec, tensors, digest(tensors), wall_s, tuple(code), mixed)


def codec_from_tensors(config: Config, tensors: dict[str, Tensor], device: torch.device, precision: str) -> ImageCodec:
    """Return the codec of an autoencoder's weights, `shift` and `scale`, on a device."""
    model = Autoencoder(config.autoencoder)
    model.load_state_dict({name: t for name, t in tensors.items() if name not in ("shift", "scale")})
    model.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    return latent_codec(model, tensors["shift"].to(device), tensors["scale"].to(device), precision)


def _train_config(config: Config) -> TrainConfig:
    """The autoencoder's own training settings, and the preset's for the rest."""
    own = config.autoencoder
    return config.train.replaced(
        steps=own.steps,
        batch=own.batch,
        lr=own.lr,
        perceptual="efficientnet_lite0",
        perceptual_weight=own.perceptual_weight,
    )


def _key(config: Config, train_config: TrainConfig, data_digest: str, seed: int, arithmetic: str) -> str:
    settings = [config.autoencoder.model_dump(), train_config.model_dump()]
    content = json.dumps([VERSION, data_digest, seed, arithmetic, *settings], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _train(
    config: Config,
    train_config: TrainConfig,
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

    state = TrainingState(build(), build(), train_config, len(LOGGED))
    batches = Batches(images, train_config, seed)
    perceptual = PerceptualDistance(efficientnet_lite0(device), stages=train_config.perceptual_stages)
    weight, fraction = train_config.perceptual_weight, train_config.perceptual_share
    channels, size, _ = LATENT_SHAPE

    def draw_inputs(step: int) -> list[Tensor]:
        eps = rng.normal(seed, "posterior", batches.positions(step), (channels, size, size))
        return [*batches.draw(step), eps]

    def terms(indices: Tensor, flipped: Tensor, eps: Tensor) -> list[Tensor]:
        x = batches.gather(indices, flipped)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            x_hat, kl = state.model(x, eps)
        squared_error = (x_hat - x).square().mean()
        loss, *rest = add_perceptual(squared_error, perceptual, weight, fraction, lambda n: x_hat[:n], x)
        return [loss + config.autoencoder.kl_weight * kl, *rest]

    backward = make_backward(draw_inputs, terms, state, train_config.steps)
    how = arithmetic(device, precision)
    return run_loop(state, train_config, backward, checkpoint, on_step, save_every_s, arithmetic=how, seed=seed)


def _latent_moments(model: Autoencoder, images: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each latent channel over the images, (4,) float32 each."""
    zero, one = (images.new_full((1,), value, dtype=torch.float32) for value in (0, 1))
    encode = latent_codec(model, zero, one, precision).encode
    z = torch.cat([encode(batch.float() / 127.5 - 1).double().cpu() for batch in images.split(BATCH)])
    return z.mean((0, 2, 3)).float(), z.std((0, 2, 3)).clamp(min=1e-6).float()


def _read_cached(path: Path) -> tuple[dict[str, Tensor], float, list[str]] | None:
    """The tensors, training seconds and code of a cache file; None if it is missing or damaged."""
    try:
        tensors, metadata = read_tensors(path)
        wall_s, code = float(metadata["wall_s"]), json.loads(metadata.get("code", "[]"))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return (tensors, wall_s, code) if metadata.get("sha256") == digest(tensors) else None
