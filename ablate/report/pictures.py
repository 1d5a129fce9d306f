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

from ablate.report.figures import ZOOM

SIZE = 64  # pixels of one picture
COLUMNS = 8
MAX_PIXELS = 16_000_000  # of a file: what a run writes has less
LEVELS = (
    (64, 88),
    (64, 75),
    (32, 75),
    (16, 75),
    (8, 70),
    (8, 40),
)  # pictures of a grid, quality: the first that fits is taken
SKETCH = re.compile(r"samples_(\d{1,9})\.png")


@dataclass(frozen=True)
class Grid:
    """Pictures drawn from noise 0, 1, 2, ..., eight a row."""

    label: str
    step: int | None  # of the training; None: when it was finished
    uri: str
    count: int


def read(path: Path) -> np.ndarray | None:
    """Return a grid or strip (H, W, 3) uint8 as it was before it was enlarged; None where it is missing or damaged."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            return np.asarray(image.convert("RGB"))[::ZOOM, ::ZOOM]
    except (OSError, ValueError, SyntaxError):
        return None


def pack(pixels: np.ndarray, quality: int) -> str:
    """Return pixels (H, W, 3) uint8 as the data URI of a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def fit(sheets: Sequence[np.ndarray], budget: int) -> tuple[list[str], int]:
    """Pack grids alike, in as many pictures and as well as `budget` bytes allow.

    Args:
        sheets: Grids (H, W, 3) uint8, eight pictures a row.
        budget: Bytes of all data URIs; where not even the least fits, that is taken.

    Returns:
        Data URIs, and how many pictures each has at most.
    """
    packed: list[str] = []
    for count, quality in LEVELS:
        packed = [pack(sheet[: count // COLUMNS * SIZE], quality) for sheet in sheets]
        if sum(map(len, packed)) <= budget:
            break
    return packed, count


def sketches(folder: Path) -> dict[int, Path]:
    """Return the grids that were drawn while a run trained, by step."""
    found = {}
    for path in folder.glob("samples_*.png"):
        if match := SKETCH.fullmatch(path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))
