"""Memory that a configuration needs, estimated so that absurd sizes are refused before allocation.

    weights       4 bytes per parameter; five copies in training: weights, gradients, AdamW's two
                  moments, averaged weights
    activations   what the backward pass keeps of an image, in float32, times the batch
    samples       sampled images, twice in float32 (as batches, and joined) and once in uint8

Only matrix products and convolutions are counted, without the perceptual network. The estimate is a
lower bound, within a factor of two of what torch keeps (`tests/models/test_memory.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ablate.base.errors import VariantError
from ablate.study.config import AutoencoderConfig, Config

FLOAT = 4  # bytes
TRAINING_COPIES = 5  # of the weights


@dataclass(frozen=True)
class Memory:
    """An estimate.

    Attributes:
        params: Number of the denoiser's parameters.
        activations: Bytes per image that the backward pass keeps.
        training: Bytes.
        sampling: Bytes.
        autoencoder_params: Number of the autoencoder's parameters; 0 in pixel space.
    """

    params: int
    activations: int
    training: int
    sampling: int
    autoencoder_params: int

    @property
    def peak(self) -> int:
        """Bytes of training or of sampling, whichever needs more."""
        return max(self.training, self.sampling)


def estimate(config: Config) -> Memory | None:
    """Estimate the memory of a configuration by arithmetic alone; None: its model cannot say."""
    sizes = config.model.memory_sizes(config.shape)
    if sizes is None:
        return None
    params, kept = sizes
    ae_params, ae_kept = _autoencoder(config.autoencoder) if config.model.space == "latent" else (0, 0)
    weights, measure, image = params * FLOAT, config.measure, 3 * config.data.size**2
    samples = max(measure.fd_samples, measure.fd_reference) * image * (2 * FLOAT + 1)
    at_once = max(*measure.latency_batches, measure.denoise_images) * image * FLOAT
    return Memory(
        params,
        kept * FLOAT,
        max(
            TRAINING_COPIES * weights + config.train.batch * kept * FLOAT,
            (TRAINING_COPIES * ae_params + config.autoencoder.batch * ae_kept) * FLOAT,
        ),
        2 * weights + samples + at_once,
        ae_params,
    )


def _autoencoder(config: AutoencoderConfig) -> tuple[int, int]:
    """Number of the autoencoder's parameters, and of values that its training keeps per image."""
    pairs = list(zip(config.channels, config.channels[1:], strict=False))
    down = sum(9 * a * b + 18 * b * b for a, b in pairs)
    up = 18 * config.channels[-1] ** 2 + sum(13 * b * b + 4 * b * a + 18 * a * a for a, b in pairs)
    return down + up, sum(16 * c * size**2 for c, size in zip(config.channels, (64, 32, 16), strict=False))


def check(what: str, config: Config, available: int | None) -> None:
    """Refuse a configuration that does not fit into memory.

    Args:
        what: The variant's name, for the message.
        config: The configuration.
        available: The device's memory in bytes; None: unknown, every configuration is allowed.

    Raises:
        VariantError: Training or sampling needs more; the message says how much.
    """
    need = estimate(config)
    if available is None or need is None or need.peak <= available:
        return
    if need.training >= need.sampling:
        count, batch = max((need.params, config.train.batch), (need.autoencoder_params, config.autoencoder.batch))
        weights = TRAINING_COPIES * FLOAT * count
        activations = f"{_gb(max(0, need.training - weights))} for a batch of {batch}"
        parts = f"{_gb(weights)} for {count:.3g} parameters and their optimiser, {activations}"
        settings = "model.width, model.depth, the channels or train.batch"
    else:
        parts, settings = f"{_gb(need.sampling)} for sampling and measuring", "the numbers of images in [measure]"
    needed, total = f"needs at least {_gb(need.peak)} of memory ({parts})", f"this device has {_gb(available)}"
    raise VariantError(f"{what}: {needed}; {total}; lower {settings}")


def check_weights(what: str, config: Config, available: int | None) -> None:
    """Refuse a configuration whose weights and one image's activations do not fit, as `check` does.

    Raises:
        VariantError: They need more; the message says how much.
    """
    need = estimate(config)
    if need is None:
        return
    count = need.params + need.autoencoder_params
    size = count * FLOAT + need.activations
    if available is not None and size > available:
        raise VariantError(
            f"{what}: {count:.3g} parameters need at least {_gb(size)} of memory; this device has {_gb(available)}; "
            "lower model.width, model.depth or the channels"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 10**18 else f"{count:.1e} bytes"
