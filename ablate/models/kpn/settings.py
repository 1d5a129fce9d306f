"""The settings of the kernel-predicting network, registered as every model is. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ablate.study.config import Count, CountOrZero, Three
from ablate.study.model_settings import ModelSettings
from ablate.study.plugins import model

TOKENS = 64
FILTER_PARAMS = 29  # per pixel, in the baseline

if TYPE_CHECKING:
    from ablate.models.kpn.denoiser import Denoiser


@model("kpn")
class KpnSettings(ModelSettings):
    """Sizes and parts of the denoiser; lengths in channels unless said otherwise."""

    all_groups: ClassVar[tuple[str, ...]] = ("backbone", "upscaler", "heads", "filters", "drift")
    newer: ClassVar[tuple[str, ...]] = ("drift_kind",)

    kind: Literal["kpn"] = Field("kpn", exclude=True)  # rows are older than kinds
    space: Literal["pixel", "latent"]  # of the images that are diffused: 3 x 64 x 64, or latents of 4 x 16 x 16
    output: Literal["kpn", "direct"]  # filters on the noisy image, or colours straight from the features
    # From kernel parameters to kernel weights.
    kernel: Literal["tanh", "linear", "softmax", "softmax_gain", "sigmoid", "l1", "l1_floored", "gaussian"]
    upsampling: Literal["gaussian", "bilinear"]
    skip: Literal["lerp", "none"]  # how a scale's filtered image joins the upsampled one
    drift: bool
    drift_kind: Literal["unet", "bottleneck"] = "unet"
    drift_macs_to_backbone: bool  # without a drift network: widen the transformer by its MACs
    drift_channels: Count
    width: Count  # of a token
    depth: Count  # transformer blocks
    attention_heads: Count
    upscaler_channels: Annotated[tuple[Count, ...], Three]  # at 16, 32 and 64 pixels
    head_channels: Annotated[tuple[CountOrZero, ...], Three]  # hidden, of the filter heads; 0: one 1x1 convolution

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % (4 * self.attention_heads):
            least = 4 * self.attention_heads
            raise ValueError(f"width {self.width} must be a multiple of 4 x attention_heads = {least}")
        if self.drift and self.drift_macs_to_backbone:
            raise ValueError("drift_macs_to_backbone needs drift = false: otherwise there are no MACs to give")
        return self

    def build(self, shape: tuple[int, int, int]) -> Denoiser:
        """Return the denoiser, (3, 64, 64) or (4, 16, 16) -> the same."""
        from ablate.models.kpn.denoiser import Denoiser

        return Denoiser(self)

    def memory_sizes(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """Estimate the parameters, and the values per image that a backward pass keeps, by arithmetic alone."""
        from ablate.models.kpn.drift import drift_macs

        inputs = (self.width, *self.upscaler_channels[:-1])
        scales = 3 if self.space == "pixel" else 1  # doublings from 8 to 64 pixels, or to the 16 of latents
        size_out = 8 * 2**scales
        stages = list(zip((8, 16, 32), inputs, self.upscaler_channels, strict=True))[:scales]
        params = self.depth * 18 * self.width**2 + sum(13 * c * c + 4 * c * out for _, c, out in stages)
        kept = self.depth * (22 * TOKENS * self.width + 2 * self.attention_heads * TOKENS**2)
        kept += sum(8 * c * size**2 for size, c, _ in stages) + size_out**2 * stages[-1][2]
        if self.output == "kpn":
            heads = list(zip((16, 32, 64), self.upscaler_channels, self.head_channels, strict=True))
            for size, c, hidden in heads[:scales]:
                params += 9 * c * hidden + (hidden or c) * FILTER_PARAMS
                kept += size**2 * (3 * hidden + 3 * FILTER_PARAMS)
        if self.drift_macs_to_backbone:
            macs = drift_macs(self.drift_channels, 3 if self.space == "pixel" else 4, size_out)
            params += macs // TOKENS  # a weight of a linear layer is used once per token
            kept += 3 * macs // (3 * self.width)
        if self.drift:
            params += 45 * self.drift_channels**2
            kept += 8 * size_out**2 * self.drift_channels
        return params, kept
