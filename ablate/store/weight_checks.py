"""The check of a safetensors file against the digest in its run's row, without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ablate.base.errors import ResultsError
from ablate.base.text import printable

RESTORE = "restore it from a copy, or make the run again with --force"


def check_weights(path: Path, expected: str | None, fix: str = RESTORE) -> None:
    """Refuse a safetensors file unless it holds the tensors that the run's row names.

    Args:
        path: The file.
        expected: The digest in the row: SHA-256 of the tensors' bytes, ordered by name; None: the
            row has none.
        fix: What to do about a wrong file.

    Raises:
        ResultsError: The file is missing, damaged or another one, or the row has no digest.
    """
    try:
        found = _digest(path)
    except FileNotFoundError as error:
        if path.exists():  # safetensors reports a file without read permission as missing
            raise ResultsError(f"{path}: may not be read; give yourself the right to") from error
        raise ResultsError(f"{path}: missing; {fix}") from error
    except (OSError, SafetensorError, TypeError) as error:
        raise ResultsError(f"{path}: damaged ({printable(' '.join(str(error).split()))}); {fix}") from error
    if expected is None:
        raise ResultsError(f"{path}: the run's row has no digest of it, so it may be any weights; {fix}")
    if found != expected:
        raise ResultsError(f"{path}: not the weights that the run's row names (digest {expected[:12]}...); {fix}")


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with safe_open(path, framework="numpy") as file:
        for name in sorted(file.keys()):
            total.update(file.get_tensor(name).data)
    return total.hexdigest()
