"""The KL autoencoder of the latent space: images (3, 64, 64) <-> latents (4, 16, 16).

    q(z | x) = N(mean(x), diag(exp(logvar(x)))),   x_hat = decoder(mean + exp(logvar / 2) eps)
    KL(q | N(0, 1)) = (mean^2 + exp(logvar) - 1 - logvar) / 2       per element of the latent

Diffusion runs on the means. They are normalised by each channel's mean and standard deviation over
the training images, so that they have the variance of the noise.

Reference: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv
2112.10752.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ablate.models.kpn.backbone import Upsample2x
from ablate.study.config import LATENT_SHAPE, AutoencoderConfig

GROUPS = 8  # of a group normalisation
LOGVAR = (-30.0, 20.0)  # bounds that keep exp finite


class ResidualBlock(nn.Module):
    """x (B, C, S, S) plus two convolutions of the normalised x."""

    def __init__(self, channels: int) -> None:
        """Build twice normalisation -> SiLU -> 3x3."""
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
        out: Tensor = x + self.layers(x)
        return out


class Encoder(nn.Sequential):
    """Images (B, 3, 64, 64) -> mean and log variance, (B, 2 x 4, 16, 16)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        """Build it with the given channels at 64, 32 and 16 pixels."""
        layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, padding=1)]
        for a, b in pairwise(channels):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), ResidualBlock(b)]
        super().__init__(*layers, *_head(channels[-1], 2 * LATENT_SHAPE[0]))


class Decoder(nn.Sequential):
    """Latents (B, 4, 16, 16) -> images (B, 3, 64, 64), unbounded."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        """Build it with the given channels at 64, 32 and 16 pixels."""
        layers: list[nn.Module] = [nn.Conv2d(LATENT_SHAPE[0], channels[-1], 3, padding=1)]
        layers += [ResidualBlock(channels[-1])]
        for a, b in pairwise(reversed(channels)):
            layers += [Upsample2x(a, b), ResidualBlock(b)]
        super().__init__(*layers, *_head(channels[0], 3))


def _head(channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)]


class Autoencoder(nn.Module):
    """Images (B, 3, 64, 64) in [-1, 1] <-> latents (B, 4, 16, 16)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        """Build encoder and decoder."""
        super().__init__()
        self.encoder, self.decoder = Encoder(config.channels), Decoder(config.channels)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents of x, (B, 4, 16, 16) float32 each."""
        mean, logvar = self.encoder(x.contiguous(memory_format=torch.channels_last)).float().chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return a reconstruction from a sample of the posterior, and the KL divergence.

        Args:
            x: Images (B, 3, 64, 64), float32 in [-1, 1].
            eps: Standard normal noise (B, 4, 16, 16).

        Returns:
            Images (B, 3, 64, 64), float32, unbounded; the mean divergence per element.
        """
        mean, logvar = self.posterior(x)
        kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        return self.decoder(mean + (logvar / 2).exp() * eps).float(), kl


class ImageCodec(NamedTuple):
    """Maps images (B, 3, 64, 64) to samples of the diffusion space (B, C, S, S) float32, and back.

    Attributes:
        encode: Images -> samples, without gradients.
        decode: Samples -> images, with gradients.
        decoder: In latent space, the module that decodes `samples * scale + shift`.
        shift: (4, 1, 1), in latent space.
        scale: (4, 1, 1), in latent space.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    decoder: Decoder | None = None
    shift: Tensor | None = None
    scale: Tensor | None = None


PIXEL_CODEC = ImageCodec(lambda x: x, lambda z: z)  # in pixel space the images are the samples
# Grey images are read as RGB of three equal channels, so that every metric takes them.
GREY_CODEC = ImageCodec(lambda x: x[:, :1], lambda z: z.expand(-1, 3, -1, -1))


def image_codec(channels: int) -> ImageCodec:
    """Return the codec in pixel space, for grey (1) or colour (3) images."""
    return GREY_CODEC if channels == 1 else PIXEL_CODEC


def latent_codec(model: Autoencoder, shift: Tensor, scale: Tensor, precision: str) -> ImageCodec:
    """Return the codec of a trained autoencoder.

    Args:
        model: The frozen autoencoder.
        shift: Mean of each latent channel over the training images, (4,).
        scale: Standard deviation of each latent channel, (4,).
        precision: `fp32`, or `bf16` for autocast.
    """
    shift, scale = shift.view(-1, 1, 1), scale.view(-1, 1, 1)

    def autocast(x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16")

    def encode(x: Tensor) -> Tensor:
        with torch.no_grad(), autocast(x):
            return (model.posterior(x)[0] - shift) / scale

    def decode(z: Tensor) -> Tensor:
        with autocast(z):
            out: Tensor = model.decoder((z * scale + shift).contiguous(memory_format=torch.channels_last))
            return out.float()

    return ImageCodec(encode, decode, model.decoder, shift, scale)
