"""Tensors as safetensors files, and the digest that a row names them by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ablate.base.errors import ResultsError
from ablate.store.atomic_files import replacing


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 digest of tensors' bytes, in the order of their names, and of a text, as hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(tensors[name].detach().cpu().contiguous().numpy().data)
    total.update(text.encode())
    return total.hexdigest()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], previous: Path | None = None
) -> None:
    """Write tensors to a safetensors file, atomically; what stood there is kept as `previous`, if that is given.

    Raises:
        ResultsError: The file cannot be written; the old one, if any, is left as it was.
    """
    try:
        with replacing(path, previous) as temporary:
            save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, dict(metadata))
    except (OSError, SafetensorError) as error:
        mend = "free some space or choose another --results folder"
        raise ResultsError(f"{path}: cannot be written ({error}); {mend}") from error
