"""Graphs for ONNX Runtime: export, static int8 quantisation, sessions, the work done in int8.

A node of an exported graph is named `group/...` after its module group, as `backbone` or `decoder`,
so that a group can be quantised alone. int8 means the QDQ form: unsigned 8-bit activations with a scale and zero
point per tensor (from the minimum and maximum on calibration inputs), and signed 8-bit weights with a
scale per output channel. ONNX Runtime decides which operations it fuses into integer ones;
`int8_macs` counts their multiply-accumulates.
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
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ablate.base.errors import ResultsError
from ablate.base.text import printable

if TYPE_CHECKING:  # an optional package, imported where it is used
    import onnx
    import onnxruntime

BATCH = "batch"  # name of the first dimension of every input and output
PRODUCTS = ("Conv", "Gemm", "MatMul")  # operations whose weights are quantised
INTEGER = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger")
_SCOPES = "pkg.torch.onnx.name_scopes"


class Session:
    """A graph that ONNX Runtime runs on the CPU."""

    def __init__(self, model: onnx.ModelProto | Path, threads: int) -> None:
        """Load a graph or an `.onnx` file.

        Raises:
            ResultsError: The file is damaged, or ONNX Runtime cannot run it.
        """
        import onnxruntime

        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        try:
            self.session = onnxruntime.InferenceSession(source, _options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            where = model if isinstance(model, Path) else "the exported graph"
            raise ResultsError(f"{where}: not a model that ONNX Runtime can run ({_one_line(error)})") from error
        self.inputs = [value.name for value in self.session.get_inputs()]

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the first output, float32 on the CPU, for float32 inputs in the graph's order."""
        feeds = {name: x.detach().cpu().numpy() for name, x in zip(self.inputs, tensors, strict=True)}
        return torch.from_numpy(self.session.run(None, feeds)[0])


def export_module(
    module: nn.Module, inputs: Mapping[str, Tensor], output: str, groups: Collection[str]
) -> onnx.ModelProto:
    """Return the graph of a module, with a dynamic batch.

    Nodes are named after module groups and hold no file paths.

    Args:
        module: A frozen float32 module on the CPU, without data-dependent control flow.
        inputs: Name -> example, (B, ...) float32 with B >= 2, in the order of the module's
            arguments.
        output: Name of the one output.
        groups: Names of the module groups.
    """
    with warnings.catch_warnings(), _quiet(), _no_stack_traces():
        warnings.simplefilter("ignore")  # the exporter warns about its own dependencies
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
        node.name = f"{_group(node, groups)}/{i}_{node.op_type}"
        del node.metadata_props[:]  # source lines and paths of this machine
        node.doc_string = ""
    for entry in (*model.graph.value_info, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def _group(node: onnx.NodeProto, groups: Collection[str]) -> str:
    """Return the module group of a node from its enclosing modules; `other` if there is none."""
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "[]")
    words = [word for scope in ast.literal_eval(scopes) for word in scope.split(".")]
    return next((word for word in words if word in groups), "other")


def product_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Return the multiply-accumulates of each product, by node name, for a batch of one.

    Raises:
        ValueError: The graph lacks a shape.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        shapes[value.name] = [_size(d) for d in value.type.tensor_type.shape.dim]
    macs = {}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        first, second, out = (shapes.get(name, []) for name in (node.input[0], node.input[1], node.output[0]))
        if not all(first) or not all(second) or not all(out) or not (first and second and out):
            raise ValueError(f"{node.name}: the graph lacks its shapes")
        # Each output value is a sum over the kernel and its input channels, or over the inner
        # dimension.
        terms = int(np.prod(second[1:])) if node.op_type == "Conv" else first[-1]
        macs[node.name] = int(np.prod(out)) * terms
    return macs


def _size(dimension: onnx.TensorShapeProto.Dimension) -> int:
    """Return a dimension (perhaps `batch` or `3*batch`) for a batch of one; 0 if unknown."""
    if dimension.HasField("dim_value"):
        return int(dimension.dim_value)
    text = re.sub(rf"\b{BATCH}\b", "1", dimension.dim_param)
    if not re.fullmatch(r"\d+(\s*\*\s*\d+)*", text):
        return 0
    return int(np.prod([int(factor) for factor in text.split("*")]))


def weighted_nodes(model: onnx.ModelProto, groups: Collection[str]) -> list[str]:
    """Return the names of the nodes that multiply by weights, in some module groups."""
    constant = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in PRODUCTS and node.input[1] in constant and node.name.split("/")[0] in groups
    ]


def to_int8(
    model: onnx.ModelProto, groups: Collection[str], calibration: Iterable[Mapping[str, Tensor]]
) -> onnx.ModelProto:
    """Return a graph with the weighted products of some module groups in int8.

    The rest stays float32.

    Args:
        model: A graph from `export_module`.
        groups: The module groups.
        calibration: Inputs that determine the range of each activation: name -> (B, ...) float32.

    Raises:
        ValueError: There are no weights in these groups.
    """
    chosen = weighted_nodes(model, groups)
    if not chosen:
        raise ValueError(f"no weights to quantise in {', '.join(groups)}")
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            copy,
            path,
            _CalibrationReader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=chosen,
        )
        return onnx.load(path)


class _CalibrationReader:
    """The inputs, in the form that ONNX Runtime's calibration reads."""

    def __init__(self, inputs: Iterable[Mapping[str, Tensor]]) -> None:
        self.inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.inputs, None)
        return None if batch is None else {name: x.numpy() for name, x in batch.items()}


def int8_macs(quantised: onnx.ModelProto, model: onnx.ModelProto) -> int:
    """Return the multiply-accumulates that ONNX Runtime computes in integers, for a batch of one.

    They are read from the graph that it has optimised.

    Args:
        quantised: The graph from `to_int8`.
        model: The graph that was quantised.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = _options(1)
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(path).graph.node
    macs = product_macs(model)
    # The pass that moves channels last appends a token to the node's name.
    names = {re.sub(r"(_token_\d+)+$", "", node.name) for node in nodes if node.op_type in INTEGER}
    return sum(macs.get(name, 0) for name in names)


def _options(threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Without it, integer products overflow 16 bits on x86 CPUs without VNNI. It costs 3 % of the
    # time (docs/log.md).
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's and the quantiser's warnings about their internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _no_stack_traces() -> Iterator[None]:
    """Let torch keep no stack trace of each node, which takes a fifth of an export's time."""
    before = getattr(torch.fx.config, "do_not_emit_stack_traces", False)  # not in every version
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:200]
