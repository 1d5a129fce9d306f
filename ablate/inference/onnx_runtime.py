"""Graphs for ONNX Runtime: export, static int8 quantisation, sessions, and the share of the work that is really int8.

A node of an exported graph is named `group/...` after the module group it came from (`backbone`, `upscaler`, `heads`, `filters`, `drift`,
`decoder`), so that a part can be quantised alone. int8 is the QDQ form: unsigned 8-bit activations with a scale and zero point per tensor,
found on calibration inputs (their minimum and maximum), signed 8-bit weights with a scale per output channel. What the engine makes of it
is its own affair: `int8_macs` counts the multiply-accumulates of the operations that it has fused into integer ones.
"""

from __future__ import annotations

import ast
import logging
import re
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from ablate.base.errors import ResultsError
from ablate.models.cost import GROUPS

MODULE_GROUPS = (*GROUPS, "decoder")  # the module groups
BATCH = "batch"  # the name of the first dimension of every input and output
PRODUCTS = ("Conv", "Gemm", "MatMul")  # operations whose weights are quantised
INTEGER = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger")
_SCOPES = "pkg.torch.onnx.name_scopes"


class Session:
    """A graph that ONNX Runtime runs on the processor."""

    def __init__(self, model: onnx.ModelProto | Path, threads: int) -> None:
        """Load a graph, or a file of one.

        Raises:
            ResultsError: A damaged file, or one that the engine cannot run.
        """
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        try:
            self.session = onnxruntime.InferenceSession(source, _options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # the engine's exceptions have no common base of their own
            where = model if isinstance(model, Path) else "the exported graph"
            raise ResultsError(f"{where}: not a model that ONNX Runtime can run ({_line(error)})") from error
        self.inputs = [value.name for value in self.session.get_inputs()]

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the first output, float32 on the CPU, of float32 inputs in the graph's order."""
        feeds = {name: x.detach().cpu().numpy() for name, x in zip(self.inputs, tensors, strict=True)}
        return torch.from_numpy(self.session.run(None, feeds)[0])


def export(module: nn.Module, inputs: Mapping[str, Tensor], output: str) -> onnx.ModelProto:
    """Return the graph of a module, with a dynamic batch; its nodes are named after their module groups, and hold no paths.

    Args:
        module: A frozen float32 module on the CPU, without data-dependent control flow.
        inputs: Name -> example, (B, ...) float32 with B >= 2, in the order of the module's arguments.
        output: Name of the one output.
    """
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # of the exporter, about its own dependencies
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes={name: {0: BATCH} for name in inputs},
            input_names=list(inputs),
            output_names=[output],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for i, node in enumerate(model.graph.node):
        node.name = f"{_group(node)}/{i}_{node.op_type}"
        del node.metadata_props[:]  # source lines and paths of the machine that exported
        node.doc_string = ""
    for entry in (*model.graph.value_info, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def _group(node: onnx.NodeProto) -> str:
    """The module group of a node by the names of the modules around it; `other` for what stands in none."""
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "[]")
    words = [word for scope in ast.literal_eval(scopes) for word in scope.split(".")]
    return next((word for word in words if word in MODULE_GROUPS), "other")


def products(model: onnx.ModelProto) -> dict[str, int]:
    """Return the name of every convolution and matrix product of a graph -> its multiply-accumulates for a batch of one.

    Raises:
        ValueError: The graph does not tell a shape.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        shapes[value.name] = [_size(d) for d in value.type.tensor_type.shape.dim]
    found = {}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        first, second, out = (shapes.get(name, []) for name in (node.input[0], node.input[1], node.output[0]))
        if not all(first) or not all(second) or not all(out) or not (first and second and out):
            raise ValueError(f"{node.name}: the graph does not tell its shapes")
        # Each output number is a sum: over the kernel and its input channels, or over the inner dimension.
        terms = int(np.prod(second[1:])) if node.op_type == "Conv" else first[-1]
        found[node.name] = int(np.prod(out)) * terms
    return found


def _size(dimension: onnx.TensorShapeProto.Dimension) -> int:
    """A dimension for a batch of one, which may be written `batch` or `3*batch`; 0 where it is unknown."""
    if dimension.HasField("dim_value"):
        return int(dimension.dim_value)
    text = re.sub(rf"\b{BATCH}\b", "1", dimension.dim_param)
    if not re.fullmatch(r"\d+(\s*\*\s*\d+)*", text):
        return 0
    return int(np.prod([int(factor) for factor in text.split("*")]))


def weighted(model: onnx.ModelProto, groups: Collection[str]) -> list[str]:
    """Return the names of the nodes of some module groups that multiply by weights."""
    constant = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in PRODUCTS and node.input[1] in constant and node.name.split("/")[0] in groups
    ]


def to_int8(
    model: onnx.ModelProto, groups: Collection[str], calibration: Iterable[Mapping[str, Tensor]]
) -> onnx.ModelProto:
    """Return a graph whose products by weights in some module groups are quantised statically; the rest stays float32.

    Args:
        model: What `export` returned.
        groups: The module groups.
        calibration: Inputs on which the range of each activation is found: name -> (B, ...) float32.

    Raises:
        ValueError: There is nothing to quantise.
    """
    chosen = weighted(model, groups)
    if not chosen:
        raise ValueError(f"no weights to quantise in {', '.join(groups)}")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            copy,
            path,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=chosen,
        )
        return onnx.load(path)


class _Reader:
    """What the engine's calibration draws its inputs from."""

    def __init__(self, inputs: Iterable[Mapping[str, Tensor]]) -> None:
        self.inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self.inputs, None)
        return None if found is None else {name: x.numpy() for name, x in found.items()}


def int8_macs(quantised: onnx.ModelProto, model: onnx.ModelProto) -> int:
    """Return the multiply-accumulates, for a batch of one, that the engine computes in integers: read from the graph it has optimised.

    Args:
        quantised: What `to_int8` returned.
        model: What it was made from.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = _options(1)
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(path).graph.node
    macs = products(model)
    # A pass that moves channels last appends a token to the node's name.
    names = {re.sub(r"(_token_\d+)+$", "", node.name) for node in nodes if node.op_type in INTEGER}
    return sum(macs.get(name, 0) for name in names)


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Without it, products of integers overflow 16 bits on x86 processors without VNNI (nothing elsewhere); 3 % of the time (docs/log.md).
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the quantiser's advice on their own internals off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
