"""Tensors in safetensors files, and the digest that identifies them in a row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ablate.base.errors import ResultsError, how_to_fix
from ablate.store.atomic_files import replacing


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 hex digest of the tensors' bytes, ordered by name, followed by a text."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(tensors[name].detach().cpu().contiguous().numpy().data)
    total.update(text.encode())
    return total.hexdigest()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], previous: Path | None = None
) -> None:
    """Write a safetensors file atomically; keep the file it replaces as `previous`, if given.

    Raises:
        ResultsError: The file cannot be written; an old file is left unchanged.
    """
    try:
        with replacing(path, previous) as temporary:
            save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, dict(metadata))
    except (OSError, SafetensorError) as error:
        fix = f"{how_to_fix(error, 'free some disk space')}, or choose another --results folder"
        raise ResultsError(f"{path}: cannot be written ({error}); {fix}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the metadata of a safetensors file.

    Raises:
        OSError, SafetensorError: The file is missing, unreadable or damaged.
    """
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
