"""One run: data -> train -> sample -> measure -> rows.

A run that has finished is skipped, an interrupted one resumes from its checkpoint. Its row is written last, so a row with status `done`
has its artifacts and its other tables.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate import machine, results, rng
from ablate.checkpoint import TrainingState, save_tensors
from ablate.data.images import ImageSet
from ablate.diffusion import evaluations, interpolate
from ablate.errors import DivergedError
from ablate.measure.extractors import efficientnet_lite0, extract
from ablate.measure.fidelity import frechet_distance, reference_statistics, statistics
from ablate.measure.latency import measure_latency, peak_memory_mb
from ablate.measure.perceptual import PerceptualDistance, psnr_db
from ablate.model.denoiser import CHANNELS, SIZE, Denoiser, cost
from ablate.progress import Progress
from ablate.report.figures import save_grid, save_strip
from ablate.sample import BATCH, denoise, draw, to_uint8
from ablate.study import RunSpec
from ablate.train import train
from ablate.variant import Config

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
    try:
        state = _train(spec, data, tables, artifacts, device, precision, progress)
        model, config = _denoiser(state), spec.config
        samples = _sample(model, spec, tables, artifacts, precision, progress)
        with tables.timed("measure_wall_s"):
            _measure_denoising(model, spec, data, tables, artifacts, precision, progress)
            _measure_fidelity(samples, config, data, tables, device, progress)
            _measure_latency(model, config, spec.seed, tables, precision)
        wall_s = sum(tables.run[f"{phase}_wall_s"] for phase in ("load", "train", "sample", "measure"))
        tables.run |= {"wall_s": wall_s, "peak_memory_mb": peak_memory_mb(device)}
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
    for left in artifacts.glob("checkpoint.safetensors*"):  # and what a killed process may have left of one
        left.unlink()
    return tables.run


def _first_columns(spec: RunSpec, data: ImageSet, device: torch.device, precision: str, run_id: str) -> Row:
    config, spent = spec.config, cost(spec.config.model)
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
        "config": config.to_json(),
        "config_hash": config.hash,
        "params": spent.total_params,
        "macs": spent.total_macs,
        "drift_params_share": spent.params["drift"] / spent.total_params,
        "drift_macs_share": spent.macs["drift"] / spent.total_macs,
        "nfe": evaluations(config.sample.solver, config.sample.num_steps),
        # A backward pass costs two forward passes; the perceptual network is the loss's, not the model's.
        "train_macs": 3 * spent.total_macs * config.train.steps * config.train.batch,
        "device": str(device),
        "precision": precision,
        "threads": machine.threads(),
        "environment": machine.environment(device),
        "git_commit": commit,
        "git_dirty": dirty,
        "started_at": datetime.now(UTC),
    }


def perceptual_loss(config: Config, device: torch.device) -> nn.Module | None:
    """Return the frozen perceptual distance that a configuration trains with, or None."""
    if config.train.perceptual == "none":
        return None
    return PerceptualDistance(efficientnet_lite0(device), stages=config.train.perceptual_stages)


def _train(
    spec: RunSpec,
    data: ImageSet,
    tables: Tables,
    artifacts: Path,
    device: torch.device,
    precision: str,
    progress: Progress,
) -> TrainingState:
    config = spec.config
    with progress.task(f"{spec.variant} s{spec.seed}: train", config.train.steps) as bar:
        done = 0

        def on_step(state: TrainingState) -> None:
            nonlocal done
            bar.advance(state.step - done, f"loss {state.curve[-1]['loss']:.3f}" if state.curve else "")
            done = state.step
            tables.run |= {"steps": state.step, "images_seen": state.step * config.train.batch}
            tables.others["curves"] = [{"run_id": tables.run["run_id"], **row} for row in state.curve]

        images = torch.from_numpy(data.train).to(device)
        state = train(
            config,
            images,
            spec.seed,
            perceptual=perceptual_loss(config, device),
            precision=precision,
            checkpoint=artifacts / "checkpoint.safetensors",
            on_step=on_step,
        )
    tables.run |= {"train_wall_s": state.wall_s, "images_per_s": tables.run["images_seen"] / state.wall_s}
    weights = {name: p.cpu() for name, p in state.ema.named_parameters()}
    tables.run["weights_digest"] = digest(weights[name].contiguous().numpy() for name in sorted(weights))
    save_tensors(artifacts / "model.safetensors", weights, {"config": config.to_json(), "run_id": tables.run["run_id"]})
    return state


def _denoiser(state: TrainingState) -> Denoiser:
    assert isinstance(state.ema, Denoiser)
    return state.ema


def _sample(
    model: Denoiser, spec: RunSpec, tables: Tables, artifacts: Path, precision: str, progress: Progress
) -> np.ndarray:
    count = spec.config.measure.fd_samples
    with tables.timed("sample_wall_s"), progress.task(f"{spec.variant} s{spec.seed}: sample", count) as bar:
        samples = to_uint8(draw(model, spec.config, spec.seed, range(count), precision=precision, on_batch=bar.advance))
    tables.run["samples_digest"] = digest([samples])
    save_grid(artifacts / "samples.png", samples[:GRID])
    return samples


def _measure_denoising(
    model: Denoiser, spec: RunSpec, data: ImageSet, tables: Tables, artifacts: Path, precision: str, progress: Progress
) -> None:
    device = next(model.parameters()).device
    distance = PerceptualDistance(efficientnet_lite0(device))
    x = torch.from_numpy(data.held_out[: spec.config.measure.denoise_images]).to(device).float() / 127.5 - 1
    eps = rng.normal(spec.seed, "denoise", range(len(x)), (CHANNELS, SIZE, SIZE)).to(device)
    rows = []
    with progress.task(f"{spec.variant} s{spec.seed}: denoise", len(TIMES)) as bar:
        for t in TIMES:
            scores: dict[str, list[Tensor]] = {"psnr_db": [], "pd": []}
            for clean, noise in zip(x.split(BATCH), eps.split(BATCH), strict=True):
                times = clean.new_full((len(clean),), t)
                x_hat = denoise(model, spec.config, interpolate(clean, noise, times), times, precision)
                with torch.inference_mode():
                    scores["psnr_db"].append(psnr_db(x_hat, clean))
                    scores["pd"].append(distance(x_hat.clamp(-1, 1), clean))
            rows.append(
                {"t": t, "n": len(x), **{name: float(torch.cat(values).mean()) for name, values in scores.items()}}
            )
            tables.add("denoising", rows[-1])
            bar.advance()
    tables.run |= {name: float(np.mean([row[name] for row in rows])) for name in ("psnr_db", "pd")}
    _save_strip(model, spec.config, x[: len(STRIP_TIMES)], eps, artifacts, precision)


def _save_strip(model: Denoiser, config: Config, x: Tensor, eps: Tensor, artifacts: Path, precision: str) -> None:
    """One row per time: noisy input, filtered output, drift (grey is none), prediction, target."""
    t = x.new_tensor(STRIP_TIMES[: len(x)])
    z = interpolate(x, eps[: len(x)], t)
    with torch.inference_mode(), torch.autocast(z.device.type, torch.bfloat16, enabled=precision == "bf16"):
        filtered, drift = model.parts(z, t)
    x_hat = denoise(model, config, z, t, precision)
    panels = [z, filtered, torch.zeros_like(z) if drift is None else drift, x_hat, x]
    save_strip(artifacts / "strip.png", [to_uint8(panel.cpu()) for panel in panels])


def _measure_fidelity(
    samples: np.ndarray, config: Config, data: ImageSet, tables: Tables, device: torch.device, progress: Progress
) -> None:
    extractor = efficientnet_lite0(device)
    reference = data.train[: config.measure.fd_reference]
    # Real against real: pictures that are not in the reference, held-out ones first.
    real = np.concatenate([data.held_out, data.train[config.measure.fd_reference :]])[: len(samples)]
    with progress.task("features", len(samples) + len(reference) + len(real)) as bar:
        of_reference = reference_statistics(reference, extractor, on_batch=bar.advance)
        of_real = reference_statistics(real, extractor, on_batch=bar.advance)
        of_samples = statistics(extract(samples, extractor, on_batch=bar.advance))
    values = {
        "fd": (frechet_distance(of_samples, of_reference), len(samples)),
        "fd_floor": (frechet_distance(of_real, of_reference), len(real)),
    }
    for metric, (value, n) in values.items():
        tables.run |= {metric: value, f"{metric}_n": n}
        row = {"extractor": EXTRACTOR, "metric": metric, "value": value, "n": n, "ref_n": len(reference)}
        tables.add("fidelity", row | {"weights_digest": extractor.digest})
    tables.run["fd_ref_n"] = len(reference)


def _measure_latency(model: Denoiser, config: Config, seed: int, tables: Tables, precision: str) -> None:
    device = next(model.parameters()).device
    noise = rng.normal(seed, "latency", range(max(config.measure.latency_batches)), (CHANNELS, SIZE, SIZE)).to(device)

    def step(batch: int) -> Tensor:
        return denoise(model, config, noise[:batch], noise.new_full((batch,), 0.5), precision)

    def image(batch: int) -> Tensor:
        return draw(model, config, seed, range(batch), precision=precision)

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


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 digest of arrays' bytes, in order, as hexadecimal digits."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
