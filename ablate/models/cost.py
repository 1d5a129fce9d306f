"""Parameters and multiply-accumulates (MACs) of a configuration, counted on the CPU.

Convolutions and matrix products are counted by torch's FlopCounterMode (two operations per MAC),
the filters by their taps. A backward pass costs two forward passes, or one if only its input needs
a gradient. The perceptual network belongs to the loss and is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ablate.base.errors import VariantError
from ablate.base.host import host_bytes
from ablate.models.autoencoder import Autoencoder
from ablate.models.kpn.backbone import DIFFUSION_SPACES
from ablate.models.kpn.denoiser import Denoiser
from ablate.models.kpn.pyramid import pyramid_macs
from ablate.models.memory import check_weights
from ablate.study.config import AutoencoderConfig, Config, ModelConfig

GROUPS = ("backbone", "upscaler", "heads", "filters", "drift")


@dataclass(frozen=True)
class Cost:
    """Parameters and MACs of a configuration.

    Attributes:
        params: Parameters by module group; in latent space with the `decoder`.
        macs: MACs of one network evaluation of one image, by module group.
        decode_macs: MACs per sampled image after the last evaluation; 0 in pixel space.
        train_step_macs: MACs of one training step with its whole batch.
        autoencoder_macs: MACs of the autoencoder's training; 0 in pixel space.
    """

    params: dict[str, int]
    macs: dict[str, int]
    decode_macs: int
    train_step_macs: int
    autoencoder_macs: int

    @property
    def total_params(self) -> int:
        """Sum of the parameters."""
        return sum(self.params.values())

    @property
    def total_macs(self) -> int:
        """MACs of one network evaluation of one image."""
        return sum(self.macs.values())

    def train_macs(self, steps: int) -> int:
        """MACs of a training of that many steps, with the autoencoder's."""
        return steps * self.train_step_macs + self.autoencoder_macs


def cost(config: Config) -> Cost:
    """Count a configuration's parameters and MACs by running an untrained network on one image.

    Raises:
        VariantError: The network does not fit into this machine's memory.
    """
    check_weights("the configuration", config, host_bytes())
    params, macs = map(dict, _denoiser(config.model))
    step, decode, training = 3 * sum(macs.values()) * config.train.batch, 0, 0
    if config.model.space == "latent":
        params["decoder"], encode, decode = _autoencoder(config.autoencoder)
        decoded = math.ceil(config.train.perceptual_share * config.train.batch)
        step += encode * config.train.batch
        step += 0 if config.train.perceptual == "none" else 2 * decode * decoded
        training = 3 * (encode + decode) * config.autoencoder.steps * config.autoencoder.batch
    return Cost(params=params, macs=macs, decode_macs=decode, train_step_macs=step, autoencoder_macs=training)


def match_training_macs(config: Config, reference: Config) -> Config:
    """Return the configuration with the number of steps whose MACs come closest to the reference's.

    Raises:
        VariantError: That number is zero.
    """
    budget, spent = cost(reference).train_macs(reference.train.steps), cost(config)
    steps = round((budget - spent.autoencoder_macs) / spent.train_step_macs)
    if steps < 1:
        raise VariantError(
            f"--budget macs: the baseline's training takes {budget:.3g} MACs, the autoencoder's alone "
            f"{spent.autoencoder_macs:.3g}; nothing is left for the denoiser; "
            "lower autoencoder.steps or use --budget steps"
        )
    return config.replaced(train={"steps": steps})


@lru_cache(maxsize=64)  # the seeds of a variant have one cost
def _denoiser(model: ModelConfig) -> tuple[dict[str, int], dict[str, int]]:
    with torch.random.fork_rng(devices=[]):
        denoiser = Denoiser(model)
    channels, size, _ = denoiser.space
    flops = _flops(lambda: denoiser(torch.zeros(1, channels, size, size), torch.zeros(1)))
    params = dict.fromkeys(GROUPS, 0)
    for name, parameter in denoiser.named_parameters():
        params[name.split(".")[0]] += parameter.numel()
    # Only called modules are counted: the heads' entries, not the dictionary that holds them.
    called = {group: {group} for group in GROUPS} | {"heads": {f"heads.{scale}" for scale in denoiser.heads}}
    macs = {group: sum(n for name, n in flops.items() if name in called[group]) // 2 for group in GROUPS}
    if model.output == "kpn":
        operations = {"kernel": model.kernel, "upsampling": model.upsampling, "skip": model.skip}
        macs["filters"] = pyramid_macs(channels, size, len(denoiser.heads), **operations)
    return params, macs


def _autoencoder(config: AutoencoderConfig) -> tuple[int, int, int]:
    """The decoder's parameters, and the MACs of encoding and of decoding one image."""
    with torch.random.fork_rng(devices=[]):
        autoencoder = Autoencoder(config)

    def macs(part: nn.Module, space: str) -> int:
        channels, size, _ = DIFFUSION_SPACES[space]
        return _flops(lambda: part(torch.zeros(1, channels, size, size)))["Global"] // 2

    params = sum(p.numel() for p in autoencoder.decoder.parameters())
    return params, macs(autoencoder.encoder, "pixel"), macs(autoencoder.decoder, "latent")


def _flops(call: Callable[[], Tensor]) -> dict[str, int]:
    """Floating-point operations of a call, by path below the called module; `Global` is all."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return {name.split(".", 1)[-1]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
