"""The images of a run: their files, read and cropped for a page, and packed into data URIs."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ablate.base.errors import ResultsError
from ablate.store.artifacts import run_folder
from ablate.store.image_grids import ZOOM

MAX_PIXELS = 16_000_000  # of a file: runs write smaller ones
# Pixels of height, and quality, of a grid or strip: the first that fits is used.
GRIDS = ((512, 88), (512, 75), (256, 75), (128, 75), (64, 70), (64, 40), (64, 10))
STRIPS = ((2000, 85), (2000, 60), (264, 60), (264, 30), (132, 30), (66, 10))
TRIED = 3  # grids that are packed to choose the level
PREVIEW = re.compile(r"samples_(\d{1,9})\.png")


def folder_of(results: Path, run_id: str) -> Path:
    """Return the folder of a run; where its name leads elsewhere, a path that holds nothing."""
    try:
        return run_folder(results, run_id)
    except ResultsError:
        return Path(os.devnull)


def sample_file(folder: Path) -> Path:
    """Return the file of a run's samples.

    It is `samples.png`, or `samples.webp` in a study that was packed to be passed on: that one is not
    enlarged.
    """
    packed = folder / "samples.webp"
    return packed if packed.is_file() else folder / "samples.png"


def preview_files(folder: Path) -> dict[int, Path]:
    """Return the sample grids that were drawn during training, by step."""
    files = {int(match[1]): path for path in folder.glob("samples_*.png") if (match := PREVIEW.fullmatch(path.name))}
    return dict(sorted(files.items()))


def read(path: Path) -> np.ndarray | None:
    """Return a grid or strip (H, W, 3) uint8 before enlargement; None if it is missing or damaged."""
    try:
        with Image.open(path, formats=("PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            pixels = np.asarray(image.convert("RGB"))
            return pixels if path.suffix == ".webp" else pixels[::ZOOM, ::ZOOM]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def data_uri(pixels: np.ndarray, quality: int) -> str:
    """Return pixels (H, W, 3) uint8 as the data URI of a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def pack(grids: Sequence[np.ndarray], budget: int, levels: Sequence[tuple[int, int]] = GRIDS) -> list[str]:
    """Return the data URIs of grids, all at the best height and quality that fit the budget.

    Args:
        grids: Images (H, W, 3) uint8; the bottom is cropped if it does not fit.
        budget: Bytes of all data URIs.
        levels: Height in pixels and quality, best first.

    Returns:
        Data URIs of all grids, or of the first ones if the last level is still too large.
    """
    tried = [grids[i] for i in sorted({0, len(grids) // 2, len(grids) - 1})] if len(grids) > TRIED else grids
    packed: list[str] = []
    for height, quality in levels:
        size = sum(len(data_uri(grid[:height], quality)) for grid in tried) if tried is not grids else 0
        if size * len(grids) > budget * len(tried):
            continue
        packed = [data_uri(grid[:height], quality) for grid in grids]
        if sum(map(len, packed)) <= budget:
            return packed
    height, quality = levels[-1]
    packed = packed or [data_uri(grid[:height], quality) for grid in grids]
    while sum(map(len, packed)) > budget:
        packed.pop()
    return packed
