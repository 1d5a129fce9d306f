"""Graphs on OpenVINO.

OpenVINO computes in the number format of the graph: without a hint it rounds float32 to bfloat16 on
CPUs that have it. A graph is compiled for each batch size, in the first call of that size. Compiled
once for any batch size it took up to twice the time (docs/log.md).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ablate.base.errors import ResultsError
from ablate.base.text import one_line

if TYPE_CHECKING:  # an optional package, imported where it is used
    import onnx


class Session:
    """A graph that OpenVINO runs on the CPU."""

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        """Load a graph.

        Raises:
            ResultsError: OpenVINO cannot read it.
        """
        # This package reports each import of OpenVINO to Google Analytics, and has no variable against
        # it. Without it OpenVINO uses its stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        self.core = openvino.Core()
        try:
            self.model = self.core.read_model(model.SerializeToString())
        except Exception as error:  # OpenVINO's exceptions have no common base
            raise ResultsError(f"the exported graph: OpenVINO cannot read it ({one_line(error)[:200]})") from error
        self.settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled: dict[int, Any] = {}  # by batch size

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the first output, float32 on the CPU, for float32 inputs in the graph's order.

        Raises:
            ResultsError: OpenVINO cannot run the graph.
        """
        batch = len(tensors[0])
        if batch not in self.compiled:
            try:
                self.model.reshape({i: list(x.shape) for i, x in enumerate(tensors)})
                self.compiled[batch] = self.core.compile_model(self.model, "CPU", self.settings)
            except Exception as error:
                raise ResultsError(f"the exported graph: OpenVINO cannot run it ({one_line(error)[:200]})") from error
        outputs = self.compiled[batch]([x.detach().cpu().numpy() for x in tensors])
        return torch.from_numpy(outputs[0].copy())  # the next call overwrites it
