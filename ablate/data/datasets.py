"""Data sets: the embedded cats or the user's images, without duplicates, split, with a digest.

One distinct image in ten is held out: those with the smallest SHA-256 of their pixels, and the
mirror images of these, because training mirrors. The split depends on the images, not on their
names or order.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ablate.base.errors import DataError
from ablate.base.host import check_memory
from ablate.base.text import one_line
from ablate.data import cats
from ablate.data.image_files import ImageFiles
from ablate.data.near_twins import near_twins

EMBEDDED_TWINS = 0.52734375  # as `near_twins` returns it: to compute it takes a second
EMBEDDED_DIGEST = "bbcfbb4d4cf058b2aa6e2bd948ffab9480a423891f34f9530c13289df98c9654"  # of the cats at 64 pixels
MIN_DISTINCT = 32  # images
HELD_OUT_EVERY = 10  # images
MANY_TWINS = 0.1  # a larger share of near twins is noted


@dataclass(frozen=True)
class ImageSet:
    """A data set, split for training and measuring."""

    name: str  # "cats", or the name of the folder or file, without `.zip` or `.npz`
    train: np.ndarray  # uint8 (N, 3, S, S), RGB, in the source's order
    held_out: np.ndarray  # uint8 (M, 3, S, S), RGB, sorted by digest
    digest: str  # SHA-256 (hexadecimal) of both shapes and all pixels
    duplicates: int  # exact copies of an earlier image's pixels, dropped
    notes: tuple[str, ...] = ()  # what a user should know of how the images were read
    twins: float = 0.0  # share of held-out images with a near twin in training

    def training_images(self, n: int) -> np.ndarray:
        """Return n training images at random, always the same; all of them if there are fewer."""
        return self.train if n >= len(self.train) else self.train[self._order[:n]]

    def other_training_images(self, n: int) -> np.ndarray:
        """Return the images that `training_images(n)` leaves out."""
        return self.train[self._order[n:]]

    @cached_property
    def _order(self) -> np.ndarray:
        """Indices of the training images, shuffled: the first n are a random subset.

        A user's images may be sorted by class, so they are ordered by their digests. The embedded
        cats are in random order already.
        """
        if is_embedded(self.digest):
            return np.arange(len(self.train))
        digests = [_digest(image) for image in self.train]
        return np.array(sorted(range(len(digests)), key=digests.__getitem__))


def load_dataset(source: str, *, size: int = 64, channels: int = 3, array: str = "") -> ImageSet:
    """Load a data set and split it.

    Args:
        source: `cats`, or the path of a folder, a `.zip` or a `.npz` (`./cats` for a folder named
            cats).
        size: Width and height of the images, in pixels.
        channels: 3, or 1 for images in grey. Those have three equal channels too.
        array: The array of an `.npz` that holds the images; empty: the only one that can.

    Returns:
        The distinct images, 10 % of them (rounded up) held out.

    Raises:
        DataError: The source is missing, damaged or of another kind, or has fewer than 32 distinct
            images.
    """
    if array and Path(source).suffix.lower() != ".npz":
        raise DataError(
            f"{one_line(source)}: --array {one_line(array)}: only an .npz file has arrays; fix: leave it out"
        )
    if source == cats.NAME:
        return _split(cats.NAME, _of_channels(cats.compose(cats.COUNT, size=size), channels), [])
    if not source:
        raise DataError(f"data: no name given; allowed: {cats.NAME}, or the path of a folder, a .zip or a .npz")
    path = Path(source)
    if not os.path.exists(path):
        raise DataError(
            f"{one_line(path)}: no such file or folder; allowed: {cats.NAME}, or the path of a folder, a .zip or a .npz"
        )
    place = path.resolve()
    name = place.name if place.is_dir() else place.stem  # a folder's name may have dots: photos.v2
    with ImageFiles(path, size=size, array=array or None) as files:
        images, notes = read_all(files, size), files.notes()
    return _split(one_line(name), _of_channels(images, channels), notes, where=one_line(path))


def _of_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Return images (N, 3, S, S) uint8 as they are, or in grey with ITU-R BT.601's weights."""
    if channels == 3:
        return images
    red, green, blue = (images[:, i].astype(np.uint32) for i in range(3))
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16  # the sum of the weights is 2^16
    return np.repeat(grey.astype(np.uint8)[:, None], 3, axis=1)


def is_embedded(digest: str | None) -> bool:
    """Return whether a digest is that of the embedded cats. Their name may differ, or be another's."""
    return digest == EMBEDDED_DIGEST


def read_all(images: ImageFiles, size: int) -> np.ndarray:
    """Return every image, (N, 3, size, size) uint8, copies included.

    Raises:
        DataError: An image cannot be read, or all together need more memory than there is.
    """
    check_memory(images.where, f"{len(images):,} images of {size} x {size}", len(images) * 3 * size**2)
    array = np.empty((len(images), 3, size, size), np.uint8)
    for i, image in enumerate(images.read(range(len(images)))):
        array[i] = image
    return array


def _split(name: str, images: np.ndarray, notes: list[str], *, where: str = cats.NAME) -> ImageSet:
    """Drop copies, hold out one in ten, look for near twins and compute the digest."""
    first: dict[bytes, int] = {}
    for i, image in enumerate(images):
        first.setdefault(_digest(image), i)
    duplicates = len(images) - len(first)
    if len(first) < MIN_DISTINCT:
        raise DataError(
            f"{where}: {len(first)} distinct images, {duplicates} copies; allowed: at least {MIN_DISTINCT} distinct"
        )
    held = [first[digest] for digest in sorted(first)[: -(-len(first) // HELD_OUT_EVERY)]]
    mirrored = (_digest(images[i][..., ::-1]) for i in held)
    twins = sorted({digest for digest in mirrored if digest in first} - {_digest(images[i]) for i in held})
    held += [first[digest] for digest in twins]
    if duplicates:
        notes = [*notes, f"{duplicates:,} of {len(images):,} images are exact copies of others, dropped"]
    train = images[sorted(set(first.values()) - set(held))]
    held_out = images[held]
    digest = fingerprint(train, held_out)
    share_near = EMBEDDED_TWINS if is_embedded(digest) else near_twins(held_out, train)
    if share_near > MANY_TWINS:
        share = f"{share_near:.0%} of held-out images have a near twin in training"
        notes = [*notes, f"{share}: metrics of held-out images (pd, lpips, psnr_db) say little about new images"]
    return ImageSet(name, train, held_out, digest, duplicates, tuple(notes), share_near)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def fingerprint(train: np.ndarray, held_out: np.ndarray) -> str:
    """Return the SHA-256 (hexadecimal) of the shapes and pixels of uint8 (N, 3, S, S) arrays."""
    digest = hashlib.sha256(f"{train.shape} {held_out.shape}".encode())
    for images in (train, held_out):
        digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
