"""Parameters and multiply-accumulates (MACs) of a variant, counted on the CPU.

Convolutions and matrix products are counted by torch's FlopCounterMode (two operations each), the filters by their taps. In training a
backward pass costs two forward passes, or one where only its input needs a gradient; the perceptual network is the loss's, not the
model's, and is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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
    """What a configuration spends."""

    params: dict[str, int]  # by module group; in latent space with the `decoder`, which sampling needs
    macs: dict[str, int]  # of one network evaluation of one picture, by module group
    decode_macs: int  # once per picture that is sampled; 0 in pixel space
    train_step_macs: int  # of one training step, the whole batch
    autoencoder_macs: int  # of the autoencoder's training; 0 in pixel space

    @property
    def total_params(self) -> int:
        """All parameters."""
        return sum(self.params.values())

    @property
    def total_macs(self) -> int:
        """All multiply-accumulates of one network evaluation of one picture."""
        return sum(self.macs.values())

    def train_macs(self, steps: int) -> int:
        """All multiply-accumulates of a training of that many steps, the autoencoder's with them."""
        return steps * self.train_step_macs + self.autoencoder_macs


def cost(config: Config) -> Cost:
    """Count what a configuration spends, by running one picture through an untrained network.

    Raises:
        VariantError: That network does not fit into this machine's memory.
    """
    check_weights("the configuration", config, host_bytes())
    params, macs = _denoiser(config.model)
    step, decode, once = 3 * sum(macs.values()) * config.train.batch, 0, 0
    if config.model.space == "latent":
        params["decoder"], encode, decode = _autoencoder(config.autoencoder)
        shown = (
            0 if config.train.perceptual == "none" else math.ceil(config.train.perceptual_share * config.train.batch)
        )
        step += encode * config.train.batch + 2 * decode * shown
        once = 3 * (encode + decode) * config.autoencoder.steps * config.autoencoder.batch
    return Cost(params=params, macs=macs, decode_macs=decode, train_step_macs=step, autoencoder_macs=once)


def match_training_macs(config: Config, reference: Config) -> Config:
    """Return the configuration with as many training steps as the reference's training MACs pay for.

    Raises:
        VariantError: They do not pay for one step.
    """
    budget, spent = cost(reference).train_macs(reference.train.steps), cost(config)
    steps = round((budget - spent.autoencoder_macs) / spent.train_step_macs)
    if steps < 1:
        raise VariantError(
            f"--budget macs: the baseline trains with {budget:.3g} MACs, the autoencoder alone with {spent.autoencoder_macs:.3g}; "
            "nothing is left to train with; lower autoencoder.steps or use --budget steps"
        )
    return config.replaced(train={"steps": steps})


def _denoiser(model: ModelConfig) -> tuple[dict[str, int], dict[str, int]]:
    with torch.random.fork_rng(devices=[]):
        denoiser = Denoiser(model)
    channels, size, _ = denoiser.space
    flops = _flops(lambda: denoiser(torch.zeros(1, channels, size, size), torch.zeros(1)))
    params = dict.fromkeys(GROUPS, 0)
    for name, parameter in denoiser.named_parameters():
        params[name.split(".")[0]] += parameter.numel()
    # The heads are a dictionary, which is never called itself: its entries are.
    called = {group: {group} for group in GROUPS} | {"heads": {f"heads.{scale}" for scale in denoiser.heads}}
    macs = {group: sum(n for name, n in flops.items() if name in called[group]) // 2 for group in GROUPS}
    if model.output == "kpn":
        parts = {"kernel": model.kernel, "upsampling": model.upsampling, "skip": model.skip}
        macs["filters"] = pyramid_macs(channels, size, len(denoiser.heads), **parts)
    return params, macs


def _autoencoder(config: AutoencoderConfig) -> tuple[int, int, int]:
    """The decoder's parameters, and the multiply-accumulates of encoding and of decoding one picture."""
    with torch.random.fork_rng(devices=[]):
        autoencoder = Autoencoder(config)

    def macs(part: nn.Module, space: str) -> int:
        channels, size, _ = DIFFUSION_SPACES[space]
        return _flops(lambda: part(torch.zeros(1, channels, size, size)))["Global"] // 2

    params = sum(p.numel() for p in autoencoder.decoder.parameters())
    return params, macs(autoencoder.encoder, "pixel"), macs(autoencoder.decoder, "latent")


def _flops(call: Callable[[], Tensor]) -> dict[str, int]:
    """Count the floating-point operations of a call by module, the outermost module's name left out; `Global` is their sum."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return {name.split(".", 1)[-1]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
