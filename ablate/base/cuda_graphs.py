"""CUDA graphs: what a function launches on a GPU is captured once and then replayed.

The CPU needs longer to launch a small model's kernels than the GPU needs to run them; a replay
launches all of them in one call. It runs the same kernels on the same memory layout, so the results
have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

WARM_UP_CALLS = 2  # before the capture: libraries initialise themselves and kernels are compiled
CAPTURE_FROM_CALLS = 12  # a capture costs as much as about four calls


class CapturedGraph:
    """A function of tensors, captured as a CUDA graph.

    Attributes:
        outputs: What the function returned; each call overwrites the tensors in it.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor], device: torch.device) -> None:
        """Warm the function up and capture it, with copies of the inputs on the device."""
        self._inputs = [x.to(device, copy=True) for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            current, side = torch.cuda.current_stream(), _capture_stream(torch.cuda.current_device())
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_CALLS):
                    function(*self._inputs)
            current.wait_stream(side)
            # "thread_local": other threads may call CUDA meanwhile, as for pinned memory.
            with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
                self.outputs = function(*self._inputs)

    def accepts(self, inputs: Sequence[Tensor]) -> bool:
        """Return whether the inputs have the captured shapes."""
        return [x.shape for x in inputs] == [x.shape for x in self._inputs]

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        """Replay the graph with inputs of the same shapes, on any device; return `outputs`."""
        for own, new in zip(self._inputs, inputs, strict=True):
            own.copy_(new, non_blocking=True)
        self._graph.replay()
        return self.outputs


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """The capture stream of a GPU: only one, because libraries keep memory for each stream."""
    return torch.cuda.Stream(device)


def captured(function: Callable[..., Any], calls: int, device: torch.device) -> Callable[..., Any]:
    """Return a function that captures the given one at its first call and replays it from then on.

    Inputs of other shapes than the first call's go to the function itself. On a CPU, and for few
    calls, the function is returned unchanged. Each replay overwrites the results of the one before.

    Args:
        function: Maps tensors on the device to any nest of tensors.
        calls: Expected number of calls with one set of shapes.
        device: Where the function computes.
    """
    if device.type != "cuda" or calls < CAPTURE_FROM_CALLS:
        return function
    graph: CapturedGraph | None = None

    def call(*inputs: Tensor) -> Any:
        nonlocal graph
        if graph is None:
            graph = CapturedGraph(function, inputs, device)
        return graph(inputs) if graph.accepts(inputs) else function(*inputs)

    return call
