"""What a configuration needs of memory, estimated from its numbers alone: absurd sizes are refused before anything is allocated.

    weights       P parameters x 4 bytes, five times in training: weights, gradients, AdamW's two moments, averaged weights
    activations   what the backward pass keeps of one picture x the batch, in float32
    samples       pictures drawn, in float32 twice (batches, and joined) and once in uint8

P counts the transformer's and the convolutions' products alone, and the perceptual network is left out: a lower bound that is within a
factor of two of what torch keeps (`tests/model/test_memory.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ablate.base.errors import VariantError
from ablate.models.kpn.drift import drift_macs
from ablate.study.config import AutoencoderConfig, Config

TOKENS = 64
PICTURE = 3 * 64 * 64  # numbers
FLOAT = 4  # bytes
KERNEL = 29  # numbers that a filter head gives per pixel
TRAINING_COPIES = 5


@dataclass(frozen=True)
class Memory:
    """Estimated bytes."""

    params: int  # a count, not bytes
    activations: int  # of one picture
    training: int
    sampling: int
    autoencoder: int  # its parameters, a count; 0 in pixel space

    @property
    def peak(self) -> int:
        """The larger of what training and what sampling needs."""
        return max(self.training, self.sampling)


def estimate(config: Config) -> Memory:
    """Estimate what a configuration needs, in bytes; plain arithmetic, whatever the sizes."""
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
            params += 9 * c * hidden + (hidden or c) * KERNEL
            kept += size**2 * (3 * hidden + 3 * KERNEL)
    if model.drift_macs_to_backbone:
        given = drift_macs(model.drift_channels, 3 if model.space == "pixel" else 4, size_out)
        params += given // TOKENS  # a hidden channel's three products of the width are made at every token
        kept += 3 * given // (3 * model.width)
    if model.drift:
        params += 45 * model.drift_channels**2
        kept += 8 * size_out**2 * model.drift_channels
    autoencoder = _autoencoder(config.autoencoder) if model.space == "latent" else (0, 0)
    weights, measure = params * FLOAT, config.measure
    samples = max(measure.fd_samples, measure.fd_reference) * PICTURE * (2 * FLOAT + 1)
    at_once = max(*measure.latency_batches, measure.denoise_images) * PICTURE * FLOAT
    return Memory(
        params,
        kept * FLOAT,
        max(
            TRAINING_COPIES * weights + config.train.batch * kept * FLOAT,
            TRAINING_COPIES * autoencoder[0] * FLOAT + config.autoencoder.batch * autoencoder[1] * FLOAT,
        ),
        2 * weights + samples + at_once,
        autoencoder[0],
    )


def _autoencoder(config: AutoencoderConfig) -> tuple[int, int]:
    """Parameters of the autoencoder, and what its training keeps of one picture, in numbers."""
    pairs = list(zip(config.channels, config.channels[1:], strict=False))
    down = sum(9 * a * b + 18 * b * b for a, b in pairs)
    up = 18 * config.channels[-1] ** 2 + sum(13 * b * b + 4 * b * a + 18 * a * a for a, b in pairs)
    return down + up, sum(16 * c * size**2 for c, size in zip(config.channels, (64, 32, 16), strict=False))


def check(what: str, config: Config, available: int | None) -> None:
    """Refuse a configuration that cannot fit.

    Args:
        what: The variant, for the message.
        config: The configuration.
        available: Bytes that the device has in all; None: unknown, and everything is allowed.

    Raises:
        VariantError: Training or sampling needs more; the message has the figures.
    """
    need = estimate(config)
    if available is None or need.peak <= available:
        return
    if need.training >= need.sampling:
        count, batch = max((need.params, config.train.batch), (need.autoencoder, config.autoencoder.batch))
        weights = TRAINING_COPIES * FLOAT * count
        rest = f"{_gb(max(0, need.training - weights))} for a batch of {batch}"
        parts = f"{_gb(weights)} for {count:.3g} parameters and their optimiser, {rest}"
        mend = "model.width, model.depth, the channels or train.batch"
    else:
        parts, mend = f"{_gb(need.sampling)} for sampling and measuring", "the numbers of pictures in [measure]"
    raise VariantError(
        f"{what}: needs at least {_gb(need.peak)} of memory ({parts}); there are {_gb(available)} in all; lower {mend}"
    )


def check_weights(what: str, config: Config, available: int | None) -> None:
    """Refuse a configuration whose weights alone do not fit, as `check` does for all of it.

    Raises:
        VariantError: They do not.
    """
    need = estimate(config)
    count = need.params + need.autoencoder
    size = count * FLOAT + need.activations
    if available is not None and size > available:
        raise VariantError(
            f"{what}: {count:.3g} parameters need at least {_gb(size)} of memory; there are {_gb(available)} in all; "
            "lower model.width, model.depth or the channels"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 10**18 else f"{count:.1e} bytes"
