"""Distances between two sets of images, in the features of a network.

    Frechet   d = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))      `fd`, `fid`
    infinity  the intercept of d over 1/n, from parts of both sets               `fd_inf`, `fid_inf`
    kernel    squared MMD of the kernel (x.y / D + 1)^3, mean over random subsets  `kd`, `kid`
    precision, recall   share of one set within the k-nearest-neighbour balls (k = 3) of the other

The Frechet distance of finite sets is biased: it falls roughly with 1/n as the sets grow. So
compare equal sizes only. Below D images a covariance has no full rank. The distance has no
bootstrap interval: resampling adds the bias a second time, and the interval would miss the value
itself. A difference of two distances has one (`bootstrap_difference`). Values equal
torch-fidelity's to seven digits: the trace is the sum of the square roots of the eigenvalues of a
symmetric matrix, whose size is the smaller rank.

Reference: Heusel et al., arXiv 1706.08500 (FID); Binkowski et al., arXiv 1801.01401 (KID);
Kynkaanniemi et al., arXiv 1904.06991 (precision, recall); Chong and Forsyth, arXiv 1911.07023
(extrapolation; there of the generated set alone).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.linalg.lapack
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from ablate.base import rng
from ablate.base.errors import DataError
from ablate.metrics.extractors import Extractor, extract
from ablate.study.metric_names import SETS

KEPT = 20_000  # feature rows kept of a set; of a larger set, the Frechet distance uses all and the rest a random subset
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NEIGHBOURHOOD = 3
SMALLEST = {"frechet": 2, "infinity": 8, "kernel": 2, "precision": NEIGHBOURHOOD + 1, "recall": NEIGHBOURHOOD + 1}
EXTRAPOLATION_PARTS = 4  # the most parts that a set is cut into
EXTRAPOLATION_DRAWS = 5  # of parts at random
RESAMPLES = 400
LEVEL = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """The mean `mu` (D,) and covariance `sigma` (D, D) of `n` feature vectors, float64."""

    mu: Array
    sigma: Array
    n: int


@dataclass(frozen=True)
class Features:
    """Features of a set: statistics of all images; rows (K, D) float32, all or a random subset."""

    statistics: Statistics
    rows: NDArray[np.float32]


@dataclass(frozen=True)
class Estimate:
    """A value, with its uncertainty where an honest one exists.

    Attributes:
        value: The estimate.
        error: A standard deviation; the function that returns the estimate says of what.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    error: float | None = None
    low: float | None = None
    high: float | None = None


def set_metrics(fake: Features, real: Features, kinds: Collection[str] = SETS, seed: int = 0) -> dict[str, Estimate]:
    """Return the distances between two sets, by kind.

    A kind that needs more images than there are is left out.

    Args:
        fake: The features of generated images.
        real: The features of the reference.
        kinds: Which of `SETS` to compute.
        seed: Chooses the parts of the extrapolation.
    """
    size = min(len(fake.rows), len(real.rows))
    possible = [kind for kind in SETS if kind in kinds and size >= SMALLEST[kind]]
    estimates: dict[str, Estimate] = {}
    if "frechet" in possible:
        estimates["frechet"] = Estimate(frechet_distance(fake.statistics, real.statistics))
    if "infinity" in possible:
        estimates["infinity"] = frechet_infinity(fake.rows, real.rows, seed)
    if "kernel" in possible:
        estimates["kernel"] = kernel_distance(fake.rows, real.rows)
    if "precision" in possible or "recall" in possible:
        pair = zip(("precision", "recall"), precision_recall(fake.rows, real.rows), strict=True)
        estimates |= {kind: Estimate(value) for kind, value in pair if kind in possible}
    return estimates


def images_used(kind: str, features: Features) -> int:
    """Return how many images a kind uses: the Frechet distance all, the others the kept rows."""
    return features.statistics.n if kind == "frechet" else len(features.rows)


def rank_warning(distinct: Mapping[str, int], features: int) -> str | None:
    """Return a warning if a set has no more distinct images than features: no full rank.

    Args:
        distinct: What a number is called, and the number of different images.
        features: The number of features.
    """
    few = [f"{name} = {n:,}" for name, n in distinct.items() if n <= features]
    return f"{' and '.join(few)} below the {features:,} features: covariance of no full rank" if few else None


def kept_rows(n: int, keep: int = KEPT) -> NDArray[np.int64]:
    """Return which of n images keep their feature rows: all, or a random subset, always the same."""
    return np.sort(rng.permutation(0, "part", 0, n)[:keep].numpy())


