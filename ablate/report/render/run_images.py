"""A run's pictures for a page: read from its artifacts, cut, and packed into data URIs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ablate.store.image_grids import ZOOM

SIZE = 64  # pixels of one picture
MAX_PIXELS = 16_000_000  # of a file: what a run writes has less
# Pixels of height and quality of a grid or strip: the first that fits is taken.
GRIDS = ((512, 88), (512, 75), (256, 75), (128, 75), (64, 70), (64, 40), (64, 10))
STRIPS = ((2000, 85), (2000, 60), (264, 60), (264, 30), (132, 30), (66, 10))
TRIED = 3  # by which the level is chosen
SKETCH = re.compile(r"samples_(\d{1,9})\.png")


@dataclass(frozen=True)
class Grid:
    """Pictures drawn from noise 0, 1, 2, ..., eight a row."""

    label: str
    step: int | None  # of the training; None: when it was finished
    uri: str


def samples(folder: Path) -> Path:
    """Return the file of a run's samples: `samples.png`, or `samples.webp`, not enlarged, of a study that is passed on in fewer bytes."""
    packed = folder / "samples.webp"
    return packed if packed.is_file() else folder / "samples.png"


def read(path: Path) -> np.ndarray | None:
    """Return a grid or strip (H, W, 3) uint8 as it was before it was enlarged; None where it is missing or damaged."""
    try:
        with Image.open(path, formats=("PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            pixels = np.asarray(image.convert("RGB"))
            return pixels if path.suffix == ".webp" else pixels[::ZOOM, ::ZOOM]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def pack(pixels: np.ndarray, quality: int) -> str:
    """Return pixels (H, W, 3) uint8 as the data URI of a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def fit(sheets: Sequence[np.ndarray], budget: int, levels: Sequence[tuple[int, int]] = GRIDS) -> list[str]:
    """Pack sheets alike, as much of each and as well as `budget` bytes allow.

    Args:
        sheets: Pictures (H, W, 3) uint8; what does not fit is cut off below.
        budget: Bytes of all data URIs.
        levels: Height in pixels and quality, from the best on.

    Returns:
        Data URIs of the first sheets: of all, where not even the last level is too much.
    """
    tried = [sheets[i] for i in sorted({0, len(sheets) // 2, len(sheets) - 1})] if len(sheets) > TRIED else sheets
    packed: list[str] = []
    for height, quality in levels:
        some = sum(len(pack(sheet[:height], quality)) for sheet in tried) if tried is not sheets else 0
        if some * len(sheets) > budget * len(tried):
            continue
        packed = [pack(sheet[:height], quality) for sheet in sheets]
        if sum(map(len, packed)) <= budget:
            return packed
    height, quality = levels[-1]
    packed = packed or [pack(sheet[:height], quality) for sheet in sheets]
    while sum(map(len, packed)) > budget:
        packed.pop()
    return packed


def sketches(folder: Path) -> dict[int, Path]:
    """Return the grids that were drawn while a run trained, by step."""
    found = {}
    for path in folder.glob("samples_*.png"):
        if match := SKETCH.fullmatch(path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))
