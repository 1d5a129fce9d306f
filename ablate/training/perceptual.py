"""The perceptual distance in the training loss: `train.perceptual`.

efficientnet_lite0   `pd` over the first `train.perceptual_stages` stages (`PerceptualDistance`)
lpips_vgg            LPIPS of VGG16 (`LpipsLoss`)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.base.errors import VariantError, WeightsError
from ablate.base.progress import Progress
from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.pair_distances import SMALLEST_SIDE, Lpips, PerceptualDistance, load_lpips, unit_features
from ablate.metrics.weights import Search, fetch, find_weights, loss_weights
from ablate.study.config import Config, TrainConfig

VGG = "vgg"  # the trunk of `lpips_vgg`


class LpipsLoss(nn.Module):
    """LPIPS as a loss: the metric's value, with convolutions in autocast's dtype.

    The metric computes all of it in float32, which takes several times as long on a GPU.

    Attributes:
        digest: Names the weights.
    """

    def __init__(self, network: Lpips) -> None:
        """Take the trunk and the learned weights of the metric."""
        super().__init__()
        self.network, self.digest = network, network.digest

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each image to its target, (B,) float32.

        Args:
            x: (B, 3, H, W) float in [-1, 1]. Not clipped: gradients flow beyond the range too.
            target: (B, 3, H, W) float in [-1, 1]. It gets no gradient.
        """
        with torch.no_grad():
            expected = self._features(target)
        pairs = zip(self._features(x), expected, self.network.heads, strict=True)
        return torch.stack([(w * (a - b).square()).sum(1).mean((1, 2)) for a, b, w in pairs]).sum(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's five feature maps, of norm 1 at each pixel, in float32."""
        return [unit_features(h) for h in self.network.feature_maps(x)]


def perceptual_loss(
    config: TrainConfig, device: torch.device, search: Search | None = None
) -> PerceptualDistance | LpipsLoss | None:
    """Return the frozen perceptual distance in the training loss, or None.

    Args:
        config: Names it.
        device: Where it computes.
        search: Where the weights of VGG16 may come from; None: this machine only.

    Raises:
        WeightsError: They are not available.
    """
    if config.perceptual == "none":
        return None
    if config.perceptual == "lpips_vgg":
        return LpipsLoss(load_lpips(VGG, device, search))
    return PerceptualDistance(efficientnet_lite0(device), stages=config.perceptual_stages)


def check_loss(variant: str, config: Config, search: Search, progress: Progress) -> None:
    """Find the weights that a variant's training loss needs, or download them.

    Raises:
        WeightsError: They are not available, or a file holds others.
        VariantError: The images are too small for the network.
    """
    weights = loss_weights(config.train)
    if weights is None:
        return
    if config.data.size < SMALLEST_SIDE[VGG]:
        raise VariantError(
            f"{variant}: train.perceptual = lpips_vgg needs images of at least {SMALLEST_SIDE[VGG]} pixels; "
            f"data.size is {config.data.size}"
        )
    if problem := fetch([weights], search, progress).get(weights):
        raise WeightsError(f"{variant} trains with LPIPS of VGG16: {problem}")
    find_weights(weights, search)
