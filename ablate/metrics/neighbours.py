"""Diversity of samples, and their distance to the nearest training images.

    diversity   mean of d(x_i, x_j) over all pairs i < j            0: all samples are one image
    nearest     median over samples of  min over training images of d
    memorised   share of samples with min d below the 1 % quantile of the held-out images' min d

d is a perceptual distance (`ablate.metrics.pair_distances`). A generator that has learned the
distribution makes as many near copies as held-out images are: a share of about 0.01. The flag is
raised when there are more than chance explains (p < 0.001). The test is exact for any number of
held-out images: of N samples distributed like M held-out images, the number below the k-th smallest
held-out distance is beta-binomial(N, k, M + 1 - k).

Reference: Meehan et al., arXiv 2004.05675 (the test against held-out neighbours, here in a simpler
form).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ablate.base.errors import DataError
from ablate.metrics.extractors import batch_size
from ablate.metrics.pair_distances import Distance
from ablate.metrics.set_distances import LEVEL, Estimate

QUANTILE = 0.01  # of the held-out images' distances
P_VALUE = 0.001  # below it the memorisation flag is raised
NEIGHBOUR_QUERIES = 256  # samples whose nearest training image is searched, and as many real images for comparison
DIVERSITY_IMAGES = 512  # samples whose diversity is measured
EMBEDDING_BYTES = 3 * 2**28  # of embeddings held at once; those of more or larger images are computed in turns


@dataclass(frozen=True)
class Neighbours:
    """The nearest candidate of each query: distance (Q,) float32, index (Q,) int64, on the CPU."""

    distance: Tensor
    index: Tensor


@dataclass(frozen=True)
class SampleMetrics:
    """Diversity, nearest neighbours and memorisation, of samples and of real images, by kind.

    Attributes:
        samples: Kind -> estimate for the samples.
        real: Kind -> estimate for the real images.
        counts: Kind -> number of samples used.
        real_counts: Kind -> number of real images used.
        memorised: The memorisation flag.
        neighbours: The nearest training images of the samples.
    """

    samples: dict[str, Estimate]
    real: dict[str, Estimate]
    counts: dict[str, int]
    real_counts: dict[str, int]
    memorised: bool
    neighbours: Neighbours


def sample_metrics(
    samples: np.ndarray,
    real: np.ndarray,
    candidates: Callable[[], Iterable[np.ndarray | Tensor]],
    distance: Distance,
    device: torch.device,
    *,
    real_are_candidates: bool = False,
    on_batch: Callable[[int], None] = lambda n: None,
) -> SampleMetrics:
    """Measure samples' diversity and their distance to training images.

    Args:
        samples: (N, 3, H, W) uint8; the first 512 are used for diversity, the first 256 for
            neighbours.
        real: (M, 3, H, W) uint8 real images; the same numbers of them are used.
        candidates: Starts a stream of the training images, as for `nearest_images`.
        distance: A perceptual distance.
        device: Where it computes.
        real_are_candidates: The real images are among the candidates. A real image and its copies
            are then not its neighbours.
        on_batch: Called with the number of candidates in each finished batch.
    """
    with torch.inference_mode():
        some = [x[:DIVERSITY_IMAGES] for x in (samples, real)]
        spread = [Estimate(diversity(embedded_batches(x, distance, device))) for x in some]
        count = min(len(samples), NEIGHBOUR_QUERIES)
        queries = [image for x in some for image in x[:NEIGHBOUR_QUERIES]]  # not copied
        bytes_each = 4 * next(embedded_batches(queries[0][None], distance, device)).shape[1]
        turn = max(1, EMBEDDING_BYTES // bytes_each)
        found = []
        for start in range(0, len(queries), turn):
            skip: dict[bytes, list[int]] = {}
            for i in range(max(start, count), min(start + turn, len(queries))) if real_are_candidates else ():
                skip.setdefault(queries[i].tobytes(), []).append(i - start)
            tell = on_batch if start == 0 else _nothing
            # Not kept in a variable: it would still be held while the next turn is computed.
            found.append(
                nearest_images(
                    embed_images(np.stack(queries[start : start + turn]), distance, device),
                    candidates(),
                    distance,
                    skip=skip,
                    on_batch=tell,
                )
            )
        neighbours = Neighbours(torch.cat([one.distance for one in found]), torch.cat([one.index for one in found]))
    of_samples, of_real = neighbours.distance[:count], neighbours.distance[count:]
    share, memorised = memorisation(of_samples, of_real)
    medians = [Estimate(float(x.median())) for x in (of_samples, of_real)]
    return SampleMetrics(
        samples={"diversity": spread[0], "nearest": medians[0], "memorised": share},
        real={"diversity": spread[1], "nearest": medians[1]},
        counts={"diversity": len(some[0]), "nearest": count, "memorised": count},
        real_counts={"diversity": len(some[1]), "nearest": len(of_real)},
        memorised=memorised,
        neighbours=Neighbours(of_samples, neighbours.index[:count]),
    )


def _nothing(n: int) -> None:
    """Show no progress: the bar counts the candidates of the first block only."""


def to_float(images: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Return uint8 images as float32 in [-1, 1] on a device."""
    tensor = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    return tensor.to(device).float() / 127.5 - 1


