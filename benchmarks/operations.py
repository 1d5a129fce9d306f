"""The cases of `ablate bench --ops`: parts of a run.

Where the published formulation (`benchmarks.published`) has the same part, it is the reference.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from torch import Tensor, nn

from ablate.base import cuda_graphs, machine, rng
from ablate.base.errors import AblateError, did_you_mean
from ablate.diffusion.objectives import interpolate
from ablate.diffusion.sampling import sample_images, sample_images_with
from ablate.diffusion.solvers import evaluations
from ablate.metrics import extractors
from ablate.models.cost import cost
from ablate.models.denoiser import build
from ablate.models.kpn import filters, rotary
from ablate.models.kpn.denoiser import Denoiser
from ablate.models.kpn.settings import KpnSettings
from ablate.store import tables
from ablate.store.schema import SCHEMAS
from ablate.study import variants
from ablate.study.config import Config
from ablate.study.metric_names import EMBEDDED
from ablate.training.checkpoint import TrainingState
from ablate.training.loop import Batches, learning_rate, loss_terms, make_backward, objective
from ablate.training.perceptual import perceptual_loss
from benchmarks import published

Row = dict[str, Any]
SIDE = 64  # pixels of an image
FILTER_BATCH = {"cpu": 16, "cuda": 2048}  # a GPU filters 16 images faster than the CPU launches a kernel
RUNS = 10_000  # runs of the study that is reported and appended to


@dataclass(frozen=True)
class Case:
    """A part of a run that is timed.

    Attributes:
        batch: Images per call; 0 if the part has no images.
        ours: The call to time.
        reference: The call to compare with, or None.
        flops: Floating-point operations of a call.
        bytes_moved: Bytes that a call has to read and write at least.
    """

    batch: int
    ours: Callable[[], object]
    reference: Callable[[], object] | None = None
    flops: float = 0.0
    bytes_moved: float = 0.0


MakeCase = Callable[[torch.device, Path], Case]  # (device, empty folder) -> case


def _filter(backward: bool) -> MakeCase:
    def make(device: torch.device, folder: Path) -> Case:
        batch = FILTER_BATCH[device.type]
        image, params = (
            torch.randn(batch, n, SIDE, SIDE, device=device, requires_grad=backward) for n in (3, filters.TAPS)
        )
        calls = [
            lambda: filters.filter_pixels(image, params, apply_tanh=True),
            lambda: published.filter_pixels(image, params.tanh()),
        ]
        # Forward: reads parameters and image, writes an image.
        # Backward: reads these and a gradient, writes two gradients.
        elements = filters.TAPS + 6 + (2 * filters.TAPS + 9 if backward else 0)
        return _operation(calls, [image, params], backward, 4.0 * batch * SIDE**2 * elements)

    return make


def _upsampling(device: torch.device, folder: Path) -> Case:
    batch = FILTER_BATCH[device.type]
    image = torch.randn(batch, 3, SIDE // 2, SIDE // 2, device=device, requires_grad=True)
    params = torch.randn(batch, 3, SIDE, SIDE, device=device, requires_grad=True)
    calls = [lambda: filters.upsample_gaussian(image, params), lambda: published.upsample_gaussian(image, params)]
    return _operation(calls, [image, params], True, 4.0 * batch * SIDE**2 * 3 * (2.25 + 3.5))


def _rotary(device: torch.device, folder: Path) -> Case:
    """Rotated queries and keys of a block at `quick`, without gradients."""
    model, batch = _baseline("quick").model, 64
    assert isinstance(model, KpnSettings)
    heads, channels = model.attention_heads, model.width // model.attention_heads
    qkv, angles = torch.randn(batch, 64, 3, heads, channels, device=device), rotary.rotary_angles(8, channels)
    cos, sin = angles.cos().to(device), angles.sin().to(device)
    return Case(
        batch,
        lambda: rotary.split_and_rotate(qkv, cos, sin)[:2],
        lambda: tuple(rotary.rotate(x, cos, sin) for x in qkv.permute(2, 0, 3, 1, 4)[:2]),
        bytes_moved=qkv.nbytes * 4 / 3,
    )


def _operation(
    calls: Sequence[Callable[[], Tensor]], leaves: Sequence[Tensor], backward: bool, bytes_moved: float
) -> Case:
    grad = torch.randn_like(calls[0]())

    def timed(call: Callable[[], Tensor]) -> Callable[[], object]:
        if not backward:
            return call
        return lambda: torch.autograd.grad(call(), leaves, grad)

    ours, reference = map(timed, calls)
    captured = cuda_graphs.captured(ours, cuda_graphs.CAPTURE_FROM_CALLS, leaves[0].device)  # as in a training step
    return Case(len(leaves[0]), captured, reference, bytes_moved=bytes_moved)


def _baseline(preset: str, batch: int | None = None) -> Config:
    config = variants.resolve(variants.load(variants.BASELINE), preset)
    return config if batch is None else config.replaced(train={"batch": batch})


def _forward(device: torch.device, folder: Path) -> Case:
    config, batch = _baseline("quick"), 32
    model, precision = build(config, 0, device), machine.pick_precision(device)
    z, t = torch.randn(batch, 3, SIDE, SIDE, device=device), torch.rand(batch, device=device)

    def forward(z: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out: Tensor = model(z.contiguous(memory_format=torch.channels_last), t)
            return out

    def reference() -> None:
        with torch.no_grad():
            published.denoise(plain, z, t)

    plain, ours = _channels_first(config, device), cuda_graphs.captured(forward, cuda_graphs.CAPTURE_FROM_CALLS, device)
    return Case(batch, lambda: ours(z, t), reference, flops=2.0 * batch * cost(config).total_macs)


def _training(preset: str, batch: int, perceptual: bool) -> MakeCase:
    """A training step of `ablate run` against that of the published formulation."""

    def make(device: torch.device, folder: Path) -> Case:
        config = _baseline(preset, batch)
        network = perceptual_loss(config.train, device) if perceptual else None
        images = torch.randint(0, 256, (4 * batch, 3, SIDE, SIDE), dtype=torch.uint8, device=device)
        batches, model = Batches(images, config.train, 0), build(config, 0, device)
        if machine.pick_compile("auto", config.train.steps, device):
            _denoiser(model).compile_parts()
        state = TrainingState(model, build(config, 0, device), config.train, 4)
        precision = machine.pick_precision(device)
        draw_inputs, terms = objective(config, model, batches, 0, perceptual=network, precision=precision)
        backward = make_backward(draw_inputs, terms, state, config.train.steps)

        def ours() -> None:
            backward(state.step)
            state.update(learning_rate(config.train, state.step), config.train.grad_clip, config.train.ema)

        reference = published_step(config, Batches(images, config.train, 0), network, device)
        return Case(batch, ours, reference, flops=6.0 * batch * cost(config).total_macs)

    return make


def published_step(
    config: Config,
    batches: Batches,
    perceptual: nn.Module | None,
    device: torch.device,
    on_loss: Callable[[float], None] = lambda loss: None,
) -> Callable[[], object]:
    """Return a training step in plain PyTorch: float32, eager, one parameter at a time.

    Args:
        config: What to train.
        batches: The images of each step.
        perceptual: The frozen perceptual distance, or None.
        device: Where it trains.
        on_loss: Called with each step's loss.
    """
    model, averaged = _channels_first(config, device), _channels_first(config, device).requires_grad_(False)
    parameters, train = list(model.parameters()), config.train
    optimizer = torch.optim.AdamW(parameters, train.lr, weight_decay=train.weight_decay, foreach=False)
    step = 0

    def call() -> None:
        nonlocal step
        x, positions = batches(step), batches.positions(step)
        t = rng.uniform(0, "time", positions).to(device)
        z = interpolate(x, rng.normal(0, "noise", positions, tuple(x.shape[1:])).to(device), t)
        loss = loss_terms(config, perceptual, published.denoise(model, z, t), x, z, t)[0]
        loss.backward()
        on_loss(loss.item())
        nn.utils.clip_grad_norm_(parameters, train.grad_clip, foreach=False)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for average, parameter in zip(averaged.parameters(), parameters, strict=True):
                average.mul_(train.ema).add_(parameter, alpha=1 - train.ema)
        step += 1

    return call


def _channels_first(config: Config, device: torch.device) -> Denoiser:
    """A denoiser whose convolutions are channels first in memory."""
    return _denoiser(build(config, 0, device).to(memory_format=torch.contiguous_format))


def _denoiser(network: nn.Module) -> Denoiser:
    assert isinstance(network, Denoiser)
    return network


def _sampling(device: torch.device, folder: Path) -> Case:
    config, count = _baseline("quick"), 64
    model, plain, precision = (
        build(config, 0, device),
        _channels_first(config, device),
        machine.pick_precision(device),
    )

    def reference() -> None:
        with torch.no_grad():
            sample_images_with(lambda z, t: published.denoise(plain, z, t), config, 0, range(count), device=device)

    nfe = evaluations(config.sample.solver, config.sample.num_steps)
    return Case(
        count,
        lambda: sample_images(model, config, 0, range(count), precision=precision),
        reference,
        flops=2.0 * count * nfe * cost(config).total_macs,
    )


def _extraction(device: torch.device, folder: Path) -> Case:
    """Features of images, against timm's network, which computes its batch normalisations apart."""
    extractor = extractors.load_extractor(EMBEDDED, device)
    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval().to(device)
    images = torch.randint(0, 256, (extractors.BATCH, 3, SIDE, SIDE), dtype=torch.uint8, device=device)

    def reference() -> None:
        with torch.inference_mode():
            x = nn.functional.interpolate(images.float(), size=(224, 224), mode="bicubic", align_corners=False)
            network((x - 127) / 128)

    def ours() -> None:
        with torch.inference_mode():
            extractor(images)

    return Case(extractors.BATCH, ours, reference)


