"""One run: data -> (autoencoder ->) train -> sample -> measure -> rows.

A run that has finished is skipped, an interrupted one resumes from its checkpoint. Its row is written last, so a row with status `done`
has its artifacts and its other tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate import latents, machine, results, rng
from ablate.checkpoint import TrainingState, digest, save_tensors
from ablate.data.images import ImageSet
from ablate.diffusion import evaluations, interpolate
from ablate.errors import DivergedError
from ablate.measure.extractors import efficientnet_lite0, extract
from ablate.measure.fidelity import frechet_distance, reference_statistics, statistics
from ablate.measure.latency import measure_latency, peak_memory_mb
from ablate.measure.perceptual import PerceptualDistance, psnr_db
from ablate.model.autoencoder import PIXELS, Codec
from ablate.model.cost import cost
from ablate.model.denoiser import Denoiser
from ablate.progress import Progress, Task
from ablate.report.figures import save_grid, save_strip
from ablate.sample import BATCH, denoise, draw, to_uint8
from ablate.study import RunSpec
from ablate.train import train
from ablate.variant import TrainConfig

TIMES = tuple(i / 10 for i in range(1, 10))  # of the one-step denoising table
STRIP_TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
GRID = 64  # pictures
EXTRACTOR = "efficientnet_lite0"

Row = dict[str, Any]


@dataclass
class Tables:
    """The rows of one run, table by table, gathered while it goes on."""

    run: Row
    others: dict[str, list[Row]] = field(
        default_factory=lambda: {"curves": [], "denoising": [], "fidelity": [], "latency": []}
    )

    def add(self, table: str, row: Row) -> None:
        """Add a row, keyed by the run."""
        self.others[table].append({"run_id": self.run["run_id"], **row})

    def write(self, folder: Path, status: str, error: str | None = None) -> None:
        """Append the rows to the results folder's tables with a status."""
        self.run |= {"status": status, "error": error, "finished_at": datetime.now(UTC)}
        results.append(folder, {**self.others, "runs": [self.run]})

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that the block takes to a column such as `sample_wall_s`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.run[phase] = self.run.get(phase, 0.0) + time.monotonic() - start


@dataclass(frozen=True)
class Job:
    """What every phase of a run needs."""

    spec: RunSpec
    data: ImageSet
    tables: Tables
    artifacts: Path
    device: torch.device
    precision: str
    progress: Progress

    def task(self, name: str, total: int) -> AbstractContextManager[Task]:
        """Show a bar for a phase of this run."""
        return self.progress.task(f"{self.spec.variant} s{self.spec.seed}: {name}", total)


def execute(
    spec: RunSpec, data: ImageSet, folder: Path, *, device: torch.device, progress: Progress, load_wall_s: float = 0.0
) -> Row:
    """Make one run and write its rows.

    Args:
        spec: What to run.
        data: The pictures.
        folder: The results folder.
        device: Where to compute.
        progress: Bars to show.
        load_wall_s: What loading the data took, in seconds.

    Returns:
        The row of `runs.parquet`, with status `done` or `diverged`.

    Raises:
        KeyboardInterrupt: The run was interrupted; its checkpoint and a row with status `interrupted` are written.
        AblateError: Something a user can mend went wrong.
    """
    run_id = spec.run_id(data.name, data.digest)
    artifacts = folder / "artifacts" / run_id
    precision = machine.pick_precision(device)
    tables = Tables(_first_columns(spec, data, device, precision, run_id) | {"load_wall_s": load_wall_s})
    job = Job(spec, data, tables, artifacts, device, precision, progress)
    try:
        codec = _codec(job)
        model = _train(job, codec)
        samples = _sample(job, model, codec)
        with tables.timed("measure_wall_s"):
            _measure_denoising(job, model, codec)
            _measure_fidelity(job, samples, codec)
            _measure_latency(job, model, codec)
        phases = ("load", "autoencoder", "train", "sample", "measure")
        tables.run["wall_s"] = sum(tables.run[f"{phase}_wall_s"] for phase in phases)
        tables.run["peak_memory_mb"] = peak_memory_mb(device)
    except DivergedError as error:
        tables.write(folder, "diverged", str(error))
        return tables.run
    except KeyboardInterrupt:
        tables.write(folder, "interrupted", "interrupted by a signal; the same command resumes it")
        raise
    except Exception as error:
        tables.write(folder, "failed", f"{type(error).__name__}: {error}")
        raise
    tables.write(folder, "done")
    for left in artifacts.glob("*checkpoint.safetensors*"):  # and what a killed process may have left of one
        left.unlink()
    return tables.run


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


