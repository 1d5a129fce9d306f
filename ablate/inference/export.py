"""A finished run as an ONNX file for other devices, compared with torch before it is kept.

    step:   z (B, C, S, S) float32, t (B,) float32 -> x_hat     one network evaluation
    decode: z (B, 4, 16, 16) float32 -> x                       latent space only, in a second file

The caller writes the sampling loop, a few lines around `step`. The file's metadata names the run
and says how to sample from it, how to convert its output, and which licence its data have.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ablate.base import machine, rng
from ablate.base.errors import AblateError, ResultsError, did_you_mean
from ablate.data import cats
from ablate.data.datasets import is_embedded
from ablate.diffusion.objectives import interpolate
from ablate.inference.onnx import (
    ExportableModel,
    Graphs,
    calibration_inputs,
    export_graphs,
    exportable,
    onnx_network,
    to_int8,
)
from ablate.inference.onnx_runtime import Session
from ablate.inference.requested_formats import groups_of
from ablate.inference.trained_run import TrainedRun
from ablate.metrics.neighbours import to_float
from ablate.metrics.pair_distances import psnr_db
from ablate.store.atomic_files import replacing

SCHEMES = ("fp32", "int8")
SCOPE = "kpn"  # the module groups in int8: all but the drift network, which stays in float32
CHECKED = 8  # images
FLOAT_TOLERANCE = 1e-3  # of x_hat, whose images lie in [-1, 1]
INT8_PSNR_DB = 20.0  # of one network evaluation; measured ones are above 30
TIMES = (0.0, 0.25, 0.5, 0.75, 0.95)
UNKNOWN_LICENCE = "that of the training images"


def check_scheme(scheme: str) -> None:
    """Refuse a scheme that cannot be exported.

    Raises:
        AblateError: It is none of `SCHEMES`.
    """
    if scheme not in SCHEMES:
        raise AblateError(f"--scheme {scheme}: unknown{did_you_mean(scheme, SCHEMES)} Allowed: {', '.join(SCHEMES)}")


def build_graphs(run: TrainedRun, scheme: str, calibration: int) -> tuple[ExportableModel, Graphs]:
    """Return a finished run's model and graphs, float32 or int8.

    Args:
        run: The run.
        scheme: `fp32` or `int8`.
        calibration: Number of sampled images whose activations calibrate int8.
    """
    model = exportable(run.model, run.config, run.codec)
    graphs = export_graphs(model)
    return model, int8_graphs(run, model, graphs, calibration) if scheme == "int8" else graphs


def int8_graphs(run: TrainedRun, model: ExportableModel, graphs: Graphs, calibration: int) -> Graphs:
    """Return a finished run's float32 graphs in int8.

    Args:
        run: The run.
        model: Its exportable form.
        graphs: Its float32 graphs.
        calibration: Number of sampled images whose activations calibrate int8.
    """
    network = onnx_network(graphs, machine.threads(), run.config)
    inputs = calibration_inputs(network, run.config, run.row["seed"], calibration)
    return to_int8(graphs, groups_of(SCOPE, model.groups), inputs)


def decoder_path(output: Path) -> Path:
    """Return the decoder's file for a latent run: `NAME.decoder.onnx`, beside the file."""
    return output.with_suffix(".decoder.onnx")


def write_onnx(run: TrainedRun, output: Path, scheme: str) -> list[tuple[Path, str]]:
    """Export a finished run.

    Args:
        run: The run.
        output: The `.onnx` file; the decoder of a latent run goes to `decoder_path`.
        scheme: `fp32` or `int8`.

    Returns:
        Each file, with the result of its comparison with torch in words.

    Raises:
        ResultsError: A file computes other values than torch, or cannot be written. It is deleted.
    """
    import onnx

    model, graphs = build_graphs(run, scheme, run.config.quantize.calibration)
    files, latents = [], cat_latents(run)
    for name, graph in graphs.items():
        path = output if name == "step" else decoder_path(output)
        onnx.helper.set_model_props(graph, file_metadata(run, scheme, name))
        graph.producer_name, graph.producer_version = "ablate", ""
        try:
            with replacing(path) as temporary:
                onnx.save(graph, temporary)
                onnx.checker.check_model(str(temporary))
                session = Session(temporary, machine.threads())
                result, same = compare_with_torch(session, model, latents, scheme, name)
                if not same:
                    raise ResultsError(
                        f"export {name} as {scheme}: {result}; the file is not kept: its images would differ"
                    )
                files.append((path, result))
        except OSError as error:
            raise ResultsError(f"--output {path}: cannot be written ({error}); choose another place") from error
    return files


