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
from ablate.models.kpn.drift import drift_macs
from ablate.study.config import AutoencoderConfig, Config

TOKENS = 64
IMAGE = 3 * 64 * 64  # elements
FLOAT = 4  # bytes
FILTER_PARAMS = 29  # per pixel, in the baseline
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


def estimate(config: Config) -> Memory:
    """Estimate the memory of a configuration by arithmetic alone."""
    model = config.model
    inputs = (model.width, *model.upscaler_channels[:-1])
    scales = 3 if model.space == "pixel" else 1  # doublings from 8 to 64 pixels, or to the 16 of latents
    size_out = 8 * 2**scales
    stages = list(zip((8, 16, 32), inputs, model.upscaler_channels, strict=True))[:scales]
    params = model.depth * 18 * model.width**2 + sum(13 * c * c + 4 * c * out for _, c, out in stages)
    kept = model.depth * (22 * TOKENS * model.width + 2 * model.attention_heads * TOKENS**2)
    kept += sum(8 * c * size**2 for size, c, _ in stages) + size_out**2 * stages[-1][2]
    if model.output == "kpn":
        heads = list(zip((16, 32, 64), model.upscaler_channels, model.head_channels, strict=True))
        for size, c, hidden in heads[:scales]:
            params += 9 * c * hidden + (hidden or c) * FILTER_PARAMS
            kept += size**2 * (3 * hidden + 3 * FILTER_PARAMS)
    if model.drift_macs_to_backbone:
        macs = drift_macs(model.drift_channels, 3 if model.space == "pixel" else 4, size_out)
        params += macs // TOKENS  # a weight of a linear layer is used once per token
        kept += 3 * macs // (3 * model.width)
    if model.drift:
        params += 45 * model.drift_channels**2
        kept += 8 * size_out**2 * model.drift_channels
    ae_params, ae_kept = _autoencoder(config.autoencoder) if model.space == "latent" else (0, 0)
    weights, measure = params * FLOAT, config.measure
    samples = max(measure.fd_samples, measure.fd_reference) * IMAGE * (2 * FLOAT + 1)
    at_once = max(*measure.latency_batches, measure.denoise_images) * IMAGE * FLOAT
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
    if available is None or need.peak <= available:
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
    count = need.params + need.autoencoder_params
    size = count * FLOAT + need.activations
    if available is not None and size > available:
        raise VariantError(
            f"{what}: {count:.3g} parameters need at least {_gb(size)} of memory; this device has {_gb(available)}; "
            "lower model.width, model.depth or the channels"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 10**18 else f"{count:.1e} bytes"
