"""The images of a folder, a zip or an `.npz` file: listed, and decoded one by one.

Any size and mode is read. An image is rotated as its EXIF data say and laid on white if it is
transparent. If a size is asked for, it is cropped to its central square and resized (Lanczos to
shrink, bicubic to enlarge).
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ablate.base.errors import DataError
from ablate.base.text import one_line
from ablate.data.image_arrays import read_array

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif",
)  # fmt: skip
# Image files that Pillow alone does not read. They are errors: to skip them silently would change
# the data set.
UNREADABLE = (
    ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx",
    ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".exr", ".hdr", ".pfm", ".svg", ".eps", ".ico", ".pcx",
)  # fmt: skip
# The decoders that a file may reach, whatever its name says. Others of Pillow's (EPS) start other
# programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "AVIF")
MAX_PIXELS = 50_000_000  # of one image
MAX_BYTES = 256 * 2**20  # of one image's file

CONVERTED = {  # kind -> what is done with such images
    "transparent": "laid on white",
    "greyscale": "read as RGB",
    "16-bit": "read as 8-bit",
    **dict.fromkeys(("CMYK", "HSV", "LAB", "YCbCr"), "read as RGB"),
}
NARROW = 16  # values: images that use fewer are nearly black or nearly white
CHANNELS = ("red", "green", "blue")

# An image file: its path within the set, its name in messages, and a function that reads it.
_Source = tuple[str, str, Callable[[], bytes]]
_Decoder = tuple[str, Callable[[], np.ndarray]]  # an image's name in messages, and a function that decodes it


class ImageFiles:
    """The images of a folder with its subfolders, a zip or an `.npz` file, decoded when read.

    Image files are sorted by name. An `.npz` is held in memory (`ablate.data.image_arrays`).

    Attributes:
        where: The path, for messages.
        size: Width and height to crop and resize to, in pixels; None: unchanged, and all of one
            size.
        names: The path of each image within the set, without its suffix; None for an array, whose
            images have numbers only.
    """

    def __init__(self, path: Path, *, size: int | None = None, array: str | None = None) -> None:
        """List the images.

        Args:
            path: The folder, zip or `.npz` file.
            size: As the attribute.
            array: The array of an `.npz` that holds the images; None: the only one that can be images.

        Raises:
            DataError: The path cannot be read or holds no images.
        """
        self.where, self.size = one_line(path), size
        self.names: list[str] | None = None
        self._array, self._layout = array, ""
        self._left_out: Counter[str] = Counter()
        self._converted: set[str] = set()
        self._digests: dict[int, bytes] = {}
        self._values = np.zeros(256, bool)  # which occur in the images read
        self._lowest, self._highest = np.full(3, 255), np.zeros(3, int)  # of each channel
        self._flat = 0  # images of one colour
        self._open = ExitStack()
        self._first: tuple[str, tuple[int, ...]] | None = None  # name and shape of the first image read
        if size is not None and size < 1:
            raise DataError(f"{self.where}: size {size} asked for; allowed: at least 1 pixel")
        try:
            self._decoders = self._list(path)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> ImageFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self._decoders)

    def read(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield images (3, H, W), uint8, RGB.

        Raises:
            DataError: An image cannot be read, or differs in size from the first one read; the
                message names it.
        """
        for i in indices:
            name, decode = self._decoders[i]
            with warnings.catch_warnings():
                # Pillow warns about odd metadata and very large images; what matters is an error
                # here.
                warnings.simplefilter("ignore")
                image = decode()
            first, shape = self._first = self._first or (name, image.shape)
            if image.shape != shape:
                found, wanted = (f"{width} x {height}" for _, height, width in (image.shape, shape))
                raise DataError(
                    f"{name}: {found} pixels, where {first} has {wanted}; fix: --size crops and resizes all"
                )
            self._look_at(i, image)
            yield image

    def batches(self, indices: Sequence[int], batch: int) -> Iterator[np.ndarray]:
        """Yield images (B, 3, H, W), uint8, RGB, in batches."""
        for start in range(0, len(indices), batch):
            yield np.stack(list(self.read(indices[start : start + batch])))

    def digests(self) -> list[bytes]:
        """Return the SHA-256 of each image's pixels. Images that were not read yet are read.

        Raises:
            DataError: As for `read`.
        """
        for _ in self.read(i for i in range(len(self)) if i not in self._digests):
            pass
        return [self._digests[i] for i in range(len(self))]

    def copies(self) -> int:
        """Return how many images have the pixels of an earlier one. Images not read yet are read.

        Raises:
            DataError: As for `read`.
        """
        return len(self) - len(set(self.digests()))

    def notes(self, *, copies: bool = False) -> list[str]:
        """Return what a user should know of the images read so far: a line for each matter.

        Args:
            copies: Also say how many are exact copies, which reads the images that were not read yet.
        """
        lines = []
        if self._left_out:
            counts = (f"{count:,} {kind}" for kind, count in sorted(self._left_out.items()))
            lines.append(f"left out: {', '.join(counts)}")
        if self._layout:
            lines.append(self._layout)
        lines += [f"{kind} images {CONVERTED[kind]}" for kind in sorted(self._converted)]
        if self._digests:
            lines += self._odd_values()
        if copies and (found := self.copies()):
            lines.append(f"{found:,} of {len(self):,} images are exact copies of others")
        return lines

    def _odd_values(self) -> list[str]:
        """Return what is odd about the values of the images read, in lines."""
        values, wanted = np.flatnonzero(self._values).tolist(), "images need 0 to 255"
        if values in ([0], [255]):
            return [f"all images are {'black' if values == [0] else 'white'}"]
        if self._flat == len(self._digests):
            return ["every image is of one colour"]
        lines = []
        if values[-1] == 1:
            lines.append(f"all values are 0 or 1, nearly black: {wanted}")
        elif values in ([0, 1, 255], [1, 255]):
            lines.append(f"all values are 0, 1 or 255, as if -1 to 1 had been cast to bytes: {wanted}")
        elif values[-1] < NARROW:
            lines.append(f"no value is above {values[-1]}, nearly black: {wanted}")
        elif values[0] > 255 - NARROW:
            lines.append(f"no value is below {values[0]}, nearly white: {wanted}")
        if self._flat:
            lines.append(f"{self._flat:,} of {len(self._digests):,} images are of one colour")
        constant = [name for name, low, high in zip(CHANNELS, self._lowest, self._highest, strict=True) if low == high]
        if 0 < len(constant) < len(CHANNELS):
            lines.append(f"{' and '.join(constant)} have one value in all images: channels that were lost?")
        return lines

    def _look_at(self, i: int, image: np.ndarray) -> None:
        """Keep the digest of an image read for the first time, and the range of its values."""
        if i in self._digests:
            return
        self._digests[i] = hashlib.sha256(np.ascontiguousarray(image).data).digest()
        lowest, highest = image.min((1, 2)), image.max((1, 2))
        self._lowest, self._highest = np.minimum(self._lowest, lowest), np.maximum(self._highest, highest)
        self._flat += bool((lowest == highest).all())
        self._values |= np.bincount(image.reshape(-1), minlength=256) > 0

    def _list(self, path: Path) -> list[_Decoder]:
        if os.path.isdir(path):
            return self._decoders_of(_files_in_folder(path, self._left_out))
        if not os.path.isfile(path):
            missing = "is not a file or folder" if os.path.exists(path) else "no such file or folder"
            raise DataError(f"{self.where}: {missing}; allowed: a folder, a .zip or a .npz")
        if path.suffix.lower() == ".npz":
            array, self._layout = read_array(path, self.where, self._array)
            _check_pixels(self.where, *array.shape[1:3])
            return [(f"{self.where}: image {i}", partial(self._decode_row, array, i)) for i in range(len(array))]
        if path.suffix.lower() != ".zip":
            found = path.suffix or "nothing"
            raise DataError(f"{self.where}: found a file ending in {found}; allowed: a folder, a .zip or a .npz")
        try:
            archive = self._open.enter_context(zipfile.ZipFile(path))
            return self._decoders_of(_files_in_zip(archive, self.where, self._left_out))
        except DataError:
            raise
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"{self.where}: not a readable zip ({one_line(error)}); fix: pack or download it again"
            ) from error

    def _decoders_of(self, sources: list[_Source]) -> list[_Decoder]:
        if not sources:
            raise DataError(f"{self.where}: no images found; looked for files ending in {', '.join(SUFFIXES)}")
        self.names = [inside.rpartition(".")[0] for inside, _, _ in sources]
        return [(name, partial(self._decode_file, name, read)) for _, name, read in sources]

    def _decode_file(self, name: str, read: Callable[[], bytes]) -> np.ndarray:
        """Decode an image file."""
        try:
            with Image.open(io.BytesIO(read()), formats=FORMATS) as image:
                _check_pixels(name, *image.size)
                frames = getattr(image, "n_frames", 1)
                # The other frames of an MPO (a phone's JPEG) are previews and depth maps of the
                # first.
                if frames > 1 and image.format != "MPO":
                    raise DataError(f"{name}: {frames} frames; allowed: still images; fix: save one frame or remove it")
                deep = ";16" in str(image.tile)  # Pillow drops the lower byte of 16-bit RGB
                ImageOps.exif_transpose(image, in_place=True)
                return self._to_array(name, image, deep=deep)
        except DataError:
            raise
        except UnidentifiedImageError as error:
            raise DataError(
                f"{name}: not an image; allowed: {', '.join(FORMATS)}; fix: replace or remove it"
            ) from error
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{name}: far too large; allowed: {MAX_PIXELS:,} pixels; fix: shrink or remove it"
            ) from error
        # A damaged file can raise anything: OSError, SyntaxError, struct.error, KeyError...
        except Exception as error:
            reason = one_line(error) or type(error).__name__
            raise DataError(f"{name}: cannot be read ({reason}); fix: replace or remove it") from error

    def _decode_row(self, array: np.ndarray, i: int) -> np.ndarray:
        """Convert image i of an array (N, H, W, C)."""
        pixels = array[i]
        height, width, channels = pixels.shape
        if channels == 3 and self.size in (None, height) and self.size in (None, width):
            return np.ascontiguousarray(pixels.transpose(2, 0, 1))
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
        return self._to_array(f"{self.where}: image {i}", image)

    def _to_array(self, name: str, image: Image.Image, *, deep: bool = False) -> np.ndarray:
        """Return an image as uint8 RGB (3, H, W), at the size asked for; `deep` if it had 16 bits a channel."""
        if deep or image.mode.startswith("I"):
            self._converted.add("16-bit")
        transparent = image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)
        if image.mode in CONVERTED:
            self._converted.add(image.mode)
        elif transparent:
            self._converted.add("transparent")
        elif image.mode[0] in "1LIF":
            self._converted.add("greyscale")
        rgb = _to_rgb(name, image)
        if self.size is not None:
            rgb = _to_square(rgb, self.size)
        return np.asarray(rgb).transpose(2, 0, 1)


