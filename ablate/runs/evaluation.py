"""Measurements of a trained model: denoising, distances to real images, neighbours, latency.

Each function adds rows to the run's tables, and its headline values to the run's row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ablate.base import cuda_graphs, machine, rng
from ablate.diffusion.objectives import objective_of
from ablate.diffusion.sampling import BATCH, denoise, sample_images_with, to_uint8
from ablate.diffusion.solvers import Denoise, evaluations
from ablate.inference.latency import TimedCall, time_calls
from ablate.metrics.embedding_cache import candidates
from ablate.metrics.extractors import Extractor
from ablate.metrics.neighbours import sample_metrics, to_float
from ablate.metrics.pair_distances import mean_pair_scores
from ablate.metrics.reference_cache import batches_of, reference_features
from ablate.metrics.set_distances import Estimate, Features, collect_features, images_used, set_metrics
from ablate.models.autoencoder import ImageCodec
from ablate.models.weight_files import save_tensors
from ablate.runs.context import RunContext
from ablate.runs.rows import RunRows
from ablate.store.image_grids import save_strip
from ablate.store.schema import RUN_SESSION
from ablate.study.metric_names import EMBEDDED, PERCEPTUAL, SAMPLES, SETS, name_of

TIMES = tuple(i / 10 for i in range(1, 10))  # of the one-step denoising table
STRIP_TIMES = TIMES[:8]  # of the denoising strip
NEAREST_ROWS = 16  # of the image of nearest neighbours
HEADLINES = {  # metrics of the fidelity table that the run's row repeats
    *("fd", "fd_floor", "autoencoder_fd", "fd_inf", "kd", "fid", "fid_floor", "fid_inf", "kid"),
    *(f"{kind}_{distance}" for kind in SAMPLES for distance in ("pd", "lpips")),
}


def measure_denoising(context: RunContext, model: nn.Module, codec: ImageCodec) -> None:
    """Measure one-step denoising of held-out images at every time, and save an image of it."""
    config, rows = context.spec.config, context.rows
    distances = context.networks.distances
    x = to_float(context.data.held_out[: config.measure.denoise_images], context.device)
    eps = rng.normal(context.spec.seed, "denoise", range(len(x)), config.shape).to(context.device)

    def score(decoded: Iterable[Tensor]) -> dict[str, float]:
        """Compare batches of images with the held-out ones."""
        return mean_pair_scores(zip(decoded, x.split(BATCH), strict=True), distances, context.device)

    scores = []
    with context.task("denoise", len(TIMES)) as bar:
        for t in TIMES:
            scores.append(score(denoised_images(context, model, codec, x, eps, t)))
            rows.add("denoising", {"t": t, "n": len(x), **scores[-1]})
            bar.advance()
    rows.run |= {name: float(np.mean([at_t[name] for at_t in scores])) for name in scores[0]}
    if codec.decoder is not None:  # the best that any denoiser of these latents could reach
        ceiling = score(codec.decode(codec.encode(clean)) for clean in x.split(BATCH))
        rows.run |= {f"autoencoder_{name}": ceiling[name] for name in ("psnr_db", "pd")}
    _save_denoising_strip(context, model, codec, x[: len(STRIP_TIMES)], eps)


def denoised_images(
    context: RunContext, model: nn.Module, codec: ImageCodec, x: Tensor, eps: Tensor, t: float
) -> Iterator[Tensor]:
    """Yield batches of images (B, 3, S, S), denoised in one step at the time t in [0, 1].

    Args:
        context: The run.
        model: The trained network.
        codec: Encodes images, and decodes what the network returns.
        x: The clean images (N, 3, S, S), float32 in [-1, 1].
        eps: Their noise (N, C, S, S).
        t: How clean the noisy samples are.
    """
    config, how = context.spec.config, objective_of(context.spec.config.diffusion)
    for clean, noise in zip(x.split(BATCH), eps.split(BATCH), strict=True):
        z, times = how.draw(codec.encode(clean), noise, clean.new_full((len(clean),), t))
        yield codec.decode(denoise(model, config, z, times, context.precision))


def _save_denoising_strip(context: RunContext, model: nn.Module, codec: ImageCodec, x: Tensor, eps: Tensor) -> None:
    """Save one row per time: noisy input, filtered output, drift (grey: none), prediction, target.

    A model that is no sum of the two has neither column. In latent space all are decoded, and a
    second file shows what the autoencoder does to the targets.
    """
    config = context.spec.config
    with torch.inference_mode():
        u = x.new_tensor(STRIP_TIMES[: len(x)])
        z, t = objective_of(config.diffusion).draw(codec.encode(x), eps[: len(x)], u)
        parts = []
        if callable(split := getattr(model, "parts", None)):
            with torch.autocast(z.device.type, torch.bfloat16, enabled=context.precision == "bf16"):
                filtered, drift = split(z, t)
            shown = codec.decode(filtered)
            parts = [shown, torch.zeros_like(x) if drift is None else codec.decode(filtered + drift) - shown]
        x_hat = codec.decode(denoise(model, config, z, t, context.precision))
        panels = [codec.decode(z), *parts, x_hat, x]
        save_strip(context.artifacts / "strip.png", [to_uint8(panel.cpu()) for panel in panels])
        if codec.decoder is not None:
            pairs = [x, codec.decode(codec.encode(x))]
            save_strip(context.artifacts / "autoencoder.png", [to_uint8(panel.cpu()) for panel in pairs])


def measure_fidelity(context: RunContext, samples: np.ndarray, codec: ImageCodec) -> None:
    """Measure distances to training images with every extractor, of samples and of real images."""
    data, rows, budget = context.data, context.rows, context.spec.config.measure
    reference = data.training_images(budget.fd_reference)
    # Real against real: images outside the reference, held-out ones first.
    real = np.concatenate([data.held_out, data.other_training_images(budget.fd_reference)])[: len(samples)]
    reconstructed = None if codec.decoder is None else _reconstruct(real, codec, context.device)
    kept: dict[str, Tensor] = {}
    for extractor in context.networks.extractors.values():
        with context.task("features", len(real) + len(reference) + len(samples)) as bar:
            of_reference = reference_features(reference, extractor, on_batch=bar.advance)
            of_real = reference_features(real, extractor, on_batch=bar.advance)
            of_samples = collect_features(batches_of(samples), extractor, len(samples), on_batch=bar.advance)
        kept[extractor.name] = torch.from_numpy(of_samples.rows)
        _add_set_metrics(rows, extractor, of_samples, of_reference)
        _add_set_metrics(rows, extractor, of_real, of_reference, suffix="_floor")
        if reconstructed is not None and extractor.name == EMBEDDED:
            of_reconstructed = collect_features(batches_of(reconstructed), extractor, len(real))
            _add_set_metrics(rows, extractor, of_reconstructed, of_reference, prefix="autoencoder_", kinds=["frechet"])
    context.check_lease()
    # Kept for the report: it resamples the difference of two runs with common indices.
    save_tensors(context.artifacts / "features.safetensors", kept, {"run_id": rows.run["run_id"]})
    rows.run |= {"fd_n": len(samples), "fd_floor_n": len(real), "fd_ref_n": len(reference)}


def _reconstruct(images: np.ndarray, codec: ImageCodec, device: torch.device) -> np.ndarray:
    """Encode and decode images (N, 3, S, S) uint8."""
    with torch.inference_mode():
        batches = (to_float(x, device) for x in torch.from_numpy(images).split(BATCH))
        return np.concatenate([to_uint8(codec.decode(codec.encode(x)).cpu()) for x in batches])


def _add_set_metrics(
    rows: RunRows,
    extractor: Extractor,
    images: Features,
    reference: Features,
    *,
    prefix: str = "",
    suffix: str = "",
    kinds: Collection[str] = SETS,
) -> None:
    for kind, estimate in set_metrics(images, reference, kinds).items():
        metric = f"{prefix}{name_of(kind, extractor.name)}{suffix}"
        sizes = {"n": images_used(kind, images), "ref_n": images_used(kind, reference)}
        _add_fidelity(rows, metric, estimate, sizes, extractor.name, extractor.digest)


def measure_neighbours(context: RunContext, samples: np.ndarray) -> None:
    """Measure the samples' diversity and nearest training images, by every perceptual distance."""
    rows = context.rows
    train = context.data.training_images(context.spec.config.measure.nearest_train)
    for name, distance in context.networks.distances.items():
        with context.task("neighbours", len(train)) as bar:
            metrics = sample_metrics(
                samples,
                context.data.held_out,
                partial(candidates, train, distance, context.device),
                distance,
                context.device,
                on_batch=bar.advance,
            )
        of_samples, of_real = (metrics.samples, metrics.counts), (metrics.real, metrics.real_counts)
        for (estimates, counts), suffix in ((of_samples, ""), (of_real, "_floor")):
            for kind, estimate in estimates.items():
                sizes = {"n": counts[kind], "ref_n": None if kind == "diversity" else len(train)}
                _add_fidelity(rows, f"{kind}_{name}{suffix}", estimate, sizes, PERCEPTUAL[name], distance.digest)
        rows.run["memorised"] = metrics.memorised  # of the last distance: LPIPS if it is loaded
        if name == "pd":
            order = metrics.neighbours.distance.argsort()[:NEAREST_ROWS]
            pairs = [samples[order.numpy()], train[metrics.neighbours.index[order].numpy()]]
            save_strip(context.artifacts / "nearest.png", pairs)


