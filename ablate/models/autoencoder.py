"""The KL autoencoder of the latent space: a picture of 3 x 64 x 64 numbers becomes 4 x 16 x 16.

    q(z | x) = N(mean(x), diag(exp(logvar(x)))),   x_hat = decoder(mean + exp(logvar / 2) eps)
    KL(q | N(0, 1)) = (mean^2 + exp(logvar) - 1 - logvar) / 2                     per latent number
The diffused latents are the means, shifted and scaled by each channel's mean and standard deviation over the training pictures,
so that they are of the size of the noise.

Reference: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ablate.models.kpn.backbone import DIFFUSION_SPACES, Upsample2x
from ablate.study.config import AutoencoderConfig

GROUPS = 8  # of a group normalisation
LOGVAR = (-30.0, 20.0)  # bounds: exp stays finite


class ResidualBlock(nn.Module):
    """x + convolutions of the normalised x: (B, C, S, S) -> the same shape."""

    def __init__(self, channels: int) -> None:
        """Build normalisation -> SiLU -> 3x3, twice."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        out: Tensor = x + self.layers(x)
        return out


class Encoder(nn.Sequential):
    """Pictures (B, 3, 64, 64) -> mean and log variance, (B, 2 x 4, 16, 16)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        """Build it with channels at 64, 32 and 16 pixels."""
        layers: list[nn.Module] = [nn.Conv2d(DIFFUSION_SPACES["pixel"].channels, channels[0], 3, padding=1)]
        for a, b in pairwise(channels):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), ResidualBlock(b)]
        super().__init__(*layers, *_head(channels[-1], 2 * DIFFUSION_SPACES["latent"].channels))


class Decoder(nn.Sequential):
    """Latents (B, 4, 16, 16) -> pictures (B, 3, 64, 64), unbounded."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        """Build it with channels at 64, 32 and 16 pixels."""
        layers: list[nn.Module] = [nn.Conv2d(DIFFUSION_SPACES["latent"].channels, channels[-1], 3, padding=1)]
        layers += [ResidualBlock(channels[-1])]
        for a, b in pairwise(reversed(channels)):
            layers += [Upsample2x(a, b), ResidualBlock(b)]
        super().__init__(*layers, *_head(channels[0], DIFFUSION_SPACES["pixel"].channels))


def _head(channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)]


class Autoencoder(nn.Module):
    """Pictures x (B, 3, 64, 64) in [-1, 1] <-> latents (B, 4, 16, 16)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        """Build encoder and decoder."""
        super().__init__()
        self.encoder, self.decoder = Encoder(config.channels), Decoder(config.channels)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents of x, each (B, 4, 16, 16) float32."""
        mean, logvar = self.encoder(x.contiguous(memory_format=torch.channels_last)).float().chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction of x from a draw of its posterior, and the KL divergence per latent number.

        Args:
            x: (B, 3, 64, 64) float32.
            eps: (B, 4, 16, 16), standard normal noise.

        Returns:
            (B, 3, 64, 64) float32, unbounded, and a scalar.
        """
        mean, logvar = self.posterior(x)
        kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        return self.decoder(mean + (logvar / 2).exp() * eps).float(), kl


class ImageCodec(NamedTuple):
    """The way from pictures (B, 3, 64, 64) to what is diffused, (B, C, S, S) float32, and back.

    In latent space `decoder` is what decodes latents times `scale` (4, 1, 1) plus `shift` (4, 1, 1).
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    decoder: Decoder | None = None
    shift: Tensor | None = None
    scale: Tensor | None = None


PIXEL_CODEC = ImageCodec(lambda x: x, lambda z: z)


def latent_codec(model: Autoencoder, shift: Tensor, scale: Tensor, precision: str) -> ImageCodec:
    """Return the codec of a trained autoencoder.

    Args:
        model: The frozen autoencoder.
        shift: (4,), each channel's mean over the training pictures' latents.
        scale: (4,), each channel's standard deviation.
        precision: `fp32`, or `bf16` for autocast.
    """
    shift, scale = shift.view(-1, 1, 1), scale.view(-1, 1, 1)

    def autocast(x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16")

    def encode(x: Tensor) -> Tensor:
        with torch.no_grad(), autocast(x):
            return (model.posterior(x)[0] - shift) / scale

    def decode(z: Tensor) -> Tensor:
        """Differentiable: a loss on pictures reaches the latents."""
        with autocast(z):
            out: Tensor = model.decoder((z * scale + shift).contiguous(memory_format=torch.channels_last))
            return out.float()

    return ImageCodec(encode, decode, model.decoder, shift, scale)
