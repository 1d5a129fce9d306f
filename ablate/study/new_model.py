"""The files that `ablate init --model` writes: a model, a baseline, a variant and a README."""

from __future__ import annotations

MODEL = '''"""An example to replace: a small convolutional denoiser of images."""

import torch
from torch import Tensor, nn

import ablate


@ablate.model("convnet")
class ConvNet:
    """The keys of [model] in variants/*.toml."""

    width: int = 32
    depth: int = 3
    residual: bool = True

    def build(self, shape: tuple[int, int, int]) -> nn.Module:
        """Return the network for images of shape (channels, height, width)."""
        return Denoiser(shape[0], self.width, self.depth, self.residual)


class Denoiser(nn.Module):
    def __init__(self, channels: int, width: int, depth: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.first = nn.Conv2d(channels + 1, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(depth)
        )
        self.last = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Map noisy images z (B, C, H, W) and times t (B,), 0 noise to 1 clean, to clean images."""
        times = t.view(-1, 1, 1, 1).expand(-1, 1, *z.shape[2:])
        h = self.first(torch.cat([z, times], dim=1))
        for block in self.blocks:
            h = h + block(h) if self.residual else block(h)
        return self.last(h)


@ablate.metric("saturation", better="higher")
def saturation(samples: Tensor) -> Tensor:
    """Mean saturation of samples (N, 3, H, W) in [0, 1]."""
    return (samples.amax(dim=1) - samples.amin(dim=1)).mean()
'''

BASELINE = """about  = "The model as it is."
source = "an example"
axis   = "baseline"

[model]
kind  = "convnet"
width = 32

[data]
size = 32
"""

VARIANT = """about  = "Without the residual connections."
source = "an example"
axis   = "residual"
claim  = { metric = "fd", expect = "worse", because = "deep networks need them" }

[model]
residual = false
"""

README = """# A study with `ablate`

- `../model.py`: the model, and a metric; registered by name
- `baseline.toml`: the model, its settings, the form of the images
- `no_residual.toml`: a variant, that is what one change sets; add a file for each change

    export ABLATE_PLUGIN=model.py                    # or --plugin model.py
    ablate check                                     # does the model fit?
    ablate run --preset smoke --variant no_residual
    ablate run --variant no_residual --seeds 0-5     # --data FOLDER: your images
    ablate report
"""


def model_files() -> dict[str, str]:
    """Return path -> content, for a folder that has none of them."""
    return {
        "model.py": MODEL,
        "variants/baseline.toml": BASELINE,
        "variants/no_residual.toml": VARIANT,
        "variants/README.md": README,
    }
