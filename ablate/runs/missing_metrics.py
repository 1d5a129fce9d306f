"""Metrics that a finished run lacks: nothing is trained.

A torch model's samples are drawn again from its weights. A program's images are those that it wrote.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from ablate.base import machine
from ablate.base.progress import Progress
from ablate.data.datasets import ImageSet
from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.inference.trained_run import TrainedRun
from ablate.metrics.networks import MetricNetworks
from ablate.models.weight_files import digest, read_tensors, save_tensors
from ablate.runs import evaluation
from ablate.runs.context import RunContext
from ablate.runs.lacking_metrics import lacking_networks
from ablate.runs.program import OUT
from ablate.runs.program_images import measure_images
from ablate.runs.rows import Row, RunRows
from ablate.store import tables
from ablate.store.artifacts import run_folder
from ablate.study.metric_names import PERCEPTUAL
from ablate.study.plan import RunSpec
from ablate.study.program import ProgramConfig

FEATURES_FILE = "features.safetensors"


def add_missing_metrics(
    folder: Path, run: TrainedRun, spec: RunSpec, data: ImageSet, networks: MetricNetworks, *, progress: Progress
) -> int:
    """Measure a finished run with the networks it lacks, and save its rows. Recorded values stay.

    Args:
        folder: The results folder.
        run: The run.
        spec: What it is.
        data: Its images.
        networks: What to measure with.
        progress: Bars to show.

    Returns:
        The number of rows added to the table `fidelity`.

    Raises:
        ResultsError: The tables or the features cannot be read or written.
    """
    run_id, config = str(run.row["run_id"]), run.config
    lacking = lacking_networks(folder, [run_id], networks.loaded).get(run_id, [])
    if not lacking:
        return 0
    new = _only(networks, lacking)
    artifacts, rows = run_folder(folder, run_id), RunRows({"run_id": run_id})
    with tempfile.TemporaryDirectory(prefix="ablate-metrics-") as scratch:
        context = RunContext(
            spec=replace(spec, config=config),
            data=data,
            rows=rows,
            artifacts=Path(scratch),
            networks=new,
            device=networks.device,
            precision=run.row["precision"],
            compiled=False,
            progress=progress,
        )
        with context.task("sample", config.measure.fd_samples) as bar, machine.deterministic():
            drawn = sample_images(
                run.model,
                config,
                spec.seed,
                range(config.measure.fd_samples),
                precision=context.precision,
                codec=run.codec,
                on_batch=bar.advance,
            )
        samples = to_uint8(drawn)
        if digest({"samples": torch.from_numpy(samples)}) != run.row["samples_digest"]:
            progress.say(
                f"note: {run_id}: {', '.join(lacking)} measure samples drawn from its weights here, "
                "which differ from the recorded ones: other code or another machine"
            )
        if new.extractors:
            evaluation.measure_fidelity(context, samples, run.codec)
            added, _ = read_tensors(Path(scratch) / FEATURES_FILE)
            kept = read_tensors(artifacts / FEATURES_FILE)[0] if (artifacts / FEATURES_FILE).is_file() else {}
            save_tensors(artifacts / FEATURES_FILE, added | kept, {"run_id": run_id})
        if new.distances:
            evaluation.measure_neighbours(context, samples)
            # The latents' ceiling needs the embedded distance too.
            embedded = {name: d for name, d in networks.distances.items() if name == "pd"}
            with_embedded = replace(new, distances=embedded | new.distances)
            evaluation.measure_denoising(replace(context, networks=with_embedded), run.model, run.codec)
    _save(folder, run_id, rows)
    return len(rows.others["fidelity"])


def add_missing_image_metrics(
    folder: Path, run_id: str, config: ProgramConfig, networks: MetricNetworks, *, progress: Progress
) -> int:
    """Measure the images of a program's finished run with the networks it lacks, and save its rows.

    Args:
        folder: The results folder.
        run_id: The run.
        config: Names its images and the reference.
        networks: What to measure with.
        progress: Bars to show.

    Returns:
        The number of rows added to the table `fidelity`.

    Raises:
        DataError: The images or the reference cannot be read.
        ResultsError: The tables cannot be read or written.
    """
    lacking = lacking_networks(folder, [run_id], networks.loaded, f"{OUT}/{config.program.images}").get(run_id, [])
    if not lacking:
        return 0
    rows, out = RunRows({"run_id": run_id}), run_folder(folder, run_id) / OUT
    with tempfile.TemporaryDirectory(prefix="ablate-metrics-") as scratch:
        workdir = Path(config.program.workdir or ".")
        measure_images(rows, config, out, workdir, _only(networks, lacking), Path(scratch), progress)
    _save(folder, run_id, rows)
    return len(rows.others["fidelity"])


def _only(networks: MetricNetworks, names: Collection[str]) -> MetricNetworks:
    return replace(
        networks,
        extractors={name: network for name, network in networks.extractors.items() if name in names},
        distances={name: distance for name, distance in networks.distances.items() if PERCEPTUAL[name] in names},
    )


def _save(folder: Path, run_id: str, measured: RunRows) -> None:
    """Write what was measured where a run's rows are null, or have no such row."""
    saved: dict[str, list[Row]] = {}
    for table, key in (("fidelity", "metric"), ("denoising", "t")):
        stored = tables.read(folder, table)
        old = {row[key]: row for row in tables.to_records(stored[stored["run_id"] == run_id])}
        new = {row[key]: row for row in measured.others[table]}
        saved[table] = [_filled(old.get(at, {}), new.get(at, {})) for at in dict.fromkeys([*old, *new])]
    runs = tables.read(folder, "runs")
    (row,) = tables.to_records(runs[runs["run_id"] == run_id])
    memorised = {"memorised": measured.run["memorised"]} if "memorised" in measured.run else {}  # of the last distance
    saved["runs"] = [_filled(row, measured.run) | memorised]
    tables.append(folder, saved)


def _filled(old: Row, new: Row) -> Row:
    return old | {name: value for name, value in new.items() if old.get(name) is None}
