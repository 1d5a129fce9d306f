"""Images of noise, and images as the bytes of a file."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ablate.data.datasets import read_all
from ablate.data.image_files import ImageFiles


def noise(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def read_images(path: Path, *, size: int) -> np.ndarray:
    """Read every image of a folder, a zip or an `.npz`."""
    with ImageFiles(path, size=size) as images:
        return read_all(images, size)
