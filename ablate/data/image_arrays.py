"""The images in an `.npz` file: which of its arrays they are, and in which layout.

An array can be images if it is uint8 and (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 (RGB)
or 4 (RGBA). The only such array is taken, or else the one called "images". A single image (H, W, 3)
is not read as H rows of greyscale.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from ablate.base.errors import DataError, did_you_mean
from ablate.base.host import check_memory
from ablate.base.text import one_line

CHANNELS = (1, 3, 4)
PREFERRED = "images"
ALLOWED = "uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4"

_Header = tuple[tuple[int, ...], np.dtype[np.generic]]


def read_array(path: Path, where: str, asked: str | None = None) -> tuple[np.ndarray, str]:
    """Read the images of an `.npz`.

    Args:
        path: The file.
        where: Its path, for messages.
        asked: The name of the array to take; None: the only one that can be images.

    Returns:
        The images (N, H, W, C) uint8, and in words how the array was understood.

    Raises:
        DataError: The file cannot be read, no array or more than one can be images, or the one
            that was asked for cannot be.
    """
    try:
        headers = _headers(path)
        name = _choose(headers, where, asked)
        check_memory(where, f"the array {one_line(name)}", math.prod(headers[name][0]) * headers[name][1].itemsize)
        with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
            array: np.ndarray = file[name]
    except DataError:
        raise
    except Exception as error:  # a damaged zip or header can raise anything
        reason = one_line(error) or type(error).__name__
        raise DataError(f"{where}: not an .npz of plain arrays ({reason}); fix: save it again") from error
    shape, order = array.shape, _order(array.shape, array.dtype)
    if order == "(N, H, W)":
        array = array[..., None]
    elif order == "(N, C, H, W)":
        array = array.transpose(0, 2, 3, 1)
    values = f"values {array.min()} to {array.max()}"
    return array, f"array {one_line(name)} of shape {shape} read as {order}, {values}"


def _headers(path: Path) -> dict[str, _Header]:
    """Return the shape and dtype of each array, without reading it: numpy allocates what they claim."""
    found: dict[str, _Header] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            if not entry.endswith(".npy"):
                continue
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            found[entry.removesuffix(".npy")] = shape, dtype
    return found


def _choose(headers: dict[str, _Header], where: str, asked: str | None) -> str:
    """Return the name of the array that holds the images."""
    listed = ", ".join(f"{one_line(name)}: {_describe(*header)}" for name, header in headers.items())
    if asked is not None and asked not in headers:
        near = did_you_mean(asked, list(headers))
        raise DataError(f"{where}: --array {one_line(asked)}: no such array{near} Found: {listed or 'none'}")
    if any(dtype.hasobject for _, dtype in headers.values()) and len(headers) == 1:
        raise DataError(f"{where}: not an .npz of plain arrays (it holds Python objects); fix: save it again")
    possible = [name for name, header in headers.items() if _order(*header) is not None]
    if asked is not None or len(possible) == 1 or PREFERRED in possible:
        name = asked if asked is not None else possible[0] if len(possible) == 1 else PREFERRED
        if name in possible:
            return name
    if len(possible) > 1 and asked is None:
        raise DataError(f"{where}: {len(possible)} arrays can be images: {listed}; fix: choose one with --array NAME")
    shapes = [headers[asked]] if asked is not None else list(headers.values())
    found = _describe(*shapes[0]) if len(shapes) == 1 else listed or "no array"
    single = any(dtype == np.uint8 and _is_one_image(shape) for shape, dtype in shapes)
    hint = ""
    if single:
        hint = "; a single image is not a set: save it as (1, H, W, C)"
    elif any(dtype == np.uint8 and _is_stack(shape) for shape, dtype in shapes):
        hint = "; is it (H, W, N)? fix: save it as (N, H, W), or as (N, H, W, 1) if the images are not square"
    which = "" if asked is None else f"--array {one_line(asked)}: "
    raise DataError(f"{where}: {which}found {found}; allowed: {ALLOWED}{hint}")


def _describe(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> str:
    return f"{dtype} {shape}"


def _order(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> str | None:
    """Return the order of the axes of an array that can be images, or None."""
    if dtype != np.uint8 or 0 in shape or len(shape) not in (3, 4):
        return None
    if len(shape) == 3:
        return None if _is_one_image(shape) or _is_stack(shape) else "(N, H, W)"
    last, first = shape[3] in CHANNELS, shape[1] in CHANNELS
    if last and first:  # images 1, 3 or 4 pixels wide or high: the square ones
        last = shape[2] != shape[3]
    return "(N, H, W, C)" if last else "(N, C, H, W)" if first else None


def _is_stack(shape: tuple[int, ...]) -> bool:
    """Return whether a shape of three axes may be (H, W, N): only its first two axes are equal."""
    return len(shape) == 3 and shape[0] == shape[1] != shape[2]


def _is_one_image(shape: tuple[int, ...]) -> bool:
    """Return whether a shape of three axes is that of one image, (H, W, C) or (C, H, W)."""
    return len(shape) == 3 and (shape[2] in CHANNELS or shape[0] in (3, 4))
