"""One run, from data to rows: (train the autoencoder,) train, sample, measure.

A run works in a folder of its own, which holds its checkpoints and finished files. At the end the
files move to `artifacts/<run_id>/`, the row is written, and the working folder is deleted. So a row
with status `done` has its artifacts and its rows in the other tables. A finished run that is made
again gets another folder, which its new row names; the old one is deleted last.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ablate.base import machine
from ablate.base.progress import Progress, Task
from ablate.base.source_code import code_version, git_state
from ablate.data.datasets import ImageSet
from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.diffusion.solvers import network_evaluations
from ablate.inference import number_formats
from ablate.inference.latency import peak_memory_mb, reset_peak_memory
from ablate.inference.trained_run import TrainedRun
from ablate.metrics.networks import MetricNetworks
from ablate.models.autoencoder import ImageCodec, image_codec
from ablate.models.cost import cost
from ablate.models.denoiser import probe, weights_of
from ablate.models.guidance import guided, unguided
from ablate.models.weight_files import digest, save_tensors
from ablate.runs import evaluation
from ablate.runs.context import RunContext
from ablate.runs.own_metrics import measure_own_metrics
from ablate.runs.previews import previews
from ablate.runs.rows import Row, RunRows, columns_of
from ablate.runs.run_files import open_working_folder, recorded
from ablate.stats.stability import first_jump
from ablate.store.image_grids import save_grid
from ablate.store.schema import RUN_SESSION
from ablate.study import plugins
from ablate.study.plan import RunSpec
from ablate.training import autoencoder
from ablate.training.checkpoint import SAVE_EVERY_S, TrainingState
from ablate.training.loop import train
from ablate.training.perceptual import perceptual_loss

GRID = 64  # images


def execute_run(
    spec: RunSpec,
    data: ImageSet,
    folder: Path,
    *,
    networks: MetricNetworks,
    progress: Progress,
    load_wall_s: float = 0.0,
    save_every_s: float = SAVE_EVERY_S,
    finished_before: bool = False,
    compile: str = "auto",
    still_ours: Callable[[], bool] = lambda: True,
) -> Row:
    """Make one run and write its rows.

    Args:
        spec: What to run.
        data: The images.
        folder: The results folder.
        networks: What samples are measured with. Everything computes on their device.
        progress: Bars to show.
        load_wall_s: Seconds that loading the data took.
        save_every_s: Seconds between checkpoints.
        finished_before: The run has a finished row, which only another finished row replaces.
        compile: As in `machine.pick_compile`.
        still_ours: Returns False once another process has taken the run over. It is asked at every
            step, and before rows and artifacts are written.

    Returns:
        The row of `runs.parquet`, with status `done` or `diverged`. A diverged row is not written
        if there is a finished one.

    Raises:
        KeyboardInterrupt: The run was interrupted. Its checkpoint is written, and a row with status
            `interrupted` unless there is a finished one.
        LeaseLostError: Another process has taken the run over. Nothing was written after that was
            seen.
        AblateError: An error that the user can fix.
    """
    run_id = spec.run_id(data.name, data.digest)
    working = open_working_folder(folder, run_id, still_ours)
    device, precision = networks.device, machine.pick_precision(networks.device)
    compiled = machine.pick_compile(compile, spec.config.train.steps, device)
    rows = RunRows(_first_columns(spec, data, device, precision, run_id))
    rows.run |= {"compiled": compiled, "load_wall_s": load_wall_s}
    context = RunContext(
        spec,
        data,
        rows,
        working,
        networks,
        device,
        precision,
        compiled,
        progress,
        save_every_s,
        previews=True,
        still_ours=still_ours,
    )
    reset_peak_memory(device)

    options: dict[str, Any] = {"finished_before": finished_before, "still_ours": still_ours}
    with recorded(rows, working, folder, goes_on="resumes it", **options):
        model, codec, samples = train_and_sample(context)
        with rows.timed("measure_wall_s"):
            evaluation.measure_denoising(context, unguided(model), codec)
            evaluation.measure_fidelity(context, samples, codec)
            evaluation.measure_neighbours(context, samples)
            rows.run["peak_memory_mb"] = peak_memory_mb(device)  # before the timed calls, which reset it
            evaluation.measure_latency(context, model, codec)
            measure_own_metrics(context, samples, unguided(model), codec)
        with rows.timed("quantize_wall_s"):
            trained = TrainedRun(rows.run, spec.config, model, codec)
            format_rows = number_formats.measure_formats(
                trained, data, networks, spec.config.quantize, session=RUN_SESSION, progress=progress
            )
            for table, added in format_rows.items():
                rows.others[table] += added
        phases = ("load", "autoencoder", "train", "sample", "measure", "quantize")
        rows.run["wall_s"] = sum(rows.run[f"{phase}_wall_s"] for phase in phases)
    return rows.run


def train_and_sample(context: RunContext) -> tuple[nn.Module, ImageCodec, np.ndarray]:
    """Train and sample with deterministic algorithms: everything that a run's digests depend on.

    Returns:
        The model with averaged weights (guided, if samples are), the codec between images and
        latents, and the samples (N, 3, S, S) uint8.

    Raises:
        DivergedError: A loss or gradient norm is not finite.
        KeyboardInterrupt: The run was interrupted; its training is saved.
    """
    with machine.deterministic() as nondeterministic_ops:
        codec = _codec(context)
        model = _train(context, codec)
        samples = _sample(context, model, codec)
    context.rows.run["nondeterministic_ops"] = " ".join(sorted(nondeterministic_ops))
    return model, codec, samples


def _first_columns(spec: RunSpec, data: ImageSet, device: torch.device, precision: str, run_id: str) -> Row:
    config, spent = spec.config, cost(spec.config)
    commit, dirty = git_state()
    return columns_of(spec, data, run_id) | {
        "n_train": len(data.train),
        "n_held_out": len(data.held_out),
        "duplicates": data.duplicates,
        "held_out_twins": data.twins,
        "data_notes": "; ".join(data.notes) or None,
        "plugins": plugins.used_by(config.plugins),
        "params": spent.total_params,
        "macs": spent.total_macs,
        "drift_params_share": spent.params["drift"] / spent.total_params if "drift" in spent.params else None,
        "drift_macs_share": spent.macs["drift"] / spent.total_macs if "drift" in spent.macs else None,
        "nfe": network_evaluations(config.sample),
        "decode_macs": spent.decode_macs,
        "train_macs": spent.train_macs(config.train.steps),
        "device": str(device),
        "precision": precision,
        "threads": machine.threads(),
        "environment": machine.environment(device),
        "git_commit": commit,
        "git_dirty": dirty,
        "code": f"[{code_version()}]",
        "started_at": datetime.now(UTC),
    }


def _codec(context: RunContext) -> ImageCodec:
    """Return the codec. In latent space the autoencoder's training time is added to the run's."""
    context.rows.run["autoencoder_wall_s"] = 0.0
    if context.spec.config.model.space == "pixel":
        return image_codec(context.spec.config.shape[0])
    with context.task("autoencoder", context.spec.config.autoencoder.steps) as bar:
        latents = autoencoder.prepare(
            context.spec.config,
            torch.from_numpy(context.data.train).to(context.device),
            context.data.digest,
            context.spec.seed,
            precision=context.precision,
            checkpoint=context.artifacts / "autoencoder_checkpoint.safetensors",
            cache=context.cache,
            save_every_s=context.save_every_s,
            on_step=_advance(context, bar),
        )
    context.rows.run |= {"autoencoder_wall_s": latents.wall_s, "autoencoder_digest": latents.digest}
    context.rows.run["mixed_arithmetic"] = latents.mixed_arithmetic
    context.rows.add_code(latents.code)
    save_tensors(context.artifacts / "autoencoder.safetensors", latents.tensors, {"run_id": context.rows.run["run_id"]})
    return latents.codec


def _advance(context: RunContext, bar: Task) -> Callable[[TrainingState], None]:
    done = 0

    def on_step(state: TrainingState) -> None:
        nonlocal done
        context.check_lease()  # a checkpoint may be saved next
        while state.resume_warnings:
            context.progress.say(f"note: {state.resume_warnings.pop(0)}")
        bar.advance(state.step - done, f"loss {state.curve[-1]['loss']:.3f}" if state.curve else "")
        done = state.step

    return on_step


def _train(context: RunContext, codec: ImageCodec) -> nn.Module:
    config, rows = context.spec.config, context.rows
    probe(config, context.device)
    perceptual = perceptual_loss(config.train, context.device, context.networks.search)
    rows.run["perceptual_digest"] = None if perceptual is None else perceptual.digest
    with context.task("train", config.train.steps) as bar:
        advance, draw = _advance(context, bar), previews(context, codec) if context.previews else None

        def on_step(state: TrainingState) -> None:
            advance(state)
            if draw is not None:
                draw(state.step, state.ema)
            rows.run |= {"steps": state.step, "images_seen": state.step * config.train.batch}
            rows.others["curves"] = [{"run_id": rows.run["run_id"], **row} for row in state.curve]

        state = train(
            config,
            torch.from_numpy(context.data.train).to(context.device),
            context.spec.seed,
            perceptual=perceptual,
            precision=context.precision,
            compiled=context.compiled,
            checkpoint=context.artifacts / "checkpoint.safetensors",
            codec=codec,
            save_every_s=context.save_every_s,
            on_step=on_step,
        )
    rows.add_code(state.code)
    if state.mixed_arithmetic is not None:
        rows.run["mixed_arithmetic"] = state.mixed_arithmetic
    rows.run |= {"train_wall_s": state.wall_s, "images_per_s": rows.run["images_seen"] / state.wall_s}
    norms = {row["step"]: row["grad_norm"] for row in state.curve}
    jump = first_jump(list(norms), list(norms.values()), config.train.warmup)
    rows.run["unstable"] = jump is not None
    model = guided(state.ema, state.guide, config) if config.sample.guided else state.ema
    weights = weights_of(model)
    rows.run["weights_digest"] = digest(weights)
    metadata = {"config": config.to_json(), "run_id": rows.run["run_id"]}
    save_tensors(context.artifacts / "model.safetensors", weights, metadata)
    return model


def _sample(context: RunContext, model: nn.Module, codec: ImageCodec) -> np.ndarray:
    config, count = context.spec.config, context.spec.config.measure.fd_samples
    with context.rows.timed("sample_wall_s"), context.task("sample", count) as bar:
        drawn = sample_images(
            model,
            config,
            context.spec.seed,
            range(count),
            precision=context.precision,
            codec=codec,
            on_batch=bar.advance,
        )
    samples = to_uint8(drawn)
    context.check_lease()
    context.rows.run["samples_digest"] = digest({"samples": torch.from_numpy(samples)})
    save_grid(context.artifacts / "samples.png", samples[:GRID])
    return samples
