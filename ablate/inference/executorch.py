"""A model on ExecuTorch, lowered to XNNPACK, in float32.

A program has a fixed shape, so the model is lowered once for each batch size, in the first call of
that size. This takes minutes (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ablate.base.errors import ResultsError
from ablate.base.text import one_line


class Session:
    """A module that ExecuTorch runs on the CPU."""

    def __init__(self, module: nn.Module, threads: int) -> None:
        """Take a frozen float32 module on the CPU, and set the threads of all sessions."""
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)  # the only setting of threads there is
        self.module = module
        self.programs: dict[int, Callable[[tuple[Tensor, ...]], Any]] = {}  # by batch size

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the module's output, float32 on the CPU.

        Raises:
            ResultsError: ExecuTorch cannot lower or run the module.
        """
        batch = len(tensors[0])
        try:
            if batch not in self.programs:
                self.programs[batch] = self._lower(tensors)
            output: Tensor = self.programs[batch](tuple(x.contiguous() for x in tensors))[0]
        except Exception as error:  # of lowering, of XNNPACK or of the runtime
            raise ResultsError(f"ExecuTorch cannot run the model ({one_line(error)[:200]})") from error
        return output.clone()  # the next call overwrites it

    def _lower(self, tensors: tuple[Tensor, ...]) -> Callable[[tuple[Tensor, ...]], Any]:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.runtime import Runtime

        with torch.no_grad():
            exported = torch.export.export(self.module, tensors)
            lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
        program = Runtime.get().load_program(lowered.buffer)
        # The program must outlive its method.
        method = program.load_method("forward")
        return lambda inputs, program=program: method.execute(inputs)  # type: ignore[misc]
