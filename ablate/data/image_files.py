"""Image files in a folder, a zip or an `.npz` file: listed, and decoded one by one.

Any size and mode is read. An image is rotated as its EXIF data say and laid on white if it is
transparent. If a size is asked for, it is cropped to its central square and resized (Lanczos to
shrink, bicubic to enlarge).
"""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ablate.base.errors import DataError
from ablate.base.host import host_bytes
from ablate.base.text import printable

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".tga", ".avif",
)  # fmt: skip
# Image files that Pillow alone does not read. They are errors: to skip them silently would change
# the data set.
UNREADABLE = (
    ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx",
    ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw",
)  # fmt: skip
# The decoders that a file may reach, whatever its name says. Others of Pillow's (EPS) start other
# programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF")
MAX_PIXELS = 50_000_000  # of one image
MAX_BYTES = 256 * 2**20  # of one image's file

_Source = tuple[str, Callable[[], bytes]]  # an image file's name in messages, and a function that reads it
_Decoder = tuple[str, Callable[[], np.ndarray]]  # an image's name in messages, and a function that decodes it


class ImageFiles:
    """The images of a folder with its subfolders, a zip or an `.npz` file, decoded when read.

    Image files are sorted by name. An `.npz` is held in memory. Its array "images", or else its
    first array, is uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 (RGB) or 4 (RGBA).

    Attributes:
        where: The path, for messages.
        size: Width and height to crop and resize to, in pixels; None: unchanged, and all of one
            size.
        converted: Kinds of images read that were not plain RGB: `greyscale`, `transparent`.
    """

    def __init__(self, path: Path, *, size: int | None = None) -> None:
        """List the images.

        Raises:
            DataError: The path cannot be read or holds no images.
        """
        self.where, self.size = one_line(path), size
        self.converted: set[str] = set()
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
            yield image

    def batches(self, indices: Sequence[int], batch: int) -> Iterator[np.ndarray]:
        """Yield images (B, 3, H, W), uint8, RGB, in batches."""
        for start in range(0, len(indices), batch):
            yield np.stack(list(self.read(indices[start : start + batch])))

    def _list(self, path: Path) -> list[_Decoder]:
        if os.path.isdir(path):
            return self._decoders_of(_files_in_folder(path))
        if not os.path.isfile(path):
            missing = "is not a file or folder" if os.path.exists(path) else "no such file or folder"
            raise DataError(f"{self.where}: {missing}; allowed: a folder, a .zip or a .npz")
        if path.suffix.lower() == ".npz":
            array = _array_of(path, self.where)
            return [(f"{self.where}: image {i}", partial(self._decode_row, array, i)) for i in range(len(array))]
        if path.suffix.lower() != ".zip":
            found = path.suffix or "nothing"
            raise DataError(f"{self.where}: found a file ending in {found}; allowed: a folder, a .zip or a .npz")
        try:
            return self._decoders_of(_files_in_zip(self._open.enter_context(zipfile.ZipFile(path)), self.where))
        except DataError:
            raise
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"{self.where}: not a readable zip ({one_line(error)}); fix: pack or download it again"
            ) from error

    def _decoders_of(self, sources: list[_Source]) -> list[_Decoder]:
        if not sources:
            raise DataError(f"{self.where}: no images found; looked for files ending in {', '.join(SUFFIXES)}")
        return [(name, partial(self._decode_file, name, read)) for name, read in sources]

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
                ImageOps.exif_transpose(image, in_place=True)
                return self._to_array(name, image)
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

    def _to_array(self, name: str, image: Image.Image) -> np.ndarray:
        """Return an image as uint8 RGB (3, H, W), at the size asked for."""
        if image.has_transparency_data:
            self.converted.add("transparent")
        elif image.mode[0] in "1LIF":
            self.converted.add("greyscale")
        rgb = _to_rgb(name, image)
        if self.size is not None:
            rgb = _to_square(rgb, self.size)
        return np.asarray(rgb).transpose(2, 0, 1)


