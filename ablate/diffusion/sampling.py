"""Sampling images from a trained denoiser.

The noise of image i is keyed by (seed, `sample`, i). So image i is the same in a batch of 1 and of
64, and all variants start from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ablate.base import cuda_graphs, rng
from ablate.diffusion.objectives import objective_of
from ablate.diffusion.solvers import Denoise, evaluations, solver_of
from ablate.models.autoencoder import PIXEL_CODEC, ImageCodec
from ablate.study.config import Config

BATCH = 64  # images per network evaluation


def denoise(model: nn.Module, config: Config, z: Tensor, t: Tensor, precision: str) -> Tensor:
    """Return x_hat (B, C, S, S) float32 of noisy z (B, C, S, S) at t (B,), without gradients."""
    with torch.inference_mode(), torch.autocast(z.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = model(z.contiguous(memory_format=torch.channels_last), t)
        return objective_of(config.diffusion).denoise(output.float(), z, t)


def sample_images(
    model: nn.Module,
    config: Config,
    seed: int,
    indices: Iterable[int],
    *,
    precision: str,
    codec: ImageCodec = PIXEL_CODEC,
    batch: int = BATCH,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Tensor:
    """Sample images with the configuration's solver.

    Args:
        model: A trained denoiser, in eval mode.
        config: The denoiser's configuration.
        seed: The run's seed.
        indices: Indices of the images, which key their noise.
        precision: `fp32`, or `bf16` for autocast; the solver itself computes in float32.
        codec: Decodes samples of the diffusion space to images.
        batch: Images per network evaluation.
        on_batch: Called after each batch with its number of images.

    Returns:
        (N, 3, S, S) float32 on the CPU, in [-1, 1] up to the model's error; not clipped.
    """
    indices, device = list(indices), next(model.parameters()).device
    calls = len(indices) // batch * evaluations(config.sample.solver, config.sample.num_steps)
    return sample_images_with(
        cuda_graphs.captured(lambda z, t: denoise(model, config, z, t, precision), calls, device),
        config,
        seed,
        indices,
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
    """Sample images with any denoising function; arguments and result as in `sample_images`, and:

    Args:
        denoise: (z (B, C, S, S), t (B,)) -> x_hat (B, C, S, S), float32.
        config: Names the diffusion space, the solver and its steps.
        stream: Stream of the noise.
        decode: Maps samples (B, C, S, S) of the diffusion space to images (B, 3, S, S).
        device: The device of the noise.
    """
    indices = list(indices)
    images = []
    for start in range(0, len(indices), batch):
        z = rng.normal(seed, stream, indices[start : start + batch], config.shape).to(device)
        x = solver_of(config.sample.solver)(denoise, z, config.sample.num_steps)
        with torch.inference_mode():
            images.append(decode(x).cpu())
        on_batch(len(images[-1]))
    return torch.cat(images)


def to_uint8(images: Tensor) -> np.ndarray:
    """Clip images (N, 3, H, W) to [-1, 1] and map them to uint8 0..255 of the same shape."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
