"""Quality over the number of network evaluations: the samples of a finished run, drawn with other numbers of steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ablate.base import machine
from ablate.base.progress import Progress
from ablate.data.datasets import ImageSet
from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.diffusion.solvers import network_evaluations, steps_within
from ablate.inference.trained_run import TrainedRun
from ablate.metrics.networks import MetricNetworks
from ablate.metrics.reference_cache import batches_of, reference_features
from ablate.metrics.set_distances import collect_features, set_metrics
from ablate.models.weight_files import digest
from ablate.runs.rows import Row
from ablate.store import tables
from ablate.study.metric_names import FEATURES, METRICS


def add_evaluations(
    folder: Path,
    run: TrainedRun,
    data: ImageSet,
    networks: MetricNetworks,
    wanted: Sequence[int],
    *,
    progress: Progress,
) -> int:
    """Draw a run's samples with other numbers of network evaluations, and add their Frechet distances.

    The noise, the number of samples and the real images are those of the run itself. The solver is
    too: Heun's needs an odd number of evaluations, so the next smaller one is taken.

    Args:
        folder: The results folder.
        run: A finished run.
        data: Its images.
        networks: What samples are measured with.
        wanted: Numbers of network evaluations.
        progress: A bar to show.

    Returns:
        The number of rows added to the table `sampling`.

    Raises:
        ResultsError: The tables cannot be read or written.
    """
    config, row = run.config, run.row
    before = tables.read(folder, "sampling")
    done = {row["nfe"], *before.loc[before["run_id"] == row["run_id"], "nfe"]}
    sample = config.sample
    steps = dict.fromkeys(steps_within(sample.solver, max(1, nfe // sample.networks)) for nfe in wanted)
    lacking = [n for n in steps if network_evaluations(sample, n) not in done]
    if not lacking:
        return 0
    count = int(row["fd_n"])
    reference = data.training_images(config.measure.fd_reference)
    rows: list[Row] = []
    with progress.task(f"{row['run_id']} with other numbers of evaluations", len(lacking) * count) as bar:
        for num_steps in lacking:
            start = time.monotonic()
            with machine.deterministic():
                drawn = sample_images(
                    run.model,
                    config.replaced(sample={"num_steps": num_steps}),
                    row["seed"],
                    range(count),
                    precision=row["precision"],
                    codec=run.codec,
                    on_batch=bar.advance,
                )
            samples, wall_s = to_uint8(drawn), time.monotonic() - start
            made: Row = {"run_id": row["run_id"], "solver": config.sample.solver, "n": count, "ref_n": len(reference)}
            made |= {"nfe": network_evaluations(sample, num_steps), "wall_s": wall_s}
            made["samples_digest"] = digest({"samples": torch.from_numpy(samples)})
            for metric in FEATURES:
                extractor = networks.extractors.get(str(METRICS[metric].network))
                if extractor is not None:
                    found = collect_features(batches_of(samples), extractor, count)
                    estimates = set_metrics(found, reference_features(reference, extractor), ["frechet"])
                    made[metric] = estimates["frechet"].value
            rows.append(made)
    tables.append(folder, {"sampling": rows}, replace=False)
    return len(rows)