def _codec(job: Job) -> Codec:
    """The way between pictures and what is diffused; in latent space an autoencoder, charged with its training time."""
    job.tables.run["autoencoder_wall_s"] = 0.0
    if job.spec.config.model.space == "pixel":
        return PIXELS
    with job.task("autoencoder", job.spec.config.autoencoder.steps) as bar:
        made = latents.prepare(
            job.spec.config,
            torch.from_numpy(job.data.train).to(job.device),
            job.data.digest,
            job.spec.seed,
            precision=job.precision,
            checkpoint=job.artifacts / "autoencoder_checkpoint.safetensors",
            on_step=_advance(bar),
        )
    job.tables.run |= {"autoencoder_wall_s": made.wall_s, "autoencoder_digest": made.digest}
    save_tensors(job.artifacts / "autoencoder.safetensors", made.tensors, {"run_id": job.tables.run["run_id"]})
    return made.codec


def _advance(bar: Task) -> Callable[[TrainingState], None]:
    done = 0

    def on_step(state: TrainingState) -> None:
        nonlocal done
        bar.advance(state.step - done, f"loss {state.curve[-1]['loss']:.3f}" if state.curve else "")
        done = state.step

    return on_step


def _train(job: Job, codec: Codec) -> Denoiser:
    config, tables = job.spec.config, job.tables
    with job.task("train", config.train.steps) as bar:
        advance = _advance(bar)

        def on_step(state: TrainingState) -> None:
            advance(state)
            tables.run |= {"steps": state.step, "images_seen": state.step * config.train.batch}
            tables.others["curves"] = [{"run_id": tables.run["run_id"], **row} for row in state.curve]

        state = train(
            config,
            torch.from_numpy(job.data.train).to(job.device),
            job.spec.seed,
            perceptual=perceptual_loss(config.train, job.device),
            precision=job.precision,
            checkpoint=job.artifacts / "checkpoint.safetensors",
            codec=codec,
            on_step=on_step,
        )
    tables.run |= {"train_wall_s": state.wall_s, "images_per_s": tables.run["images_seen"] / state.wall_s}
    weights = {name: p.cpu() for name, p in state.ema.named_parameters()}
    tables.run["weights_digest"] = digest(weights)
    metadata = {"config": config.to_json(), "run_id": tables.run["run_id"]}
    save_tensors(job.artifacts / "model.safetensors", weights, metadata)
    assert isinstance(state.ema, Denoiser)
    return state.ema


def _sample(job: Job, model: Denoiser, codec: Codec) -> np.ndarray:
    config, count = job.spec.config, job.spec.config.measure.fd_samples
    with job.tables.timed("sample_wall_s"), job.task("sample", count) as bar:
        drawn = draw(
            model, config, job.spec.seed, range(count), precision=job.precision, codec=codec, on_batch=bar.advance
        )
    samples = to_uint8(drawn)
    job.tables.run["samples_digest"] = digest({"samples": torch.from_numpy(samples)})
    save_grid(job.artifacts / "samples.png", samples[:GRID])
    return samples


def _measure_denoising(job: Job, model: Denoiser, codec: Codec) -> None:
    config, tables = job.spec.config, job.tables
    distance = PerceptualDistance(efficientnet_lite0(job.device))
    x = torch.from_numpy(job.data.held_out[: config.measure.denoise_images]).to(job.device).float() / 127.5 - 1
    channels, size, _ = model.space
    eps = rng.normal(job.spec.seed, "denoise", range(len(x)), (channels, size, size)).to(job.device)

    def score(decoded: Iterable[Tensor]) -> dict[str, float]:
        """Compare pictures, in batches, to the held-out ones."""
        scores: dict[str, list[Tensor]] = {"psnr_db": [], "pd": []}
        with torch.inference_mode():
            for found, clean in zip(decoded, x.split(BATCH), strict=True):
                scores["psnr_db"].append(psnr_db(found, clean))
                scores["pd"].append(distance(found.clamp(-1, 1), clean))
        return {name: float(torch.cat(values).mean()) for name, values in scores.items()}

    def denoised(t: float) -> Iterator[Tensor]:
        for clean, noise in zip(x.split(BATCH), eps.split(BATCH), strict=True):
            times = clean.new_full((len(clean),), t)
            z = interpolate(codec.encode(clean), noise, times)
            yield codec.decode(denoise(model, config, z, times, job.precision))

    rows = []
    with job.task("denoise", len(TIMES)) as bar:
        for t in TIMES:
            rows.append(score(denoised(t)))
            tables.add("denoising", {"t": t, "n": len(x), **rows[-1]})
            bar.advance()
    tables.run |= {name: float(np.mean([row[name] for row in rows])) for name in ("psnr_db", "pd")}
    if codec is not PIXELS:  # the best that any denoiser of these latents could reach
        ceiling = score(codec.decode(codec.encode(clean)) for clean in x.split(BATCH))
        tables.run |= {f"autoencoder_{name}": value for name, value in ceiling.items()}
    _save_strip(job, model, codec, x[: len(STRIP_TIMES)], eps)


