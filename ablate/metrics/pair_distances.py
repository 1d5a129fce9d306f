"""Distances between an image and its target: `lpips`, the embedded `pd`, and PSNR.

    lpips(x, y) = sum over layers l of  mean over pixels of  w_l . (u_l(x) - u_l(y))^2,  u = f / |f|

The norms are over channels. The features are those of AlexNet or VGG16, with the `lpips` package's
learned weights w_l >= 0. `pd` is the same in EfficientNet-Lite0 (`ablate.metrics.efficientnet`),
with equal weights and the mean over its stages; it lies in [0, 4]. Both compute at the images' own
size.

Both are squared Euclidean distances: d(x, y) = |e(x) - e(y)|^2. The embedding e (`embed`)
concatenates the unit features times (w_l / pixels)^(1/2). Nearest neighbours and mean distances
over all pairs are cheap because of it (`ablate.metrics.neighbours`).

Reference: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
arXiv 1801.03924.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Protocol

import lpips
import torch
from torch import Tensor, nn

from ablate.metrics.efficientnet import EfficientNetLite0, full_precision
from ablate.metrics.weights import BACKBONE_OF, Search, find_weights
from ablate.models.weight_files import digest

EPS = 1e-10  # keeps the norm of an all-zero feature differentiable
SMALLEST_SIDE = {"alex": 31, "vgg": 16}  # pixels: below it the trunk's pooling leaves nothing


class Distance(Protocol):
    """A perceptual distance, which is also the squared Euclidean distance of an embedding.

    Attributes:
        digest: Names the weights.
    """

    digest: str

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the distances (B,) of images (B, 3, H, W) in [-1, 1] to their targets."""

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, E) float32 of images (B, 3, H, W) in [-1, 1]."""


class PerceptualDistance(nn.Module):
    """The embedded perceptual distance `pd`, as a loss and as a metric."""

    def __init__(self, extractor: EfficientNetLite0, stages: int = 5) -> None:
        """Compare the first `stages` feature maps of the extractor, 1 to 5.

        Deeper ones are not computed.

        Raises:
            ValueError: `stages` is out of range.
        """
        super().__init__()
        if not 1 <= stages <= 5:
            raise ValueError(f"stages: found {stages}, expected 1 to 5")
        self.extractor, self.stages = extractor, stages
        self.digest = extractor.digest

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each image to its target.

        The network runs in autocast's dtype; normalisation and differences in float32.

        Args:
            x: (B, 3, H, W) float in [-1, 1]. Not clipped: gradients flow beyond the range too.
            target: (B, 3, H, W) float in [-1, 1]. It gets no gradient.

        Returns:
            (B,) float32, 0 for equal images.
        """
        with torch.no_grad():
            expected = [unit_features(h) for h in self.extractor.stages(target, self.stages)]
        maps = [unit_features(h) for h in self.extractor.stages(x, self.stages)]
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(maps, expected, strict=True)]).mean(0)

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Return embeddings (B, E) float32 of x (B, 3, H, W) in [-1, 1], without autocast."""
        with full_precision(x.device):
            maps = [unit_features(h) for h in self.extractor.stages(x, self.stages)]
        return torch.cat([h.flatten(1) * (h.shape[2] * h.shape[3] * self.stages) ** -0.5 for h in maps], 1)


class Lpips(nn.Module):
    """LPIPS with the `lpips` package's learned weights (version 0.1) on a real ImageNet trunk.

    Frozen, in evaluation mode.

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
        with warnings.catch_warnings():  # torchvision warns about arguments that the package passes to it
            warnings.simplefilter("ignore")
            self.model = lpips.LPIPS(net=net, pretrained=True, pnet_rand=True, verbose=False)
        self.model.net.load_state_dict(
            {key: trunk[f"features.{key.split('.', 1)[1]}"] for key in self.model.net.state_dict()}
        )
        self.model.eval().requires_grad_(False)
        self.digest = digest(self.model.state_dict())

    def train(self, mode: bool = True) -> Lpips:
        """Stay in evaluation mode: in training mode the package's heads apply dropout."""
        return super().train(False)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each image to its target, (B,) float32, computed without autocast.

        Args:
            x: (B, 3, H, W) float in [-1, 1].
            target: (B, 3, H, W) float in [-1, 1].
        """
        with full_precision(x.device):
            return self.model(x.float(), target.float()).flatten()

    @property
    def heads(self) -> list[Tensor]:
        """The learned weights of each feature map, (1, C, 1, 1)."""
        return [head.model[-1].weight for head in self.model.lins]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's five feature maps of x (B, 3, H, W) in [-1, 1]."""
        return list(self.model.net(self.model.scaling_layer(x)))

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Return embeddings (B, E) float32 of x (B, 3, H, W) in [-1, 1], without autocast."""
        with full_precision(x.device):
            maps = self.feature_maps(x.float())
        pairs = [(lpips.normalize_tensor(h), w) for h, w in zip(maps, self.heads, strict=True)]
        return torch.cat([(h * (w / (h.shape[2] * h.shape[3])).sqrt()).flatten(1) for h, w in pairs], 1)


def load_lpips(net: str, device: torch.device | str = "cpu", search: Search | None = None) -> Lpips:
    """Return LPIPS with a real trunk.

    Args:
        net: `alex` or `vgg`.
        device: Where it computes.
        search: Where the trunk's weights may come from; None: this machine only.

    Raises:
        WeightsError: The trunk's weights are not available.
    """
    return Lpips(net, find_weights(BACKBONE_OF[f"lpips-{net}"], search or Search()).tensors).to(device)


def pair_scores(
    x: Tensor, target: Tensor, distances: Mapping[str, Distance], device: torch.device
) -> dict[str, Tensor]:
    """Return `psnr_db` and every distance of each image to its target, each (B,) on x's device.

    Args:
        x: (B, 3, H, W) float, clamped to [-1, 1] first.
        target: (B, 3, H, W) float in [-1, 1].
        distances: Name -> perceptual distance.
        device: Where the distances compute.
    """
    scores = {"psnr_db": psnr_db(x, target)}
    with full_precision(device):
        for name, distance in distances.items():
            scores[name] = distance(x.clamp(-1, 1).to(device), target.to(device)).to(x.device)
    return scores


def mean_pair_scores(
    pairs: Iterable[tuple[Tensor, Tensor]], distances: Mapping[str, Distance], device: torch.device
) -> dict[str, float]:
    """Return the means of `pair_scores` over batches of (image, target)."""
    with torch.inference_mode():
        scores = [pair_scores(x, target, distances, device) for x, target in pairs]
        return {name: float(torch.cat([batch[name] for batch in scores]).mean()) for name in scores[0]}


def psnr_db(x: Tensor, target: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio 10 log10(2^2 / MSE) of each image.

    Args:
        x: (B, 3, H, W) float, clamped to [-1, 1] first.
        target: (B, 3, H, W) float in [-1, 1].

    Returns:
        (B,) float32 in dB; infinite for equal images.
    """
    mse = (x.float().clamp(-1, 1) - target.float()).square().mean((1, 2, 3))
    return 10 * torch.log10(4 / mse)


def unit_features(h: Tensor) -> Tensor:
    """Return a feature map (B, C, H, W) in float32, divided by its norm over the channels."""
    h = h.float()
    return h * torch.rsqrt(h.square().sum(1, keepdim=True) + EPS)
