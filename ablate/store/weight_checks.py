"""The check of a safetensors file against the digest in its run's row, without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ablate.base.errors import ResultsError
from ablate.base.text import one_line

MAKE_AGAIN = "restore it from a copy, or make the run again: ablate run --force with its variant, seed and preset"


def check_weights(path: Path, expected: str | None, fix: str = MAKE_AGAIN) -> None:
    """Refuse a safetensors file unless it holds the tensors that the run's row names.

    Args:
        path: The file.
        expected: The digest in the row: SHA-256 of the tensors' bytes, ordered by name; None: the
            row has none.
        fix: What to do about a wrong file.

    Raises:
        ResultsError: The file is missing, damaged or another one, or the row has no digest.
    """
    fault = weights_fault(path, expected, fix)
    if fault is not None:
        raise ResultsError(f"{path}: {'; '.join(fault)}")


def weights_fault(path: Path, expected: str | None, fix: str = MAKE_AGAIN) -> tuple[str, str] | None:
    """Return what is wrong with a file and how to fix it; None: nothing. Arguments as for `check_weights`."""
    try:
        found = _digest(path)
    except FileNotFoundError:
        if path.exists():  # safetensors reports a file without read permission as missing
            return "no permission to read it", "give yourself permission to read it"
        return "missing", fix
    except (OSError, SafetensorError, TypeError) as error:
        return f"damaged ({one_line(error)})", fix
    if expected is None:
        return "the run's row has no digest of it, so it may be any weights", fix
    if found != expected:
        return f"not the weights that the run's row names (digest {expected[:12]}...)", fix
    return None


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with safe_open(path, framework="numpy") as file:
        for name in sorted(file.keys()):
            total.update(file.get_tensor(name).data)
    return total.hexdigest()
