"""A cache of the features of real pictures, so that a reference is measured once, whatever is compared to it.

A file's name is the SHA-256 of all that its content depends on: the pictures' pixels and shape, the extractor's name, weights and
transform, how many rows are kept, and the version of this format. So it can be absent, but never stale. It is written beside its place,
flushed and renamed; two processes may fill the cache at once. A damaged file is measured again and replaced.
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

from ablate.metrics.extractors import BATCH, Extractor
from ablate.metrics.set_distances import KEPT, Features, Statistics, collect
from ablate.store.atomic_files import replacing
from ablate.store.cache import cache_folder

FORMAT = 2
KIND = "statistics"  # the folder's name in the cache


def reference_features(
    images: np.ndarray,
    extractor: Extractor,
    *,
    cache: Path | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Features:
    """Return the features of pictures in memory, from the cache where it has them.

    Args:
        images: (N, 3, H, W) uint8, N >= 2.
        extractor: The network.
        cache: The cache's folder; None: the user's.
        on_batch: Called with the number of pictures done since the last call; once, with N, where the cache has them.
    """
    return cached_features(lambda: batches_of(images), len(images), extractor, cache=cache, on_batch=on_batch)


def batches_of(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pictures (N, 3, H, W) in batches."""
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def cached_features(
    read: Callable[[], Iterable[np.ndarray]],
    n: int,
    extractor: Extractor,
    *,
    cache: Path | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Features:
    """Return the features of a stream of pictures, from the cache where it has them.

    A cache that cannot be written is no error.

    Args:
        read: Starts the stream: batches (B, 3, H, W) uint8. It is read once for its digest, and again where the cache does not have it.
        n: How many pictures there are.
        extractor: The network.
        cache: The cache's folder; None: the user's.
        on_batch: Called with the number of pictures done since the last call; once, with n, where the cache has them.
    """
    folder, found = cache or cache_folder() / KIND, _Digest()
    deque(found.watch(read()), maxlen=0)
    kept = _read(folder / found.file_name(extractor), n)
    if kept is not None:
        on_batch(n)
        return kept
    measured = _Digest()
    made = collect(measured.watch(read()), extractor, n, on_batch=on_batch)
    # Under the digest of this reading: the pictures may have changed since the other.
    _write(folder / measured.file_name(extractor), made)
    return made


class _Digest:
    """The pixels, number and shape of the pictures of a stream that passes by."""

    def __init__(self) -> None:
        self.pixels, self.n, self.shape = hashlib.sha256(), 0, ()

    def watch(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            self.pixels.update(np.ascontiguousarray(batch).data)
            self.n, self.shape = self.n + len(batch), batch.shape[1:]
            yield batch

    def file_name(self, extractor: Extractor) -> str:
        network = f"{extractor.name} {extractor.digest} {extractor.transform}"
        pictures = f"{self.pixels.hexdigest()} {self.n} {self.shape}"
        return hashlib.sha256(f"{FORMAT} {pictures} {network} {KEPT}".encode()).hexdigest() + ".safetensors"


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def _read(path: Path, n: int) -> Features | None:
    """Return what a file of the cache holds, or None where it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in ("mu", "sigma", "rows")}
            checksum = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    if checksum != _checksum(arrays):
        return None
    return Features(Statistics(arrays["mu"], arrays["sigma"], n), arrays["rows"])


def _write(path: Path, made: Features) -> None:
    arrays: dict[str, np.ndarray] = {"mu": made.statistics.mu, "sigma": made.statistics.sigma, "rows": made.rows}
    # A full or read-only disk: the features are extracted again next time.
    with suppress(OSError, SafetensorError), replacing(path) as temporary:
        save_file(arrays, temporary, metadata={"sha256": _checksum(arrays)})
