"""Embeddings of training images on the disk: the same neighbours, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ablate.metrics import embedding_cache
from ablate.metrics.embedding_cache import candidates
from ablate.metrics.neighbours import nearest_images

CPU = torch.device("cpu")


class Colours:
    """A perceptual distance that is quick, and counts the images that it embeds."""

    digest, smallest, seen = "colours", 1, 0

    def embed(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x.flatten(1)

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        return (self.embed(x) - self.embed(target)).square().sum(1)


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8), np.uint8)


def test_the_second_search_embeds_no_training_image_and_finds_the_same(tmp_path: Path) -> None:
    train, distance = images(70, 0), Colours()
    queries = distance.embed(torch.from_numpy(images(9, 1)).float() / 127.5 - 1)
    plain = nearest_images(queries, [train[i : i + 32] for i in range(0, 70, 32)], distance)
    for embedded in (71, 1):  # one image shows how wide an embedding is
        distance.seen = 0
        found = nearest_images(queries, candidates(train, distance, CPU, cache=tmp_path), distance)
        assert distance.seen == embedded
        assert torch.equal(found.distance, plain.distance)
        assert torch.equal(found.index, plain.index)
    (file,) = tmp_path.iterdir()
    for damage in (b"", file.read_bytes()[:-1], b"junk"):
        file.write_bytes(damage)
        found = nearest_images(queries, candidates(train, distance, CPU, cache=tmp_path), distance)
        assert torch.equal(found.distance, plain.distance)
    other = nearest_images(queries, candidates(train[::-1].copy(), distance, CPU, cache=tmp_path), distance)
    assert torch.equal(other.index, 69 - plain.index)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("limit", ["MOST_BYTES", "SHARE"])
def test_what_does_not_fit_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(embedding_cache, limit, 1e-12)
    train = images(40, 0)
    found = list(candidates(train, Colours(), CPU, cache=tmp_path / "new"))
    assert np.array_equal(np.concatenate(found), train)
    assert not (tmp_path / "new").exists()
