"""LPIPS on random trunks: the real weights are not part of the repository."""

from __future__ import annotations

import warnings

import lpips
import torch
from torch import Tensor, nn

from ablate.metrics.pair_distances import Lpips
from ablate.study.config import TrainConfig
from ablate.training.perceptual import LpipsLoss, loss_weights, perceptual_loss


def random_trunk(net: str) -> dict[str, Tensor]:
    """Return random convolutions of `alex` or `vgg` by torchvision's names; maps keep their scale from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trunk = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).net
    made = {}
    for key, p in trunk.named_parameters():
        scale = (2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.1
        made[f"features.{key.split('.', 1)[1]}"] = scale * torch.randn(p.shape, generator=generator)
    return made


def loss_of(config: TrainConfig, device: torch.device) -> nn.Module | None:
    """Return the perceptual distance of a training loss; LPIPS with a random trunk."""
    if loss_weights(config):
        return LpipsLoss(Lpips("vgg", random_trunk("vgg"))).to(device)
    return perceptual_loss(config, device)