def _add_fidelity(
    rows: RunRows,
    metric: str,
    estimate: Estimate,
    sizes: Mapping[str, int | None],
    network: str,
    digest: str,
) -> None:
    rows.add(
        "fidelity", {"extractor": network, "metric": metric, **asdict(estimate), "weights_digest": digest, **sizes}
    )
    if metric in HEADLINES:
        rows.run[metric] = estimate.value


def measure_latency(context: RunContext, model: nn.Module, codec: ImageCodec) -> None:
    """Time one network evaluation at every batch size, side by side, and sampling one image."""
    config, seed, device, precision = context.spec.config, context.spec.seed, context.device, context.precision
    budget, nfe = config.measure, evaluations(config.sample.solver, config.sample.num_steps)
    noise = rng.normal(seed, "latency", range(max(budget.latency_batches)), config.shape).to(device)

    def network(calls: int) -> Denoise:
        """Return the network as sampling calls it: on a GPU captured as a CUDA graph."""
        return cuda_graphs.captured(lambda z, t: denoise(model, config, z, t, precision), calls, device)

    def step() -> Callable[[int], Tensor]:
        call = network(budget.latency_samples)
        return lambda batch: call(noise[:batch], noise.new_full((batch,), 0.5))

    def image() -> Callable[[int], Tensor]:
        call = network(nfe)
        return lambda batch: sample_images_with(call, config, seed, range(batch), decode=codec.decode, device=device)

    def timed(scope: str, batch: int, call: Callable[[int], Tensor]) -> TimedCall:
        columns = {"batch": batch, "scope": scope, "scheme": precision, "engine": "torch", "session": RUN_SESSION}
        return TimedCall(columns | machine.conditions(device), lambda: call(batch))

    steps = [timed("step", batch, step()) for batch in budget.latency_batches]
    rows = time_calls(steps, rounds=budget.latency_samples, warmup=3, device=device, seed=seed)
    rows += time_calls([timed("image", 1, image())], rounds=5, warmup=1, device=device, seed=seed)
    for row in rows:
        context.rows.add("latency", row)
    for scope in ("step", "image"):
        times_ms = [float(str(row["latency_ms"])) for row in rows if (row["scope"], row["batch"]) == (scope, 1)]
        context.rows.run[f"latency_{scope}_ms"] = float(np.median(times_ms))
