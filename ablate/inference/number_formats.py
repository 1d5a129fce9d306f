"""The effect of number formats: a run's images against those in float32, from the same noise.

    row = (scheme, scope);   scope = one module group, `kpn` (all but the drift network) or `all`

int8 is computed by ONNX Runtime and timed there, beside the float32 graph. The other schemes are
simulated, and so is int8 in the filters, for which ONNX Runtime has no integer operation. A
simulated row says so, and has no file and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.base import machine, rng
from ablate.base.errors import AblateError, ResultsError, require
from ablate.base.progress import Progress
from ablate.data.datasets import ImageSet
from ablate.diffusion.sampling import BATCH, to_uint8
from ablate.diffusion.solvers import evaluations, network_evaluations
from ablate.inference import onnx_runtime, simulated_formats
from ablate.inference.latency import TimedCall, time_calls
from ablate.inference.onnx import (
    CalibrationInputs,
    ExportableModel,
    Graphs,
    ImageGenerator,
    calibration_inputs,
    export_graphs,
    exportable,
    onnx_network,
    to_int8,
)
from ablate.inference.requested_formats import ALL_BUT_DRIFT, EXPORTER, groups_of
from ablate.inference.trained_run import TrainedRun
from ablate.metrics.extractors import Extractor
from ablate.metrics.networks import MetricNetworks
from ablate.metrics.pair_distances import mean_pair_scores
from ablate.metrics.reference_cache import batches_of, reference_features
from ablate.metrics.set_distances import Features, bootstrap_difference, collect_features, frechet_distance
from ablate.models.autoencoder import image_codec
from ablate.models.cost import cost
from ablate.store import tables as results
from ablate.study.config import QuantizeConfig
from ablate.study.metric_names import EMBEDDED, INCEPTION

Row = dict[str, Any]

FLOAT = "fp32"  # the row that the others are compared with
BATCHES = (1, 8)  # batch sizes of the timed calls
DISTANCES = {EMBEDDED: "fd", INCEPTION: "fid"}  # extractor -> column
CPU = torch.device("cpu")  # where ONNX Runtime and the simulation compute


@dataclass
class _FormatContext:
    """What the rows of one run need."""

    run: TrainedRun
    model: ExportableModel
    graphs: Graphs
    threads: int
    calibration: CalibrationInputs
    score: Callable[[Tensor], Row]
    float_images: Tensor
    amax: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def activation_ranges(self) -> dict[str, dict[str, Tensor]]:
        """The largest magnitude of every activation of both networks, computed once."""
        if not self.amax:
            for name, part in self.model.parts.items():
                self.amax[name] = simulated_formats.activation_ranges(part, self.calibration.inputs[name])
        return self.amax


def measure_formats(
    run: TrainedRun,
    data: ImageSet,
    networks: MetricNetworks,
    wanted: QuantizeConfig,
    *,
    session: str,
    progress: Progress,
    done: Collection[tuple[str, str]] = (),
) -> dict[str, list[Row]]:
    """Measure a trained run in other number formats.

    Args:
        run: The run.
        data: Its training images.
        networks: What images are measured with.
        wanted: Schemes, scopes and numbers of images. A scope that the model lacks is left out.
        session: Names the timed calls in the latency table.
        progress: Bars to show.
        done: (scheme, scope) pairs to leave out.

    Returns:
        The rows of `quantized` and `latency`; empty if there is nothing to do.
    """
    if not wanted.schemes:
        return {}
    model = exportable(run.model, run.config, run.codec)
    scopes = wanted.scopes
    if run.config.model.kind != ALL_BUT_DRIFT:  # the presets name the scope of the packaged model
        scopes = tuple(dict.fromkeys("all" if scope == ALL_BUT_DRIFT else scope for scope in scopes))
    pairs = [
        (scheme, scope)
        for scheme in wanted.schemes
        for scope in scopes
        if (scheme, scope) not in done and groups_of(scope, model.groups)
    ]
    if not pairs:
        return {}
    try:
        require("number formats are not measured", EXPORTER)
    except AblateError as error:
        progress.say(f"note: {error}", once=True)
        return {}
    name, seed, n = f"{run.row['variant']} s{run.row['seed']}", run.row["seed"], wanted.samples
    with progress.task(f"{name}: quantise", len(pairs) + 2) as bar:
        threads = machine.threads()
        try:
            graphs = export_graphs(model)
        except ResultsError as error:
            progress.say(f"note: no number formats: {error}", once=True)
            return {}
        network = onnx_network(graphs, threads, run.config)
        bar.advance(1, "float32")
        calibration = calibration_inputs(network, run.config, seed, wanted.calibration)
        images = network.draw(run.config, seed, range(n))
        score = _scorer(run, data, networks, images)
        context = _FormatContext(run, model, graphs, threads, calibration, score, images)
        bar.advance()
        rows = [] if (FLOAT, "all") in done else [_float_row(context)]
        timed: dict[str, ImageGenerator] = {FLOAT: network}
        for scheme, scope in pairs:
            row, engine_network = _row(context, scheme, scope)
            rows.append(row)
            if engine_network is not None:
                timed[_label(scheme, scope)] = engine_network
            bar.advance(1, f"{scheme} {scope}")
    latencies = _time(timed, run, session, threads) if len(timed) > 1 else []

    def median(label: str) -> float | None:
        times_ms = [row["latency_ms"] for row in latencies if (row["scheme"], row["batch"]) == (label, 1)]
        return float(np.median(times_ms)) if times_ms else None

    for row in rows:
        row["latency_step_ms"] = None if row["simulated"] else median(_label(row["scheme"], row["scope"]))
        if row["latency_step_ms"] is not None:
            row["float_latency_step_ms"] = median(FLOAT)  # timed beside it: times of other sessions do not compare
        row["run_id"] = run.row["run_id"]
        row["engine_version"] = metadata.version(row["engine"])
    return {"quantized": rows, "latency": [{"run_id": run.row["run_id"], **row} for row in latencies]}


def add_missing_formats(
    folder: Path,
    run: TrainedRun,
    data: ImageSet,
    networks: MetricNetworks,
    wanted: QuantizeConfig,
    *,
    session: str,
    progress: Progress,
) -> int:
    """Add the formats that a finished run lacks to the tables, and return the number of rows.

    Raises:
        ResultsError: The tables cannot be read or written.
    """
    before = results.read(folder, "quantized")
    mine = before[before["run_id"] == run.row["run_id"]]
    done = set(zip(mine["scheme"], mine["scope"], strict=True))
    tables = measure_formats(run, data, networks, wanted, session=session, progress=progress, done=done)
    if tables:
        results.append(folder, tables, replace=False)
    return len(tables.get("quantized", []))


def _label(scheme: str, scope: str) -> str:
    """Return a scheme's name in the latency table: with its scope, if that is not `kpn`."""
    return scheme if scheme == FLOAT or scope == ALL_BUT_DRIFT else f"{scheme}/{scope}"


