"""Frechet distance between two sets of features, with torch-fidelity's arithmetic and a cache of reference statistics.

    d = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))
the squared Frechet (2-Wasserstein) distance of two Gaussians with the sets' means and covariances. `fd` is d in the
features of EfficientNet-Lite0. It is biased: it falls as the sets grow, so only equal sizes compare.

Reference: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, arXiv 1706.08500.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from ablate.errors import DataError
from ablate.files import cache_folder, replacing
from ablate.measure.extractors import NAME, RESIZE, EfficientNetLite0, extract


@dataclass(frozen=True)
class Statistics:
    """The mean `mu` (D,) and covariance `sigma` (D, D) of `n` feature vectors, float64."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int


def statistics(features: Tensor) -> Statistics:
    """Return the statistics of features, computed in float64.

    Args:
        features: (N, D) float, N >= 2; N may be smaller than D.

    Raises:
        DataError: There are fewer than two feature vectors.
    """
    if features.ndim != 2 or len(features) < 2:
        raise DataError(f"features: found shape {tuple(features.shape)}, a covariance needs at least 2 pictures")
    found = fid_features_to_statistics(features.detach().cpu().double())
    return Statistics(found["mu"], found["sigma"], len(features))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return the squared Frechet distance of two sets (what FID reports): 0 for equal statistics up to rounding."""
    one, two = ({"mu": s.mu, "sigma": s.sigma} for s in (a, b))
    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])


def reference_statistics(
    images: np.ndarray,
    extractor: EfficientNetLite0,
    *,
    cache: Path | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Statistics:
    """Return the statistics of pictures, from the cache where the same pixels were measured by the same network before.

    A damaged file of the cache is measured again and replaced. A cache that cannot be written is no error.

    Args:
        images: (N, 3, H, W) uint8, N >= 2.
        extractor: The network.
        cache: The cache's folder; None: `statistics` in `ABLATE_CACHE` or else in the user's cache folder.
        on_batch: Called with the number of pictures done since the last call; once, with N, where the cache has them.
    """
    pixels = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
    content = f"{pixels} {images.shape} {NAME} {extractor.digest} bicubic{RESIZE} antialias float32"
    path = (cache or cache_folder() / "statistics") / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"
    kept = _read(path, len(images))
    if kept is not None:
        if on_batch is not None:
            on_batch(len(images))
        return kept
    made = statistics(extract(images, extractor, on_batch=on_batch))
    _write(path, made)
    return made


def _checksum(mu: np.ndarray, sigma: np.ndarray) -> str:
    return hashlib.sha256(mu.tobytes() + sigma.tobytes()).hexdigest()


def _read(path: Path, n: int) -> Statistics | None:
    """Return what a file of the cache holds, or None where it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            mu, sigma = file.get_tensor("mu"), file.get_tensor("sigma")
            checksum = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return Statistics(mu, sigma, n) if checksum == _checksum(mu, sigma) else None


def _write(path: Path, made: Statistics) -> None:
    # A full or read-only disk: the statistics are computed again next time.
    with suppress(OSError, SafetensorError), replacing(path) as temporary:
        save_file({"mu": made.mu, "sigma": made.sigma}, temporary, metadata={"sha256": _checksum(made.mu, made.sigma)})
