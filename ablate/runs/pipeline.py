"""One run: data -> (autoencoder ->) train -> sample -> measure -> rows.

A run works in `artifacts/<run_id>.part/`: its checkpoints are there, and what it has made so far. When all is made, the files move to
`artifacts/<run_id>/`, the row is written, and the rest of the working folder is deleted. So a row with status `done` has its artifacts and
its other tables, and a run that is made again leaves the finished one as it was until then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ablate.base import machine
from ablate.base.errors import DivergedError, ResultsError
from ablate.base.progress import Progress, Task
from ablate.data.datasets import ImageSet
from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.diffusion.solvers import evaluations
from ablate.inference import number_formats
from ablate.inference.latency import peak_memory_mb, reset_peak_memory
from ablate.inference.trained import Finished
from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.pair_distances import PerceptualDistance
from ablate.metrics.suite import Suite
from ablate.models.autoencoder import PIXEL_CODEC, ImageCodec
from ablate.models.cost import cost
from ablate.models.kpn.denoiser import Denoiser
from ablate.models.weight_files import digest, save_tensors
from ablate.runs import evaluation
from ablate.runs.job import Job, Row, Tables
from ablate.runs.previews import Sketches
from ablate.stats.stability import first_jump
from ablate.store import tables as results
from ablate.store.atomic_files import half_written, sync_folder, written
from ablate.store.image_grids import save_grid
from ablate.store.schema import RUN_SESSION
from ablate.study.config import TrainConfig
from ablate.study.plan import RunSpec
from ablate.training import autoencoder
from ablate.training.checkpoint import SAVE_EVERY_S, TrainingState
from ablate.training.loop import train

GRID = 64  # pictures


def execute(
    spec: RunSpec,
    data: ImageSet,
    folder: Path,
    *,
    suite: Suite,
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
        data: The pictures.
        folder: The results folder.
        suite: What samples are measured with, on the device where everything is computed.
        progress: Bars to show.
        load_wall_s: What loading the data took, in seconds.
        save_every_s: Seconds between checkpoints.
        finished_before: The run has a finished row: only another finished one takes its place.
        compile: As in `machine.pick_compile`.
        still_ours: Returns False once another process has taken the run over. It is asked at every step and before
            rows and artifacts are written.

    Returns:
        The row of `runs.parquet`, with status `done` or `diverged`; the latter is not written where there is a finished one.

    Raises:
        KeyboardInterrupt: The run was interrupted; its checkpoint is written, and a row with status `interrupted` where there is none that
            has finished.
        LeaseLostError: Another process has taken the run over; nothing was written after that was seen.
        AblateError: Something a user can mend went wrong.
    """
    run_id = spec.run_id(data.name, data.digest)
    artifacts, working = folder / "artifacts" / run_id, working_folder(folder, run_id)
    device, precision = suite.device, machine.pick_precision(suite.device)
    compiled = machine.pick_compile(compile, spec.config.train.steps, device)
    tables = Tables(_first_columns(spec, data, device, precision, run_id))
    tables.run |= {"compiled": compiled, "load_wall_s": load_wall_s}
    job = Job(
        spec,
        data,
        tables,
        working,
        suite,
        device,
        precision,
        compiled,
        progress,
        save_every_s,
        sketches=True,
        still_ours=still_ours,
    )
    _sweep(working)
    reset_peak_memory(device)

    def finished() -> bool:
        """Whether a finished row is there, also of a process that took this one for dead."""
        return finished_before or is_done(folder, run_id)

    try:
        model, codec, samples = produce(job)
        with tables.timed("measure_wall_s"):
            evaluation.measure_denoising(job, model, codec)
            evaluation.measure_fidelity(job, samples, codec)
            evaluation.measure_neighbours(job, samples)
            tables.run["peak_memory_mb"] = peak_memory_mb(device)  # the timed calls count their own from zero
            evaluation.measure_times(job, model, codec)
        with tables.timed("quantize_wall_s"):
            made = Finished(tables.run, spec.config, model, codec)
            found = number_formats.measure(
                made, data, suite, spec.config.quantize, session=RUN_SESSION, progress=progress
            )
            for table, rows in found.items():
                tables.others[table] += rows
        phases = ("load", "autoencoder", "train", "sample", "measure", "quantize")
        tables.run["wall_s"] = sum(tables.run[f"{phase}_wall_s"] for phase in phases)
        job.check_lease()
        _move(working, artifacts)
    except DivergedError as error:
        job.check_lease()
        if finished():
            tables.run |= {"status": "diverged", "error": f"{error}; the finished row stays"}
        else:
            tables.write(folder, "diverged", str(error))
        shutil.rmtree(working, ignore_errors=True)  # its checkpoint would only diverge again
        return tables.run
    except KeyboardInterrupt:
        if still_ours() and not finished():
            tables.write(folder, "interrupted", "interrupted by a signal; the same command resumes it")
        raise
    except Exception as error:
        job.check_lease()  # its new owner may have moved the files that this process misses
        if not finished():
            tables.write(folder, "failed", f"{type(error).__name__}: {error}")
        raise
    job.check_lease()
    tables.write(folder, "done")
    shutil.rmtree(working, ignore_errors=True)
    return tables.run


