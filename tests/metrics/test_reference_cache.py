"""The cache of reference features: never stale, safe under two processes, mended when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ablate.metrics.extractors import Extractor
from ablate.metrics.reference_cache import cached_features, reference_features
from ablate.metrics.set_distances import Features


def blobs(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 64, 64), np.uint8)


class Means(nn.Module):
    """A network that is quick and counts what it is shown: a image's mean colour and its square."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.unused = 0, nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        means = images.float().mean((2, 3))
        return torch.cat([means, means.square()], 1)


def means(**changes: str) -> tuple[Means, Extractor]:
    network = Means()
    return network, replace(Extractor("means", network, "a", "none"), **changes)


def same(a: Features, b: Features) -> bool:
    one, two = a.statistics, b.statistics
    return (
        one.n == two.n
        and np.array_equal(one.mu, two.mu)
        and np.array_equal(one.sigma, two.sigma)
        and np.array_equal(a.rows, b.rows)
    )


def test_statistics_are_measured_once_for_the_same_pixels_and_network(tmp_path: Path) -> None:
    images, (counter, extractor) = blobs(6, 0), means()
    done: list[int] = []

    def measure(images: np.ndarray, network: Extractor | None = None) -> Features:
        return reference_features(images, network or extractor, cache=tmp_path, on_batch=done.append)

    first = measure(images)
    assert same(measure(images.copy()), first)
    assert (counter.seen, done) == (6, [6, 6])
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    assert not same(measure(changed), first)
    measure(images.reshape(6, 3, 32, 128))
    assert counter.seen == 18
    for changes in ({"digest": "b"}, {"name": "other"}, {"transform": "bilinear"}):
        other, its = means(**changes)
        measure(images, its)
        assert other.seen == 6
    assert len(list(tmp_path.iterdir())) == 6  # and no temporary file is left


def test_images_that_change_between_two_readings_are_kept_under_what_they_were(tmp_path: Path) -> None:
    before, after, (_, extractor) = blobs(6, 0), blobs(6, 1), means()
    readings = iter([before, after])  # of a folder that another program fills
    cached_features(lambda: [next(readings)], 6, extractor, cache=tmp_path)
    expected = reference_features(before, extractor, cache=tmp_path / "elsewhere")
    assert same(reference_features(before, extractor, cache=tmp_path), expected)


@pytest.mark.parametrize("damage", ["empty", "cut", "flip"])
def test_a_damaged_cache_is_measured_again_and_mended(tmp_path: Path, damage: str) -> None:
    images, (counter, extractor) = blobs(6, 0), means()
    first = reference_features(images, extractor, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": good[:-8], "flip": good[:-1] + bytes([good[-1] ^ 1])}[damage])
    assert same(reference_features(images, extractor, cache=tmp_path), first)
    assert counter.seen == 12
    assert path.read_bytes() == good


def test_the_cache_is_where_the_environment_says_and_may_be_unwritable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, (counter, extractor) = blobs(6, 0), means()
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    first = reference_features(images, extractor)
    assert [p.suffix for p in (tmp_path / "statistics").iterdir()] == [".safetensors"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "file"))
    assert same(reference_features(images, extractor), first)
    assert counter.seen == 12


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    reference_features(blobs(6, 0), means()[1], cache=tmp_path)
    assert not list(tmp_path.iterdir())


TWO = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_reference_cache import blobs, means
from ablate.metrics.reference_cache import reference_features
print("ready", flush=True)
for seed in range(20):
    found = reference_features(blobs(6, seed), means()[1], cache=Path(sys.argv[1]))
    print(found.statistics.mu.sum(), found.rows.sum())
"""


@pytest.mark.slow
def test_two_processes_may_fill_the_cache_at_once(tmp_path: Path) -> None:
    words = [sys.executable, "-c", TWO, str(tmp_path), str(Path(__file__).parent)]
    other = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    found = [reference_features(blobs(6, seed), means()[1], cache=tmp_path) for seed in range(20)]
    told = other.communicate()[0]
    assert told.splitlines() == [f"{one.statistics.mu.sum()!s} {one.rows.sum()!s}" for one in found]
    assert other.returncode == 0
    assert len(list(tmp_path.iterdir())) == 20
    for seed in range(20):  # every file is whole: nothing is measured again
        counter, extractor = means()
        reference_features(blobs(6, seed), extractor, cache=tmp_path)
        assert counter.seen == 0
