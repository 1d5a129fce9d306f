"""Extractors: features from a stream, what torch-fidelity knows, and a hub that is asked only when it may be."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.base.errors import DataError, WeightsError
from ablate.metrics.extractors import DINOV2_COMMIT, EXTRACTORS, FidelityExtractor, extract, load_extractor
from ablate.metrics.weights import BACKBONES, Search
from ablate.study.metric_names import EMBEDDED, METRICS, SETS

HUB = """
import torch
dependencies = ["torch"]
class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([1.0]))
    def forward(self, x):
        return self.scale * x.mean((2, 3))
def dinov2_vits14(**kwargs):
    return Tiny()
"""


def smooth_images(n: int) -> Tensor:
    """Smooth random images (n, 3, 64, 64) uint8."""
    noise = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(noise, size=64, mode="bicubic").clamp(0, 1) * 255).round().byte()


def test_features_do_not_depend_on_batch_size_or_autocast() -> None:
    images = smooth_images(5)
    done: list[int] = []
    (whole,) = extract([images.numpy()], load_extractor(EMBEDDED), on_batch=done.append)
    with torch.autocast("cpu", torch.bfloat16):
        parts = torch.cat(list(extract(images.split(2), load_extractor(EMBEDDED), on_batch=done.append)))
    assert whole.shape == (5, 1280)
    assert whole.dtype == torch.float32
    assert done == [5, 2, 2, 1]
    assert (parts - whole).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 8, 8, 3).byte(),
        torch.zeros(0, 3, 8, 8).byte(),
        np.zeros((3, 8, 8), np.uint8),
    ],
)
def test_other_dtypes_and_shapes_are_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match=r"expected uint8 \(B, 3, H, W\)"):
        next(extract([images], load_extractor(EMBEDDED)))


def test_torch_fidelity_knows_the_extractor() -> None:
    from torch_fidelity.utils import create_feature_extractor

    made = create_feature_extractor(EMBEDDED, ["1280"], cuda=False, verbose=False)
    assert isinstance(made, FidelityExtractor)
    images = smooth_images(2)
    assert torch.equal(made(images)[0], next(extract([images], load_extractor(EMBEDDED))))
    assert {FidelityExtractor.get_default_feature_layer_for_metric(m) for m in ("fid", "kid", "prc")} == {"1280"}


def test_every_network_of_a_metric_can_be_loaded() -> None:
    assert {metric.network for metric in METRICS.values() if metric.kind in SETS} == set(EXTRACTORS)


def test_dinov2_is_pinned_code_with_pinned_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    name = "dinov2-vit-s-14"
    with pytest.raises(WeightsError, match=r"no weights for dinov2_vits14.*ABLATE_OFFLINE forbids a download"):
        load_extractor(name)
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "dinov2_vits14_pretrain.pth"
    torch.save({"scale": torch.tensor([2.0])}, file)
    with pytest.raises(WeightsError, match="other weights"):
        load_extractor(name)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(BACKBONES, "dinov2_vits14", replace(BACKBONES["dinov2_vits14"], file_sha256=digest))
    with pytest.raises(WeightsError, match="no code for dinov2-vit-s-14"):
        load_extractor(name, search=Search(download=True))
    # What an earlier download left is used without asking anybody.
    code = tmp_path / f"facebookresearch_dinov2_{DINOV2_COMMIT}"
    code.mkdir()
    (code / "hubconf.py").write_text(HUB)
    extractor = load_extractor(name)
    (found,) = extract([smooth_images(3)], extractor)
    assert found.shape == (3, 3)
    (code / "hubconf.py").write_text("damaged = ")
    with pytest.raises(WeightsError, match=r"dinov2-vit-s-14: .* cannot be loaded \(SyntaxError.*fix: remove"):
        load_extractor(name)
    (code / "hubconf.py").write_text(HUB)
    assert len(extractor.digest) == 64
    v = F.interpolate(smooth_images(3).float(), size=224, mode="bilinear").mean((2, 3)) / 255
    expected = 2 * (v - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
