"""Pictures from a folder, a zip or an `.npz` file, or the embedded cats; decoded, cropped, resized and split.

Any size and mode is taken: a picture is turned as its EXIF data says, composited on white where it is transparent, cropped to its central
square and resized with a Lanczos filter. Exact duplicates are dropped and counted. A tenth of the distinct pictures, those with the
smallest content digests, is held out, so the split depends on the pictures alone.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ablate.data import cats
from ablate.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
MIN_IMAGES = 32
MAX_PIXELS = 50_000_000  # of one picture, before it is decoded
MAX_FILE_BYTES = 200_000_000
HELD_OUT = 10  # one picture in so many


@dataclass(frozen=True)
class ImageSet:
    """A data set: distinct pictures, split, with a fingerprint."""

    name: str
    train: np.ndarray  # uint8 (N, 3, S, S), RGB
    held_out: np.ndarray  # uint8 (M, 3, S, S)
    digest: str  # SHA-256 of all pixels in order and their shape
    duplicates: int  # dropped
    credit: str


def load(source: str, *, size: int = 64) -> ImageSet:
    """Load a data set.

    Args:
        source: `cats` for the embedded one, or the path of a folder, a zip or an `.npz` file.
        size: Width and height to bring every picture to, in pixels.

    Raises:
        DataError: Missing, empty, damaged or too few pictures; the message names the file.
    """
    if source == "cats":
        return _split("cats", cats.compose(cats.COUNT, size=size), cats.CREDIT)
    path = Path(source)
    return _split(path.resolve().stem, read_images(path, size=size), "")


def read_images(path: Path, *, size: int) -> np.ndarray:
    """Read every picture of a folder, zip or `.npz` file, in the order of their names, as (N, 3, size, size) uint8.

    Raises:
        DataError: As in `load`; there is no lower bound on the number but one.
    """
    if not path.exists():
        raise DataError(f"--data {path}: no such file or folder; give cats, a folder, a .zip or an .npz of pictures")
    if path.is_file() and path.suffix.lower() == ".npz":
        return _read_npz(path, size)
    if path.is_file() and path.suffix.lower() != ".zip":
        raise DataError(f"--data {path}: is a file of another kind; give cats, a folder, a .zip or an .npz of pictures")
    pictures = [_decode(name, content, size) for name, content in (_zipped(path) if path.is_file() else _filed(path))]
    if not pictures:
        raise DataError(f"--data {path}: holds no pictures; looked for {', '.join(SUFFIXES)}")
    return np.stack(pictures)


def _filed(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if _is_picture(PurePosixPath(path.relative_to(folder).as_posix())) and path.is_file():
            try:
                if path.stat().st_size > MAX_FILE_BYTES:
                    raise DataError(f"{path}: {path.stat().st_size} bytes; at most {MAX_FILE_BYTES} are read")
                yield str(path), path.read_bytes()
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                if entry.is_dir() or not _is_picture(PurePosixPath(entry.filename)):
                    continue
                if entry.file_size > MAX_FILE_BYTES:
                    raise DataError(
                        f"{path}/{entry.filename}: {entry.file_size} bytes; at most {MAX_FILE_BYTES} are read"
                    )
                yield f"{path}/{entry.filename}", archive.read(entry)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise DataError(f"{path}: damaged or unreadable zip file ({error})") from error


def _is_picture(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _decode(name: str, content: bytes, size: int) -> np.ndarray:
    """Decode one picture to (3, size, size) uint8."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{name}: {image.width}x{image.height} pixels; at most {MAX_PIXELS} are decoded")
            if getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{name}: animated ({getattr(image, 'n_frames', 0)} frames); give single pictures")
            return _fit(_to_rgb(ImageOps.exif_transpose(image)), size)
    except DataError:
        raise
    # Pillow's decoders raise many kinds of errors on damaged input.
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        TypeError,
    ) as error:
        raise DataError(f"{name}: damaged picture ({error}); delete or replace it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        return Image.fromarray(
            (values / (65535 if values.max() > 255 else 255) * 255).clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _fit(image: Image.Image, size: int) -> np.ndarray:
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8).transpose(2, 0, 1)


def _read_npz(path: Path, size: int) -> np.ndarray:
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
            names = list(file)
            array: np.ndarray = file["images"] if "images" in names else file[names[0]] if names else np.empty(0)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DataError(f"{path}: damaged or unreadable .npz file ({error})") from error
    if array.dtype != np.uint8 or array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
        raise DataError(
            f"{path}: found {array.dtype} {array.shape}; the pictures must be uint8 (N, H, W, 3) or (N, 3, H, W)"
        )
    pictures = array.transpose(0, 3, 1, 2) if array.shape[3] == 3 else array
    if not len(pictures):
        raise DataError(f"{path}: holds no pictures")
    if pictures.shape[2:] != (size, size):
        return np.stack([_fit(Image.fromarray(picture.transpose(1, 2, 0)), size) for picture in pictures])
    return np.ascontiguousarray(pictures)


def _split(name: str, pictures: np.ndarray, credit: str) -> ImageSet:
    """Drop exact duplicates and hold out the tenth with the smallest digests."""
    digests: dict[bytes, int] = {}
    for i, picture in enumerate(pictures):
        digests.setdefault(hashlib.sha256(np.ascontiguousarray(picture).tobytes()).digest(), i)
    if len(digests) < MIN_IMAGES:
        raise DataError(
            f"--data {name}: {len(digests)} distinct pictures of {len(pictures)} in total; at least {MIN_IMAGES} are needed"
        )
    chosen = [index for _, index in sorted(digests.items())[: -(-len(digests) // HELD_OUT)]]
    train = np.ascontiguousarray(pictures[sorted(set(digests.values()) - set(chosen))])
    held_out = np.ascontiguousarray(pictures[chosen])
    fingerprint = hashlib.sha256(f"{train.shape}/{held_out.shape}".encode())
    for part in (train, held_out):
        fingerprint.update(part.tobytes())
    return ImageSet(name, train, held_out, fingerprint.hexdigest(), len(pictures) - len(digests), credit)
