"""The embedded data set: cartoon cats composed from the layers of the `robohash` package (set 4) on plain backgrounds.

    picture i = background(i), then body, fur, eyes, mouth and accessory of i, one over the other
Layers are shrunk once, with premultiplied alpha, and cached. Picture i depends on i alone; 15 x 10 x 15 x 10 x 16 layers and as many
backgrounds as colours. The art is by David Revoy, CC-BY-4.0.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import numpy as np
import platformdirs
from PIL import Image

CREDIT = "Cats by David Revoy, CC-BY-4.0, composed from the layers of the robohash package (set 4)"
COUNT = 10_000
LAYERS = ("000#00body", "001#01fur", "002#02eyes", "003#03mouth", "004#04accessories")
VERSION = 1  # of the composition: a change of it makes other pictures
BRIGHTNESS = (0.45, 1.0)  # of each channel of a background


def compose(count: int, *, size: int = 64, start: int = 0) -> np.ndarray:
    """Compose cats.

    Args:
        count: How many.
        size: Width and height in pixels.
        start: The first picture's number.

    Returns:
        (count, 3, size, size) uint8, RGB.
    """
    layers = _layers(size)
    picks = np.empty((count, len(layers)), np.int64)
    pictures = np.empty((count, size, size, 3), np.float32)
    for i in range(count):
        random = np.random.Generator(np.random.Philox(key=[VERSION, start + i]))
        pictures[i] = random.uniform(*BRIGHTNESS, 3)
        picks[i] = [random.integers(len(layer)) for layer in layers]
    for layer, pick in zip(layers, picks.T, strict=True):
        for which, art in enumerate(layer):
            chosen = pick == which
            pictures[chosen] = pictures[chosen] * (1 - art[..., 3:]) + art[..., :3]
    return (pictures * 255).round().astype(np.uint8).transpose(0, 3, 1, 2).copy()


def _layers(size: int) -> list[np.ndarray]:
    """The shrunk layers, each (variants, size, size, 4) float32 in [0, 1], colours premultiplied by alpha; cached by content."""
    folder = files("robohash") / "sets" / "set4"
    sources = [sorted((folder / layer).iterdir(), key=lambda entry: entry.name) for layer in LAYERS]
    content = hashlib.sha256(f"{VERSION}/{size}".encode())
    for entries in sources:
        for entry in entries:
            content.update(hashlib.sha256(entry.read_bytes()).digest())
    path = cache_folder() / "cats" / f"{content.hexdigest()}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return [kept[layer].astype(np.float32) / 255 for layer in LAYERS]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # Missing or damaged: made again.
    made = {}
    for layer, entries in zip(LAYERS, sources, strict=True):
        shrunk = []
        for entry in entries:
            with entry.open("rb") as file, Image.open(file) as image:
                # "RGBa" is RGBA premultiplied: shrinking it lets no colour of transparent pixels bleed in.
                shrunk.append(
                    np.asarray(image.convert("RGBA").convert("RGBa").resize((size, size), Image.Resampling.BOX))
                )
        made[layer] = np.stack(shrunk)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **made)
        temporary.replace(path)
    except OSError:  # A cache that cannot be written is no reason to fail.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return [art.astype(np.float32) / 255 for art in made.values()]


def cache_folder() -> Path:
    """Return where shrunk layers and reference statistics are kept: `ABLATE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ABLATE_CACHE") or platformdirs.user_cache_dir("ablate"))