def _append(device: torch.device, folder: Path) -> Case:
    _make_study(folder, RUNS)
    appended = 0

    def ours() -> None:
        nonlocal appended
        tables.append(folder, _rows(RUNS + appended))
        appended += 1

    return Case(0, ours)


def _command(*words: str, study: bool = False) -> MakeCase:
    def make(device: torch.device, folder: Path) -> Case:
        where = ["--results", str(folder)] if study else []
        if study:
            _make_study(folder, RUNS)
        command = [sys.executable, "-m", "ablate", *words, *where]
        return Case(0, lambda: subprocess.run(command, check=True, capture_output=True))

    return make


CASES: dict[str, MakeCase] = {
    "filter op, forward": _filter(False),
    "filter op": _filter(True),
    "upsampling": _upsampling,
    "rotary embedding": _rotary,
    "model forward": _forward,
    "training step, quick": _training("quick", 32, False),
    "training step, quick, perceptual": _training("quick", 16, True),
    "training step, paper": _training("paper", 16, False),
    "sampling": _sampling,
    "feature extraction": _extraction,
    "append a run to 10,000": _append,
    "report of 10,000": _command("report", study=True),
    "ablate --help": _command("--help"),
}


def choose(names: Sequence[str]) -> list[str]:
    """Return the names of the cases that start with one of the given names; of all cases for none.

    Raises:
        AblateError: No case starts with one of them.
    """
    for name in names:
        if not any(case.startswith(name) for case in CASES):
            raise AblateError(f"--ops: unknown case {name!r}{did_you_mean(name, CASES)} Allowed: {', '.join(CASES)}")
    return [case for case in CASES if not names or any(case.startswith(name) for name in names)]


