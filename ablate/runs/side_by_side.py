"""`ablate bench`: finished runs timed again, side by side in one process.

For every batch size, each run in each scheme is one thing of `time_calls`: all are called once a round, so what disturbs the machine
meets all of them, and ratios are taken within rounds. The raw times of a session are added to the latency table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ablate.base import cuda_graphs, machine, rng
from ablate.base.errors import AblateError, did_you_mean
from ablate.base.progress import Progress
from ablate.diffusion.sampling import denoise
from ablate.diffusion.solvers import SOLVERS, Denoise
from ablate.inference import export, onnx
from ablate.inference.latency import TimedCall, time_calls
from ablate.inference.trained_run import TrainedRun
from ablate.runs.loading import find_runs, load_run
from ablate.stats.quantiles import NOISE_THRESHOLD, noise, quantiles, ratio
from ablate.store import tables
from ablate.store.schema import BENCH_SESSION

Row = dict[str, Any]

MAX_BATCH = 4096
WARMUP = 3
NAMES = ("run_id", "scheme", "engine")  # of a thing that is timed


@dataclass(frozen=True)
class TimedNetwork:
    """A finished run, and its network in one scheme on one engine: (z (B, C, S, S), t (B,)) -> x_hat, and what decodes it, float32."""

    run: TrainedRun
    denoise: Denoise
    decode: Callable[[Tensor], Tensor]


def _in_torch(precision: str) -> Callable[[Path, str, torch.device], TimedNetwork]:
    def open_(folder: Path, run_id: str, device: torch.device) -> TimedNetwork:
        run = load_run(folder, run_id, device, precision=precision)
        return TimedNetwork(run, lambda z, t: denoise(run.model, run.config, z, t, precision), run.codec.decode)

    return open_


def _in_engine(scheme: str) -> Callable[[Path, str, torch.device], TimedNetwork]:
    def open_(folder: Path, run_id: str, device: torch.device) -> TimedNetwork:
        if device.type != "cpu":
            raise AblateError(f"--device {device}: onnxruntime computes on the processor here; use --device cpu")
        run = load_run(folder, run_id, device)
        _, parts = export.build_graphs(run, scheme, run.config.quantize.calibration)
        network = onnx.onnx_network(parts, machine.threads())
        return TimedNetwork(run, network.denoise, network.decode)

    return open_


# (scheme, engine) -> how to open a run in it, from (results folder, run's name, device). A scheme named without its engine is the first
# entry of that scheme. An engine that sets its own number of threads takes `machine.threads()`.
NETWORKS: dict[tuple[str, str], Callable[[Path, str, torch.device], TimedNetwork]] = {
    ("fp32", "torch"): _in_torch("fp32"),
    ("bf16", "torch"): _in_torch("bf16"),
    ("int8", "onnxruntime"): _in_engine("int8"),
    ("fp32", "onnxruntime"): _in_engine("fp32"),
}


def _as_sampled(network: TimedNetwork, z: Tensor) -> Denoise:
    return cuda_graphs.captured(network.denoise, cuda_graphs.CAPTURE_FROM_CALLS, z.device)


def _step(network: TimedNetwork, z: Tensor) -> Callable[[], object]:
    t, denoise = z.new_full((len(z),), 0.5), _as_sampled(network, z)
    return lambda: denoise(z, t)


def _image(network: TimedNetwork, z: Tensor) -> Callable[[], object]:
    settings, decode, denoise = network.run.config.sample, network.decode, _as_sampled(network, z)

    def call() -> Tensor:
        x = SOLVERS[settings.solver](denoise, z, settings.num_steps)
        with torch.inference_mode():
            return decode(x).cpu()

    return call


# What one call is: (network, noise z (B, C, S, S)) -> the call.
SCOPES: dict[str, Callable[[TimedNetwork, Tensor], Callable[[], object]]] = {"step": _step, "image": _image}


def parse_batches(text: str) -> list[int]:
    """Return the batch sizes of `1,8,64`, in order and once each.

    Raises:
        AblateError: Not whole numbers between 1 and `MAX_BATCH`.
    """
    batches = []
    for part in map(str.strip, text.split(",")):
        if not (part.isascii() and part.isdigit() and 1 <= int(part) <= MAX_BATCH):
            raise AblateError(
                f"--batch {text}: {part!r} is not a batch size; allowed: whole numbers from 1 to {MAX_BATCH}, as in 1,8,64"
            )
        batches.append(int(part))
    return list(dict.fromkeys(batches))


def parse_schemes(text: str) -> list[tuple[str, str]]:
    """Return (scheme, engine) for each part of `fp32,bf16` or `fp32/torch`, in order and once each.

    Raises:
        AblateError: A scheme or engine that there is not.
    """
    allowed: dict[str, tuple[str, str]] = {}
    for scheme, engine in NETWORKS:
        allowed.setdefault(scheme, (scheme, engine))
        allowed[f"{scheme}/{engine}"] = (scheme, engine)
    chosen = []
    for part in map(str.strip, text.split(",")):
        if part not in allowed:
            raise AblateError(
                f"--schemes {text}: unknown scheme {part!r}{did_you_mean(part, allowed)} Allowed: {', '.join(allowed)}"
            )
        chosen.append(allowed[part])
    return list(dict.fromkeys(chosen))


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
        names: Of the runs, as `find_runs` takes them; the first one in the first scheme is what the others are compared to.
        batches: Batch sizes; each is saved when it has been measured.
        rounds: TimedCall calls of each thing.
        schemes: Keys of `NETWORKS`.
        scope: A key of `SCOPES`.
        device: Where the networks compute.
        threads: torch's, during the session; None: as they are.
        seed: Of the noise, the order of calls and the resamples.
        progress: Bars to show.

    Returns:
        A document of plain numbers and text: the session's name, its conditions, the reference, and a group for each batch
        size with what `summarise` says of it. It has no NaN: it is strict JSON.

    Raises:
        AblateError: A run that is not there or has not finished, files that are damaged, or a folder that cannot be written.
    """
    runs = find_runs(folder, names)
    tables.check_folder(folder)
    before = tables.read(folder, "latency")
    started = datetime.now(UTC)
    session = f"{BENCH_SESSION}{started:%Y%m%dT%H%M%S.%fZ}"
    groups = []
    with machine.use_threads(threads):
        networks = {
            (row["run_id"], *scheme): NETWORKS[scheme](folder, row["run_id"], device)
            for row in runs
            for scheme in schemes
        }
        columns = {"session": session, "scope": scope, **machine.conditions(device)}
        for batch in batches:
            calls = len(networks) * (1 + WARMUP + rounds)
            with progress.task(f"batch {batch}", calls) as bar:
                things = [
                    TimedCall(
                        {**dict(zip(NAMES, key, strict=True)), "batch": batch, **columns},
                        SCOPES[scope](network, _noise(network, batch, seed, device)),
                    )
                    for key, network in networks.items()
                ]
                found = time_calls(things, rounds=rounds, warmup=WARMUP, device=device, seed=seed, on_call=bar.advance)
            tables.append(folder, {"latency": found}, replace=False)
            groups.append({"batch": batch, "rows": summarise(found, list(networks), seed)})
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
    }


