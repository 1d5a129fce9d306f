"""A U-Net of diffusers as a model of ablate: its settings, and how they become a network.

ablate run --plugin unet.py --preset smoke --variant all
"""

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

import ablate


@ablate.model("unet")
class UNet:
    """The keys of `[model]` in the variants' files."""

    channels: tuple[int, ...] = (32, 64, 64)  # at 32, 16 and 8 pixels
    blocks: int = 1  # residual blocks at each
    attention: bool = True  # at the two lowest resolutions

    def build(self, shape: tuple[int, int, int]) -> nn.Module:
        """Return the network for images (C, S, S)."""
        plain = [True] + [not self.attention] * (len(self.channels) - 1)
        return Denoiser(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=self.channels,
            layers_per_block=self.blocks,
            norm_num_groups=8,
            add_attention=self.attention,
            down_block_types=["DownBlock2D" if p else "AttnDownBlock2D" for p in plain],
            up_block_types=["UpBlock2D" if p else "AttnUpBlock2D" for p in reversed(plain)],
        )


class Denoiser(UNet2DModel):
    """Noisy images z (B, C, S, S) and times t (B,) in [0, 1] -> (B, C, S, S)."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return super().forward(z, 1000 * t).sample


@ablate.metric("saturation", better="higher")
def saturation(samples: Tensor) -> Tensor:
    """Mean saturation of the samples (N, 3, S, S) in [0, 1]."""
    return torch.mean(samples.amax(1) - samples.amin(1))