def working_folder(folder: Path, run_id: str) -> Path:
    """Return where a run that has not finished keeps its checkpoints and what it has made."""
    return folder / "artifacts" / f"{run_id}.part"


def clean(folder: Path, run_id: str) -> bool:
    """Delete the working folder of a finished run, whose process was killed before it did so; return whether the run is finished."""
    done = is_done(folder, run_id)
    if done:
        shutil.rmtree(working_folder(folder, run_id), ignore_errors=True)
    return done


def is_done(folder: Path, run_id: str) -> bool:
    """Whether a run has a finished row."""
    runs = results.read(folder, "runs")
    return bool(((runs["run_id"] == run_id) & (runs["status"] == "done")).any())


def adopt(folder: Path, run_id: str, files: Mapping[str, bytes], rows: Mapping[str, Sequence[Row]]) -> None:
    """Record a run that was made elsewhere, as `execute` records its own: the files, then the rows.

    Args:
        folder: The results folder.
        run_id: The run.
        files: Name -> content, of its artifacts, or of its checkpoints where it has not finished.
        rows: Table -> its rows, or nothing where only checkpoints came.

    Raises:
        ResultsError: A file or a table cannot be written.
    """
    artifacts, working = folder / "artifacts" / run_id, working_folder(folder, run_id)
    for name, content in files.items():
        with written(working / name) as temporary:
            temporary.write_bytes(content)
    statuses = [row["status"] for row in rows.get("runs", ())]
    if "done" in statuses:
        _move(working, artifacts)
    if "done" in statuses or (statuses and not is_done(folder, run_id)):
        results.append(folder, rows)
    if {"done", "diverged"} & set(statuses):
        shutil.rmtree(working, ignore_errors=True)


def produce(job: Job) -> tuple[Denoiser, ImageCodec, np.ndarray]:
    """Train and sample: all that a run's digests depend on, with deterministic algorithms.

    Returns:
        The averaged weights, the way between pictures and latents, and the samples (N, 3, 64, 64) uint8.

    Raises:
        DivergedError: A loss or gradient norm is not finite.
        KeyboardInterrupt: Interrupted; the training was saved first.
    """
    with machine.deterministic() as names:
        codec = _codec(job)
        model = _train(job, codec)
        samples = _sample(job, model, codec)
    job.tables.run["nondeterministic_ops"] = " ".join(sorted(names))
    return model, codec, samples


def _sweep(working: Path) -> None:
    """Delete what a killed process was just writing."""
    for left in working.glob("*"):
        if half_written(left):
            left.unlink(missing_ok=True)


def _move(working: Path, artifacts: Path) -> None:
    """Put what a run has made in place of what an earlier one may have left; its checkpoints stay until its row is written."""
    made = [path for path in working.iterdir() if not path.name.endswith("checkpoint.safetensors")]
    try:
        artifacts.mkdir(exist_ok=True)
        for path in made:
            os.replace(path, artifacts / path.name)
        sync_folder(artifacts)
    except OSError as error:
        raise ResultsError(f"{artifacts}: cannot be written ({error}); mend the folder and run again") from error


def _first_columns(spec: RunSpec, data: ImageSet, device: torch.device, precision: str, run_id: str) -> Row:
    config, spent = spec.config, cost(spec.config)
    commit, dirty = machine.git_state()
    return {
        "run_id": run_id,
        "variant": spec.variant,
        "axis": spec.axis,
        "preset": spec.preset,
        "seed": spec.seed,
        "data": data.name,
        "data_digest": data.digest,
        "n_train": len(data.train),
        "n_held_out": len(data.held_out),
        "duplicates": data.duplicates,
        "budget": spec.budget,
        "config": config.to_json(),
        "config_hash": config.hash,
        "params": spent.total_params,
        "macs": spent.total_macs,
        "drift_params_share": spent.params["drift"] / spent.total_params,
        "drift_macs_share": spent.macs["drift"] / spent.total_macs,
        "nfe": evaluations(config.sample.solver, config.sample.num_steps),
        "decode_macs": spent.decode_macs,
        "train_macs": spent.train_macs(config.train.steps),
        "device": str(device),
        "precision": precision,
        "threads": machine.threads(),
        "environment": machine.environment(device),
        "git_commit": commit,
        "git_dirty": dirty,
        "started_at": datetime.now(UTC),
    }


