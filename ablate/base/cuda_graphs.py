"""CUDA graphs: what a function of tensors launches on a GPU is recorded once and replayed, without the processor's time for each kernel.

A small model's kernels take a GPU less time than the processor needs to launch them (docs/log.md). What is replayed are the same kernels on
the same numbers, so the outcome is what the function gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

WARM_UP = 2  # calls before the recording: libraries set themselves up, kernels are compiled
CAPTURE_FROM_CALLS = 12  # calls of one shape: recording costs about four, and saves most of each


class CapturedGraph:
    """A function of tensors, recorded.

    Attributes:
        outputs: What the function returned; each call overwrites the tensors in it.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor], device: torch.device) -> None:
        """Call the function with copies of the inputs on the device, a few times and once to record it."""
        self._inputs = [x.to(device, copy=True) for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            current, aside = torch.cuda.current_stream(), _aside(torch.cuda.current_device())
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    function(*self._inputs)
            current.wait_stream(aside)
            # "thread_local": what other threads do, such as getting pinned memory, is no part of it.
            with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
                self.outputs = function(*self._inputs)

    def fits(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the inputs have the shapes that were recorded."""
        return [x.shape for x in inputs] == [x.shape for x in self._inputs]

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        """Return `outputs` for other inputs of the same shapes, on any device."""
        for kept, new in zip(self._inputs, inputs, strict=True):
            kept.copy_(new, non_blocking=True)
        self._graph.replay()
        return self.outputs


@cache
def _aside(device: int) -> torch.cuda.Stream:
    """A GPU's stream for recording: libraries keep memory for each that they meet."""
    return torch.cuda.Stream(device)


def captured(function: Callable[..., Any], calls: int, device: torch.device) -> Callable[..., Any]:
    """Return the function, recorded at its first call where that pays; other shapes than the first call's go to the function itself.

    What a recorded one returns is overwritten by its next call.

    Args:
        function: Of tensors on the device.
        calls: How often it will be called with one shape.
        device: Where it computes.
    """
    if device.type != "cuda" or calls < CAPTURE_FROM_CALLS:
        return function
    recorded: CapturedGraph | None = None

    def call(*inputs: Tensor) -> Any:
        nonlocal recorded
        if recorded is None:
            recorded = CapturedGraph(function, inputs, device)
        return recorded(inputs) if recorded.fits(inputs) else function(*inputs)

    return call
