"""The filter pyramid: a U-Net on the noisy sample whose only operations are predicted filters.

    down, at s = 64, 32, 16:  f_s = filter(x_s, kernel_s),  x_{s/2} = mean_2x2(f_s)
    up, at s = 16, 32, 64:    y_s = lerp(upsample(y_{s/2}, gaussian_s), f_s, sigmoid(skip_s))
with x_64 the noisy sample, y_8 = x_8 and y_64 the result.

A simplified form of Neural Partitioning Pyramids. At each scale a head predicts the filter
parameters, 29 per pixel in the baseline: 25 kernel weights, 3 Gaussian parameters, 1 skip weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.models.kpn.cpu_kernels import usable_for
from ablate.models.kpn.filters import GAUSSIAN_PARAMS, KERNEL_WEIGHTS, SKIP, TAPS, UPSAMPLING, filter_with

BASELINE_PARAMS = TAPS + GAUSSIAN_PARAMS + 1  # filter parameters per pixel in the baseline


def baseline_rows(kernel: str, upsampling: str, skip: str) -> list[int]:
    """Return the indices of the baseline's filter parameters that these operations read.

    A kernel with more parameters than the baseline's has indices beyond these.
    """
    weights = KERNEL_WEIGHTS[kernel].params
    rows = [*range(min(weights, TAPS)), *range(BASELINE_PARAMS, BASELINE_PARAMS + weights - TAPS)]
    operations = ((TAPS, UPSAMPLING[upsampling]), (BASELINE_PARAMS - 1, SKIP[skip]))
    return rows + [start + i for start, operation in operations for i in range(operation.params)]


class RowsConv2d(nn.Conv2d):
    """A 1x1 convolution that starts as some rows of the baseline's.

    So heads with fewer parameters than the baseline's start alike in those they have in common.
    """

    def __init__(self, channels: int, rows: Sequence[int]) -> None:
        """Map `channels` to one output per row; rows from 29 on are not the baseline's."""
        self.rows = list(rows)
        super().__init__(channels, len(self.rows), 1)

    def reset_parameters(self) -> None:
        """Draw the baseline's weights, then those beyond, and keep the rows."""
        parts = [nn.Conv2d(self.in_channels, BASELINE_PARAMS, 1)]
        if (more := max(self.rows) + 1 - BASELINE_PARAMS) > 0:
            parts.append(nn.Conv2d(self.in_channels, more, 1))
        assert self.bias is not None
        with torch.no_grad():
            self.weight.copy_(torch.cat([part.weight for part in parts])[self.rows])
            self.bias.copy_(torch.cat([part.bias for part in parts if part.bias is not None])[self.rows])


class FilterHead(nn.Sequential):
    """Features (B, C, S, S) -> filter parameters of each pixel (B, len(rows), S, S)."""

    def __init__(self, channels: int, hidden: int, rows: Sequence[int] = range(BASELINE_PARAMS)) -> None:
        """Build 3x3 -> LeakyReLU -> 1x1 with `hidden` channels; a single 1x1 if `hidden` is 0."""
        if hidden:
            super().__init__(nn.Conv2d(channels, hidden, 3, padding=1), nn.LeakyReLU(0.2), RowsConv2d(hidden, rows))
        else:
            super().__init__(RowsConv2d(channels, rows))


class FilterPyramid(nn.Module):
    """The filter pyramid, in the dtype of the noisy sample whatever that of the parameters is.

    It has no weights. Every operand of a filter passes an `nn.Identity`, whose hooks can measure or
    round it: the parameters coarse to fine, the images on the way down and then up.
    """

    def __init__(self, scales: int, *, kernel: str, upsampling: str, skip: str) -> None:
        """Choose the operations: keys of `KERNEL_WEIGHTS`, `UPSAMPLING` and `SKIP`."""
        super().__init__()
        self.kernel, self.upsample, self.skip = kernel, UPSAMPLING[upsampling], SKIP[skip]
        self.counts = [operation.params for operation in (KERNEL_WEIGHTS[kernel], self.upsample, self.skip)]
        self.filter_params = nn.ModuleList(nn.Identity() for _ in range(scales))
        self.images = nn.ModuleList(nn.Identity() for _ in range(2 * scales))

    def forward(self, image: Tensor, filter_params: Sequence[Tensor]) -> Tensor:
        """Return the filtered sample.

        Args:
            image: The noisy sample (B, C, S, S).
            filter_params: Per scale, coarse to fine, (B, n, S/4, S/4), (B, n, S/2, S/2) and
                (B, n, S, S); n = 29 in the baseline, `len(baseline_rows(...))` in general.
        """
        observed = [observe(params) for observe, params in zip(self.filter_params, filter_params, strict=True)]
        split = [_split(params, image.dtype, self.counts) for params in observed]
        observers = iter(self.images)
        filtered = []
        with torch.autocast(image.device.type, enabled=False):
            for kernel_params, _, _ in reversed(split):
                filtered.append(filter_with(self.kernel, next(observers)(image), kernel_params))
                image = F.avg_pool2d(filtered[-1], 2)
            for (_, gaussian, skip_weight), fine in zip(split, reversed(filtered), strict=True):
                upsampled = self.upsample.apply(next(observers)(image), gaussian)
                image = self.skip.apply(upsampled, fine, skip_weight)
        return image


def _split(params: Tensor, dtype: torch.dtype, counts: list[int]) -> tuple[Tensor, ...]:
    """Split (B, n, H, W) into tensors (B, count, H, W) of a dtype, channels first in memory."""
    if params.requires_grad and usable_for(params):
        # For gradients of another layout a CPU's convolutions use kernels that round differently.
        params.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
    return params.to(dtype, memory_format=torch.contiguous_format).split(counts, dim=1)


def pyramid_macs(channels: int, size: int, scales: int, *, kernel: str, upsampling: str, skip: str) -> int:
    """Return the multiply-accumulates of one image's filters, without computing their weights."""
    taps = KERNEL_WEIGHTS[kernel].taps + UPSAMPLING[upsampling].taps + SKIP[skip].taps
    return sum(taps * channels * (size >> i) ** 2 for i in range(scales))
