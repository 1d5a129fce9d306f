"""Distances between two sets of pictures, in the features of a network.

    Frechet   d = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))      `fd`, with Inception-v3 `fid`
    at infinity   the intercept of d over 1/n, from parts of both sets               `fd_inf`, `fid_inf`
    kernel    squared MMD of the kernel (x.y / D + 1)^3, mean over random parts      `kd`, with Inception-v3 `kid`
    precision, recall   share of one set within the k-nearest-neighbour balls (k = 3) of the other

A Frechet distance of finite sets is biased: it falls as they grow, roughly with 1/n, so only equal sizes compare, and below D pictures a
covariance has no full rank. It gets no bootstrap interval of its own, which would miss even the value (it adds the bias once more); a
difference of two does (`bootstrap_difference`). Values are torch-fidelity's; where many are needed the trace comes from singular values.

Reference: Heusel et al., arXiv 1706.08500 (FID); Binkowski et al., arXiv 1801.01401 (KID); Kynkaanniemi et al., arXiv 1904.06991
(precision, recall); Chong and Forsyth, arXiv 1911.07023 (extrapolation, there of the generated set alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from ablate.base import rng
from ablate.base.errors import DataError
from ablate.metrics.extractors import Extractor, extract

KEPT = 20_000  # pictures of a set whose features are kept; a larger set enters the Frechet distance whole, the rest by a random part
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NEIGHBOURHOOD = 3
POINTS = 10  # sizes of the extrapolation
SMALLEST_PART = 0.25  # of the sets, in the extrapolation
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
    """What is known of a set of pictures: statistics of all of them, and `rows` (K, D) float32, all or a random part of the features."""

    statistics: Statistics
    rows: NDArray[np.float32]


@dataclass(frozen=True)
class Estimate:
    """A value with its uncertainty, as far as there is an honest one.

    Attributes:
        value: The estimate.
        error: A standard deviation; what of is said where it is made.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    error: float | None = None
    low: float | None = None
    high: float | None = None


def collect(
    batches: Iterable[np.ndarray | Tensor],
    extractor: Extractor,
    n: int,
    *,
    keep: int = KEPT,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Features:
    """Extract features in a stream: the memory needed depends on `keep`, not on `n`.

    Mean and covariance are updated batch by batch in float64 (Chan et al.: the batch's own scatter, plus the shift of the mean).

    Args:
        batches: (B, 3, H, W) uint8 each, `n` pictures in all.
        extractor: The network.
        n: How many pictures there are, >= 2.
        keep: How many rows of features to keep; a part is chosen at random, always the same of the same n.
        on_batch: Called after each batch with the number of its pictures.

    Raises:
        DataError: There are fewer than two pictures.
    """
    if n < 2:
        raise DataError(f"found {n} picture{'' if n == 1 else 's'}; a distance between sets needs at least 2 in each")
    chosen = np.zeros(n, bool)
    chosen[_part(n, min(keep, n), 0)] = True
    rows: list[NDArray[np.float32]] = []
    mean, scatter, seen = np.zeros(0), np.zeros((0, 0)), 0
    for features in extract(batches, extractor, on_batch):
        found: NDArray[np.float32] = features.numpy()
        b, x = len(found), found.astype(np.float64)
        if not seen:
            mean, scatter = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        shift = x.mean(0) - mean
        centred = x - x.mean(0)
        scatter += centred.T @ centred + np.outer(shift, shift) * (seen * b / (seen + b))
        mean += shift * (b / (seen + b))
        rows.append(found[chosen[seen : seen + b]])
        seen += b
    assert seen == n
    return Features(Statistics(mean, scatter / (n - 1), n), np.concatenate(rows))


def statistics(rows: np.ndarray | Tensor) -> Statistics:
    """Return the statistics of features, computed in float64.

    Args:
        rows: (N, D) float, N >= 2; N may be smaller than D.

    Raises:
        DataError: There are fewer than two feature vectors.
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise DataError(f"features: found shape {tuple(rows.shape)}, a covariance needs at least 2 pictures")
    x = np.asarray(rows, np.float64)
    return Statistics(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)), len(x))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return the squared Frechet distance of two sets (what FID reports): 0 for equal statistics up to rounding."""
    one, two = ({"mu": s.mu, "sigma": s.sigma} for s in (a, b))
    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])


