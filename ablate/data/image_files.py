"""Picture files: listed in a folder, a zip or an `.npz` file, and decoded one by one.

Any size and mode is read: a picture is turned upright by its EXIF data, laid on white where it is transparent, cropped
to its central square and resized (Lanczos when shrinking, bicubic when enlarging).
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
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pnm",
    ".tga",
    ".avif",
)
# Pictures too, which Pillow alone does not read: to leave them out without a word would change the data set.
UNREAD = (".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw")
# The decoders a file may reach, whatever its name says: others of Pillow's (EPS) start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF")
MAX_PIXELS = 50_000_000  # of one picture
MAX_BYTES = 256 * 2**20  # of one picture's file


class Pictures:
    """The pictures of a folder (and its subfolders), a zip or a `.npz` file, decoded one by one as they are asked for.

    Image files are in the order of their names. A `.npz` is held in memory: its array "images", or else its first, is uint8 (N, H, W),
    (N, H, W, C) or (N, C, H, W) with C = 1, 3 (RGB) or 4 (RGBA).

    Attributes:
        where: The path, for messages.
        size: Width and height to crop and resize to, in pixels; None: as they are, and all of one size.
        converted: What was read that is not plain RGB: `greyscale`, `transparent`.
    """

    def __init__(self, path: Path, *, size: int | None = None) -> None:
        """List the pictures.

        Raises:
            DataError: The path cannot be read or holds no pictures.
        """
        self.where, self.size = show(path), size
        self.converted: set[str] = set()
        self._open = ExitStack()
        self._expected: tuple[str, tuple[int, ...]] | None = None  # the first picture's name and shape
        if size is not None and size < 1:
            raise DataError(f"{self.where}: size {size} asked for; allowed: at least 1 pixel")
        try:
            self._sources = self._list(path)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self._sources)

    def read(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield pictures (3, H, W), uint8, RGB.

        Raises:
            DataError: A picture cannot be read, or is not of the size of the first; the message names it.
        """
        for i in indices:
            name, decode = self._sources[i]
            with warnings.catch_warnings():
                # Pillow warns of odd metadata and of pictures far above MAX_PIXELS; what matters is an error here.
                warnings.simplefilter("ignore")
                picture = decode()
            first, shape = self._expected = self._expected or (name, picture.shape)
            if picture.shape != shape:
                found, wanted = (f"{width} x {height}" for _, height, width in (picture.shape, shape))
                raise DataError(
                    f"{name}: {found} pixels, where {first} has {wanted}; mend: --size crops and resizes all"
                )
            yield picture

    def batches(self, indices: Sequence[int], batch: int) -> Iterator[np.ndarray]:
        """Yield pictures (B, 3, H, W), uint8, RGB, in batches."""
        for start in range(0, len(indices), batch):
            yield np.stack(list(self.read(indices[start : start + batch])))

    def _list(self, path: Path) -> list[tuple[str, Callable[[], np.ndarray]]]:
        if os.path.isdir(path):
            return self._files(_folder(path))
        if not os.path.isfile(path):
            missing = "is not a file or folder" if os.path.exists(path) else "no such file or folder"
            raise DataError(f"{self.where}: {missing}; allowed: a folder, a .zip or a .npz")
        if path.suffix.lower() == ".npz":
            array = _array(path, self.where)
            return [(f"{self.where}: picture {i}", partial(self._row, array, i)) for i in range(len(array))]
        if path.suffix.lower() != ".zip":
            found = path.suffix or "nothing"
            raise DataError(f"{self.where}: found a file ending in {found}; allowed: a folder, a .zip or a .npz")
        try:
            return self._files(_entries(self._open.enter_context(zipfile.ZipFile(path)), self.where))
        except DataError:
            raise
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"{self.where}: not a zip that can be read ({show(error)}); mend: pack or download it again"
            ) from error

    def _files(self, sources: list[_Source]) -> list[tuple[str, Callable[[], np.ndarray]]]:
        if not sources:
            raise DataError(f"{self.where}: no pictures found; looked for files ending in {', '.join(SUFFIXES)}")
        return [(name, partial(self._decode, name, read)) for name, read in sources]

    def _decode(self, name: str, read: Callable[[], bytes]) -> np.ndarray:
        """Decode one image file."""
        try:
            with Image.open(io.BytesIO(read()), formats=FORMATS) as image:
                _check_pixels(name, *image.size)
                frames = getattr(image, "n_frames", 1)
                # The further frames of an MPO, a phone's JPEG, are previews and depth maps of the first.
                if frames > 1 and image.format != "MPO":
                    raise DataError(
                        f"{name}: {frames} frames; allowed: still pictures; mend: save one frame or remove it"
                    )
                ImageOps.exif_transpose(image, in_place=True)
                return self._fit(name, image)
        except DataError:
            raise
        except UnidentifiedImageError as error:
            raise DataError(
                f"{name}: not a picture; allowed: {', '.join(FORMATS)}; mend: replace or remove it"
            ) from error
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{name}: far too large; allowed: {MAX_PIXELS:,} pixels; mend: shrink or remove it"
            ) from error
        # Decoders meet damage with whatever its bytes lead to: OSError, SyntaxError, struct.error, KeyError...
        except Exception as error:
            raise DataError(
                f"{name}: cannot be read ({show(error) or type(error).__name__}); mend: replace or remove it"
            ) from error

    def _row(self, array: np.ndarray, i: int) -> np.ndarray:
        """One picture of an array (N, H, W, C)."""
        picture = array[i]
        height, width, channels = picture.shape
        if channels == 3 and self.size in (None, height) and self.size in (None, width):
            return np.ascontiguousarray(picture.transpose(2, 0, 1))
        image = Image.fromarray(np.ascontiguousarray(picture[..., 0] if channels == 1 else picture))
        return self._fit(f"{self.where}: picture {i}", image)

    def _fit(self, name: str, image: Image.Image) -> np.ndarray:
        if image.has_transparency_data:
            self.converted.add("transparent")
        elif image.mode[0] in "1LIF":
            self.converted.add("greyscale")
        rgb = _to_rgb(name, image)
        return np.asarray(rgb).transpose(2, 0, 1) if self.size is None else _fit(rgb, self.size)


