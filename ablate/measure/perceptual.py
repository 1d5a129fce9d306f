"""Distances between a picture and its target: `pd` in the extractor's features, and the peak signal-to-noise ratio.

    pd(x, y) = mean over stages s of  mean over pixels of  | f_s(x) / |f_s(x)|  -  f_s(y) / |f_s(y)| |^2,   in [0, 4]
the norms over channels: LPIPS with unit weights, in EfficientNet-Lite0 (`ablate.measure.extractors`), at the pictures'
own resolution.

Reference: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.measure.extractors import EfficientNetLite0

EPS = 1e-10  # keeps the norm of an all-zero feature differentiable


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
