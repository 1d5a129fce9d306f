"""Which finished runs lack metrics."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ablate.store import tables
from ablate.store.artifacts import run_folder


def lacking_networks(
    folder: Path, run_ids: Collection[str], networks: Collection[str], kept: str = "model.safetensors"
) -> dict[str, list[str]]:
    """Return the finished runs that lack the metrics of networks, and have kept what is measured.

    Args:
        folder: The results folder.
        run_ids: The runs to look at.
        networks: Names of networks.
        kept: The file or folder in a run's folder that is measured.

    Returns:
        Name of a run -> the networks that it was not measured with.
    """
    runs, fidelity = tables.read(folder, "runs"), tables.read(folder, "fidelity")
    done = set(runs.loc[runs["status"] == "done", "run_id"]) & set(run_ids)
    measured = set(zip(fidelity["run_id"], fidelity["extractor"], strict=True))
    lacking = {run_id: [one for one in networks if (run_id, one) not in measured] for run_id in sorted(done)}
    return {
        run_id: missing
        for run_id, missing in lacking.items()
        if missing and (run_folder(folder, run_id) / kept).exists()
    }
