"""What number formats do to a finished run: its pictures from the same noise, against those of the float32 graph.

    row = (scheme, scope);   scope = one module group, `kpn` (all but the drift network) or `all`
int8 really runs, on ONNX Runtime, and is timed there, next to the float32 graph. The other schemes, and int8 in the filters (for which
the engine has no integer operation), are simulated: `simulated` says so, and they have no file and no time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.base import machine, rng
from ablate.base.errors import AblateError, did_you_mean
from ablate.base.progress import Progress
from ablate.data.datasets import ImageSet
from ablate.diffusion.sampling import BATCH, to_uint8
from ablate.diffusion.solvers import evaluations
from ablate.inference import onnx as edges
from ablate.inference import onnx_runtime, simulated_formats
from ablate.inference.latency import TimedCall, time_calls
from ablate.inference.onnx import CalibrationInputs, ExportableModel, Graphs, ImageGenerator
from ablate.inference.trained_run import TrainedRun
from ablate.metrics.efficientnet import full_precision
from ablate.metrics.extractors import Extractor
from ablate.metrics.networks import MetricNetworks
from ablate.metrics.pair_distances import psnr_db
from ablate.metrics.reference_cache import batches_of, reference_features
from ablate.metrics.set_distances import Features, bootstrap_difference, collect_features, frechet_distance
from ablate.models.cost import cost
from ablate.models.kpn.backbone import DIFFUSION_SPACES
from ablate.store import tables as results
from ablate.study.config import QuantizeConfig
from ablate.study.metric_names import EMBEDDED, INCEPTION
from ablate.study.plan import RunSpec

Row = dict[str, Any]

SCHEMES = tuple(simulated_formats.FORMATS)
SCOPES = ("kpn", *onnx_runtime.MODULE_GROUPS, "all")
FLOAT = "fp32"  # the row that the others are compared to
BATCHES = (1, 8)  # of the timed calls
DISTANCES = {EMBEDDED: "fd", INCEPTION: "fid"}  # extractor -> column
CPU = torch.device("cpu")  # where ONNX Runtime and the simulation compute


def parse_formats(schemes: str | None, scopes: str | None, default: QuantizeConfig) -> QuantizeConfig:
    """Return what `--quantize` and `--scopes` ask for: lists with commas, `all`, `none`; None keeps the preset's.

    Raises:
        AblateError: An unknown scheme or scope.
    """
    chosen = {
        "schemes": _words("--quantize", schemes, SCHEMES, default.schemes),
        # `all` is a scope of its own: the whole network; every scope is `each`.
        "scopes": _words("--scopes", scopes, SCOPES, default.scopes, every="each"),
    }
    return default.replaced(**chosen)


def with_formats(specs: Sequence[RunSpec], schemes: str | None, scopes: str | None) -> tuple[list[RunSpec], bool]:
    """Return runs measured in other number formats than their files say, and whether finished runs may lack some of these.

    Args:
        specs: The runs.
        schemes: What `--quantize` names, or None for each run's own.
        scopes: What `--scopes` names, or None.

    Raises:
        AblateError: An unknown word.
    """
    if schemes is None and scopes is None:
        return list(specs), False
    wanted = [parse_formats(schemes, scopes, spec.config.quantize) for spec in specs]
    asked = any(one.schemes and one.scopes for one in wanted)
    return [
        dataclasses.replace(spec, config=spec.config.replaced(quantize=one))
        for spec, one in zip(specs, wanted, strict=True)
    ], asked


def _words(
    option: str, text: str | None, allowed: Sequence[str], default: tuple[str, ...], *, every: str = "all"
) -> tuple[str, ...]:
    if text is None:
        return default
    if text.strip() == "none":
        return ()
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in (*allowed, every):
            near = did_you_mean(word, (*allowed, every))
            raise AblateError(f"{option} {text}: unknown {word!r}{near} Allowed: {', '.join((*allowed, every))}, none")
    return tuple(dict.fromkeys(w for word in words for w in (allowed if word == every else [word])))


def groups_of(scope: str, there: Collection[str]) -> list[str]:
    """Return the module groups of a scope, of those that a network has."""
    return [group for group in there if scope in ("all", group) or (scope == "kpn" and group != "drift")]


@dataclass
class _Work:
    """What the rows of one run share."""

    run: TrainedRun
    model: ExportableModel
    graphs: Graphs
    threads: int
    calibration: CalibrationInputs
    score: Callable[[Tensor], Row]
    float_pictures: Tensor
    amax: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def magnitudes(self) -> dict[str, dict[str, Tensor]]:
        """The range of every activation of both networks, measured once."""
        if not self.amax:
            self.amax["step"] = simulated_formats.magnitudes(self.model.step, self.calibration.inputs["step"])
            if self.model.decode is not None:
                self.amax["decode"] = simulated_formats.magnitudes(self.model.decode, self.calibration.inputs["decode"])
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
    """Measure a finished run in other number formats.

    Args:
        run: The run.
        data: The pictures it was trained on.
        networks: What pictures are measured with.
        wanted: Schemes, scopes and how many pictures; a scope that the network does not have is left out.
        session: Names the timed calls in the latency table.
        progress: Bars to show.
        done: (scheme, scope) pairs that are not measured again.

    Returns:
        The rows of `quantized` and `latency`; none where there is nothing to do.
    """
    model = edges.edge(run.model, run.config, run.codec)
    pairs = [
        (scheme, scope)
        for scheme in wanted.schemes
        for scope in wanted.scopes
        if (scheme, scope) not in done and groups_of(scope, model.groups)
    ]
    if not pairs:
        return {}
    name, seed, n = f"{run.row['variant']} s{run.row['seed']}", run.row["seed"], wanted.samples
    with progress.task(f"{name}: quantise", len(pairs) + 2) as bar:
        graphs, threads = edges.export(model), machine.threads()
        network = edges.onnx_network(graphs, threads)
        bar.advance(1, "float32")
        calibration = edges.calibration_inputs(network, run.config, seed, wanted.calibration)
        pictures = network.draw(run.config, seed, range(n))
        score = _scorer(run, data, networks, pictures)
        work = _Work(run, model, graphs, threads, calibration, score, pictures)
        bar.advance()
        rows = [] if (FLOAT, "all") in done else [_float_row(work)]
        timed: dict[str, ImageGenerator] = {FLOAT: network}
        for scheme, scope in pairs:
            row, engine_network = _row(work, scheme, scope)
            rows.append(row)
            if engine_network is not None:
                timed[_label(scheme, scope)] = engine_network
            bar.advance(1, f"{scheme} {scope}")
    latencies = _time(timed, run, session, threads) if len(timed) > 1 else []

    def median(label: str) -> float | None:
        found = [row["latency_ms"] for row in latencies if (row["scheme"], row["batch"]) == (label, 1)]
        return float(np.median(found)) if found else None

    for row in rows:
        row["latency_step_ms"] = None if row["simulated"] else median(_label(row["scheme"], row["scope"]))
        if row["latency_step_ms"] is not None:
            row["float_latency_step_ms"] = median(FLOAT)  # timed beside it: other sessions' do not compare
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
    """Measure what a finished run lacks, add it to the tables, and return how many rows that were.

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
    """The scheme's name in the latency table: the file that is handed out is `int8`, other scopes are named."""
    return scheme if scheme == FLOAT or scope == "kpn" else f"{scheme}/{scope}"


