"""The images that a program wrote, measured against real ones as `ablate measure` does."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from ablate.base.errors import ResultsError
from ablate.base.progress import Progress
from ablate.data.image_files import ImageFiles
from ablate.metrics.image_sets import copies_of_reference, default_metrics, measure_sets
from ablate.metrics.networks import MetricNetworks
from ablate.runs.evaluation import HEADLINES
from ablate.runs.rows import RunRows
from ablate.store.image_grids import save_grid
from ablate.study.metric_names import METRICS
from ablate.study.program import ProgramConfig

GRID = 64  # images


def measure_images(
    rows: RunRows,
    config: ProgramConfig,
    out: Path,
    workdir: Path,
    networks: MetricNetworks,
    artifacts: Path,
    progress: Progress,
) -> None:
    """Save a grid of a program's images, and measure them if there is a reference.

    Args:
        rows: Get the rows of the table `fidelity`, and the headline values in the run's row.
        config: Names the images and the reference.
        out: The folder that the program wrote to.
        workdir: The folder that the path of the reference starts from.
        networks: What to measure with.
        artifacts: Gets `samples.png`.
        progress: Bars to show.

    Raises:
        DataError: The images or the reference cannot be read, or do not fit together.
        ResultsError: The program wrote no images.
    """
    program = config.program
    assert program.images is not None
    path = out / program.images
    if not path.exists():
        raise ResultsError(f"{program.images} is missing in {{out}}: [program] images says that the program writes it")
    with ImageFiles(path) as images:
        save_grid(artifacts / "samples.png", np.stack(list(islice(images.read(range(len(images))), GRID))))
        if program.reference is None:
            return
        with ImageFiles(workdir / program.reference) as reference:
            measured = measure_sets(reference, images, default_metrics(networks), networks, progress=progress)
            notes = [f"{some.where}: {note}" for some in (images, reference) for note in some.notes(copies=True)]
            notes += [f"{images.where}: {note}" for note in copies_of_reference(reference, images)]
    for note in notes:
        progress.say(f"note: {note}", once=True)
    rows.run["data_notes"] = "; ".join(notes) or None
    rows.run["fd_ref_n"] = None
    for name, found in measured.items():
        if found["value"] is None:
            continue
        columns = {key: found.get(key) for key in ("value", "n", "ref_n", "error", "low", "high", "weights_digest")}
        rows.add("fidelity", {"extractor": METRICS[name].network, "metric": name, **columns})
        if name in HEADLINES:
            rows.run[name] = found["value"]
        if name == "fd":
            rows.run |= {"fd_n": found["n"], "fd_ref_n": found["ref_n"]}
            rows.run |= {"fd_floor": found.get("floor"), "fd_floor_n": found.get("floor_n")}