def _float_row(context: _FormatContext) -> Row:
    size = sum(graph.ByteSize() for graph in context.graphs.values())
    row = {"scheme": FLOAT, "scope": "all", "engine": "onnxruntime", "simulated": False}
    row |= {"weight_bits": 32, "activation_bits": 32, "macs_share": 0.0, "file_bytes": size}
    scores = context.score(context.float_images)
    kept = {key: value for key, value in scores.items() if key in ("n", "fd_ref_n", *DISTANCES.values())}
    return row | kept | {"weight_bytes": _weight_bytes(context, FLOAT, ())}


def _row(context: _FormatContext, scheme: str, scope: str) -> tuple[Row, ImageGenerator | None]:
    """Measure one row. Also return the generator, if ONNX Runtime really computes it."""
    groups, form, seed = (
        groups_of(scope, context.model.groups),
        simulated_formats.FORMATS[scheme],
        context.run.row["seed"],
    )
    real = scheme == "int8" and groups != ["filters"]
    row: Row = {"scheme": scheme, "scope": scope, "simulated": not real, "weight_bits": form.bits}
    row["activation_bits"] = form.bits if form.activations else 32
    row["weight_bytes"] = _weight_bytes(context, scheme, groups)
    if form.activations and form.scaled:
        row |= {"calibration_n": context.calibration.n, "calibration_digest": context.calibration.digest}
    if real:
        graphs = to_int8(context.graphs, groups, context.calibration)
        network = onnx_network(graphs, context.threads, context.run.config)
        share = {name: onnx_runtime.int8_macs(graph, context.graphs[name]) for name, graph in graphs.items()}
        row |= {"engine": "onnxruntime", "file_bytes": sum(graph.ByteSize() for graph in graphs.values())}
    else:
        network = _simulated(context, scheme, groups)
        share = {name: _weighted_macs(graph, groups) for name, graph in context.graphs.items()}
        if "filters" in groups:
            share["step"] += context.run.config.sample.networks * cost(context.run.config).macs.get("filters", 0)
        row |= {"engine": "torch"}
    row["macs_share"] = _share(context.run, share)
    row |= context.score(network.draw(context.run.config, seed, range(len(context.float_images))))
    return row, network if real else None