def perceptual_loss(config: TrainConfig, device: torch.device) -> nn.Module | None:
    """Return the frozen perceptual distance that a configuration trains with, or None."""
    if config.perceptual == "none":
        return None
    return PerceptualDistance(efficientnet_lite0(device), stages=config.perceptual_stages)


def _codec(job: Job) -> ImageCodec:
    """The way between pictures and what is diffused; in latent space an autoencoder, charged with its training time."""
    job.tables.run["autoencoder_wall_s"] = 0.0
    if job.spec.config.model.space == "pixel":
        return PIXEL_CODEC
    with job.task("autoencoder", job.spec.config.autoencoder.steps) as bar:
        made = autoencoder.prepare(
            job.spec.config,
            torch.from_numpy(job.data.train).to(job.device),
            job.data.digest,
            job.spec.seed,
            precision=job.precision,
            checkpoint=job.artifacts / "autoencoder_checkpoint.safetensors",
            cache=job.cache,
            save_every_s=job.save_every_s,
            on_step=_advance(job, bar),
        )
    job.tables.run |= {"autoencoder_wall_s": made.wall_s, "autoencoder_digest": made.digest}
    job.tables.run["mixed_arithmetic"] = made.mixed_arithmetic
    save_tensors(job.artifacts / "autoencoder.safetensors", made.tensors, {"run_id": job.tables.run["run_id"]})
    return made.codec


def _advance(job: Job, bar: Task) -> Callable[[TrainingState], None]:
    done = 0

    def on_step(state: TrainingState) -> None:
        nonlocal done
        job.check_lease()  # a checkpoint may be saved next
        while state.resume_warnings:
            job.progress.say(f"note: {state.resume_warnings.pop(0)}")
        bar.advance(state.step - done, f"loss {state.curve[-1]['loss']:.3f}" if state.curve else "")
        done = state.step

    return on_step


def _train(job: Job, codec: ImageCodec) -> Denoiser:
    config, tables = job.spec.config, job.tables
    with job.task("train", config.train.steps) as bar:
        advance, sketch = _advance(job, bar), Sketches(job, codec) if job.sketches else None

        def on_step(state: TrainingState) -> None:
            advance(state)
            if sketch is not None:
                assert isinstance(state.ema, Denoiser)
                sketch(state.step, state.ema)
            tables.run |= {"steps": state.step, "images_seen": state.step * config.train.batch}
            tables.others["curves"] = [{"run_id": tables.run["run_id"], **row} for row in state.curve]

        state = train(
            config,
            torch.from_numpy(job.data.train).to(job.device),
            job.spec.seed,
            perceptual=perceptual_loss(config.train, job.device),
            precision=job.precision,
            compiled=job.compiled,
            checkpoint=job.artifacts / "checkpoint.safetensors",
            codec=codec,
            save_every_s=job.save_every_s,
            on_step=on_step,
        )
    if state.mixed_arithmetic is not None:
        tables.run["mixed_arithmetic"] = state.mixed_arithmetic
    tables.run |= {"train_wall_s": state.wall_s, "images_per_s": tables.run["images_seen"] / state.wall_s}
    norms = {row["step"]: row["grad_norm"] for row in state.curve}
    jump = first_jump(list(norms), list(norms.values()), config.train.warmup)
    tables.run["unstable"] = jump is not None
    weights = {name: p.cpu() for name, p in state.ema.named_parameters()}
    tables.run["weights_digest"] = digest(weights)
    metadata = {"config": config.to_json(), "run_id": tables.run["run_id"]}
    save_tensors(job.artifacts / "model.safetensors", weights, metadata)
    assert isinstance(state.ema, Denoiser)
    return state.ema


def _sample(job: Job, model: Denoiser, codec: ImageCodec) -> np.ndarray:
    config, count = job.spec.config, job.spec.config.measure.fd_samples
    with job.tables.timed("sample_wall_s"), job.task("sample", count) as bar:
        drawn = sample_images(
            model, config, job.spec.seed, range(count), precision=job.precision, codec=codec, on_batch=bar.advance
        )
    samples = to_uint8(drawn)
    job.check_lease()
    job.tables.run["samples_digest"] = digest({"samples": torch.from_numpy(samples)})
    save_grid(job.artifacts / "samples.png", samples[:GRID])
    return samples
