"""The filter pyramid: a U-Net for the picture itself, whose only operations are predicted filters.

    down:  f_s = filter(x_s, kernel_s),  x_{s/2} = mean_2x2(f_s)            at 64, 32, 16 pixels
    up:    y_s = lerp(upsample(y_{s/2}, gaussian_s), f_s, sigmoid(skip_s))  at 16, 32, 64 pixels, y_8 = x_8

Neural Partitioning Pyramids, simplified. A head gives 29 numbers per pixel at each scale: 25 kernel weights, 3 parameters of a
precision matrix, 1 skip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.model.kpn import GAUSSIAN_PARAMETERS, KERNEL_WEIGHTS, TAPS, UPSAMPLING, filter_pixels

NUMBERS = TAPS + GAUSSIAN_PARAMETERS + 1


class FilterHead(nn.Sequential):
    """Features (B, C, S, S) -> the 29 numbers of each pixel, (B, 29, S, S)."""

    def __init__(self, channels: int, hidden: int) -> None:
        """Build 3x3 -> LeakyReLU -> 1x1 with `hidden` channels between, or a single 1x1 convolution where `hidden` is 0."""
        if hidden:
            super().__init__(
                nn.Conv2d(channels, hidden, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(hidden, NUMBERS, 1)
            )
        else:
            super().__init__(nn.Conv2d(channels, NUMBERS, 1))


def filter_pyramid(image: Tensor, numbers: Sequence[Tensor], *, kernel: str, upsampling: str) -> Tensor:
    """Filter a picture through the pyramid, in float32 whatever the heads' dtype.

    Args:
        image: (B, C, S, S) float32.
        numbers: The heads' outputs, coarse to fine: (B, 29, S/4, S/4), (B, 29, S/2, S/2), (B, 29, S, S).
        kernel: A key of `KERNEL_WEIGHTS`.
        upsampling: A key of `UPSAMPLING`.

    Returns:
        (B, C, S, S) float32.
    """
    split = [
        n.to(image.dtype, memory_format=torch.contiguous_format).split([TAPS, GAUSSIAN_PARAMETERS, 1], dim=1)
        for n in numbers
    ]
    filtered = []
    with torch.autocast(image.device.type, enabled=False):
        for weights, _, _ in reversed(split):
            filtered.append(filter_pixels(image, KERNEL_WEIGHTS[kernel](weights)))
            image = F.avg_pool2d(filtered[-1], 2)
        for (_, gaussian, skip), fine in zip(split, reversed(filtered), strict=True):
            image = torch.lerp(UPSAMPLING[upsampling](image, gaussian), fine, skip.sigmoid())
    return image
