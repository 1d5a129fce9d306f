"""A data set: pictures of a user's own or the embedded cats, made distinct, split and named by their fingerprint.

One distinct picture in ten is held out, those with the smallest SHA-256 of their pixels: the split depends on the
pictures, not on their names or order.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ablate.base.errors import DataError
from ablate.data import cats
from ablate.data.image_files import Pictures, check_memory, show

MIN_DISTINCT = 32  # pictures
HELD_OUT_EVERY = 10  # one distinct picture in ten


@dataclass(frozen=True)
class ImageSet:
    """A data set, ready to train on and to measure against."""

    name: str  # "cats", or the stem of the path
    train: np.ndarray  # uint8 (N, 3, S, S), RGB, in the source's order
    held_out: np.ndarray  # uint8 (M, 3, S, S), RGB, by digest
    digest: str  # SHA-256 (hexadecimal) of both shapes, train's and held_out's pixels
    duplicates: int  # exact copies of an earlier picture's pixels, dropped
    credit: str  # the author and licence; "" for a user's own pictures


def load(source: str, *, size: int = 64) -> ImageSet:
    """Load a data set and split it.

    Args:
        source: `cats`, or the path of a folder, a `.zip` or a `.npz` (a folder named cats is `./cats`).
        size: Width and height of the pictures, in pixels.

    Returns:
        The distinct pictures, ceil(10 %) of them held out.

    Raises:
        DataError: The source is missing, damaged, of another kind or holds fewer than 32 distinct pictures.
    """
    if source == cats.NAME:
        return _split(cats.NAME, cats.compose(cats.COUNT, size=size), cats.CREDIT)
    if not source:
        raise DataError(f"data: no name given; allowed: {cats.NAME}, or the path of a folder, a .zip or a .npz")
    path = Path(source)
    if not os.path.exists(path):
        raise DataError(
            f"{show(path)}: no such file or folder; allowed: {cats.NAME}, or the path of a folder, a .zip or a .npz"
        )
    return _split(show(path.resolve().stem), read_images(path, size=size), "", where=show(path))


def is_embedded(name: str, digest: str | None) -> bool:
    """Whether a run's data set is the embedded cats, by its name and fingerprint: a folder may be called cats too."""
    return name == cats.NAME and digest == _embedded_digest()


@cache
def _embedded_digest() -> str:
    return load(cats.NAME).digest


def read_images(path: Path, *, size: int) -> np.ndarray:
    """Read every picture of a folder (and its subfolders), a zip or a `.npz` file, copies included.

    Args:
        path: What `Pictures` takes.
        size: Width and height of the pictures returned, in pixels.

    Returns:
        Pictures (N, 3, size, size), uint8, RGB, N >= 1.

    Raises:
        DataError: The path or one of its pictures cannot be read; the message names the file.
    """
    with Pictures(path, size=size) as pictures:
        check_memory(pictures.where, f"{len(pictures):,} pictures of {size} x {size}", len(pictures) * 3 * size**2)
        found = np.empty((len(pictures), 3, size, size), np.uint8)
        for i, picture in enumerate(pictures.read(range(len(pictures)))):
            found[i] = picture
        return found


def _split(name: str, pictures: np.ndarray, credit: str, *, where: str = cats.NAME) -> ImageSet:
    """Drop copies, hold out one in ten and take the fingerprint."""
    first: dict[bytes, int] = {}
    for i, picture in enumerate(pictures):
        first.setdefault(hashlib.sha256(picture.tobytes()).digest(), i)
    duplicates = len(pictures) - len(first)
    if len(first) < MIN_DISTINCT:
        raise DataError(
            f"{where}: {len(first)} distinct pictures, {duplicates} copies; allowed: at least {MIN_DISTINCT} distinct"
        )
    held = [first[digest] for digest in sorted(first)[: -(-len(first) // HELD_OUT_EVERY)]]
    train = pictures[sorted(set(first.values()) - set(held))]
    held_out = pictures[held]
    return ImageSet(name, train, held_out, fingerprint(train, held_out), duplicates, credit)


def fingerprint(train: np.ndarray, held_out: np.ndarray) -> str:
    """Return the digest of a data set: SHA-256 (hexadecimal) of both shapes and all pixels, uint8 (N, 3, S, S) each."""
    digest = hashlib.sha256(f"{train.shape} {held_out.shape}".encode())
    for pictures in (train, held_out):
        digest.update(np.ascontiguousarray(pictures).data)
    return digest.hexdigest()
