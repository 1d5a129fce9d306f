"""The embedded data set: cartoon cats composed from the layers of the `robohash` package (set 4).

    x_i = background_i
    for body, fur, eyes, mouth, accessory:  x_i <- (1 - alpha) x_i + alpha colour

Each layer is shrunk once, with premultiplied alpha, and kept in the user's cache folder. 15 bodies,
9 furs (one of them empty), 15 eyes, 10 mouths and 16 accessories (one of them empty) make 324,000
cats. The art is by David Revoy, CC-BY-4.0.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from importlib import metadata, resources
from pathlib import Path

import numpy as np
from PIL import Image

from ablate.base.errors import DataError
from ablate.store.atomic_files import replacing
from ablate.store.cache import cache_folder

NAME = "cats"  # of the data set; a path may be given instead
CREDIT = "Cats: art by David Revoy, CC-BY-4.0, composed from the layers of the robohash package (set 4)"
COUNT = 10_000  # images in the data set
ART_SIZE = 1024  # pixels, width and height of a layer
LIGHT = (160, 256)  # the range of a background's channels
VERSION = 2  # of shrinking and composing: raised when either changes, to leave old caches unread
LAYERS = ("000#00body", "001#01fur", "002#02eyes", "003#03mouth", "004#04accessories")
_KEY = 0x63617473  # of the random streams; image i uses block i of the stream


def compose(count: int, *, size: int = 64, start: int = 0) -> np.ndarray:
    """Compose images start .. start + count - 1. Image i depends on i and the size only.

    The first 324,000 images show distinct cats. Later ones repeat them on other backgrounds.

    Args:
        count: Number of images.
        size: Width and height, 1 to 1024 pixels.
        start: Index of the first image.

    Returns:
        Images (count, 3, size, size), uint8, RGB.

    Raises:
        DataError: `size` is out of range, or the installed robohash has no set 4.
    """
    if count < 0 or start < 0:
        raise ValueError(f"count {count} and start {start} must not be negative")
    layers = [layer.astype(np.float32) for layer in _layers(size)]
    colours = [layer[:, :3] for layer in layers]
    clear = [1 - layer[:, 3:] / 255 for layer in layers]
    counts = tuple(len(layer) for layer in layers)
    order = _order(math.prod(counts))
    picks = np.unravel_index(order[np.arange(start, start + count) % len(order)], counts)
    backgrounds = _backgrounds(count, start)
    images = np.empty((count, 3, size, size), np.uint8)
    for i in range(count):  # one at a time: an image stays in the CPU's cache
        x = np.tile(backgrounds[i, :, None, None].astype(np.float32), (1, size, size))
        for colour, through, pick in zip(colours, clear, picks, strict=True):
            x *= through[pick[i]]
            x += colour[pick[i]]
        images[i] = np.minimum(np.rint(x), 255)
    return images


def _order(n: int) -> np.ndarray:
    """Return the n combinations in a fixed random order: no cat is both trained on and held out."""
    # Raw words and a stable sort are the same in every version of numpy; its shuffles are not.
    return np.argsort(np.random.Philox(key=_KEY).random_raw(n), kind="stable")


def _backgrounds(count: int, start: int) -> np.ndarray:
    """Return light colours (count, 3), uint8.

    A Philox block has four words: row i uses block start + i.
    """
    low, high = LIGHT
    words = np.random.Philox(key=_KEY + 1, counter=start).random_raw(4 * count).reshape(count, 4)[:, :3]
    return (low + words % np.uint64(high - low)).astype(np.uint8)


def _layers(size: int) -> list[np.ndarray]:
    """Return the layers, bottom first: (variants, 4, size, size) uint8, colours premultiplied."""
    if not 1 <= size <= ART_SIZE:
        raise DataError(f"cats: size {size}; allowed: 1 to {ART_SIZE}, the size of the art")
    art = _art()
    content = hashlib.sha256(f"{VERSION} {size} pillow {metadata.version('pillow')}".encode())
    for entries in art:
        for entry in entries:
            content.update(hashlib.sha256(entry).digest())
    path = cache_folder() / "cats" / f"{content.hexdigest()}.npz"
    layers = _read(path)
    if layers is None:
        layers = [_shrink(entries, size) for entries in art]
        _write(path, layers)
    return layers


def _art() -> list[list[bytes]]:
    """Return the content of every layer's files, bottom layer first, sorted by name."""
    try:
        root = resources.files("robohash") / "sets" / "set4"
        art = [
            [f.read_bytes() for f in sorted((root / name).iterdir(), key=lambda f: f.name) if f.name.endswith(".png")]
            for name in LAYERS
        ]
    except OSError as error:
        raise DataError(
            f"cats: robohash lacks its set 4 ({error}); fix: pip install --force-reinstall robohash"
        ) from error
    if not all(art):
        raise DataError("cats: robohash has an empty layer in set 4; fix: pip install --force-reinstall robohash")
    return art


def _shrink(entries: list[bytes], size: int) -> np.ndarray:
    """Return one layer's variants, shrunk.

    Of empty ones (no fur, no accessory) only the first is kept.
    """
    shrunk, has_empty = [], False
    for entry in entries:
        with Image.open(io.BytesIO(entry)) as image:
            # "RGBa" is premultiplied: the arbitrary colour of transparent pixels stays out of the
            # edges.
            rgba = image.convert("RGBA")
        if rgba.getbbox() is None:
            if has_empty:
                continue
            has_empty = True
        small = np.asarray(rgba.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        # Lanczos overshoots: a premultiplied colour above its alpha would show as a light rim.
        shrunk.append(np.minimum(small, small[3:]))
    return np.stack(shrunk)


def _read(path: Path) -> list[np.ndarray] | None:
    """Return the layers in a cache file, or None if it is missing or damaged."""
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
            layers, checksum = np.split(file["art"], np.cumsum(file["counts"])[:-1]), str(file["sha256"])
    # A damaged zip can raise anything: BadZipFile, zlib.error, KeyError, ValueError, EOFError...
    except Exception:
        return None
    return layers if checksum == _checksum(layers) else None


def _write(path: Path, layers: list[np.ndarray]) -> None:
    counts = [len(layer) for layer in layers]
    # On a full or read-only disk the layers are shrunk again next time.
    with contextlib.suppress(OSError), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, art=np.concatenate(layers), counts=counts, sha256=_checksum(layers))


def _checksum(layers: list[np.ndarray]) -> str:
    shapes = [(layer.shape, layer.dtype.str) for layer in layers]
    return hashlib.sha256(str(shapes).encode() + b"".join(layer.tobytes() for layer in layers)).hexdigest()
