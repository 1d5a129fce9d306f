"""What is measured of a trained model: one-step denoising, distances to real pictures, neighbours, latency.

Each function adds rows to the run's tables and its headline numbers to the run's row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from ablate.base import cuda_graphs, machine, rng
from ablate.diffusion.objectives import interpolate
from ablate.diffusion.sampling import BATCH, denoise, sample_images_with, to_uint8
from ablate.diffusion.solvers import Denoise, evaluations
from ablate.inference.latency import Timed, time_calls
from ablate.metrics.efficientnet import full_precision
from ablate.metrics.extractors import Extractor
from ablate.metrics.pair_distances import Distance, psnr_db
from ablate.metrics.reference_cache import batches_of, reference_features
from ablate.metrics.set_distances import Features, collect
from ablate.metrics.suite import Looks, between, look, used
from ablate.models.autoencoder import PIXEL_CODEC, ImageCodec
from ablate.models.kpn.denoiser import Denoiser
from ablate.models.weight_files import save_tensors
from ablate.runs.job import Job, Tables
from ablate.store.image_grids import save_strip
from ablate.store.schema import RUN_SESSION
from ablate.study.metric_names import EMBEDDED, PERCEPTUAL, SAMPLES, SETS, name_of

TIMES = tuple(i / 10 for i in range(1, 10))  # of the one-step denoising table
STRIP_TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
NEIGHBOURS = 16  # rows of the picture of nearest neighbours
HEADLINES = {  # of the fidelity table's metrics, those that the run's row repeats
    *("fd", "fd_floor", "autoencoder_fd", "fd_inf", "kd", "fid", "fid_floor", "fid_inf", "kid"),
    *(f"{kind}_{distance}" for kind in SAMPLES for distance in ("pd", "lpips")),
}


def measure_denoising(job: Job, model: Denoiser, codec: ImageCodec) -> None:
    """One-step denoising of held-out pictures at every time, and a picture of it."""
    config, tables = job.spec.config, job.tables
    distances = job.suite.distances
    x = torch.from_numpy(job.data.held_out[: config.measure.denoise_images]).to(job.device).float() / 127.5 - 1
    channels, size, _ = model.space
    eps = rng.normal(job.spec.seed, "denoise", range(len(x)), (channels, size, size)).to(job.device)

    def score(decoded: Iterable[Tensor]) -> dict[str, float]:
        """Compare pictures, in batches, to the held-out ones."""
        scores: dict[str, list[Tensor]] = {name: [] for name in ("psnr_db", *distances)}
        with torch.inference_mode():
            for found, clean in zip(decoded, x.split(BATCH), strict=True):
                scores["psnr_db"].append(psnr_db(found, clean))
                with full_precision(job.device):
                    for name, distance in distances.items():
                        scores[name].append(distance(found.clamp(-1, 1), clean))
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
    tables.run |= {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if codec is not PIXEL_CODEC:  # the best that any denoiser of these latents could reach
        ceiling = score(codec.decode(codec.encode(clean)) for clean in x.split(BATCH))
        tables.run |= {f"autoencoder_{name}": ceiling[name] for name in ("psnr_db", "pd")}
    _save_strip(job, model, codec, x[: len(STRIP_TIMES)], eps)


def _save_strip(job: Job, model: Denoiser, codec: ImageCodec, x: Tensor, eps: Tensor) -> None:
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
        if codec is not PIXEL_CODEC:
            pairs = [x, codec.decode(codec.encode(x))]
            save_strip(job.artifacts / "autoencoder.png", [to_uint8(panel.cpu()) for panel in pairs])


def measure_fidelity(job: Job, samples: np.ndarray, codec: ImageCodec) -> None:
    """Distances between samples and training pictures, in the features of every extractor at hand, each with real against real."""
    data, tables, budget = job.data, job.tables, job.spec.config.measure
    reference = data.train[: budget.fd_reference]
    # Real against real: pictures that are not in the reference, held-out ones first.
    real = np.concatenate([data.held_out, data.train[budget.fd_reference :]])[: len(samples)]
    reconstructed = None if codec is PIXEL_CODEC else _reconstruct(real, codec, job.device)
    kept: dict[str, Tensor] = {}
    for extractor in job.suite.extractors.values():
        with job.task("features", len(real) + len(reference) + len(samples)) as bar:
            of_reference = reference_features(reference, extractor, on_batch=bar.advance)
            of_real = reference_features(real, extractor, on_batch=bar.advance)
            of_samples = collect(batches_of(samples), extractor, len(samples), on_batch=bar.advance)
        kept[extractor.name] = torch.from_numpy(of_samples.rows)
        _add_distances(tables, extractor, of_samples, of_reference, "")
        _add_distances(tables, extractor, of_real, of_reference, "_floor")
        if reconstructed is not None and extractor.name == EMBEDDED:
            of_reconstructed = collect(batches_of(reconstructed), extractor, len(real))
            _add_distances(
                tables, extractor, of_reconstructed, of_reference, "", prefix="autoencoder_", kinds=["frechet"]
            )
    # So that a difference between two runs can be resampled with common indices.
    job.check_lease()
    save_tensors(job.artifacts / "features.safetensors", kept, {"run_id": tables.run["run_id"]})
    tables.run |= {"fd_n": len(samples), "fd_floor_n": len(real), "fd_ref_n": len(reference)}


def _add_distances(
    tables: Tables,
    extractor: Extractor,
    some: Features,
    reference: Features,
    suffix: str,
    *,
    prefix: str = "",
    kinds: Collection[str] = SETS,
) -> None:
    for kind, estimate in between(some, reference, kinds).items():
        metric = f"{prefix}{name_of(kind, extractor.name)}{suffix}"
        row = {"extractor": extractor.name, "metric": metric, **asdict(estimate), "weights_digest": extractor.digest}
        tables.add("fidelity", row | {"n": used(kind, some), "ref_n": used(kind, reference)})
        if metric in HEADLINES:
            tables.run[metric] = estimate.value


def measure_neighbours(job: Job, samples: np.ndarray) -> None:
    """How unlike each other samples are, and how near to training pictures, by every perceptual distance at hand."""
    tables, held_out = job.tables, job.data.held_out
    train = job.data.train[: job.spec.config.measure.nearest_train]
    for name, distance in job.suite.distances.items():
        with job.task("neighbours", len(train)) as bar:
            looks = look(samples, held_out, lambda: batches_of(train), distance, job.device, on_batch=bar.advance)
        _add_looks(tables, name, distance, looks, len(train))
        if name == "pd":
            order = looks.neighbours.distance.argsort()[:NEIGHBOURS]
            pairs = [samples[order.numpy()], train[looks.neighbours.index[order].numpy()]]
            save_strip(job.artifacts / "nearest.png", pairs)
    tables.run["memorised"] = looks.memorised  # by the last: LPIPS where it is at hand


def _add_looks(tables: Tables, name: str, distance: Distance, looks: Looks, n_train: int) -> None:
    for suffix, found, counts in (("", looks.samples, looks.counts), ("_floor", looks.real, looks.real_counts)):
        for kind, estimate in found.items():
            metric = f"{kind}_{name}{suffix}"
            row = {
                "extractor": PERCEPTUAL[name],
                "metric": metric,
                **asdict(estimate),
                "weights_digest": distance.digest,
            }
            tables.add("fidelity", row | {"n": counts[kind], "ref_n": None if kind == "diversity" else n_train})
            if metric in HEADLINES:
                tables.run[metric] = estimate.value


def _reconstruct(pictures: np.ndarray, codec: ImageCodec, device: torch.device) -> np.ndarray:
    """Encode and decode pictures (N, 3, 64, 64) uint8."""
    with torch.inference_mode():
        batches = (x.to(device).float() / 127.5 - 1 for x in torch.from_numpy(pictures).split(BATCH))
        return np.concatenate([to_uint8(codec.decode(codec.encode(x)).cpu()) for x in batches])


def measure_times(job: Job, model: Denoiser, codec: ImageCodec) -> None:
    """Time one network evaluation at every batch size, side by side, and one whole picture."""
    config, seed, tables, device, precision = job.spec.config, job.spec.seed, job.tables, job.device, job.precision
    channels, size, _ = model.space
    noise = rng.normal(seed, "latency", range(max(config.measure.latency_batches)), (channels, size, size)).to(device)

    budget, nfe = config.measure, evaluations(config.sample.solver, config.sample.num_steps)

    def once(calls: int) -> Denoise:
        """As in sampling: on a GPU recorded, in the first call."""
        return cuda_graphs.captured(lambda z, t: denoise(model, config, z, t, precision), calls, device)

    def step() -> Callable[[int], Tensor]:
        call = once(budget.latency_samples)
        return lambda batch: call(noise[:batch], noise.new_full((batch,), 0.5))

    def image() -> Callable[[int], Tensor]:
        call = once(nfe)
        return lambda batch: sample_images_with(call, config, seed, range(batch), decode=codec.decode, device=device)

    def timed(scope: str, batch: int, call: Callable[[int], Tensor]) -> Timed:
        columns = {"batch": batch, "scope": scope, "scheme": precision, "engine": "torch", "session": RUN_SESSION}
        return Timed(columns | machine.conditions(device), lambda: call(batch))

    steps = [timed("step", batch, step()) for batch in budget.latency_batches]
    rows = time_calls(steps, rounds=budget.latency_samples, warmup=3, device=device, seed=seed)
    rows += time_calls([timed("image", 1, image())], rounds=5, warmup=1, device=device, seed=seed)
    for row in rows:
        tables.add("latency", row)
    for scope in ("step", "image"):
        found = [float(str(row["latency_ms"])) for row in rows if (row["scope"], row["batch"]) == (scope, 1)]
        tables.run[f"latency_{scope}_ms"] = float(np.median(found))