def _rows(number: int) -> dict[str, list[Row]]:
    """Invented rows of the `number`-th run at `quick`, in all tables."""
    names = variants.names()
    run_id = f"{names[number % len(names)]}-quick-synthetic-s{number // len(names)}-{number:08x}"
    now, value = datetime.now(UTC), 90 + (number * 7919 % 1000) / 100
    run: Row = {"run_id": run_id, "variant": names[number % len(names)], "axis": "none", "preset": "quick"}
    run |= {"seed": number // len(names), "status": "done", "data": "synthetic", "data_digest": "0" * 64}
    run |= {"budget": "steps", "config": "{}", "config_hash": f"{number % len(names):016x}"}
    run |= {"fd": value, "fd_n": 512, "pd": 0.3}
    run |= {"fd_ref_n": 2048, "fd_floor": 8.8, "psnr_db": 21.0, "wall_s": 250.0, "started_at": now, "finished_at": now}
    key = {"run_id": run_id}
    latency = {"scope": "step", "scheme": "fp32", "engine": "torch", "session": "run", "position": 0}
    return {
        "runs": [run],
        "curves": [key | {"step": 10 * i, "loss": value / i, "grad_norm": 1.0 / i} for i in range(1, 151)],
        "denoising": [key | {"t": i / 10, "n": 128, "psnr_db": 20.0, "pd": value / 300} for i in range(1, 10)],
        "fidelity": [key | {"extractor": "embedded", "metric": f"m{i}", "value": value, "n": 512} for i in range(10)],
        "quantized": [
            key
            | {"scheme": scheme, "scope": scope, "engine": "onnxruntime", "simulated": False, "n": 128}
            | {"fd_ref_n": 2048, "fd": value + 20, "file_bytes": size, "latency_step_ms": value / 10}
            for scheme, scope, size in (("fp32", "all", 14_000_000), ("int8", "kpn", 3_800_000))
        ],
        "latency": [
            key | latency | {"batch": batch, "sample": i, "latency_ms": value + i}
            for batch in (1, 8, 64)
            for i in range(20)
        ],
    }


def _make_study(folder: Path, runs: int) -> None:
    """Fill an empty results folder with invented runs, in chunks: rows in Python are large."""
    chunks: dict[str, list[pa.Table]] = {}
    for first in range(0, runs, 500):
        chunk: dict[str, list[Row]] = {}
        for number in range(first, min(first + 500, runs)):
            for table, rows in _rows(number).items():
                chunk.setdefault(table, []).extend(rows)
        for table, rows in chunk.items():
            chunks.setdefault(table, []).append(pa.Table.from_pylist(rows, schema=SCHEMAS[table]))
    for table, tables_of_chunks in chunks.items():
        pq.write_table(pa.concat_tables(tables_of_chunks), folder / f"{table}.parquet")
