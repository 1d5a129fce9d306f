"""Diversity, nearest training images and the memorisation flag, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.base.errors import DataError
from ablate.metrics.neighbours import (
    diversity,
    embedded_batches,
    memorisation,
    nearest_images,
    sample_metrics,
    to_float,
    too_many_near,
)

CPU = torch.device("cpu")


class Colours(nn.Module):
    """A perceptual distance that is quick: squared distance of 2 x 2 mean colours."""

    digest, smallest = "colours", 1

    def embed(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 2).flatten(1)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return (self.embed(x) - self.embed(target)).square().sum(1)


def smooth_images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 2, 2), np.uint8).repeat(4, 2).repeat(4, 3)


def batches(images: np.ndarray) -> list[np.ndarray]:
    return [images[i : i + 7] for i in range(0, len(images), 7)]


def test_diversity_is_the_mean_over_all_pairs() -> None:
    images, distance = smooth_images(9, 0), Colours()
    x = to_float(images, CPU)
    pairs = [float(distance(x[i : i + 1], x[j : j + 1])) for i in range(9) for j in range(i)]
    assert diversity(embedded_batches(images, distance, CPU, batch=4)) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert diversity([torch.ones(5, 3), torch.ones(1, 3)]) == 0
    with pytest.raises(DataError, match="needs at least 2"):
        diversity([torch.ones(1, 3)])


def test_nearest_is_the_least_distance_and_may_skip_the_image_itself() -> None:
    train, queries, distance = smooth_images(30, 1), smooth_images(5, 2), Colours()
    q, t = to_float(queries, CPU), to_float(train, CPU)
    table = torch.stack([distance(x.expand_as(t), t) for x in q])
    done: list[int] = []
    found = nearest_images(distance.embed(q), batches(train), distance, on_batch=done.append)
    torch.testing.assert_close(found.distance, table.min(1).values, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.index, table.argmin(1))
    assert done == [7, 7, 7, 7, 2]
    own, skip = torch.arange(30), {image.tobytes(): [i] for i, image in enumerate(train)}
    itself = nearest_images(distance.embed(t), batches(train), distance)
    assert torch.equal(itself.index, own)
    other = nearest_images(distance.embed(t), batches(train), distance, skip=skip)
    assert (other.index != own).all()
    assert (other.distance > 1e-4).all()


def test_copies_are_flagged_and_unseen_images_are_not() -> None:
    train, held_out, unseen = smooth_images(400, 0), smooth_images(200, 1), smooth_images(200, 2)
    fresh = sample_metrics(unseen, held_out, lambda: batches(train), Colours(), CPU)
    assert not fresh.memorised
    share = fresh.samples["memorised"]
    assert share.low is not None
    assert share.high is not None
    assert share.low <= share.value <= share.high < 0.1
    assert fresh.samples["nearest"].value == pytest.approx(fresh.real["nearest"].value, rel=0.2)
    noisy = np.clip(train[:60].astype(int) + np.random.default_rng(3).integers(-4, 5, train[:60].shape), 0, 255)
    mixed = np.concatenate([unseen[:140], noisy.astype(np.uint8)])
    copies = sample_metrics(mixed, held_out, lambda: batches(train), Colours(), CPU)
    assert copies.memorised
    assert copies.samples["memorised"].value == pytest.approx(0.3, abs=0.05)
    assert torch.equal(copies.neighbours.index[140:], torch.arange(60))


@pytest.mark.parametrize("real", [4, 20, 64, 256])
@pytest.mark.slow
def test_the_flag_is_seldom_raised_by_chance(real: int) -> None:
    """Samples like the held-out images: at most one alarm in a thousand, whatever their number; and copies are found."""
    random = torch.Generator().manual_seed(real)
    alarms = sum(
        too_many_near(torch.rand(256, generator=random), torch.rand(real, generator=random)) for _ in range(2000)
    )
    assert alarms <= 7  # 2 are expected at most
    assert memorisation(torch.zeros(240), torch.rand(real, generator=random))[1]


def test_few_near_samples_are_no_alarm() -> None:
    held_out = torch.linspace(1, 2, 200)
    assert not memorisation(torch.tensor([0.5] * 2 + [1.5] * 98), held_out)[1]
    assert memorisation(torch.tensor([0.5] * 20 + [1.5] * 80), held_out)[1]
