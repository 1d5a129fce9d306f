"""`ablate check` of a model: two training steps, twice, that show whether a study can be made with it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from ablate.base import machine, rng
from ablate.base.text import one_line, some_of
from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.models import denoiser
from ablate.models.autoencoder import image_codec
from ablate.models.cost import cost
from ablate.models.weight_files import digest
from ablate.runs.checked import Checked
from ablate.runs.own_metrics import try_metric
from ablate.study import plugins
from ablate.study.config import Config
from ablate.training.checkpoint import TrainingState
from ablate.training.loop import train

STEPS = 2
IMAGES = 16  # random ones, to train on


def check_model(config: Config, device: torch.device) -> Checked:
    """Build a model, train it for two steps twice with one seed, sample from it, and try the metrics.

    Args:
        config: A variant at a preset.
        device: Where it computes.

    Raises:
        PluginError: The model fails; the message says how.
    """
    found, images = Checked(), _random_images(config)
    denoiser.probe(config, device)
    spent = cost(config)
    groups = ", ".join(f"{name} {count:,}" for name, count in spent.params.items())
    found.seen.append(f"{denoiser.name_of(config)}: {spent.total_params:,} parameters ({groups})")
    found.seen.append(f"{tuple(config.shape)} -> {tuple(config.shape)}, {spent.total_macs:,} MACs an evaluation")
    states = [_train(config, images, device) for _ in range(2)]
    first, again = (digest(denoiser.weights_of(state.ema)) for state in states)
    if first != again:
        found.seen.append(
            "note: seed 0 twice gives other weights, so no run can be replayed bit for bit; look for random numbers "
            "that do not come from torch, and for operations without a deterministic form"
        )
    else:
        found.seen.append(f"seed 0 twice gives the same weights after {STEPS} steps")
    model = states[0].model
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p not in states[0].optimizer.state]
    if idle:
        found.seen.append(f"note: parameters without a gradient: {some_of(idle)}")
    drawn = sample_images(
        states[0].ema, config, 0, range(4), precision="fp32", codec=image_codec(config.shape[0]), batch=4
    )
    if not drawn.isfinite().all():
        found.problems.append(f"a sample has NaN or infinity after {STEPS} steps")
        return found
    samples, real = to_uint8(drawn), images.numpy()
    for name in plugins.names("metric"):
        value, why = try_metric(name, samples, real)
        if why:
            found.problems.append(f"metric {name} ({plugins.find('metric', name).file}): {why}")
        elif value is not None:
            found.seen.append(f"metric {one_line(name)}: {value:.6g}")
    return found


def _random_images(config: Config) -> torch.Tensor:
    generator = rng.generator(0, "check")
    size = config.data.size
    images = torch.randint(0, 256, (IMAGES, config.data.channels, size, size), generator=generator, dtype=torch.uint8)
    return images.expand(-1, 3, -1, -1).contiguous()


def _train(config: Config, images: torch.Tensor, device: torch.device) -> TrainingState:
    short = config.replaced(train={"steps": STEPS, "batch": min(4, config.train.batch), "warmup": 0})
    with tempfile.TemporaryDirectory(prefix="ablate-check-") as folder, machine.deterministic():
        return train(
            short,
            images.to(device),
            0,
            perceptual=None,
            precision=machine.pick_precision(device),
            checkpoint=Path(folder) / "checkpoint.safetensors",
            codec=image_codec(config.shape[0]),
        )
