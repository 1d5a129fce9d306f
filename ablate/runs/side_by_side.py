"""Finished runs timed again, side by side in one process: the computation of `ablate bench`.

For every batch size, each run in each scheme is one call of `time_calls`. All are made once per
round, so a disturbance of the machine affects all of them, and ratios are taken within rounds. The
raw times of a session are added to the latency table.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ablate.base import cuda_graphs, machine, rng
from ablate.base.errors import AblateError, ResultsError, did_you_mean, require
from ablate.base.progress import Progress
from ablate.diffusion.sampling import denoise
from ablate.diffusion.solvers import SOLVERS, Denoise
from ablate.inference import executorch, export, onnx, onnx_runtime, openvino
from ablate.inference.energy import EnergyCounter, energy_counter
from ablate.inference.latency import TimedCall, time_calls
from ablate.inference.onnx import ExportableModel, Graphs
from ablate.inference.trained_run import TrainedRun
from ablate.runs.finished import find_runs
from ablate.runs.loading import load_run
from ablate.stats.quantiles import NOISE_THRESHOLD, noise, quantiles, ratio
from ablate.store import tables
from ablate.store.schema import BENCH_SESSION

Row = dict[str, Any]

MAX_BATCH = 4096
WARMUP = 3
NAMES = ("run_id", "scheme", "engine")  # what identifies a timed call


# A finished run with its networks in one scheme on one engine.
Opened = tuple[TrainedRun, onnx.ImageGenerator]


class FinishedRun:
    """A finished run on a device, whose graphs are exported once: that takes up to 20 seconds."""

    def __init__(self, folder: Path, run_id: str, device: torch.device) -> None:
        """Name the run and the device where it computes."""
        self.folder, self.run_id, self.device = folder, run_id, device

    def load(self, precision: str | None = None) -> TrainedRun:
        """Load the run, whose autoencoder decodes in a precision, as in `load_run`."""
        return load_run(self.folder, self.run_id, self.device, precision=precision)

    @cached_property
    def exportable(self) -> tuple[TrainedRun, ExportableModel]:
        """The run and its exportable form."""
        run = self.load("fp32")
        return run, onnx.exportable(run.model, run.config, run.codec)

    @cached_property
    def float_graphs(self) -> Graphs:
        """The graphs in float32."""
        return onnx.export_graphs(self.exportable[1])

    @cached_property
    def int8_graphs(self) -> Graphs:
        """The graphs in int8."""
        run, model = self.exportable
        return export.int8_graphs(run, model, self.float_graphs, run.config.quantize.calibration)


def _in_torch(precision: str) -> Callable[[FinishedRun], Opened]:
    def open_(finished: FinishedRun) -> Opened:
        run = finished.load(precision)
        network = onnx.ImageGenerator(lambda z, t: denoise(run.model, run.config, z, t, precision), run.codec.decode)
        return run, network

    return open_


def _in_engine(
    scheme: str, engine: str, sessions: Callable[[FinishedRun], onnx.ImageGenerator]
) -> Callable[[FinishedRun], Opened]:
    def open_(finished: FinishedRun) -> Opened:
        if finished.device.type != "cpu":
            raise AblateError(f"--device {finished.device}: {engine} computes on the CPU here; fix: --device cpu")
        run, model = finished.exportable
        network, latents = sessions(finished), export.cat_latents(run)
        calls = {"step": network.denoise} | ({} if model.decode is None else {"decode": network.decode})
        for graph, call in calls.items():
            result, same = export.compare_with_torch(call, model, latents, scheme, graph)
            if not same:
                raise ResultsError(f"{finished.run_id}: {graph} as {scheme}/{engine}: {result}; it is not timed")
        return run, network

    return open_


def _of_graphs(scheme: str, engine: onnx.Engine) -> Callable[[FinishedRun], onnx.ImageGenerator]:
    def sessions(finished: FinishedRun) -> onnx.ImageGenerator:
        graphs = finished.int8_graphs if scheme == "int8" else finished.float_graphs
        return onnx.onnx_network(graphs, machine.threads(), finished.exportable[0].config, engine)

    return sessions


def _of_executorch(finished: FinishedRun) -> onnx.ImageGenerator:
    run, model = finished.exportable
    step = executorch.Session(model.step, machine.threads())
    decode = None if model.decode is None else executorch.Session(model.decode, machine.threads())
    return onnx.ImageGenerator(step, decode or run.codec.decode)


# (scheme, engine) -> a function that opens a run in it. A scheme without an engine is the first
# entry of that scheme. An engine with its own threads uses `machine.threads()`.
NETWORKS: dict[tuple[str, str], Callable[[FinishedRun], Opened]] = {
    ("fp32", "torch"): _in_torch("fp32"),
    ("bf16", "torch"): _in_torch("bf16"),
    ("int8", "onnxruntime"): _in_engine("int8", "onnxruntime", _of_graphs("int8", onnx_runtime.Session)),
    ("fp32", "onnxruntime"): _in_engine("fp32", "onnxruntime", _of_graphs("fp32", onnx_runtime.Session)),
    ("int8", "openvino"): _in_engine("int8", "openvino", _of_graphs("int8", openvino.Session)),
    ("fp32", "openvino"): _in_engine("fp32", "openvino", _of_graphs("fp32", openvino.Session)),
    ("fp32", "executorch"): _in_engine("fp32", "executorch", _of_executorch),
}
# Packages of extras that an engine needs.
PACKAGES = {
    "onnxruntime": ("onnxscript", "onnxruntime"),
    "openvino": ("onnxscript", "openvino"),
    "executorch": ("executorch",),
}


def _as_sampled(network: onnx.ImageGenerator, z: Tensor) -> Denoise:
    return cuda_graphs.captured(network.denoise, cuda_graphs.CAPTURE_FROM_CALLS, z.device)


def _step(run: TrainedRun, network: onnx.ImageGenerator, z: Tensor) -> Callable[[], object]:
    t, denoise = z.new_full((len(z),), 0.5), _as_sampled(network, z)
    return lambda: denoise(z, t)


def _image(run: TrainedRun, network: onnx.ImageGenerator, z: Tensor) -> Callable[[], object]:
    settings, denoise = run.config.sample, _as_sampled(network, z)

    def call() -> Tensor:
        x = SOLVERS[settings.solver](denoise, z, settings.num_steps)
        with torch.inference_mode():
            return network.decode(x).cpu()

    return call


# What one call computes: (run, its networks, noise z (B, C, S, S)) -> the call.
SCOPES: dict[str, Callable[[TrainedRun, onnx.ImageGenerator, Tensor], Callable[[], object]]] = {
    "step": _step,
    "image": _image,
}


def parse_batches(text: str) -> list[int]:
    """Return the batch sizes of a list such as `1,8,64`, in order and once each.

    Raises:
        AblateError: A part is not a whole number between 1 and `MAX_BATCH`.
    """
    batches = []
    for part in map(str.strip, text.split(",")):
        if not (part.isascii() and part.isdigit() and 1 <= int(part) <= MAX_BATCH):
            raise AblateError(f"--batch {text}: {part!r} is not a batch size; allowed: 1 to {MAX_BATCH}, as in 1,8,64")
        batches.append(int(part))
    return list(dict.fromkeys(batches))


def parse_schemes(text: str) -> list[tuple[str, str]]:
    """Return (scheme, engine) for each part of `fp32,bf16` or `fp32/torch`, in order and once each.

    `all` stands for every scheme on every engine that is installed.

    Raises:
        AblateError: A scheme or engine that there is not, or whose package is not installed.
    """
    allowed: dict[str, tuple[str, str]] = {}
    for scheme, engine in NETWORKS:
        allowed.setdefault(scheme, (scheme, engine))
        allowed[f"{scheme}/{engine}"] = (scheme, engine)
    chosen = []
    for part in map(str.strip, text.split(",")):
        if part == "all":
            chosen += [(scheme, engine) for scheme, engine in NETWORKS if _is_installed(engine)]
            continue
        if part not in allowed:
            near = did_you_mean(part, allowed)
            raise AblateError(f"--schemes {text}: unknown scheme {part!r}{near} Allowed: all, {', '.join(allowed)}")
        for package in PACKAGES.get(allowed[part][1], ()):
            require(f"--schemes {part}", package)
        chosen.append(allowed[part])
    return list(dict.fromkeys(chosen))


def _is_installed(engine: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES.get(engine, ()))


def time_runs(
    folder: Path,
    names: Sequence[str],
    *,
    batches: Sequence[int],
    rounds: int,
    schemes: Sequence[tuple[str, str]],
    scope: str,
    device: torch.device,
    threads: int | None,
    seed: int,
    progress: Progress,
) -> Row:
    """Time finished runs side by side, and add the raw times to the latency table.

    Args:
        folder: The results folder.
        names: Runs as for `find_runs`; the first one in the first scheme is the reference.
        batches: Batch sizes; the times of each are saved when it is finished.
        rounds: Timed repetitions of each call.
        schemes: Keys of `NETWORKS`.
        scope: A key of `SCOPES`.
        device: Where the networks compute.
        threads: torch's threads during the session; None: unchanged.
        seed: Of the noise, the order of calls and the resamples.
        progress: Bars to show.

    Returns:
        A document of plain values without NaN: the session's name, its conditions, the reference,
        for each batch size a group with the entries of `summarise`, and what the energy covers
        (`energy.source`) or why there is none (`energy.note`).

    Raises:
        AblateError: A run is missing or unfinished, a file is damaged, or the folder cannot be
            written.
    """
    runs = find_runs(folder, names)
    tables.check_folder(folder)
    before = tables.read(folder, "latency")
    started = datetime.now(UTC)
    session = f"{BENCH_SESSION}{started:%Y%m%dT%H%M%S.%fZ}"
    groups = []
    counter = energy_counter(device)
    with machine.use_threads(threads):
        opened = [FinishedRun(folder, row["run_id"], device) for row in runs]
        networks = {(one.run_id, *scheme): NETWORKS[scheme](one) for one in opened for scheme in schemes}
        columns = {"session": session, "scope": scope, **machine.conditions(device)}
        for batch in batches:
            calls = len(networks) * (1 + WARMUP + rounds)
            with progress.task(f"batch {batch}", calls) as bar:
                timed = []
                for key, (run, network) in networks.items():
                    z = rng.normal(seed, "latency", range(batch), run.config.shape).to(device)
                    own = {**dict(zip(NAMES, key, strict=True)), "batch": batch, **columns}
                    timed.append(TimedCall(own, SCOPES[scope](run, network, z)))
                times = time_calls(timed, rounds=rounds, warmup=WARMUP, device=device, seed=seed, on_call=bar.advance)
                joules = {tuple(t.columns[name] for name in NAMES): _joules_per_image(counter, t) for t in timed}
            for row in times:
                row["joules_per_image"] = joules[tuple(row[name] for name in NAMES)]
            tables.append(folder, {"latency": times}, replace=False)
            groups.append({"batch": batch, "rows": summarise(times, list(networks), seed)})
    reference = next(iter(networks))
    labels = {row["run_id"]: {name: row[name] for name in ("variant", "preset", "seed")} for row in runs}
    return {
        **columns,
        "started_at": started.isoformat(timespec="seconds"),
        "seed": seed,
        "rounds": rounds,
        "warmup": WARMUP,
        "noise_threshold": NOISE_THRESHOLD,
        "reference": dict(zip(NAMES, reference, strict=True)),
        "runs": labels,
        "groups": groups,
        "agreement": agreement(groups, columns, before),
        "energy": {"note": counter} if isinstance(counter, str) else {"source": counter.source},
    }


def _joules_per_image(counter: EnergyCounter | str, timed: TimedCall) -> float | None:
    if isinstance(counter, str):
        return None
    return counter.joules_of(timed.call) / int(str(timed.columns["batch"]))


def summarise(rows: Sequence[Mapping[str, Any]], keys: Sequence[tuple[str, str, str]], seed: int = 0) -> list[Row]:
    """Summarise the raw rows of one batch size.

    Args:
        rows: Of the latency table, all of one session, scope and batch size.
        keys: (run, scheme, engine) of the timed calls; the first is the reference.
        seed: Of the resamples.

    Returns:
        One entry for each key, in order: `n` rounds; `first_call_ms`; `p50_ms`, `p90_ms`, `p99_ms`
        of the wall time, None if n is too small for them; `noise` (IQR / median), and `noisy` if it
        is above the threshold; `ratio` to the reference's median with its interval `ratio_low` to
        `ratio_high`; `images_per_s` at the median, where an evaluation of the scope `step` counts
        as an image; `device_p50_ms` and the highest `peak_memory_mb`, None on a CPU; and
        `joules_per_image`, None without a counter of energy.
    """
    kept = {
        key: sorted(
            (row for row in rows if tuple(row[name] for name in NAMES) == key), key=lambda row: int(row["sample"])
        )
        for key in keys
    }
    times = {key: [row["latency_ms"] for row in some] for key, some in kept.items()}
    entries = []
    for key, some in kept.items():
        spread, against = noise(times[key]), ratio(times[key], times[keys[0]], seed=seed)
        median = quantiles(times[key])["p50"]
        on_device = [row["device_ms"] for row in some if row["device_ms"] is not None]
        peaks = [row["peak_memory_mb"] for row in some if row["peak_memory_mb"] is not None]
        entries.append(
            {
                **dict(zip(NAMES, key, strict=True)),
                "n": len(some),
                "first_call_ms": some[0]["first_call_ms"],
                **{f"{name}_ms": value for name, value in quantiles(times[key]).items()},
                "noise": spread,
                "noisy": spread is not None and spread > NOISE_THRESHOLD,
                "ratio": against and against.value,
                "ratio_low": against and against.low,
                "ratio_high": against and against.high,
                "images_per_s": None if median is None else 1e3 * some[0]["batch"] / median,
                "device_p50_ms": quantiles(on_device)["p50"],
                "peak_memory_mb": max(peaks, default=None),
                "joules_per_image": some[0].get("joules_per_image"),
            }
        )
    return entries


def agreement(groups: Sequence[Row], columns: Row, before: pd.DataFrame) -> Row | None:
    """Compare a session's ratios with those of the newest earlier session of the same kind.

    Args:
        groups: As in the document of `time_runs`.
        columns: The session's scope and conditions.
        before: The latency table before the session.

    Returns:
        `session`, the earlier one's name; `compared`, how many ratios both have; `largest_change`,
        the greatest |ratio / earlier - 1|; and `furthest`, its (run, scheme, engine, batch). None
        if no earlier session with this scope, device, CPU and number of threads timed the reference
        and another call.
    """
    alike = before[before["session"].str.startswith(BENCH_SESSION).fillna(False)]
    for name in ("scope", "device", "processor", "threads"):
        alike = alike[alike[name] == columns[name]]
    for session in sorted(alike["session"].unique(), reverse=True):
        rows = [{str(k): v for k, v in row.items()} for row in alike[alike["session"] == session].to_dict("records")]
        changes: list[tuple[float, Row]] = []
        for group in groups:
            earlier = [row for row in rows if row["batch"] == group["batch"]]
            timed = {tuple(row[name] for name in NAMES) for row in earlier}
            now = {tuple(row[name] for name in NAMES): row["ratio"] for row in group["rows"]}
            if next(iter(now)) not in timed:
                continue
            for row in summarise(earlier, [key for key in now if key in timed])[1:]:
                key = tuple(row[name] for name in NAMES)
                if row["ratio"] and now[key]:
                    changes.append(
                        (
                            abs(now[key] / row["ratio"] - 1),
                            dict(zip(NAMES, key, strict=True)) | {"batch": group["batch"]},
                        )
                    )
        if changes:
            largest, furthest = max(changes, key=lambda change: change[0])
            return {"session": session, "compared": len(changes), "largest_change": largest, "furthest": furthest}
    return None
