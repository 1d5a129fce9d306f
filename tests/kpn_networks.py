"""KPN denoisers with a seed's weights, built from their settings alone."""

import torch

from ablate.models.kpn.denoiser import Denoiser, initialise
from ablate.models.kpn.settings import KpnSettings


def build(model: KpnSettings, seed: int, device: torch.device) -> Denoiser:
    """Return a denoiser on a device, convolutions channels last, as `ablate.models.denoiser.build` does."""
    denoiser = Denoiser(model)
    initialise(denoiser, seed)
    return denoiser.to(device).to(memory_format=torch.channels_last)
