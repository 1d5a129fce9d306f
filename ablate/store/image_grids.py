"""Images of a run, as files: grids and strips in PNG, arrays in `.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ablate.store.atomic_files import output_file

GAP = 2  # pixels between the panels of a strip
ZOOM = 2


def tile(images: np.ndarray, columns: int, *, gap: int = 0) -> np.ndarray:
    """Arrange images (N, 3, H, W) uint8, row by row, in one image (rows H, columns W, 3) uint8.

    Gaps are white.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    padded = np.full((rows * columns, channels, height + gap, width + gap), 255, np.uint8)
    padded[:count, :, :height, :width] = images
    cells = padded.reshape(rows, columns, channels, height + gap, width + gap).transpose(0, 3, 1, 4, 2)
    sheet = cells.reshape(rows * (height + gap), columns * (width + gap), channels)
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]


def save_grid(path: Path, images: np.ndarray) -> None:
    """Write a grid of images (N, 3, H, W) uint8, eight per row, to a PNG file, at twice their size."""
    _save(path, tile(images, 8))


def save_strip(path: Path, panels: list[np.ndarray]) -> None:
    """Write panels, (N, 3, H, W) uint8 each, to a PNG: one row per image, one column per panel."""
    stacked = np.stack(panels, axis=1).reshape(-1, *panels[0].shape[1:])
    _save(path, tile(stacked, len(panels), gap=GAP))


def save_array(path: Path, images: np.ndarray) -> None:
    """Write images (N, 3, H, W) uint8 to a compressed `.npz`: `images` (N, H, W, 3)."""
    with output_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images.transpose(0, 2, 3, 1))


def _save(path: Path, sheet: np.ndarray) -> None:
    image = Image.fromarray(sheet)
    image = image.resize((image.width * ZOOM, image.height * ZOOM), Image.Resampling.NEAREST)
    with output_file(path) as temporary:
        image.save(temporary, "PNG")
