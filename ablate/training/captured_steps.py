"""Training steps captured as a CUDA graph; a thread draws the next step's random inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from ablate.base.cuda_graphs import CapturedGraph


class CapturedSteps:
    """Maps a step's number to its loss terms and leaves the gradients in the parameters, on a GPU.

    Forward and backward pass are captured at the first call. Each call starts to draw the inputs of
    the step after it.
    """

    def __init__(
        self,
        draw_inputs: Callable[[int], Sequence[Tensor]],
        loss_terms: Callable[..., list[Tensor]],
        parameters: Sequence[Tensor],
        steps: int,
    ) -> None:
        """Prepare the steps.

        Args:
            draw_inputs: Maps a step's number to its random inputs, on the CPU.
            loss_terms: Maps these inputs, on the GPU, to scalars; the first is the loss.
            parameters: Parameters that get gradients.
            steps: Steps of the training; nothing is drawn beyond the last.
        """
        self._draw_inputs, self._loss_terms = draw_inputs, loss_terms
        self._parameters, self._steps = parameters, steps
        self._graph: CapturedGraph | None = None
        self._gradients: list[Tensor | None] = []
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[list[Tensor]]] | None = None

    def __call__(self, step: int) -> list[Tensor]:
        """Return the loss terms of a step, and leave the gradients in the parameters."""
        ahead = self._next
        inputs = ahead[1].result() if ahead and ahead[0] == step else self._pinned_inputs(step)
        if self._graph is None:
            self._graph = CapturedGraph(self._compute, inputs, self._parameters[0].device)
            self._gradients = [p.grad for p in self._parameters]
        if step + 1 < self._steps:
            self._next = step + 1, self._thread.submit(self._pinned_inputs, step + 1)
        terms: list[Tensor] = self._graph(inputs)
        for p, gradient in zip(self._parameters, self._gradients, strict=True):
            p.grad = gradient
        return terms

    def _compute(self, *inputs: Tensor) -> list[Tensor]:
        for p in self._parameters:
            p.grad = None  # the backward pass then writes new gradients instead of adding to old ones
        terms = self._loss_terms(*inputs)
        terms[0].backward()
        return [term.detach() for term in terms]

    def _pinned_inputs(self, step: int) -> list[Tensor]:
        # A copy from memory that is not pinned would wait for the GPU.
        return [x.pin_memory() for x in self._draw_inputs(step)]
