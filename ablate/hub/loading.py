"""A trained run loaded from wherever it is: a results folder, a repository's folder, or the hub."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch

from ablate.base.errors import ResultsError
from ablate.base.text import printable
from ablate.hub.repository import check_files, is_repository, read_row
from ablate.hub.sharing import fetch
from ablate.inference.trained_run import TrainedRun
from ablate.runs.loading import load_run, load_trained
from ablate.store.artifacts import run_of


def load(source: str | PathLike[str], device: torch.device, *, offline: bool = False) -> TrainedRun:
    """Load a run; see `ablate.load_run`.

    Raises:
        AblateError: There is no such run, or its files are not those of its row.
    """
    what = f"load_run({printable(source)!r})"
    path = Path(source)
    if not is_repository(path):
        for results, name in ((path.parent.parent, run_of(path.name)), (path.parent, path.name)):
            inside = path.parent == results or path.parent.name == "artifacts"
            if inside and _is_results(results):
                return load_run(results, name, device)
        if _is_results(path):
            raise ResultsError(f"{what}: a results folder; name a run in it, as in {path / 'RUN'}")
    folder = fetch(what, source, offline=offline)
    row = read_row(folder, what)
    check_files(folder, row)
    return load_trained(row, folder, device)


def _is_results(folder: Path) -> bool:
    return (folder / "runs.parquet").is_file()
