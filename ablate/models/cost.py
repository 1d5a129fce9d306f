"""Parameters and multiply-accumulates (MACs) of a configuration, counted on the CPU.

Convolutions and matrix products are counted by torch's FlopCounterMode (two operations per MAC);
what it does not see, a network may count itself (`uncounted_macs`). A backward pass costs two
forward passes, or one if only its input needs a gradient. The perceptual network belongs to the loss
and is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ablate.base.errors import VariantError
from ablate.base.host import host_bytes
from ablate.models.autoencoder import Autoencoder
from ablate.models.denoiser import construct, groups_of, run_once
from ablate.models.memory import check_weights
from ablate.study.config import LATENT_SHAPE, AutoencoderConfig, Config

OTHER = "other"  # what lies in no module group


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
    params, macs = map(dict, _denoiser(_Model(repr((config.model, config.shape, config.plugins)), config)))
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


@dataclass(frozen=True)
class _Model:
    """A configuration whose settings of the model are its key."""

    key: str
    config: Config = field(compare=False)


@lru_cache(maxsize=64)  # the seeds of a variant have one cost
def _denoiser(model: _Model) -> tuple[dict[str, int], dict[str, int]]:
    config = model.config
    network = construct(config).eval()
    flops = _flops(lambda: run_once(config, network, torch.zeros(1, *config.shape), torch.zeros(1)))
    children = dict(network.named_children())
    # A group without parameters counts too, and one that this variant lacks has none.
    groups = list(dict.fromkeys([*config.model.all_groups, *groups_of(network), *children]))
    params = dict.fromkeys(groups, 0)
    for name, parameter in network.named_parameters():
        group = name.split(".")[0] if "." in name else OTHER
        params[group] = params.get(group, 0) + parameter.numel()
    macs = {group: _called(flops, group, children.get(group)) // 2 for group in groups}
    outside = flops.get("Global", 0) // 2 - sum(macs.values())
    if outside > 0:
        macs[OTHER] = outside
    params = {group: n for group, n in params.items() if n or macs.get(group) or group in config.model.all_groups}
    macs = {group: n for group, n in macs.items() if group in params or n}
    uncounted: dict[str, int] = getattr(network, "uncounted_macs", dict)()
    return params, macs | {group: macs.get(group, 0) + n for group, n in uncounted.items()}


def _called(flops: dict[str, int], path: str, module: nn.Module | None) -> int:
    """Operations of a module, or of what it holds if it is never called itself, as a list or dictionary."""
    if path in flops or module is None:
        return flops.get(path, 0)
    return sum(_called(flops, f"{path}.{name}", child) for name, child in module.named_children())


def _autoencoder(config: AutoencoderConfig) -> tuple[int, int, int]:
    """The decoder's parameters, and the MACs of encoding and of decoding one image."""
    with torch.random.fork_rng(devices=[]):
        autoencoder = Autoencoder(config)

    def macs(part: nn.Module, shape: tuple[int, int, int]) -> int:
        return _flops(lambda: part(torch.zeros(1, *shape)))["Global"] // 2

    params = sum(p.numel() for p in autoencoder.decoder.parameters())
    return params, macs(autoencoder.encoder, (3, 64, 64)), macs(autoencoder.decoder, LATENT_SHAPE)


def _flops(call: Callable[[], Tensor]) -> dict[str, int]:
    """Floating-point operations of a call, by path below the called module; `Global` is all."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return {name.split(".", 1)[-1]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