def _simulated(context: _FormatContext, scheme: str, groups: Collection[str]) -> ImageGenerator:
    amax = context.activation_ranges() if simulated_formats.FORMATS[scheme].scaled else {}
    parts = {
        name: simulated_formats.simulated(part, scheme, groups, amax.get(name, {}))
        for name, part in context.model.parts.items()
    }

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode():
            return parts["step"](z, t)

    return ImageGenerator(denoise, parts.get("decode", image_codec(context.run.config.shape[0]).decode))


def _weight_bytes(context: _FormatContext, scheme: str, groups: Collection[str]) -> int:
    return sum(simulated_formats.weight_bytes(part, scheme, groups) for part in context.model.parts.values())


def _weighted_macs(graph: Any, groups: Collection[str]) -> int:
    macs = onnx_runtime.product_macs(graph)
    return sum(macs[name] for name in onnx_runtime.weighted_nodes(graph, groups))


def _share(run: TrainedRun, macs: Mapping[str, int]) -> float:
    """Return the share of an image's multiply-accumulates: all evaluations and the decoding."""
    sample, spent = run.config.sample, cost(run.config)
    whole = network_evaluations(sample) * spent.total_macs + spent.decode_macs
    return (evaluations(sample.solver, sample.num_steps) * macs["step"] + macs.get("decode", 0)) / whole


def _scorer(run: TrainedRun, data: ImageSet, networks: MetricNetworks, images: Tensor) -> Callable[[Tensor], Row]:
    """Return a function that compares images (N, 3, 64, 64) with the float32 ones."""
    reference = data.training_images(run.config.measure.fd_reference)
    features: dict[
        str, tuple[Extractor, Features, Features]
    ] = {}  # column -> extractor, of reference and float32 images
    for extractor in networks.extractors.values():
        if extractor.name in DISTANCES:
            of_float = collect_features(batches_of(to_uint8(images)), extractor, len(images))
            features[DISTANCES[extractor.name]] = (extractor, reference_features(reference, extractor), of_float)

    def score(changed: Tensor) -> Row:
        pairs = zip(changed.split(BATCH), images.clamp(-1, 1).split(BATCH), strict=True)
        row: Row = mean_pair_scores(pairs, networks.distances, networks.device)
        row |= {"n": len(changed), "fd_ref_n": len(reference)}
        for name, (extractor, of_reference, of_float) in features.items():
            of_changed = collect_features(batches_of(to_uint8(changed)), extractor, len(changed))
            row[name] = frechet_distance(of_changed.statistics, of_reference.statistics)
            change = bootstrap_difference(of_changed.rows, of_float.rows, of_reference.statistics)
            values = {"change": change.value, "change_low": change.low, "change_high": change.high}
            row |= {f"{name}_{column}": value for column, value in values.items()}
        return row

    return score


def _time(networks: Mapping[str, ImageGenerator], run: TrainedRun, session: str, threads: int) -> list[Row]:
    """Time one step of every generator that ONNX Runtime computes, side by side."""
    noise = rng.normal(run.row["seed"], "latency", range(max(BATCHES)), run.config.shape)

    def timed(scheme: str, network: ImageGenerator, batch: int) -> TimedCall:
        z, t = noise[:batch], torch.full((batch,), 0.5)
        columns = {"batch": batch, "scope": "step", "scheme": scheme, "engine": "onnxruntime", "session": session}
        return TimedCall(columns | machine.conditions(CPU) | {"threads": threads}, lambda: network.denoise(z, t))

    calls = [timed(scheme, network, batch) for scheme, network in networks.items() for batch in BATCHES]
    return time_calls(calls, rounds=run.config.measure.latency_samples, warmup=3, device=CPU, seed=run.row["seed"])
