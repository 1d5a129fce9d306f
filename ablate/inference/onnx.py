"""A trained model outside of torch: its graphs, their calibration, and sampling from them.

A graph `step` maps (z, t) to x_hat. In latent space a second graph, `decode`, maps latents to
images. Both are exported in float32 and may be quantised by module groups. CalibrationInputs inputs
are what the network reads on whole sampling trajectories, at all times. Their noise has its own
stream (`calibrate`), so no image that is compared was used for calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from ablate.base import rng
from ablate.base.errors import ResultsError
from ablate.base.text import one_line
from ablate.diffusion.sampling import sample_images_with
from ablate.diffusion.solvers import Denoise
from ablate.inference import onnx_runtime
from ablate.inference.onnx_modules import Decode, Step
from ablate.models.autoencoder import PIXEL_CODEC, ImageCodec, image_codec
from ablate.models.denoiser import groups_of, name_of
from ablate.models.weight_files import digest
from ablate.study.config import Config

if TYPE_CHECKING:  # an optional package
    import onnx

Graphs: TypeAlias = "dict[str, onnx.ModelProto]"  # `step`, and `decode` in latent space
# (graph, threads) -> the graph as a function of float32 tensors on the CPU
Engine: TypeAlias = "Callable[[onnx.ModelProto, int], Callable[..., Tensor]]"


@dataclass(frozen=True)
class ExportableModel:
    """A trained model in its exportable form, float32 on the CPU."""

    config: Config
    step: Step
    decode: Decode | None

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules: `step`, and `decode` in latent space."""
        return {"step": self.step} | ({} if self.decode is None else {"decode": self.decode})

    @property
    def groups(self) -> list[str]:
        """The module groups that the model has."""
        return groups_of(self.step.denoiser) + (["decoder"] if self.decode is not None else [])


@dataclass(frozen=True)
class ImageGenerator:
    """A denoiser with its decoder, from which images are sampled; float32 on the CPU.

    Attributes:
        denoise: (z (B, C, S, S), t (B,)) -> x_hat.
        decode: x (B, C, S, S) -> images (B, 3, 64, 64).
    """

    denoise: Denoise
    decode: Callable[[Tensor], Tensor] = PIXEL_CODEC.decode

    def draw(
        self,
        config: Config,
        seed: int,
        indices: Iterable[int],
        *,
        stream: str = "sample",
        on_batch: Callable[[int], None] = lambda n: None,
    ) -> Tensor:
        """Return images (N, 3, 64, 64) float32, as in `sampling.sample_images_with`."""
        return sample_images_with(
            self.denoise, config, seed, indices, stream=stream, decode=self.decode, on_batch=on_batch
        )


@dataclass(frozen=True)
class CalibrationInputs:
    """The inputs of each graph on sampling trajectories.

    Attributes:
        inputs: `step` -> [(z, t), ...], `decode` -> [(x,), ...], in batches.
        n: Number of images sampled.
        digest: SHA-256 of the inputs of `step`.
    """

    inputs: dict[str, list[tuple[Tensor, ...]]]
    n: int
    digest: str


def exportable(model: nn.Module, config: Config, codec: ImageCodec) -> ExportableModel:
    """Return a trained model in its exportable form."""
    decode = None
    if codec.decoder is not None and codec.shift is not None and codec.scale is not None:
        decode = Decode(codec.decoder, codec.shift, codec.scale)
    return ExportableModel(config, Step(model, config), decode)


def export_graphs(model: ExportableModel) -> Graphs:
    """Return the float32 graphs of a model.

    Raises:
        ResultsError: A model of the user's has an operation without a form in ONNX.
    """
    inputs = {"z": rng.normal(0, "export", range(2), model.config.shape), "t": torch.tensor([0.25, 0.75])}
    graphs = {}
    try:
        for name, part in model.parts.items():
            given, output = (inputs, "x_hat") if name == "step" else ({"z": inputs["z"]}, "x")
            graphs[name] = onnx_runtime.export_module(part, given, output, model.groups)
    except Exception as error:  # of whatever operation of a user's model has no such form
        if model.config.model.kind == "kpn":
            raise
        why = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise ResultsError(f"{name_of(model.config)}: cannot be exported to ONNX ({why})") from error
    return graphs


def onnx_network(graphs: Graphs, threads: int, config: Config, engine: Engine = onnx_runtime.Session) -> ImageGenerator:
    """Return the model as an engine computes it.

    Args:
        graphs: The model's graphs.
        threads: Threads of the engine.
        config: The model's configuration.
        engine: Loads a graph.

    Raises:
        ResultsError: The engine cannot run a graph.
    """
    sessions = {name: engine(graph, threads) for name, graph in graphs.items()}
    return ImageGenerator(sessions["step"], sessions.get("decode", image_codec(config.shape[0]).decode))


def calibration_inputs(network: ImageGenerator, config: Config, seed: int, n: int) -> CalibrationInputs:
    """Return what a network reads while it samples `n` images from the stream `calibrate`."""
    inputs: dict[str, list[tuple[Tensor, ...]]] = {"step": [], "decode": []}

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        inputs["step"].append((z.clone(), t))
        return network.denoise(z, t)

    def decode(x: Tensor) -> Tensor:
        inputs["decode"].append((x.clone(),))
        return network.decode(x)

    ImageGenerator(denoise, decode).draw(config, seed, range(n), stream="calibrate")
    seen = {f"{i:06d}.{j}": x for i, given in enumerate(inputs["step"]) for j, x in enumerate(given)}
    return CalibrationInputs(inputs, n, digest(seen))


def to_int8(graphs: Graphs, groups: Collection[str], calibration: CalibrationInputs) -> Graphs:
    """Return the graphs with some module groups in int8.

    A graph without weights in them is unchanged.
    """
    quantised = {}
    for name, graph in graphs.items():
        if onnx_runtime.weighted_nodes(graph, groups):
            names = [value.name for value in graph.graph.input]
            inputs = (dict(zip(names, given, strict=True)) for given in calibration.inputs[name])
            quantised[name] = onnx_runtime.to_int8(graph, groups, inputs)
        else:
            quantised[name] = graph
    return quantised
