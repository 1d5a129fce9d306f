"""The filter pyramid: a U-Net for the picture itself, whose only operations are predicted filters.

    down:  f_s = filter(x_s, kernel_s),  x_{s/2} = mean_2x2(f_s)            at 64, 32, 16 pixels
    up:    y_s = lerp(upsample(y_{s/2}, gaussian_s), f_s, sigmoid(skip_s))  at 16, 32, 64 pixels, y_8 = x_8

Neural Partitioning Pyramids, simplified. A head gives 29 numbers per pixel at each scale: 25 kernel weights, 3 parameters of a
precision matrix, 1 skip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.models.kpn.filters import GAUSSIAN_PARAMETERS, KERNEL_WEIGHTS, SKIP, TAPS, UPSAMPLING, filter_with
from ablate.models.kpn.fused_cpu_kernels import split_numbers

NUMBERS = TAPS + GAUSSIAN_PARAMETERS + 1  # of the baseline's heads


def number_rows(kernel: str, upsampling: str, skip: str) -> list[int]:
    """Return which of the baseline's 29 numbers a pyramid of these parts reads, in order: kernel, Gaussian, skip."""
    parts = ((0, KERNEL_WEIGHTS[kernel]), (TAPS, UPSAMPLING[upsampling]), (NUMBERS - 1, SKIP[skip]))
    return [start + i for start, part in parts for i in range(part.numbers)]


class NumbersConv2d(nn.Conv2d):
    """A 1x1 convolution that starts as some rows of the baseline's, so that heads of unequal length start alike where they agree."""

    def __init__(self, channels: int, rows: Sequence[int]) -> None:
        """Map `channels` to one number for each of `rows` (each below 29)."""
        self.rows = list(rows)
        super().__init__(channels, len(self.rows), 1)

    def reset_parameters(self) -> None:
        """Draw the baseline's weights and keep the rows."""
        whole = nn.Conv2d(self.in_channels, NUMBERS, 1)
        with torch.no_grad():
            self.weight.copy_(whole.weight[self.rows])
            assert self.bias is not None
            assert whole.bias is not None
            self.bias.copy_(whole.bias[self.rows])


class FilterHead(nn.Sequential):
    """Features (B, C, S, S) -> the numbers of each pixel, (B, len(rows), S, S)."""

    def __init__(self, channels: int, hidden: int, rows: Sequence[int] = range(NUMBERS)) -> None:
        """Build 3x3 -> LeakyReLU -> 1x1 with `hidden` channels between, or a single 1x1 convolution where `hidden` is 0."""
        if hidden:
            super().__init__(nn.Conv2d(channels, hidden, 3, padding=1), nn.LeakyReLU(0.2), NumbersConv2d(hidden, rows))
        else:
            super().__init__(NumbersConv2d(channels, rows))


def filter_pyramid(
    image: Tensor,
    numbers: Sequence[Tensor],
    *,
    kernel: str,
    upsampling: str,
    skip: str,
    passes: Iterable[Callable[[Tensor], Tensor]] | None = None,
) -> Tensor:
    """Filter a picture through the pyramid, in float32 whatever the heads' dtype.

    Args:
        image: (B, C, S, S) float32.
        numbers: The heads' outputs, coarse to fine: (B, n, S/4, S/4), (B, n, S/2, S/2), (B, n, S, S); n = 29 in the baseline,
            `len(number_rows(...))` in general.
        kernel: A key of `KERNEL_WEIGHTS`.
        upsampling: A key of `UPSAMPLING`.
        skip: A key of `SKIP`.
        passes: What each picture passes before it is filtered: three on the way down, three on the way up.

    Returns:
        (B, C, S, S) float32.
    """
    parts = (KERNEL_WEIGHTS[kernel], UPSAMPLING[upsampling], SKIP[skip])
    split = [split_numbers(n, image.dtype, [part.numbers for part in parts]) for n in numbers]
    down_up = iter(passes or [lambda picture: picture] * 2 * len(split))
    filtered = []
    with torch.autocast(image.device.type, enabled=False):
        for weights, _, _ in reversed(split):
            filtered.append(filter_with(kernel, next(down_up)(image), weights))
            image = F.avg_pool2d(filtered[-1], 2)
        for (_, gaussian, weight), fine in zip(split, reversed(filtered), strict=True):
            image = parts[2].apply(parts[1].apply(next(down_up)(image), gaussian), fine, weight)
    return image


class FilterPyramid(nn.Module):
    """The filter pyramid as a module without parameters, whose operands are modules: what they carry can be watched and rounded."""

    def __init__(self, scales: int, *, kernel: str, upsampling: str, skip: str) -> None:
        """Take the parts by their names, as `filter_pyramid` does."""
        super().__init__()
        self.parts = {"kernel": kernel, "upsampling": upsampling, "skip": skip}
        self.filter_params = nn.ModuleList(nn.Identity() for _ in range(scales))
        self.images = nn.ModuleList(nn.Identity() for _ in range(2 * scales))

    def forward(self, image: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """Return the filtered picture (B, C, S, S) float32; shapes as in `filter_pyramid`."""
        seen = [operand(n) for operand, n in zip(self.filter_params, numbers, strict=True)]
        return filter_pyramid(image, seen, **self.parts, passes=self.images)


def pyramid_macs(channels: int, size: int, scales: int, *, kernel: str, upsampling: str, skip: str) -> int:
    """Return the multiply-accumulates of one picture's filters; what makes their weights is not counted."""
    taps = KERNEL_WEIGHTS[kernel].taps + UPSAMPLING[upsampling].taps + SKIP[skip].taps
    return sum(taps * channels * (size >> i) ** 2 for i in range(scales))
