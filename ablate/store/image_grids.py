"""Pictures of a run, as files: sample grid, denoising strip, array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ablate.store.atomic_files import output_file

GAP = 2  # pixels between the panels of a strip
ZOOM = 2


def tile(pictures: np.ndarray, columns: int, *, gap: int = 0) -> np.ndarray:
    """Lay pictures (N, 3, H, W) uint8 out row by row in one picture (rows H, columns W, 3) uint8; empty cells and gaps are white."""
    count, channels, height, width = pictures.shape
    rows = -(-count // columns)
    padded = np.full((rows * columns, channels, height + gap, width + gap), 255, np.uint8)
    padded[:count, :, :height, :width] = pictures
    cells = padded.reshape(rows, columns, channels, height + gap, width + gap).transpose(0, 3, 1, 4, 2)
    sheet = cells.reshape(rows * (height + gap), columns * (width + gap), channels)
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]


def save_grid(path: Path, pictures: np.ndarray, *, columns: int = 8) -> None:
    """Write a grid of pictures (N, 3, H, W) uint8 to a PNG file, each pixel twice as large."""
    _save(path, tile(pictures, columns))


def save_strip(path: Path, panels: list[np.ndarray]) -> None:
    """Write panels, each (N, 3, H, W) uint8, to a PNG file: one row per picture, one column per panel, in the order given."""
    stacked = np.stack(panels, axis=1).reshape(-1, *panels[0].shape[1:])
    _save(path, tile(stacked, len(panels), gap=GAP))


def save_array(path: Path, pictures: np.ndarray) -> None:
    """Write pictures (N, 3, H, W) uint8 to a compressed `.npz` file, as the array `images` (N, H, W, 3)."""
    with output_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=pictures.transpose(0, 2, 3, 1))


def _save(path: Path, sheet: np.ndarray) -> None:
    image = Image.fromarray(sheet)
    image = image.resize((image.width * ZOOM, image.height * ZOOM), Image.Resampling.NEAREST)
    with output_file(path) as temporary:
        image.save(temporary, "PNG")