def _float_row(work: _Work) -> Row:
    size = sum(graph.ByteSize() for graph in work.graphs.values())
    row = {"scheme": FLOAT, "scope": "all", "engine": "onnxruntime", "simulated": False}
    row |= {"weight_bits": 32, "activation_bits": 32, "macs_share": 0.0, "file_bytes": size}
    found = work.score(work.float_pictures)
    kept = {key: value for key, value in found.items() if key in ("n", "fd_ref_n", *DISTANCES.values())}
    return row | kept | {"weight_bytes": _weight_bytes(work, FLOAT, ())}


def _row(work: _Work, scheme: str, scope: str) -> tuple[Row, ImageGenerator | None]:
    """Measure one row; also return the network where an engine really runs it."""
    groups, form, seed = groups_of(scope, work.model.groups), simulated_formats.FORMATS[scheme], work.run.row["seed"]
    real = scheme == "int8" and groups != ["filters"]
    row: Row = {"scheme": scheme, "scope": scope, "simulated": not real, "weight_bits": form.bits}
    row["activation_bits"] = form.bits if form.activations else 32
    row["weight_bytes"] = _weight_bytes(work, scheme, groups)
    if form.activations and form.scaled:
        row |= {"calibration_n": work.calibration.n, "calibration_digest": work.calibration.digest}
    if real:
        graphs = edges.to_int8(work.graphs, groups, work.calibration)
        network = edges.onnx_network(graphs, work.threads)
        share = {name: onnx_runtime.int8_macs(graph, work.graphs[name]) for name, graph in graphs.items()}
        row |= {"engine": "onnxruntime", "file_bytes": sum(graph.ByteSize() for graph in graphs.values())}
    else:
        network = _simulated(work, scheme, groups)
        share = {name: _weighted_macs(graph, groups) for name, graph in work.graphs.items()}
        if "filters" in groups:
            share["step"] += cost(work.run.config).macs["filters"]
        row |= {"engine": "torch"}
    row["macs_share"] = _share(work.run, share)
    row |= work.score(network.draw(work.run.config, seed, range(len(work.float_pictures))))
    return row, network if real else None