def frechet_infinity(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Estimate:
    """Return the Frechet distance extrapolated to sets of infinite size.

    Parts of both sets, of the same share s = 1/4 ... 1 evenly spaced, chosen at random, give distances d(s); their bias is
    (alpha / n + beta / m) / s + O(1/s^2), so the intercept of a straight line of d over 1/s is free of its first order.
    The points of a fit share pictures and s = 1 is not chosen at all, so `error`, the intercept's standard error, tells how well the line
    fits: not how far another set of pictures would lie. With fewer pictures than features the bias is not of that order, and the
    intercept means little.

    Args:
        a: (N, D) features, N >= 8.
        b: (M, D) features, M >= 8.
        seed: Chooses the parts.

    Raises:
        DataError: There are fewer than 8 pictures in a set.
    """
    _at_least(8, a, b)
    shares = np.linspace(SMALLEST_PART, 1, POINTS)
    found = []
    for i, share in enumerate(shares):
        parts = [x[_part(len(x), round(share * len(x)), seed, i, side)] for side, x in enumerate((a, b))]
        found.append(_distance(_factor(parts[0]), _factor(parts[1])))
    line = scipy.stats.linregress(1 / shares, found)
    error = float(line.intercept_stderr)
    return Estimate(float(line.intercept), None if np.isnan(error) else error)  # nan: all distances are equal


def kernel_distance(fake: np.ndarray, real: np.ndarray) -> Estimate:
    """Return the kernel distance (KID): unbiased, so it can be below 0; `error` is the standard deviation over the random parts.

    Where a part is all there is of both sets there is no `error`: a spread of 0 would look like certainty.

    Args:
        fake: (N, D) float32 features.
        real: (M, D) float32 features; parts have min(1000, N, M) pictures.
    """
    _at_least(2, fake, real)
    size = min(KID_SUBSET_SIZE, len(fake), len(real))
    found = kid_features_to_metric(
        torch.from_numpy(fake),
        torch.from_numpy(real),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        verbose=False,
    )
    whole = size == len(fake) == len(real)
    return Estimate(found[KEY_METRIC_KID_MEAN], None if whole else found[KEY_METRIC_KID_STD])


def precision_recall(fake: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Return (precision, recall): the share of fake pictures near real ones, and of real ones near fake ones. Both depend on N and M.

    Raises:
        DataError: There are fewer than 4 pictures in a set.
    """
    _at_least(NEIGHBOURHOOD + 1, fake, real)
    found = prc_features_to_metric(
        torch.from_numpy(fake),
        torch.from_numpy(real),
        prc_neighborhood=NEIGHBOURHOOD,
        prc_batch_size=1000,
        save_cpu_ram=True,
        verbose=False,
    )
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


def bootstrap_difference(
    a: np.ndarray, b: np.ndarray, reference: Statistics, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Return d(a, reference) - d(b, reference) with a bootstrap interval.

    Picture i of `a` and of `b` belong together (one noise), so both sets are resampled with the same indices, and what they have in
    common cancels. Resampling adds the bias of a finite set once more, so its quantiles are moved back by its mean's distance to the value:
    the interval is that of the difference of two distances at this N, for other samples against the same real pictures.

    Args:
        a: (N, D) features.
        b: (N, D) features of the pictures that belong to those of `a`.
        reference: What both are compared to.
        seed: Chooses the resamples.
        resamples: How many.

    Returns:
        The difference, `error` its bootstrap standard deviation, and the interval of level 0.95.

    Raises:
        DataError: The sets differ in size or have fewer than 2 pictures.
    """
    if len(a) != len(b):
        raise DataError(f"a paired difference needs pictures that belong together: found {len(a)} and {len(b)}")
    _at_least(2, a, b)
    values, vectors = np.linalg.eigh(reference.sigma)
    root = vectors * np.sqrt(values.clip(0))  # sigma = root root^T
    sets = [_Resampled(np.asarray(x, np.float64) - reference.mu, root) for x in (a, b)]
    everyone = np.ones(len(a))
    value = sets[0].distance(everyone) - sets[1].distance(everyone)
    found = np.empty(resamples)
    for i in range(resamples):
        indices = torch.randint(len(a), (len(a),), generator=rng.generator(seed, "bootstrap", i))
        counts = np.bincount(indices.numpy(), minlength=len(a)).astype(np.float64)
        found[i] = sets[0].distance(counts) - sets[1].distance(counts)
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shift = value - found.mean()
    return Estimate(value, float(found.std(ddof=1)), float(low + shift), float(high + shift))


class _Resampled:
    """Distances of weighted versions of one set to a fixed reference with covariance root root^T and mean 0."""

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
        # The singular values of y are the roots of the eigenvalues of S_1 S_2; the smaller of the two products has them all.
        gram = y @ y.T if len(y) < y.shape[1] else y.T @ y
        cross = np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum()
        return float(mean @ mean + variance + self.trace - 2 * cross)


def _factor(rows: np.ndarray) -> tuple[Array, Array]:
    """Return the mean (D,) and a triangular R (min(N, D), D) with R^T R the covariance."""
    x = np.asarray(rows, np.float64)
    mean = x.mean(0)
    (triangle,) = scipy.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r", check_finite=False)
    return mean, triangle[: min(x.shape)]


def _distance(a: tuple[Array, Array], b: tuple[Array, Array]) -> float:
    """The Frechet distance from factors: tr((S_1 S_2)^(1/2)) is the sum of the singular values of R_1 R_2^T."""
    (mean_a, root_a), (mean_b, root_b) = a, b
    cross = scipy.linalg.svdvals(root_a @ root_b.T, check_finite=False).sum()
    shift = mean_a - mean_b
    return float(shift @ shift + (root_a**2).sum() + (root_b**2).sum() - 2 * cross)


def _part(n: int, size: int, seed: int, *key: int) -> NDArray[np.int64]:
    """Return `size` of the numbers below n, chosen at random, in rising order."""
    stream = "/".join(map(str, ("part", *key)))
    return np.sort(rng.permutation(seed, stream, 0, n)[:size].numpy())


def _at_least(needed: int, *sets: np.ndarray) -> None:
    for rows in sets:
        if len(rows) < needed:
            raise DataError(
                f"found {len(rows)} picture{'' if len(rows) == 1 else 's'} in a set; this metric needs {needed}"
            )
