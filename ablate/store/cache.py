"""The cache: a folder of files that can be computed or downloaded again."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import platformdirs

from ablate.base.errors import AblateError, did_you_mean

PARTS = {  # folder of the cache -> what it holds
    "cats": "shrunk layers of the embedded cats",
    "statistics": "features of reference images",
    "embeddings": "embeddings of training images, to search the nearest ones",
    "autoencoders": "trained autoencoders of latent variants",
    "weights": "weights that Ray workers were sent, and when a download failed",
}
_NAMES = {  # folder of the cache -> the names of its files; others are not ablate's
    "cats": r"[0-9a-f]{64}\.npz",
    "statistics": r"[0-9a-f]{64}\.safetensors",
    "embeddings": r"[0-9a-f]{64}\.npy",
    "autoencoders": r"[0-9a-f]{64}\.safetensors",
    "weights": r"\w+\.(failed|lock)|[0-9a-f]{64}/[\w.-]+",
}
_TEMPORARY = r"(\.\d+-[0-9a-f]{8}\.tmp)?"  # a killed process leaves it


class Size(NamedTuple):
    """A number of files, and their bytes."""

    files: int
    bytes: int


def cache_folder() -> Path:
    """Return the cache's folder: `ABLATE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ABLATE_CACHE") or platformdirs.user_cache_dir("ablate"))


def cache_sizes() -> dict[str, Size]:
    """Return the size of each part of the cache."""
    sizes = {part: [path.stat().st_size for path in _files(part)] for part in PARTS}
    return {part: Size(len(of_files), sum(of_files)) for part, of_files in sizes.items()}


def clear_cache(part: str) -> Size:
    """Delete the files that ablate wrote into a part of the cache; return the size of what was deleted.

    Args:
        part: A key of `PARTS`, or `all`.

    Raises:
        AblateError: There is no such part, or a file cannot be deleted.
    """
    if part not in (*PARTS, "all"):
        near = did_you_mean(part, [*PARTS, "all"])
        raise AblateError(f"--clear {part}: no such part of the cache{near} Allowed: {', '.join(PARTS)}, all")
    count = freed = 0
    for path in [path for name in (PARTS if part == "all" else [part]) for path in _files(name)]:
        size = path.stat().st_size
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise AblateError(f"{path}: cannot be deleted ({error.strerror})") from error
        count, freed = count + 1, freed + size
    return Size(count, freed)


def _files(part: str) -> list[Path]:
    """Return the files of a part of the cache that ablate wrote."""
    folder, ours = cache_folder() / part, re.compile(f"({_NAMES[part]}){_TEMPORARY}")
    with suppress(OSError):
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return sorted(path for path in files if ours.fullmatch(path.relative_to(folder).as_posix()))
    return []