def _simulated(work: _Work, scheme: str, groups: Collection[str]) -> ImageGenerator:
    amax = work.magnitudes() if simulated_formats.FORMATS[scheme].scaled else {}
    model = work.model
    parts = [
        None if part is None else simulated_formats.simulated(part, scheme, groups, amax.get(name, {}))
        for name, part in (("step", model.step), ("decode", model.decode))
    ]
    assert parts[0] is not None
    return edges.torch_network(parts[0], parts[1])


def _weight_bytes(work: _Work, scheme: str, groups: Collection[str]) -> int:
    parts = [part for part in (work.model.step, work.model.decode) if part is not None]
    return sum(simulated_formats.weight_bytes(part, scheme, groups) for part in parts)


def _weighted_macs(graph: Any, groups: Collection[str]) -> int:
    macs = onnx_runtime.products(graph)
    return sum(macs[name] for name in onnx_runtime.weighted(graph, groups))


def _share(run: TrainedRun, macs: Mapping[str, int]) -> float:
    """The share of a sampled picture's multiply-accumulates, of all its network evaluations and its decoding."""
    nfe, spent = evaluations(run.config.sample.solver, run.config.sample.num_steps), cost(run.config)
    whole = nfe * spent.total_macs + spent.decode_macs
    return (nfe * macs["step"] + macs.get("decode", 0)) / whole


def _scorer(run: TrainedRun, data: ImageSet, networks: MetricNetworks, pictures: Tensor) -> Callable[[Tensor], Row]:
    """Return what compares pictures (N, 3, 64, 64) to the float32 ones, one by one and as sets."""
    reference = data.train[: run.config.measure.fd_reference]
    known: dict[str, tuple[Extractor, Features, Features]] = {}
    for extractor in networks.extractors.values():
        if extractor.name in DISTANCES:
            own = collect_features(batches_of(to_uint8(pictures)), extractor, len(pictures))
            known[DISTANCES[extractor.name]] = (extractor, reference_features(reference, extractor), own)

    def score(found: Tensor) -> Row:
        scores: dict[str, list[Tensor]] = {name: [] for name in ("psnr_db", *networks.distances)}
        with torch.inference_mode():
            for some, same in zip(found.clamp(-1, 1).split(BATCH), pictures.clamp(-1, 1).split(BATCH), strict=True):
                scores["psnr_db"].append(psnr_db(some, same))
                with full_precision(networks.device):
                    for name, distance in networks.distances.items():
                        scores[name].append(distance(some.to(networks.device), same.to(networks.device)).cpu())
        row: Row = {name: float(torch.cat(values).mean()) for name, values in scores.items()}
        row |= {"n": len(found), "fd_ref_n": len(reference)}
        for name, (extractor, of_reference, of_float) in known.items():
            features = collect_features(batches_of(to_uint8(found)), extractor, len(found))
            row[name] = frechet_distance(features.statistics, of_reference.statistics)
            change = bootstrap_difference(features.rows, of_float.rows, of_reference.statistics)
            row |= {
                f"{name}_change": change.value,
                f"{name}_change_low": change.low,
                f"{name}_change_high": change.high,
            }
        return row

    return score


def _time(networks: Mapping[str, ImageGenerator], run: TrainedRun, session: str, threads: int) -> list[Row]:
    """Time one step of every network that an engine runs, side by side."""
    channels, size, _ = DIFFUSION_SPACES[run.config.model.space]
    noise = rng.normal(run.row["seed"], "latency", range(max(BATCHES)), (channels, size, size))

    def timed(scheme: str, network: ImageGenerator, batch: int) -> TimedCall:
        z, t = noise[:batch], torch.full((batch,), 0.5)
        columns = {"batch": batch, "scope": "step", "scheme": scheme, "engine": "onnxruntime", "session": session}
        return TimedCall(columns | machine.conditions(CPU) | {"threads": threads}, lambda: network.denoise(z, t))

    things = [timed(scheme, network, batch) for scheme, network in networks.items() for batch in BATCHES]
    return time_calls(things, rounds=run.config.measure.latency_samples, warmup=3, device=CPU, seed=run.row["seed"])
