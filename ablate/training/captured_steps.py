"""Training steps captured as a CUDA graph, with the random numbers of the next step drawn in a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from ablate.base.cuda_graphs import CapturedGraph


class CapturedSteps:
    """The losses of a training's steps, each with its gradients, on a GPU: recorded, and what a step draws is drawn one step ahead."""

    def __init__(
        self,
        inputs: Callable[[int], Sequence[Tensor]],
        parts: Callable[..., list[Tensor]],
        parameters: Sequence[Tensor],
        steps: int,
    ) -> None:
        """Take a training apart.

        Args:
            inputs: Gives what a step draws, on the CPU.
            parts: Maps that, on the GPU, to the loss and what else is logged.
            parameters: Get gradients.
            steps: The training's.
        """
        self._draw, self._parts, self._parameters, self._steps = inputs, parts, parameters, steps
        self._recorded: CapturedGraph | None = None
        self._gradients: list[Tensor | None] = []
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[list[Tensor]]] | None = None

    def __call__(self, step: int) -> list[Tensor]:
        """Return the loss and what else is logged, and leave the gradients in the parameters."""
        inputs = self._inputs(step)
        if self._recorded is None:
            self._recorded = CapturedGraph(self._compute, inputs, self._parameters[0].device)
            self._gradients = [p.grad for p in self._parameters]
        if step + 1 < self._steps:
            self._ahead = step + 1, self._thread.submit(self._pinned, step + 1)
        parts: list[Tensor] = self._recorded(inputs)
        for p, gradient in zip(self._parameters, self._gradients, strict=True):
            p.grad = gradient
        return parts

    def _compute(self, *inputs: Tensor) -> list[Tensor]:
        for p in self._parameters:
            p.grad = None  # so that the gradients are new tensors, not added to old ones
        parts = self._parts(*inputs)
        parts[0].backward()
        return [part.detach() for part in parts]

    def _inputs(self, step: int) -> list[Tensor]:
        if self._ahead is not None and self._ahead[0] == step:
            return self._ahead[1].result()
        return self._pinned(step)

    def _pinned(self, step: int) -> list[Tensor]:
        return [x.pin_memory() for x in self._draw(step)]  # from other memory a copy would wait for the GPU
