"""The Frechet distance: closed forms, torch-fidelity's own answer, known bias, order, and the cache of statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

from ablate.errors import DataError
from ablate.measure.extractors import NAME, EfficientNetLite0, efficientnet_lite0, extract
from ablate.measure.fidelity import Statistics, frechet_distance, reference_statistics, statistics

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make these tests ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blobs(n: int, seed: int) -> Tensor:
    """Smooth random pictures (n, 3, 64, 64) uint8, with edges."""
    noise = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, size=64, mode="bicubic").clamp(0, 1)
    return ((smooth + 0.3 * (smooth > 0.5)).clamp(0, 1) * 255).round().byte()


def rotation(d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_gaussians_with_commuting_covariances(d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, (mu_a, mu_b), (var_a, var_b) = rotation(d, seed), rng.normal(size=(2, d)), rng.uniform(0.1, 4, size=(2, d))
    a, b = Statistics(mu_a, q * var_a @ q.T, 9), Statistics(mu_b, q * var_b @ q.T, 9)
    expected = ((mu_a - mu_b) ** 2).sum() + ((np.sqrt(var_a) - np.sqrt(var_b)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_gaussians_with_covariances_that_do_not_commute() -> None:
    rng = np.random.default_rng(0)
    s, t = (m @ m.T for m in rng.normal(size=(2, 2, 2)))
    # In two dimensions tr((S T)^(1/2)) = sqrt(tr(S T) + 2 sqrt(det(S T))).
    root = np.sqrt(np.trace(s @ t) + 2 * np.sqrt(np.linalg.det(s @ t)))
    found = frechet_distance(Statistics(np.zeros(2), s, 9), Statistics(np.array([3.0, 4.0]), t, 9))
    assert found == pytest.approx(25 + np.trace(s) + np.trace(t) - 2 * root, rel=1e-9)


def test_statistics_are_the_mean_and_the_unbiased_covariance_in_float64() -> None:
    found = statistics(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 3.0]]) + 2**20)
    np.testing.assert_allclose(found.mu, [2**20 + 3, 2**20 + 1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.sigma, [[4, 3], [3, 3]], rtol=1e-9)
    assert {found.mu.dtype, found.sigma.dtype} == {np.dtype("float64")}
    assert found.n == 3
    with pytest.raises(DataError, match="at least 2"):
        statistics(torch.zeros(1, 4))


def test_identity_with_fewer_pictures_than_dimensions() -> None:
    same = statistics(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    assert abs(frechet_distance(same, same)) < 1e-5 * np.trace(same.sigma)


def test_bias_of_a_finite_sample() -> None:
    # E[FD_N] ~ (d / N) (1 + (d + 1) / 4) for N standard normal features of dimension d against the exact reference.
    d, n = 64, 1000
    exact = Statistics(np.zeros(d), np.eye(d), n)
    generator = torch.Generator().manual_seed(0)
    found = [frechet_distance(statistics(torch.randn(n, d, generator=generator)), exact) for _ in range(20)]
    assert np.mean(found) == pytest.approx(d / n * (1 + (d + 1) / 4), rel=0.05)


class Pictures(Dataset[Tensor]):
    """The form in which torch-fidelity takes pictures in memory."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def test_equals_torch_fidelity_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    a, b = blobs(24, 0), blobs(24, 1)
    extractor = efficientnet_lite0(CPU)
    one, two = (statistics(extract(images, extractor, batch=16)) for images in (a, b))
    found = frechet_distance(one, two)
    assert capfd.readouterr() == ("", "")
    expected = torch_fidelity.calculate_metrics(
        input1=Pictures(a),
        input2=Pictures(b),
        fid=True,
        feature_extractor=NAME,
        cuda=False,
        batch_size=8,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    assert found == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)


def test_grows_with_blur_and_with_noise() -> None:
    extractor, clean = efficientnet_lite0(CPU), blobs(16, 2)
    reference = statistics(extract(clean, extractor)[:, :64])  # a part of the features: the order shows there already

    def distance(changed: Tensor) -> float:
        return frechet_distance(statistics(extract(changed.round().clamp(0, 255).byte(), extractor)[:, :64]), reference)

    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    noisy = [distance(clean + sigma * noise) for sigma in (8, 32)]
    blurred = [distance(F.avg_pool2d(clean.float(), k, 1, k // 2, count_include_pad=False)) for k in (3, 9)]
    assert 0 < noisy[0] < noisy[1]
    assert 0 < blurred[0] < blurred[1]


class Means(EfficientNetLite0):
    """An extractor that is quick and counts what it is shown: a picture's mean colour and its square."""

    def __init__(self, digest: str = "a") -> None:
        nn.Module.__init__(self)  # no weights to load
        self.digest, self.seen, self.unused = digest, 0, nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        means = images.float().mean((2, 3))
        return torch.cat([means, means.square()], 1)


def same(a: Statistics, b: Statistics) -> bool:
    return np.array_equal(a.mu, b.mu) and np.array_equal(a.sigma, b.sigma) and a.n == b.n


def test_statistics_are_measured_once_for_the_same_pixels_and_network(tmp_path: Path) -> None:
    images, extractor = blobs(6, 0).numpy(), Means()
    done: list[int] = []

    def measure(pictures: np.ndarray, network: Means = extractor) -> Statistics:
        return reference_statistics(pictures, network, cache=tmp_path, on_batch=done.append)

    first = measure(images)
    assert same(measure(images.copy()), first)
    assert (extractor.seen, done) == (6, [6, 6])
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    assert not same(measure(changed), first)
    other = Means("b")
    measure(images, other)
    measure(images.reshape(6, 3, 32, 128))
    assert (extractor.seen, other.seen) == (18, 6)
    assert len(list(tmp_path.iterdir())) == 4  # and no temporary file is left


@pytest.mark.parametrize("damage", ["empty", "cut", "flip"])
def test_a_damaged_cache_is_measured_again_and_mended(tmp_path: Path, damage: str) -> None:
    images, extractor = blobs(6, 0).numpy(), Means()
    first = reference_statistics(images, extractor, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": good[:-8], "flip": good[:-1] + bytes([good[-1] ^ 1])}[damage])
    assert same(reference_statistics(images, extractor, cache=tmp_path), first)
    assert extractor.seen == 12
    assert path.read_bytes() == good


def test_the_cache_is_where_the_environment_says_and_may_be_unwritable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, extractor = blobs(6, 0).numpy(), Means()
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    first = reference_statistics(images, extractor)
    assert [p.suffix for p in (tmp_path / "statistics").iterdir()] == [".safetensors"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "file"))
    assert same(reference_statistics(images, extractor), first)
    assert extractor.seen == 12


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ablate.files.os.replace", fail)
    reference_statistics(blobs(6, 0).numpy(), Means(), cache=tmp_path)
    assert not list(tmp_path.iterdir())
