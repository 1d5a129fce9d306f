"""Drawing pictures from a trained denoiser.

Picture i starts from noise keyed by (seed, `sample`, i) alone, so it is the same picture in a batch of 1 and of 64, in any variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from ablate.base import cuda_graphs, rng
from ablate.diffusion.objectives import PREDICTION
from ablate.diffusion.solvers import SOLVERS, Denoise, evaluations
from ablate.models.autoencoder import PIXEL_CODEC, ImageCodec
from ablate.models.kpn.backbone import DIFFUSION_SPACES
from ablate.models.kpn.denoiser import Denoiser
from ablate.study.config import Config

BATCH = 64


def denoise(model: Denoiser, config: Config, z: Tensor, t: Tensor, precision: str) -> Tensor:
    """Return x_hat (B, C, S, S) float32 of noisy pictures z (same shape) at times t (B,), without gradients."""
    with torch.inference_mode(), torch.autocast(z.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = model(z.contiguous(memory_format=torch.channels_last), t)
        return PREDICTION[config.diffusion.prediction](output, z, t, config.diffusion.clip)


def sample_images(
    model: Denoiser,
    config: Config,
    seed: int,
    indices: Iterable[int],
    *,
    precision: str,
    codec: ImageCodec = PIXEL_CODEC,
    batch: int = BATCH,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Tensor:
    """Sample pictures with the configuration's solver.

    Args:
        model: A trained denoiser, in eval mode.
        config: Its configuration.
        seed: The run's seed.
        indices: Which pictures; the noise of picture i depends on (seed, i) alone.
        precision: `fp32`, or `bf16` for autocast; the solver's own arithmetic is float32.
        codec: Decodes what the denoiser was trained on.
        batch: Pictures at a time.
        on_batch: Called with the number of pictures finished since the last call.

    Returns:
        (N, 3, 64, 64) float32 on the CPU, unbounded; pictures lie in [-1, 1] up to the model's error.
    """
    numbers, device = list(indices), next(model.parameters()).device
    calls = len(numbers) // batch * evaluations(config.sample.solver, config.sample.num_steps)
    return sample_images_with(
        cuda_graphs.captured(lambda z, t: denoise(model, config, z, t, precision), calls, device),
        config,
        seed,
        numbers,
        decode=codec.decode,
        device=device,
        batch=batch,
        on_batch=on_batch,
    )


def sample_images_with(
    denoise: Denoise,
    config: Config,
    seed: int,
    indices: Iterable[int],
    *,
    stream: str = "sample",
    decode: Callable[[Tensor], Tensor] = PIXEL_CODEC.decode,
    device: torch.device | str = "cpu",
    batch: int = BATCH,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Tensor:
    """Sample pictures as `draw` does, with any function in the network's place.

    Args:
        denoise: (z (B, C, S, S), t (B,)) -> x_hat, float32.
        config: Says what is diffused and how it is sampled.
        seed: Of the noise.
        indices: Which pictures.
        stream: Of the noise.
        decode: Maps what was diffused to pictures.
        device: Where the noise goes.
        batch: Pictures at a time.
        on_batch: Called with the number of pictures finished since the last call.

    Returns:
        (N, 3, 64, 64) float32 on the CPU.
    """
    numbers, (channels, size, _) = list(indices), DIFFUSION_SPACES[config.model.space]
    pictures = []
    for start in range(0, len(numbers), batch):
        z = rng.normal(seed, stream, numbers[start : start + batch], (channels, size, size)).to(device)
        x = SOLVERS[config.sample.solver](denoise, z, config.sample.num_steps)
        with torch.inference_mode():
            pictures.append(decode(x).cpu())
        on_batch(len(pictures[-1]))
    return torch.cat(pictures)


def to_uint8(pictures: Tensor) -> np.ndarray:
    """Map pictures (N, 3, H, W) from [-1, 1], clipped, to uint8 0..255 of the same shape."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
