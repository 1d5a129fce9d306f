"""The perceptual distance in the training loss: LPIPS as the metric has it, and no run without its weights."""

from __future__ import annotations

from pathlib import Path

import command
import numpy as np
import pytest
import torch
from lpips_trunks import random_trunk

from ablate.metrics.pair_distances import Lpips, load_lpips
from ablate.metrics.weights import Search
from ablate.store import tables
from ablate.study import variants
from ablate.training.perceptual import LpipsLoss, perceptual_loss

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (1.3 * x).requires_grad_(), y.requires_grad_()


def test_is_the_metric_with_a_gradient_of_the_prediction_alone(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    network = Lpips("alex", random_trunk("alex"))
    loss = LpipsLoss(network)
    distance = loss(x, y)
    torch.testing.assert_close(distance, network(x, y), rtol=1e-5, atol=1e-7)
    distance.sum().backward()
    assert x.grad is not None
    assert (x.grad[x.detach().abs() > 1] != 0).float().mean() > 0.9
    assert y.grad is None
    assert all(p.grad is None for p in loss.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(x, y)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, distance, rtol=0.05, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the weights of VGG16 are not here")
def test_the_loss_of_lpips_loss_is_lpips_of_vgg16(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    config = variants.resolve(variants.load("lpips_loss"), "smoke").train
    loss = perceptual_loss(config, torch.device("cpu"), Search(WEIGHTS))
    assert loss is not None
    metric = load_lpips("vgg", search=Search(WEIGHTS))
    assert loss.digest == metric.digest
    x, y = pair
    torch.testing.assert_close(loss(x, y), metric(x, y), rtol=1e-5, atol=1e-7)


def test_without_its_weights_no_run_of_the_study_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("ABLATE_WEIGHTS", raising=False)
    np.savez(tmp_path / "set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    words = ("run", "--preset", "smoke", "--data", "set.npz", "--variant", "lpips_loss")
    planned = command.ablate(*words, "--dry-run", cwd=tmp_path)
    assert "lpips_loss cannot train: the weights of its loss are not here" in planned.stdout
    done = command.ablate(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: lpips_loss trains with LPIPS of VGG16: no weights for vgg16_features here")
    assert done.stderr.count("\n") == 1
    assert tables.read(tmp_path / "results", "runs").empty