def _files_in_folder(root: Path, left_out: Counter[str]) -> list[_Source]:
    """List the image files of a folder and its subfolders, and count the other files by kind."""

    def fail(error: OSError) -> None:
        raise DataError(f"{one_line(error.filename)}: cannot be listed ({error.strerror})") from error

    paths = []
    for folder, folders, files in os.walk(root, onerror=fail):
        left_out["hidden"] += sum(not _is_visible(name) for name in folders)
        folders[:] = [name for name in folders if _is_visible(name)]
        left_out["links to folders"] += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
        paths += [Path(folder, name) for name in files if _is_image(PurePosixPath(name), left_out)]
    found = sorted((path.relative_to(root).as_posix(), path) for path in paths)
    left_out -= Counter()  # drops zeros
    return [(inside, one_line(path), partial(_read_file, path)) for inside, path in found]


def _read_file(path: Path) -> bytes:
    if not path.is_file():  # a broken link, or a pipe, which would block for ever
        raise DataError(f"{one_line(path)}: not a regular file; fix: remove it, or replace it with the image")
    _check_bytes(one_line(path), path.stat().st_size)
    return path.read_bytes()


def _files_in_zip(archive: zipfile.ZipFile, where: str, left_out: Counter[str]) -> list[_Source]:
    """List the image files of a zip, and count the other files by kind."""

    def read(entry: zipfile.ZipInfo) -> bytes:
        _check_bytes(f"{where}: {one_line(entry.filename)}", entry.file_size)
        return archive.read(entry)

    names = ((entry, PurePosixPath(entry.filename.replace("\\", "/"))) for entry in archive.infolist())
    entries = [entry for entry, name in names if not entry.is_dir() and _is_image(name, left_out)]
    entries.sort(key=lambda entry: entry.filename)
    return [
        (entry.filename.replace("\\", "/"), f"{where}: {one_line(entry.filename)}", partial(read, entry))
        for entry in entries
    ]


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_image(path: PurePosixPath, left_out: Counter[str]) -> bool:
    """Return whether a file's name is that of an image, and count it by kind if not."""
    if not all(_is_visible(part) or part == ".." for part in path.parts):
        left_out["hidden"] += 1
        return False
    if path.suffix.lower() in UNREADABLE:
        raise DataError(
            f"{one_line(path)}: a kind of image that is not read; allowed: {', '.join(FORMATS)}; "
            "fix: convert or remove it"
        )
    if path.suffix.lower() in SUFFIXES:
        return True
    left_out[one_line(path.suffix.lower()) or "without a suffix"] += 1
    return False


def _check_bytes(name: str, found: int) -> None:
    if found > MAX_BYTES:
        raise DataError(f"{name}: {found:,} bytes; allowed: {MAX_BYTES:,} for one image; fix: shrink or remove it")


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: {width} x {height} pixels; allowed: {MAX_PIXELS:,} pixels in all; fix: shrink or remove it"
        )


def _to_rgb(name: str, image: Image.Image) -> Image.Image:
    """Return an image in 8-bit RGB, laid on white if it is transparent."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{name}: values {values.min()} to {values.max()}; allowed: 8 or 16 bits a channel")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError(f"{name}: floating-point pixels; allowed: 8 or 16 bits a channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_square(image: Image.Image, size: int) -> Image.Image:
    """Crop an image to its central square and resize it; an image of that size is unchanged."""
    side = min(image.size)
    if image.width != image.height:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC)
    return image