_Source = tuple[str, Callable[[], bytes]]  # a picture's name in messages, and how to read its file


def _folder(root: Path) -> list[_Source]:
    def fail(error: OSError) -> None:
        raise DataError(f"{show(error.filename)}: cannot be listed ({error.strerror})") from error

    found = []
    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if _visible(name)]
        found += [Path(folder, name) for name in files if _is_picture(PurePosixPath(name))]
    return [
        (show(path), partial(_read_file, path)) for path in sorted(found, key=lambda p: p.relative_to(root).as_posix())
    ]


def _read_file(path: Path) -> bytes:
    if not path.is_file():  # A broken link; or a pipe, which would wait for ever.
        raise DataError(f"{show(path)}: not a regular file; mend: remove it or put the picture in its place")
    _check_bytes(show(path), path.stat().st_size)
    return path.read_bytes()


def _entries(archive: zipfile.ZipFile, where: str) -> list[_Source]:
    def read(entry: zipfile.ZipInfo) -> bytes:
        _check_bytes(f"{where}: {show(entry.filename)}", entry.file_size)
        return archive.read(entry)

    entries = [
        e for e in archive.infolist() if not e.is_dir() and _is_picture(PurePosixPath(e.filename.replace("\\", "/")))
    ]
    entries.sort(key=lambda entry: entry.filename)
    return [(f"{where}: {show(entry.filename)}", partial(read, entry)) for entry in entries]


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _is_picture(path: PurePosixPath) -> bool:
    if not all(_visible(part) or part == ".." for part in path.parts):
        return False
    if path.suffix.lower() in UNREAD:
        raise DataError(
            f"{show(path)}: a kind of picture that is not read; allowed: {', '.join(FORMATS)}; mend: convert or remove it"
        )
    return path.suffix.lower() in SUFFIXES


def _check_bytes(name: str, found: int) -> None:
    if found > MAX_BYTES:
        raise DataError(f"{name}: {found:,} bytes; allowed: {MAX_BYTES:,} for one picture")


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: {width} x {height} pixels; allowed: {MAX_PIXELS:,} pixels in all; mend: shrink or remove it"
        )


def _to_rgb(name: str, image: Image.Image) -> Image.Image:
    """Return the picture in 8-bit RGB, laid on white where it is transparent."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255.
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


def _fit(image: Image.Image, size: int) -> np.ndarray:
    """Crop to the central square and resize to (3, size, size), uint8; a picture of that size is untouched."""
    side = min(image.size)
    if image.width != image.height:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def _array(path: Path, where: str) -> np.ndarray:
    """Return the pictures of a `.npz` as (N, H, W, C)."""
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
            names = list(file)
            name = "images" if "images" in names else (names or [""])[0]
            check_memory(where, f"the array {show(name)}", _claimed_bytes(path, name))
            array: np.ndarray = file[name] if names else np.empty(0)
    except DataError:
        raise
    except Exception as error:  # As in _decode: a damaged zip or header raises whatever its bytes lead to.
        raise DataError(
            f"{where}: not an .npz of plain arrays ({show(error) or type(error).__name__}); mend: save it again"
        ) from error
    allowed = "allowed: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4"
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(f"{where}: found {array.dtype} {array.shape}; {allowed}")
    if array.ndim == 3:
        array = array.reshape(*array.shape, 1)
    # Where both places could be the channels' (pictures 3 or 4 pixels wide), the reading as square pictures is taken.
    elif array.shape[1] in (1, 3, 4) and (array.shape[3] not in (1, 3, 4) or array.shape[2] == array.shape[3]):
        array = array.transpose(0, 2, 3, 1)
    _, height, width, channels = array.shape
    if channels not in (1, 3, 4):
        raise DataError(f"{where}: found {array.dtype} {array.shape}; {allowed}")
    _check_pixels(where, width, height)
    return array


def _claimed_bytes(path: Path, name: str) -> int:
    """How many bytes an array of a `.npz` says it has: numpy allocates them before it reads any."""
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
    """Refuse what this machine has no memory for.

    Args:
        where: The path, for the message.
        what: What is asked for, for the message.
        needed: Bytes.

    Raises:
        DataError: That is more than the machine has in all.
    """
    available = host_bytes()
    if available is not None and needed > available:
        found = f"{what} needs {needed / 1e9:,.1f} GB of memory, there are {available / 1e9:,.1f} GB in all"
        raise DataError(f"{where}: {found}; mend: use fewer or smaller pictures")


def show(text: object) -> str:
    """Return a path or a message as one printable line, whatever bytes a file's name is made of."""
    return printable(" ".join(str(text).split()))
