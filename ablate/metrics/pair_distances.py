"""Distances between a picture and its target: `lpips`, the embedded `pd`, and the peak signal-to-noise ratio.

    lpips(x, y) = sum over layers l of  mean over pixels of  w_l . ( f_l(x) / |f_l(x)|  -  f_l(y) / |f_l(y)| )^2
the norms over channels, in AlexNet or VGG16 with the `lpips` package's learned weights w_l >= 0. `pd` is the same in EfficientNet-Lite0
(`ablate.metrics.efficientnet`), with equal weights and the mean over its stages; it lies in [0, 4]. Both at the pictures' own resolution.

Both are squared Euclidean distances: d(x, y) = |e(x) - e(y)|^2, where e, `embed`, joins the unit features times (w_l / pixels)^(1/2).
That is what makes nearest neighbours and mean distances over all pairs cheap (`ablate.metrics.neighbours`).

Reference: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Protocol

import lpips
import torch
from torch import Tensor, nn

from ablate.metrics import weights
from ablate.metrics.efficientnet import EfficientNetLite0, full_precision
from ablate.metrics.weights import Search
from ablate.models.weight_files import digest

EPS = 1e-10  # keeps the norm of an all-zero feature differentiable
TRUNKS = {"alex": "alexnet_features", "vgg": "vgg16_features"}  # of LPIPS -> name of the weights
SMALLEST = {"alex": 31, "vgg": 16}  # pixels of a side from which the trunk's pooling leaves something


class Distance(Protocol):
    """A perceptual distance: per picture, and as an embedding whose squared Euclidean distance it is."""

    digest: str
    smallest: int  # pixels of a side

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Return (B,) distances of pictures (B, 3, H, W) in [-1, 1]."""

    def embed(self, x: Tensor) -> Tensor:
        """Return (B, E) float32 for pictures (B, 3, H, W) in [-1, 1]."""


class PerceptualDistance(nn.Module):
    """The embedded perceptual distance `pd`, as a loss and as a metric."""

    def __init__(self, extractor: EfficientNetLite0, stages: int = 5) -> None:
        """Compare the extractor's first `stages` (1 to 5) feature maps; deeper ones are not computed.

        Raises:
            ValueError: There are no so many stages.
        """
        super().__init__()
        if not 1 <= stages <= 5:
            raise ValueError(f"stages: found {stages}, expected 1 to 5")
        self.extractor, self.stages = extractor, stages
        self.digest, self.smallest = extractor.digest, 1

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each picture to its target.

        The network runs in autocast's dtype, normalisation and differences in float32.

        Args:
            x: (B, 3, H, W) float in [-1, 1]; beyond the range it is not clipped, so that gradients flow there too.
            target: (B, 3, H, W) float in [-1, 1]; gets no gradient.

        Returns:
            (B,) float32, 0 for equal pictures.
        """
        with torch.no_grad():
            expected = [_unit(h) for h in self.extractor.stages(target, self.stages)]
        found = [_unit(h) for h in self.extractor.stages(x, self.stages)]
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(found, expected, strict=True)]).mean(0)

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Return (B, E) float32, computed without autocast, of pictures (B, 3, H, W) in [-1, 1]: |e(x) - e(y)|^2 = d(x, y)."""
        with full_precision(x.device):
            maps = [_unit(h) for h in self.extractor.stages(x, self.stages)]
        return torch.cat([h.flatten(1) * (h.shape[2] * h.shape[3] * self.stages) ** -0.5 for h in maps], 1)


class Lpips(nn.Module):
    """LPIPS of the `lpips` package (version 0.1 of its learned weights) on a real ImageNet trunk; frozen, in evaluation mode.

    Attributes:
        digest: Names the trunk's weights and the learned ones.
    """

    def __init__(self, net: str, trunk: Mapping[str, Tensor]) -> None:
        """Put the convolutions of a trunk into the package's network.

        Args:
            net: `alex` or `vgg`.
            trunk: torchvision's names (`features.0.weight`) -> values.
        """
        super().__init__()
        with warnings.catch_warnings():  # of torchvision, about arguments that the package passes to it
            warnings.simplefilter("ignore")
            self.model = lpips.LPIPS(net=net, pretrained=True, pnet_rand=True, verbose=False)
        self.model.net.load_state_dict(
            {key: trunk[f"features.{key.split('.', 1)[1]}"] for key in self.model.net.state_dict()}
        )
        self.model.eval().requires_grad_(False)
        self.digest, self.smallest = digest(self.model.state_dict()), SMALLEST[net]

    def train(self, mode: bool = True) -> Lpips:
        """Stay in evaluation mode: the package's heads drop features out otherwise."""
        return super().train(False)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each picture to its target, (B,) float32, computed without autocast.

        Args:
            x: (B, 3, H, W) float in [-1, 1].
            target: (B, 3, H, W) float in [-1, 1].
        """
        with full_precision(x.device):
            return self.model(x.float(), target.float()).flatten()

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Return (B, E) float32, computed without autocast, of pictures (B, 3, H, W) in [-1, 1]: |e(x) - e(y)|^2 = d(x, y)."""
        with full_precision(x.device):
            maps = self.model.net(self.model.scaling_layer(x.float()))
        heads = [head.model[-1].weight for head in self.model.lins]  # (1, C, 1, 1) each
        pairs = [(lpips.normalize_tensor(h), w) for h, w in zip(maps, heads, strict=True)]
        return torch.cat([(h * (w / (h.shape[2] * h.shape[3])).sqrt()).flatten(1) for h, w in pairs], 1)


def load_lpips(net: str, device: torch.device | str = "cpu", search: Search | None = None) -> Lpips:
    """Return LPIPS with a real trunk.

    Args:
        net: `alex` or `vgg`.
        device: Where it computes.
        search: Where the trunk's weights may come from; None: this machine.

    Raises:
        WeightsError: The trunk's weights cannot be had.
    """
    return Lpips(net, weights.find(TRUNKS[net], search or Search()).tensors).to(device)


def psnr_db(x: Tensor, target: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio 10 log10(2^2 / MSE) of each picture.

    Args:
        x: (B, 3, H, W) float, clamped to [-1, 1] first.
        target: (B, 3, H, W) float in [-1, 1].

    Returns:
        (B,) float32 in decibels; infinite for equal pictures.
    """
    mse = (x.float().clamp(-1, 1) - target.float()).square().mean((1, 2, 3))
    return 10 * torch.log10(4 / mse)


def _unit(h: Tensor) -> Tensor:
    h = h.float()
    return h * torch.rsqrt(h.square().sum(1, keepdim=True) + EPS)