def embed_images(images: np.ndarray, distance: Distance, device: torch.device | str, batch: int = 64) -> Tensor:
    """Return the embeddings (N, E) float32, on the device, of images (N, 3, H, W) uint8."""
    found, start = torch.empty(0), 0
    for embedded in embedded_batches(images, distance, device, batch):
        if start == 0:  # filled batch by batch: to concatenate would hold all of them twice
            found = embedded.new_empty((len(images), embedded.shape[1]))
        found[start : start + len(embedded)] = embedded
        start += len(embedded)
    return found


def embedded_batches(
    images: np.ndarray, distance: Distance, device: torch.device | str, batch: int = 64
) -> Iterator[Tensor]:
    """Yield the embeddings (B, E) float32 of images (N, 3, H, W) uint8, in batches."""
    size = batch_size(images.shape[2], images.shape[3], most=batch)
    return (distance.embed(to_float(images[i : i + size], device)) for i in range(0, len(images), size))


def diversity(embeddings: Iterable[Tensor]) -> float:
    """Return the mean distance over all pairs: 2 N / (N - 1) (mean |e|^2 - |mean e|^2).

    Mean and scatter are updated batch by batch in float64 (Chan et al.).

    Args:
        embeddings: (B, E) float each, N >= 2 in all.

    Raises:
        DataError: There is only one image.
    """
    n, scatter, mean = 0, 0.0, torch.zeros(())
    for batch in embeddings:
        of_batch = batch.mean(0, dtype=torch.float64)
        shift = of_batch - mean if n else torch.zeros_like(of_batch)
        scatter += float((batch - of_batch).square().sum()) + float(shift @ shift) * n * len(batch) / (n + len(batch))
        n += len(batch)
        mean = of_batch if n == len(batch) else mean + shift * (len(batch) / n)
    if n < 2:
        raise DataError(f"diversity: found {n} image; it needs at least 2")
    return 2 / (n - 1) * scatter


def nearest_images(
    queries: Tensor,
    candidates: Iterable[np.ndarray | Tensor],
    distance: Distance,
    *,
    skip: Mapping[bytes, Sequence[int]] = MappingProxyType({}),
    on_batch: Callable[[int], None] = lambda n: None,
) -> Neighbours:
    """Return the nearest candidate of each query. Candidates are read once, in batches.

    Args:
        queries: (Q, E) embeddings.
        candidates: (B, 3, H, W) uint8 arrays, or their embeddings: (B, E) tensors.
        distance: The perceptual distance that made the embeddings.
        skip: A candidate's pixels -> the queries that must not match it, if the candidates are
            images. A query left without
            candidates gets distance 0.
        on_batch: Called after each batch with the number of its images.
    """
    best = queries.new_full((len(queries),), torch.inf)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    squares, seen = torch.cat([one.square().sum(1) for one in queries.split(1)]), 0  # never a copy of all
    for batch in candidates:
        e = batch if isinstance(batch, Tensor) else distance.embed(to_float(batch, queries.device))
        d = squares[:, None] + e.square().sum(1) - 2 * (queries @ e.T)
        for column, image in enumerate(batch if skip and isinstance(batch, np.ndarray) else ()):
            for query in skip.get(image.tobytes(), ()):
                d[query, column] = torch.inf
        value, at = d.min(1)
        index = torch.where(value < best, at + seen, index)
        best = torch.minimum(value, best)
        seen += len(e)
        on_batch(len(e))
    return Neighbours(best.clamp(min=0).masked_fill(best.isinf(), 0).cpu(), index.cpu())


def memorisation(samples: Tensor, held_out: Tensor) -> tuple[Estimate, bool]:
    """Compare samples' distances to their nearest training images with those of held-out images.

    Args:
        samples: (N,) distances.
        held_out: (M,) distances of real images that are not in the training set.

    Returns:
        The share of samples closer to a training image than 1 % of held-out images, and the flag
        of memorisation. The share has its exact (Clopper-Pearson) 95 % interval. The interval
        leaves out the uncertainty of the threshold: with M held-out images the expected share is
        known to about 0.01 +- 0.1 / sqrt(M). The flag's test includes it.
    """
    n = len(samples)
    near = int((samples.double() < torch.quantile(held_out.double(), QUANTILE)).sum())
    from scipy import stats  # takes a second to import

    interval = stats.binomtest(near, n).proportion_ci(LEVEL, method="exact")
    estimate = Estimate(near / n, None, float(interval.low), float(interval.high))
    return estimate, too_many_near(samples, held_out)


def too_many_near(samples: Tensor, held_out: Tensor) -> bool:
    """Return whether more samples are near training images than chance explains.

    Args:
        samples: (N,) distances to the nearest training images.
        held_out: (M,) those of real images that are not in the training set.
    """
    from scipy import stats

    m = len(held_out)
    k = int(QUANTILE * (m - 1)) + 1  # the order statistic at the quantile, or the one below it
    below = int((samples.double() < held_out.double().kthvalue(k).values).sum())
    return bool(stats.betabinom.sf(below - 1, len(samples), k, m + 1 - k) < P_VALUE)