def _save_strip(job: Job, model: Denoiser, codec: Codec, x: Tensor, eps: Tensor) -> None:
    """One row per time: noisy input, filtered output, drift (grey is none), prediction, target; in latent space all decoded."""
    t = x.new_tensor(STRIP_TIMES[: len(x)])
    with torch.inference_mode():
        z = interpolate(codec.encode(x), eps[: len(x)], t)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=job.precision == "bf16"):
            filtered, drift = model.parts(z, t)
        shown = codec.decode(filtered)
        added = torch.zeros_like(x) if drift is None else codec.decode(filtered + drift) - shown
        x_hat = codec.decode(denoise(model, job.spec.config, z, t, job.precision))
        panels = [codec.decode(z), shown, added, x_hat, x]
        save_strip(job.artifacts / "strip.png", [to_uint8(panel.cpu()) for panel in panels])
        if codec is not PIXELS:
            pairs = [x, codec.decode(codec.encode(x))]
            save_strip(job.artifacts / "autoencoder.png", [to_uint8(panel.cpu()) for panel in pairs])


def _measure_fidelity(job: Job, samples: np.ndarray, codec: Codec) -> None:
    extractor, data, tables = efficientnet_lite0(job.device), job.data, job.tables
    reference = data.train[: job.spec.config.measure.fd_reference]
    # Real against real: pictures that are not in the reference, held-out ones first.
    real = np.concatenate([data.held_out, data.train[job.spec.config.measure.fd_reference :]])[: len(samples)]
    measured = {"fd": samples}
    if codec is not PIXELS:
        measured["autoencoder_fd"] = _reconstruct(real, codec, job.device)
    with job.task("features", len(real) + len(reference) + sum(map(len, measured.values()))) as bar:
        of_reference = reference_statistics(reference, extractor, on_batch=bar.advance)
        found = {"fd_floor": (reference_statistics(real, extractor, on_batch=bar.advance), len(real))}
        for metric, pictures in measured.items():
            found[metric] = (statistics(extract(pictures, extractor, on_batch=bar.advance)), len(pictures))
    for metric, (of_pictures, n) in found.items():
        value = frechet_distance(of_pictures, of_reference)
        tables.run[metric] = value
        row = {"extractor": EXTRACTOR, "metric": metric, "value": value, "n": n, "ref_n": len(reference)}
        tables.add("fidelity", row | {"weights_digest": extractor.digest})
    tables.run |= {"fd_n": len(samples), "fd_floor_n": len(real), "fd_ref_n": len(reference)}


def _reconstruct(pictures: np.ndarray, codec: Codec, device: torch.device) -> np.ndarray:
    """Encode and decode pictures (N, 3, 64, 64) uint8."""
    with torch.inference_mode():
        batches = (x.to(device).float() / 127.5 - 1 for x in torch.from_numpy(pictures).split(BATCH))
        return np.concatenate([to_uint8(codec.decode(codec.encode(x)).cpu()) for x in batches])


def _measure_latency(job: Job, model: Denoiser, codec: Codec) -> None:
    config, seed, tables, device, precision = job.spec.config, job.spec.seed, job.tables, job.device, job.precision
    channels, size, _ = model.space
    noise = rng.normal(seed, "latency", range(max(config.measure.latency_batches)), (channels, size, size)).to(device)

    def step(batch: int) -> Tensor:
        return denoise(model, config, noise[:batch], noise.new_full((batch,), 0.5), precision)

    def image(batch: int) -> Tensor:
        return draw(model, config, seed, range(batch), precision=precision, codec=codec)

    budget = config.measure
    calls = {
        "step": measure_latency(
            step,
            batches=budget.latency_batches,
            samples=budget.latency_samples,
            warmup=3,
            device=device,
            scheme=precision,
        ),
        "image": measure_latency(image, batches=(1,), samples=5, warmup=1, device=device, scheme=precision),
    }
    for scope, rows in calls.items():
        for row in rows:
            tables.add("latency", {"scope": scope, **row})
        tables.run[f"latency_{scope}_ms"] = float(
            np.median([float(str(row["latency_ms"])) for row in rows if row["batch"] == 1])
        )
