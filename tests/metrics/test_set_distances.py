"""Distances between sets: closed forms, torch-fidelity's own answers, known bias, its removal, intervals, and wrong variants that show."""

from __future__ import annotations

import gc
import hashlib
import io
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from ablate.base.errors import DataError
from ablate.metrics import weights
from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.extractors import Extractor, load_extractor
from ablate.metrics.set_distances import (
    Features,
    Statistics,
    bootstrap_difference,
    collect_features,
    feature_statistics,
    frechet_distance,
    frechet_infinity,
    kernel_distance,
    precision_recall,
)
from ablate.metrics.weights import Search
from ablate.study.metric_names import EMBEDDED, INCEPTION

CPU = torch.device("cpu")


def blobs(n: int, seed: int) -> Tensor:
    """Smooth random images (n, 3, 64, 64) uint8, with edges."""
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
    found = feature_statistics(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 3.0]]) + 2**20)
    np.testing.assert_allclose(found.mu, [2**20 + 3, 2**20 + 1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.sigma, [[4, 3], [3, 3]], rtol=1e-9)
    assert {found.mu.dtype, found.sigma.dtype} == {np.dtype("float64")}
    assert found.n == 3
    with pytest.raises(DataError, match="at least 2"):
        feature_statistics(torch.zeros(1, 4))


def test_identity_with_fewer_images_than_dimensions() -> None:
    same = feature_statistics(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    assert abs(frechet_distance(same, same)) < 1e-5 * np.trace(same.sigma)


def test_bias_of_a_finite_sample() -> None:
    # E[FD_N] ~ (d / N) (1 + (d + 1) / 4) for N standard normal features of dimension d against the exact reference.
    d, n = 64, 1000
    exact = Statistics(np.zeros(d), np.eye(d), n)
    generator = torch.Generator().manual_seed(0)
    found = [frechet_distance(feature_statistics(torch.randn(n, d, generator=generator)), exact) for _ in range(20)]
    assert np.mean(found) == pytest.approx(d / n * (1 + (d + 1) / 4), rel=0.05)


class Images(Dataset[Tensor]):
    """The form in which torch-fidelity takes images in memory."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def of(images: Tensor, extractor: Extractor | None = None, batch: int = 16) -> Features:
    return collect_features(images.split(batch), extractor or load_extractor(EMBEDDED), len(images))


def fd(a: Tensor, b: Tensor, batch: int = 16) -> float:
    return frechet_distance(of(a, batch=batch).statistics, of(b, batch=batch).statistics)


def by_torch_fidelity(a: Tensor, b: Tensor, name: str, **options: object) -> dict[str, float]:
    found: dict[str, float] = torch_fidelity.calculate_metrics(
        input1=Images(a),
        input2=Images(b),
        fid=True,
        kid=True,
        prc=True,
        feature_extractor=name,
        kid_subset_size=min(len(a), len(b)),
        cuda=False,
        batch_size=8,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
        **options,
    )
    return found


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Inception-v3 of random weights under the published name, with the pin moved to it: its real weights are not in any package."""

    class Unloaded(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object, **__: object) -> None:
            pass

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(0)
    published = weights.BACKBONES["inception_v3"]
    path = tmp_path / published.files[0]
    torch.save(Unloaded(INCEPTION, ["2048"], feature_extractor_weights_path=empty).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(weights.BACKBONES, "inception_v3", replace(published, file_sha256=digest))
    return path


@pytest.mark.parametrize("name", [EMBEDDED, INCEPTION])
@pytest.mark.slow
def test_equals_torch_fidelity_and_says_nothing(name: str, inception: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = (blobs(12, 0), blobs(14, 1)) if name == EMBEDDED else (blobs(6, 0), blobs(7, 1))  # Inception-v3 is slow
    extractor = load_extractor(name, search=Search(inception.parent))
    fake, real = of(a, extractor), of(b, extractor)
    found = [frechet_distance(fake.statistics, real.statistics), *precision_recall(fake.rows, real.rows)]
    kernel = kernel_distance(fake.rows, real.rows)
    assert capfd.readouterr() == ("", "")
    expected = by_torch_fidelity(
        a, b, name, **({} if name == EMBEDDED else {"feature_extractor_weights_path": str(inception)})
    )
    assert found == pytest.approx(
        [expected[key] for key in ("frechet_inception_distance", "precision", "recall")], rel=1e-6
    )
    keys = ("kernel_inception_distance_mean", "kernel_inception_distance_std")
    assert (kernel.value, kernel.error) == pytest.approx(tuple(expected[key] for key in keys), rel=1e-6, abs=1e-9)


@pytest.mark.slow
def test_wrong_variants_show() -> None:
    """A biased covariance and another resize differ from torch-fidelity's answer by far more than the agreement above."""
    a, b = blobs(12, 0), blobs(14, 1)
    expected = by_torch_fidelity(a, b, EMBEDDED)["frechet_inception_distance"]
    one, two = (of(x).rows.astype(np.float64) for x in (a, b))
    biased = [Statistics(x.mean(0), np.cov(x, rowvar=False, bias=True), len(x)) for x in (one, two)]
    assert abs(frechet_distance(*biased) / expected - 1) > 1e-3
    assert frechet_distance(feature_statistics(one), feature_statistics(two)) == pytest.approx(expected, rel=1e-6)
    network = efficientnet_lite0(CPU)

    def resized(mode: str) -> float:
        found = []
        for x in (a, b):
            v = F.interpolate(x.float(), size=224, mode=mode).clamp(0, 255)
            with torch.inference_mode():
                found.append(network.head(network.blocks(network.stem((v - 127) / 128))).mean((2, 3)))
        return frechet_distance(feature_statistics(found[0]), feature_statistics(found[1]))

    assert resized("bicubic") == pytest.approx(expected, rel=1e-6)
    assert abs(resized("bilinear") / expected - 1) > 0.01


@pytest.mark.slow
def test_symmetry_identity_order_and_batch_size() -> None:
    a, b = blobs(20, 0), blobs(18, 1)
    expected = fd(a, b)
    assert fd(b, a) == pytest.approx(expected, rel=1e-6)
    assert fd(a.flip(0), b, batch=7) == pytest.approx(expected, rel=1e-5)
    assert abs(fd(a, a.flip(0))) < 1e-4 * expected
    rows = of(a).rows
    assert abs(kernel_distance(rows, rows).value) < 1  # unbiased: not 0, but small
    assert precision_recall(rows, rows) == (1.0, 1.0)


@pytest.mark.slow
def test_grows_with_blur_noise_and_mode_collapse() -> None:
    clean = blobs(16, 2)
    reference = of(clean).rows[:, :64]  # a part of the features: the order shows there already

    def distances(changed: list[Tensor]) -> list[float]:
        found = [of(x.round().clamp(0, 255).byte()).rows[:, :64] for x in changed]
        return [frechet_distance(feature_statistics(rows), feature_statistics(reference)) for rows in found]

    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    noisy = distances([clean + sigma * noise for sigma in (8, 32)])
    blurred = distances([F.avg_pool2d(clean.float(), k, 1, k // 2, count_include_pad=False) for k in (3, 9)])
    collapsed = distances([clean[torch.arange(16) % modes] for modes in (8, 2)])
    for weak, strong in (noisy, blurred, collapsed):
        assert 0 < weak < strong


def test_a_kernel_distance_of_whole_sets_has_no_spread_over_parts() -> None:
    a, b = (np.random.default_rng(seed).normal(size=(12, 4)).astype(np.float32) for seed in (0, 1))
    assert kernel_distance(a, b).error is None  # every part is the whole: a spread of 0 would look like certainty
    assert kernel_distance(a, b[:11]).error


def gaussian(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_infinity_recovers_what_a_finite_sample_misses() -> None:
    d, n = 64, 1000
    known = 1 + 0.2**2 * d  # between N(0, 1) and N(mu, 1.2^2), |mu| = 1
    plain, found = [], []
    for seed in range(8):
        x, y = gaussian(n, d, seed), 1.2 * gaussian(n, d, 100 + seed) + np.eye(d)[0]
        plain.append(frechet_distance(feature_statistics(x), feature_statistics(y)))
        found.append(frechet_infinity(x, y, seed))
    assert np.mean(plain) > 1.5 * known
    assert np.mean([e.value for e in found]) == pytest.approx(known, rel=0.06)
    assert all(e.error is not None and 0 < e.error < 0.4 for e in found)
    assert frechet_infinity(x, y, seed) == found[-1]
    assert frechet_infinity(x, y, seed + 1) != found[-1]
    with pytest.raises(DataError, match="found 7 images in a set; this metric needs 8"):
        frechet_infinity(x[:7], y)


def test_infinity_of_one_distribution_is_near_zero() -> None:
    pairs = [(gaussian(2000, 32, 2 * i), gaussian(2000, 32, 2 * i + 1)) for i in range(6)]
    plain = np.mean([frechet_distance(feature_statistics(a), feature_statistics(b)) for a, b in pairs])
    assert abs(np.mean([frechet_infinity(a, b).value for a, b in pairs])) < 0.1 * plain


def paired(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features that share most of their noise."""
    common, one, two = (gaussian(n, d, 3 * seed + i) for i in range(3))
    return 1.15 * (0.8 * common + 0.6 * one) + 0.1, 1.05 * (0.8 * common + 0.6 * two)


@pytest.mark.parametrize(("n", "d"), [(300, 16), (60, 96)])  # more images than features, and fewer
@pytest.mark.slow
def test_the_paired_interval_covers(n: int, d: int) -> None:
    reference = Statistics(np.zeros(d), np.eye(d), 10**9)
    found = [bootstrap_difference(*paired(n, d, seed), reference, seed=seed, resamples=100) for seed in range(60)]
    expected = np.mean([e.value for e in found])
    covered = [e.low is not None and e.high is not None and e.low <= expected <= e.high for e in found]
    assert np.mean(covered) >= 0.9


def test_the_paired_interval_is_of_the_difference_and_uses_common_indices() -> None:
    a, b = paired(200, 16, 0)
    reference = feature_statistics(gaussian(500, 16, 99))
    found = bootstrap_difference(a, b, reference, resamples=50)
    assert found.value == pytest.approx(
        frechet_distance(feature_statistics(a), reference) - frechet_distance(feature_statistics(b), reference),
        rel=1e-6,
    )
    assert found.error is not None
    apart = bootstrap_difference(a, np.random.default_rng(0).permutation(b), reference, resamples=50)
    assert apart.error is not None
    assert found.error < 0.9 * apart.error
    nothing = bootstrap_difference(a, a, reference, resamples=20)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    with pytest.raises(DataError, match="found 200 and 199"):
        bootstrap_difference(a, b[1:], reference)


class Means(nn.Module):
    """A network that is quick: a image's mean colour and its square."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        means = images.float().mean((2, 3))
        return torch.cat([means, means.square()], 1)


def test_a_stream_needs_no_more_memory_than_what_is_kept() -> None:
    extractor, alive = Extractor("means", Means(), "0", ""), []
    most = 0

    def batches() -> Iterator[Tensor]:
        nonlocal most
        for i in range(400):
            batch = torch.randint(0, 256, (50, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            gc.collect() if i % 100 == 0 else None
            most = max(most, sum(ref() is not None for ref in alive))

    found = collect_features(batches(), extractor, 20_000, keep=100)
    assert most <= 2
    assert found.rows.shape == (100, 6)
    everything = torch.cat([extractor(batch) for batch in batches()])
    expected = feature_statistics(everything)
    np.testing.assert_allclose(found.statistics.mu, expected.mu, rtol=1e-12)
    np.testing.assert_allclose(found.statistics.sigma, expected.sigma, rtol=1e-9)
    assert np.isin(found.rows[:, 0], everything[:, 0].numpy()).all()


@pytest.mark.parametrize("n", [0, 1])
def test_a_covariance_needs_two_images(n: int) -> None:
    with pytest.raises(DataError, match=rf"found {n} image"):
        collect_features(iter(()), load_extractor(EMBEDDED), n)
    few: list[Callable[[], object]] = [
        lambda: kernel_distance(np.zeros((n, 4), np.float32), np.zeros((9, 4), np.float32)),
        lambda: precision_recall(np.zeros((3, 4), np.float32), np.zeros((9, 4), np.float32)),
    ]
    for ask in few:
        with pytest.raises(DataError, match="this metric needs"):
            ask()
