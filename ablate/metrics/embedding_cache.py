"""A cache of the embeddings of training images, in which each run searches its samples' neighbours.

On a CPU, embedding the training images takes longer than all else of the search, and is the same
for each run of a data set. The file's name is the SHA-256 of the images' pixels and shape, the
distance's weights, and the format. It is used where it fits: on a CPU, up to 4 GB, and up to a
tenth of what the disk has free.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ablate.metrics.neighbours import embedded_batches
from ablate.metrics.pair_distances import Distance
from ablate.metrics.reference_cache import batches_of
from ablate.store.atomic_files import replacing
from ablate.store.cache import cache_folder

FORMAT = 1
FOLDER = "embeddings"  # in the cache
MOST_BYTES = 4 * 10**9  # of a file
SHARE = 0.1  # of the disk's free space


def candidates(
    images: np.ndarray, distance: Distance, device: torch.device, *, cache: Path | None = None
) -> Iterable[np.ndarray | Tensor]:
    """Return images in batches, or their embeddings, as `nearest_images` reads both.

    Args:
        images: (N, 3, H, W) uint8, N >= 1.
        distance: The perceptual distance.
        device: Where it computes.
        cache: The cache's folder; None: the user's.
    """
    if device.type != "cpu":
        return batches_of(images)
    folder = cache or cache_folder() / FOLDER
    with torch.inference_mode():
        width = next(embedded_batches(images[:1], distance, device)).shape[1]
    shape = (len(images), width)
    pixels = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    name = f"{FORMAT} {pixels} {images.shape} {distance.digest} {width}"
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()}.npy"
    found = _read(path, shape)
    if found is None and _fits(folder, 4 * len(images) * width):
        with suppress(OSError):  # a full or read-only disk: the images are embedded again
            _write(path, shape, images, distance, device)
            found = _read(path, shape)
    return batches_of(images) if found is None else _batches(found, images)


def _fits(folder: Path, needed: int) -> bool:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return needed <= min(MOST_BYTES, SHARE * shutil.disk_usage(existing).free)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the embeddings in a file, mapped into memory; None if it is missing, damaged or too short."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.float32 else None


def _write(path: Path, shape: tuple[int, int], images: np.ndarray, distance: Distance, device: torch.device) -> None:
    with replacing(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        start = 0
        with torch.inference_mode():
            for batch in batches_of(images):
                embedded = next(embedded_batches(batch, distance, device, len(batch)))
                array[start : start + len(batch)] = embedded.numpy()
                start += len(batch)
        array.flush()


def _batches(array: np.ndarray, images: np.ndarray) -> Iterator[Tensor]:
    """Yield the embeddings in the batches in which the images would come, so that sums round alike."""
    start = 0
    for batch in batches_of(images):
        yield torch.from_numpy(np.array(array[start : start + len(batch)]))
        start += len(batch)