def cat_latents(run: TrainedRun) -> Tensor:
    """Return a few cats in the run's diffusion space, (CHECKED, C, S, S) float32 on the CPU."""
    with torch.inference_mode():
        images = to_float(cats.compose(CHECKED, size=run.config.data.size), next(run.model.parameters()).device)
        return run.codec.encode(images).cpu()


def compare_with_torch(
    network: Callable[..., Tensor], model: ExportableModel, latents: Tensor, scheme: str, graph: str
) -> tuple[str, bool]:
    """Compare a graph on any engine with torch, on noise and on noisy images, in batches of one and of many.

    Args:
        network: The graph on the engine: float32 tensors on the CPU -> its output.
        model: The model in torch.
        latents: (N, C, S, S) float32, as of `cat_latents`.
        scheme: `fp32`, bounded by the largest difference, or `int8`, by the PSNR.
        graph: `step` or `decode`.

    Returns:
        The result in words, and whether it is within the bound.
    """
    reference: Callable[..., Tensor] = model.parts[graph]
    eps = rng.normal(0, "export", range(len(latents)), tuple(latents.shape[1:]))
    inputs: list[tuple[Tensor, ...]] = [(x,) for x in (eps, latents)]
    if graph == "step":
        times = torch.tensor(TIMES)[torch.arange(len(latents)) % len(TIMES)]
        inputs = [(eps, torch.zeros(len(eps))), (interpolate(latents, eps, times), times)]
        inputs.append(tuple(x[:1] for x in inputs[1]))
    worst, quality = 0.0, float("inf")
    for given in inputs:
        with torch.inference_mode():
            expected, out = reference(*given), network(*given)
        worst = max(worst, float((out - expected).abs().max()))
        quality = min(quality, float(psnr_db(out, expected.clamp(-1, 1)).min()))
    if scheme == "fp32":
        return f"largest difference to PyTorch {worst:.2g}", worst <= FLOAT_TOLERANCE
    return f"at least {quality:.1f} dB to PyTorch", quality >= INT8_PSNR_DB


def file_metadata(run: TrainedRun, scheme: str, graph: str) -> dict[str, str]:
    """Return the metadata: the run, how to sample, how to convert the output, the licence."""
    row, config = run.row, run.config
    values = {
        "run_id": row["run_id"],
        "variant": row["variant"],
        "graph": graph,
        "scheme": scheme,
        "quantized": "nothing"
        if scheme == "fp32"
        else f"{SCOPE}: all but the drift network, 8-bit weights and activations",
        "weights_digest": row["weights_digest"],
        "data": f"{row['data']} ({row['data_digest']})",
        "data_licence": cats.CREDIT if is_embedded(row["data_digest"]) else UNKNOWN_LICENCE,
        "input": json.dumps({"z": ["batch", *config.shape]} | ({"t": ["batch"]} if graph == "step" else {})),
        "solver": config.sample.solver,
        "num_steps": str(config.sample.num_steps),
        "guidance": f"{config.sample.guidance:g}, in the graph",
        "preprocessing": "z starts as standard normal noise at t = 0; dz/dt = (x_hat - z) / (1 - t) up to t = 1",
        "postprocessing": "uint8 = round((clip(x, -1, 1) + 1) * 127.5), channels RGB"
        + ("" if config.model.space == "pixel" else "; x is what the decoder file makes of z at t = 1"),
    }
    return {f"ablate.{key}": str(value) for key, value in values.items()}