def _files_in_folder(root: Path) -> list[_Source]:
    def fail(error: OSError) -> None:
        raise DataError(f"{one_line(error.filename)}: cannot be listed ({error.strerror})") from error

    paths = []
    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if _is_visible(name)]
        paths += [Path(folder, name) for name in files if _is_image(PurePosixPath(name))]
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    return [(one_line(path), partial(_read_file, path)) for path in paths]


def _read_file(path: Path) -> bytes:
    if not path.is_file():  # a broken link, or a pipe, which would block for ever
        raise DataError(f"{one_line(path)}: not a regular file; fix: remove it, or replace it with the image")
    _check_bytes(one_line(path), path.stat().st_size)
    return path.read_bytes()


def _files_in_zip(archive: zipfile.ZipFile, where: str) -> list[_Source]:
    def read(entry: zipfile.ZipInfo) -> bytes:
        _check_bytes(f"{where}: {one_line(entry.filename)}", entry.file_size)
        return archive.read(entry)

    names = ((entry, PurePosixPath(entry.filename.replace("\\", "/"))) for entry in archive.infolist())
    entries = [entry for entry, name in names if not entry.is_dir() and _is_image(name)]
    entries.sort(key=lambda entry: entry.filename)
    return [(f"{where}: {one_line(entry.filename)}", partial(read, entry)) for entry in entries]


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_image(path: PurePosixPath) -> bool:
    if not all(_is_visible(part) or part == ".." for part in path.parts):
        return False
    if path.suffix.lower() in UNREADABLE:
        raise DataError(
            f"{one_line(path)}: a kind of image that is not read; allowed: {', '.join(FORMATS)}; "
            "fix: convert or remove it"
        )
    return path.suffix.lower() in SUFFIXES


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


def _array_of(path: Path, where: str) -> np.ndarray:
    """Return the images of an `.npz` as (N, H, W, C)."""
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
            names = list(file)
            name = "images" if "images" in names else (names or [""])[0]
            check_memory(where, f"the array {one_line(name)}", _claimed_bytes(path, name))
            array: np.ndarray = file[name] if names else np.empty(0)
    except DataError:
        raise
    except Exception as error:  # as in _decode_file, a damaged zip or header can raise anything
        reason = one_line(error) or type(error).__name__
        raise DataError(f"{where}: not an .npz of plain arrays ({reason}); fix: save it again") from error
    wrong = DataError(
        f"{where}: found {array.dtype} {array.shape}; "
        "allowed: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4"
    )
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        raise wrong
    if array.ndim == 3:
        array = array.reshape(*array.shape, 1)
    # If both axes could be the channels (images 3 or 4 pixels wide), read the images as square.
    elif array.shape[1] in (1, 3, 4) and (array.shape[3] not in (1, 3, 4) or array.shape[2] == array.shape[3]):
        array = array.transpose(0, 2, 3, 1)
    _, height, width, channels = array.shape
    if channels not in (1, 3, 4):
        raise wrong
    _check_pixels(where, width, height)
    return array


def _claimed_bytes(path: Path, name: str) -> int:
    """Return the size that an array of an `.npz` claims: numpy allocates it before it reads."""
    with zipfile.ZipFile(path) as archive:
        inside = set(archive.namelist()) & {name, f"{name}.npy"}
        if not inside:
            return 0
        with archive.open(inside.pop()) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
    return math.prod(shape) * dtype.itemsize


def check_memory(where: str, what: str, needed: int) -> None:
    """Refuse to allocate more memory than this machine has.

    Args:
        where: The path, for the message.
        what: What is allocated, for the message.
        needed: Bytes.

    Raises:
        DataError: More is needed than the machine has in all.
    """
    available = host_bytes()
    if available is not None and needed > available:
        found = f"{what} needs {needed / 1e9:,.1f} GB of memory, there are {available / 1e9:,.1f} GB in all"
        raise DataError(f"{where}: {found}; fix: use fewer or smaller images")


def one_line(text: object) -> str:
    """Return a path or a message as one printable line, whatever bytes it contains."""
    return printable(" ".join(str(text).split()))
