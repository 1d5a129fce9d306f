"""A cache of the features of real images: a reference is measured once for all comparisons.

A file's name is the SHA-256 of everything that its content depends on: the images' pixels and
shape, the extractor's name, weights and transform, the number of rows kept, and the version of this
format. So an entry can be absent, but never stale. Files are replaced atomically; two processes may
fill the cache at once. A damaged file is measured again and replaced.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ablate.metrics.extractors import Extractor, batch_size
from ablate.metrics.set_distances import KEPT, Features, Statistics, collect_features
from ablate.store.atomic_files import replacing
from ablate.store.cache import cache_folder

FORMAT = 2
FOLDER = "statistics"  # in the cache


def reference_features(
    images: np.ndarray,
    extractor: Extractor,
    *,
    cache: Path | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Features:
    """Return the features of images in memory, from the cache if it has them.

    Args:
        images: (N, 3, H, W) uint8, N >= 2.
        extractor: The network.
        cache: The cache's folder; None: the user's.
        on_batch: Called with the number of images in each finished batch; once with N if they come
            from the cache.
    """
    return cached_features(lambda: batches_of(images), len(images), extractor, cache=cache, on_batch=on_batch)


def batches_of(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield images (N, 3, H, W) in batches."""
    size = batch_size(*images.shape[2:])
    return (images[start : start + size] for start in range(0, len(images), size))


def cached_features(
    read: Callable[[], Iterable[np.ndarray]],
    n: int,
    extractor: Extractor,
    *,
    cache: Path | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Features:
    """Return the features of a stream of images, from the cache if it has them.

    A cache that cannot be written is no error.

    Args:
        read: Starts the stream: batches (B, 3, H, W) uint8. It is read once for its digest, and
            again if the cache lacks it.
        n: Number of images.
        extractor: The network.
        cache: The cache's folder; None: the user's.
        on_batch: Called with the number of images in each finished batch; once with n if they come
            from the cache.
    """
    folder, digest = cache or cache_folder() / FOLDER, _StreamDigest()
    deque(digest.watch(read()), maxlen=0)
    cached = _read(folder / digest.file_name(extractor), n)
    if cached is not None:
        on_batch(n)
        return cached
    measured_digest = _StreamDigest()
    features = collect_features(measured_digest.watch(read()), extractor, n, on_batch=on_batch)
    # Filed under the digest of the second reading: the images may have changed since the first.
    _write(folder / measured_digest.file_name(extractor), features)
    return features


class _StreamDigest:
    """The digest of a stream of images, updated as it is read: pixels, number and shape."""

    def __init__(self) -> None:
        self.pixels, self.n, self.shape = hashlib.sha256(), 0, ()

    def watch(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            self.pixels.update(np.ascontiguousarray(batch).data)
            self.n, self.shape = self.n + len(batch), batch.shape[1:]
            yield batch

    def file_name(self, extractor: Extractor) -> str:
        network = f"{extractor.name} {extractor.digest} {extractor.transform}"
        images = f"{self.pixels.hexdigest()} {self.n} {self.shape}"
        return hashlib.sha256(f"{FORMAT} {images} {network} {KEPT}".encode()).hexdigest() + ".safetensors"


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def _read(path: Path, n: int) -> Features | None:
    """Return the features in a cache file, or None if it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in ("mu", "sigma", "rows")}
            checksum = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    if checksum != _checksum(arrays):
        return None
    return Features(Statistics(arrays["mu"], arrays["sigma"], n), arrays["rows"])


def _write(path: Path, features: Features) -> None:
    arrays: dict[str, np.ndarray] = {
        "mu": features.statistics.mu,
        "sigma": features.statistics.sigma,
        "rows": features.rows,
    }
    # On a full or read-only disk the features are extracted again next time.
    with suppress(OSError, SafetensorError), replacing(path) as temporary:
        save_file(arrays, temporary, metadata={"sha256": _checksum(arrays)})