def collect_features(
    batches: Iterable[np.ndarray | Tensor],
    extractor: Extractor,
    n: int,
    *,
    keep: int = KEPT,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Features:
    """Extract the features of a stream of images. Memory depends on `keep`, not on `n`.

    Mean and covariance are updated batch by batch in float64 (Chan et al.: add the batch's own
    scatter and the shift of the mean).

    Args:
        batches: (B, 3, H, W) uint8 each, `n` images in all.
        extractor: The network.
        n: Number of images, >= 2.
        keep: Number of feature rows to keep: a random subset, always the same for the same n.
        on_batch: Called after each batch with the number of its images.

    Raises:
        DataError: There are fewer than two images.
    """
    if n < 2:
        raise DataError(f"found {n} image{'' if n == 1 else 's'}; a distance between sets needs at least 2 in each")
    chosen = np.zeros(n, bool)
    chosen[kept_rows(n, keep)] = True
    rows: list[NDArray[np.float32]] = []
    mean, scatter, seen = np.zeros(0), np.zeros((0, 0)), 0
    for features in extract(batches, extractor, on_batch):
        batch_rows: NDArray[np.float32] = features.numpy()
        b, x = len(batch_rows), batch_rows.astype(np.float64)
        if not seen:
            mean, scatter = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        shift = x.mean(0) - mean
        centred = x - x.mean(0)
        scatter += centred.T @ centred + np.outer(shift, shift) * (seen * b / (seen + b))
        mean += shift * (b / (seen + b))
        rows.append(batch_rows[chosen[seen : seen + b]])
        seen += b
    assert seen == n
    return Features(Statistics(mean, scatter / (n - 1), n), np.concatenate(rows))


def feature_statistics(rows: np.ndarray | Tensor) -> Statistics:
    """Return the mean and covariance of features, computed in float64.

    Args:
        rows: (N, D) float, N >= 2; N may be smaller than D.

    Raises:
        DataError: There are fewer than two feature vectors.
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise DataError(f"features: found shape {tuple(rows.shape)}, a covariance needs at least 2 images")
    x = np.asarray(rows, np.float64)
    return Statistics(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)), len(x))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return the squared Frechet distance of two sets, as FID does: 0 for equal statistics."""
    root, other = (_root(a.sigma), b.sigma) if a.n <= b.n else (_root(b.sigma), a.sigma)
    shift = a.mu - b.mu
    squares = shift @ shift + a.sigma.trace() + b.sigma.trace()
    return float(squares - 2 * np.sqrt(np.linalg.eigvalsh(root.T @ other @ root).clip(0)).sum())


def _root(sigma: Array) -> Array:
    """Return L (D, rank) with sigma = L L^T, by a Cholesky decomposition with pivots."""
    factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(sigma, lower=True)
    root = np.zeros((len(sigma), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    return root


def frechet_infinity(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Estimate:
    """Return the Frechet distance extrapolated to sets of infinite size.

    Both sets are cut at random into k equal parts, k = 1 ... 4, and d(k) is the mean distance of
    part i of one set to part i of the other. The bias of a distance is (alpha / n + beta / m) k +
    O(k^2) for sets of n and m images. So the intercept of a straight line of d over k has no
    first-order bias. The value is the mean over 5 random draws of the parts.

    `low` and `high` are the smallest and the largest of the draws. `error` is the standard error of
    the intercept of the mean line: how well the line fits. Neither says how far another set of
    images would lie, because all parts share their images. With fewer images than features the bias
    is of another order, and the value means little.

    Args:
        a: (N, D) features, N >= 8.
        b: (M, D) features, M >= 8.
        seed: Chooses the parts.

    Raises:
        DataError: There are fewer than 8 images in a set.

    Reference: Chong and Forsyth, arXiv 1911.07023.
    """
    _check_sizes("infinity", a, b)
    rows = [np.asarray(x, np.float64) for x in (a, b)]
    counts = np.arange(1, EXTRAPOLATION_PARTS + 1)
    whole = _distance_of_rows(*rows)
    distances = np.empty((EXTRAPOLATION_DRAWS, len(counts)))
    for draw in range(EXTRAPOLATION_DRAWS):
        orders = [rng.permutation(seed, f"part/{draw}/{j}", 0, len(x)).numpy() for j, x in enumerate(rows)]
        for column, count in enumerate(counts):
            parts = [[x[some] for some in np.array_split(o, count)] for x, o in zip(rows, orders, strict=True)]
            each = [_distance_of_rows(*pair) for pair in zip(*parts, strict=True)] if count > 1 else [whole]
            distances[draw, column] = np.mean(each)
    intercepts = np.polyfit(counts, distances.T, 1)[1]
    (_, intercept), covariance = np.polyfit(counts, distances.mean(0), 1, cov=True)
    if not np.ptp(distances.mean(0)):  # a line through equal values has no error
        return Estimate(float(intercept))
    return Estimate(float(intercept), float(covariance[1, 1] ** 0.5), float(intercepts.min()), float(intercepts.max()))


def kernel_distance(fake: np.ndarray, real: np.ndarray) -> Estimate:
    """Return the kernel distance (KID). It is unbiased, so it can be below 0.

    `error` is the standard deviation over the random subsets. It is None if a subset is all of both
    sets: a spread of 0 would look like certainty.

    Args:
        fake: (N, D) float32 features.
        real: (M, D) float32 features; subsets have min(1000, N, M) images.

    Raises:
        DataError: There are fewer than 2 images in a set.
    """
    _check_sizes("kernel", fake, real)
    size = min(KID_SUBSET_SIZE, len(fake), len(real))
    metrics = kid_features_to_metric(
        torch.from_numpy(fake),
        torch.from_numpy(real),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        verbose=False,
    )
    whole = size == len(fake) == len(real)
    return Estimate(metrics[KEY_METRIC_KID_MEAN], None if whole else metrics[KEY_METRIC_KID_STD])


def precision_recall(fake: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Return the share of fake images near real ones, and of real images near fake ones.

    Both depend on N and M.

    Args:
        fake: (N, D) float32 features.
        real: (M, D) float32 features.

    Raises:
        DataError: There are fewer than 4 images in a set.
    """
    _check_sizes("precision", fake, real)
    metrics = prc_features_to_metric(
        torch.from_numpy(fake),
        torch.from_numpy(real),
        prc_neighborhood=NEIGHBOURHOOD,
        prc_batch_size=1000,
        save_cpu_ram=True,
        verbose=False,
    )
    return metrics[KEY_METRIC_PRECISION], metrics[KEY_METRIC_RECALL]


def bootstrap_difference(
    a: np.ndarray, b: np.ndarray, reference: Statistics, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Return d(a, reference) - d(b, reference) with a bootstrap interval.

    Image i of `a` and image i of `b` are a pair (the same noise). Both sets are resampled with the
    same indices, so what they share cancels. Resampling adds the bias of a finite set once more, so
    the quantiles are moved back by the distance of their mean to the value. The interval covers the
    difference at this N, for other samples against the same real images.

    Args:
        a: (N, D) features.
        b: (N, D) features of the images paired with those of `a`.
        reference: What both are compared with.
        seed: Chooses the resamples.
        resamples: Number of resamples.

    Returns:
        The difference, `error` its bootstrap standard deviation, and the 95 % interval.

    Raises:
        DataError: The sets differ in size or have fewer than 2 images.
    """
    if len(a) != len(b):
        raise DataError(f"a paired difference needs two sets of paired images: found {len(a)} and {len(b)}")
    _check_sizes("frechet", a, b)
    root = _root(reference.sigma)
    sets = [_Resampled(np.asarray(x, np.float64) - reference.mu, root) for x in (a, b)]
    everyone = np.ones(len(a))
    value = sets[0].distance(everyone) - sets[1].distance(everyone)
    differences = np.empty(resamples)
    for i in range(resamples):
        indices = torch.randint(len(a), (len(a),), generator=rng.generator(seed, "bootstrap", i))
        counts = np.bincount(indices.numpy(), minlength=len(a)).astype(np.float64)
        differences[i] = sets[0].distance(counts) - sets[1].distance(counts)
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shift = value - differences.mean()
    return Estimate(value, float(differences.std(ddof=1)), float(low + shift), float(high + shift))


class _Resampled:
    """Distances of resampled versions of a set to a reference of mean 0, covariance root root^T."""

    def __init__(self, x: Array, root: Array) -> None:
        self.x, self.squares, self.seen_by_reference = x, (x**2).sum(1), x @ root
        self.trace = float((root**2).sum())

    def distance(self, counts: Array) -> float:
        n, used = counts.sum(), np.flatnonzero(counts)
        weight = counts[used, None]
        mean = (weight * self.x[used]).sum(0) / n
        variance = ((counts * self.squares).sum() - n * mean @ mean) / (n - 1)
        y = self.seen_by_reference[used]
        y = np.sqrt(weight / (n - 1)) * (y - (weight * y).sum(0) / n)
        # The squared singular values of y are the eigenvalues of S_1 S_2; the smaller of the two
        # products has them all.
        gram = y @ y.T if len(y) < y.shape[1] else y.T @ y
        cross = np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum()
        return float(mean @ mean + variance + self.trace - 2 * cross)


def _distance_of_rows(a: Array, b: Array) -> float:
    """Return the Frechet distance of two sets of feature vectors, (N, D) and (M, D).

    The eigenvalues of S_1 S_2 come from the smallest symmetric matrix that has them all.
    """
    x, y = sorted(((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (a, b)), key=len)
    if len(x) < x.shape[1]:
        cross = x @ y.T
        gram = cross @ cross.T
    else:
        try:
            root = np.linalg.cholesky(x.T @ x)
        except np.linalg.LinAlgError:  # copies, or features that are constant: no full rank
            values, vectors = np.linalg.eigh(x.T @ x)
            root = vectors * np.sqrt(values.clip(0))
        gram = root.T @ (y.T @ y) @ root
    shift = a.mean(0) - b.mean(0)
    squares = shift @ shift + (x**2).sum() + (y**2).sum()
    return float(squares - 2 * np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum())


def _check_sizes(kind: str, *sets: np.ndarray) -> None:
    for rows in sets:
        if len(rows) < SMALLEST[kind]:
            raise DataError(
                f"found {len(rows)} image{'' if len(rows) == 1 else 's'} in a set; this metric needs {SMALLEST[kind]}"
            )