def summarise(rows: Sequence[Mapping[str, Any]], keys: Sequence[tuple[str, str, str]], seed: int = 0) -> list[Row]:
    """Summarise the raw rows of one batch size.

    Args:
        rows: Of the latency table, all of one session, scope and batch size.
        keys: (run, scheme, engine) of what was timed; the first is the reference.
        seed: Of the resamples.

    Returns:
        One entry for each key, in order: `n` rounds; `first_call_ms`; `p50_ms`, `p90_ms`, `p99_ms` of the wall time, None where n does
        not support them; `noise` (IQR / median) and whether it is above the threshold (`noisy`); `ratio` to the reference's median
        with the interval `ratio_low` to `ratio_high`; `images_per_s` at the median, where an evaluation of the scope `step` counts as an
        image; `device_p50_ms` and `peak_memory_mb` (the highest), None on a CPU.
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
            }
        )
    return entries


def agreement(groups: Sequence[Row], columns: Row, before: pd.DataFrame) -> Row | None:
    """Compare a session's ratios with those of the newest earlier one of the same kind.

    Args:
        groups: As in the document of `bench`.
        columns: The session's: its scope and conditions.
        before: The latency table as it was.

    Returns:
        `session`, the earlier one's name; `compared`, how many ratios both have; `largest_change`, the greatest |ratio / earlier - 1|;
        and `furthest`, which (run, scheme, engine, batch) that is. None where no earlier session of this scope, device, processor
        and number of threads timed the reference and something else.
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


def _noise(network: TimedNetwork, batch: int, seed: int, device: torch.device) -> Tensor:
    channels, size, _ = network.run.model.space
    return rng.normal(seed, "latency", range(batch), (channels, size, size)).to(device)
