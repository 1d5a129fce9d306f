"""One run on several processes: torch's DistributedDataParallel, started by `torchrun --nproc-per-node W -m ablate run ...`.

Of a step's batch of B pictures, process r of W takes the r-th, the (r + W)-th and so on: n_r of them, m_r of which are among the P that
the perceptual distance is taken of. What process r minimises is W times its part of the whole batch's loss,

    l_r = W (n_r / B) squared_r + weight W (m_r / P) distance_r,    P = ceil(share B),

so that the mean over processes, which is what DistributedDataParallel takes of the gradients, is that of the whole batch. Random numbers
are keyed by picture, so the pictures, their noise and their times are those of one process; sums are taken in another order.

Process 0 does all else: it resumes and saves, samples, measures and writes. The others wait for its messages, and train when told to.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ablate.checkpoint import MOMENTS, TrainingState, stop_signals
from ablate.config import TrainConfig
from ablate.errors import AblateError

PATIENCE = timedelta(
    days=30
)  # for a message of process 0, which may sample for hours; torchrun ends the others where one ends
AGREE_EVERY = 10  # steps: between two questions whether any process was interrupted


def size() -> int:
    """Return how many processes make a run together."""
    return dist.get_world_size() if _is_joined() else 1


def rank() -> int:
    """Return the number of this process among them; 0 leads."""
    return dist.get_rank() if _is_joined() else 0


def is_started_by_torchrun() -> bool:
    """Return whether there are several processes, by the environment that torchrun gives each."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; where the caller has joined them already, they stay so afterwards.

    Args:
        device: What the run computes on.

    Yields:
        The device of this process: a GPU of its own, where it is a GPU.

    Raises:
        AblateError: There are fewer GPUs than processes on this machine.
    """
    if not is_started_by_torchrun():
        yield device
        return
    if device.type == "cuda":
        number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= count:
            raise AblateError(
                f"process {number} of this machine has no GPU, there are {count}; give torchrun --nproc-per-node {count}"
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    joined_before = _is_joined()
    if not joined_before:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
        if rank() == 0:
            send(None)
    finally:
        if not joined_before:
            dist.destroy_process_group()


def send(message: dict[str, Any] | None, content: bytes = b"") -> None:
    """Tell the other processes what to do, from process 0: a JSON document and bytes beside it; None: nothing more."""
    if size() > 1:
        for part in (json.dumps(message).encode(), content):
            dist.broadcast(torch.tensor(len(part)), 0)
            if part:
                dist.broadcast(torch.frombuffer(bytearray(part), dtype=torch.uint8), 0)


def receive() -> tuple[dict[str, Any] | None, bytes]:
    """Wait for a message of process 0; one that has ended has nothing more to say."""
    parts = []
    for _ in range(2):
        length = torch.tensor(0)
        try:
            dist.broadcast(length, 0)
            part = torch.empty(int(length), dtype=torch.uint8)
            if len(part):
                dist.broadcast(part, 0)
        except RuntimeError:
            return None, b""
        parts.append(part.numpy().tobytes())
    return json.loads(parts[0]), parts[1]


class Alone:
    """A training run of one process: everything as it is."""

    def __init__(self, config: TrainConfig) -> None:
        """Train by these settings."""
        self.config = config

    def state(self, model: nn.Module, ema: nn.Module, sums: int) -> TrainingState:
        """Return the state to train."""
        return TrainingState(model, ema, self.config, sums)

    def network(self, model: nn.Module) -> nn.Module:
        """Return what to call in the model's place."""
        return model

    def share(self, numbers: range) -> range:
        """Return which of a batch's pictures this process takes."""
        return numbers

    def whole(self, parts: list[Tensor], step: int) -> list[Tensor]:
        """Return the whole batch's loss, squared error and perceptual distance, given those of this process' share."""
        return parts


class Together(Alone):
    """A training run of several processes.

    Attributes:
        config: The settings by which the loss of this process' share is taken; a `perceptual_share` of 0: of none of its pictures.
        stopping: Whether all processes have agreed to stop.
    """

    def __init__(self, config: TrainConfig) -> None:
        """Take this process' share of a training run.

        Raises:
            AblateError: The batch has fewer pictures than there are processes.
        """
        if config.batch < size():
            raise AblateError(
                f"a batch of {config.batch} for {size()} processes; allowed: at most one process a picture"
            )
        self._weight, self._steps = config.perceptual_weight, config.steps
        seen = math.ceil(config.perceptual_share * config.batch)
        own, own_seen = len(self.share(range(config.batch))), len(self.share(range(seen)))
        self._scales = (size() * own / config.batch, size() * own_seen / max(seen, 1))
        weight = config.perceptual_weight * self._scales[1] / self._scales[0]
        # Half a picture less: what is rounded up again must not come out one too many.
        share = (own_seen - 0.5) / own if own_seen else 0.0
        super().__init__(replace(config, perceptual_weight=weight, perceptual_share=share))
        self.asked: Callable[[], bool] = lambda: False
        self.stopping = False

    def state(self, model: nn.Module, ema: nn.Module, sums: int) -> TrainingState:
        """Return a state that process 0 loads and saves."""
        return _SharedState(model, ema, self.config, sums, self)

    def network(self, model: nn.Module) -> nn.Module:
        """Return the model, wrapped so that gradients are averaged over processes."""
        return DistributedDataParallel(model)

    def share(self, numbers: range) -> range:
        """Return every size-th picture: each process gets as many of the first ones, within one."""
        return numbers[rank() :: size()]

    def whole(self, parts: list[Tensor], step: int) -> list[Tensor]:
        """Return the whole batch's values; the first has the gradient of this process' part."""
        own = parts[0] * self._scales[0]
        values = [
            parts[1] * self._scales[0],
            parts[2] * self._scales[1],
            torch.full_like(parts[1], float(self.asked())),
        ]
        means = torch.stack(values).detach()
        dist.all_reduce(means)
        squared, distance, asked = means / size()
        if (step + 1) % AGREE_EVERY == 0 or step + 1 == self._steps:
            self.stopping = bool(asked > 0)
        loss = squared + self._weight * distance
        return [own + (loss - own).detach(), squared, distance]


def team(config: TrainConfig) -> Alone:
    """Return this process' part in a training run.

    Raises:
        AblateError: The batch has fewer pictures than there are processes.
    """
    return Together(config) if size() > 1 else Alone(config)


class _SharedState(TrainingState):
    """The state of a training run that several processes share."""

    def __init__(self, model: nn.Module, ema: nn.Module, config: TrainConfig, sums: int, team: Together) -> None:
        super().__init__(model, ema, config, sums)
        self._team = team

    def load(self, path: Path) -> None:
        """Continue from process 0's file, in all processes."""
        if rank() == 0:
            super().load(path)
        kept = torch.tensor([self.step, self.logged_step, bool(self.optimizer.state)], device=self.sums.device)
        dist.broadcast(kept, 0)
        self.step, self.logged_step, has_moments = kept.tolist()
        if has_moments and rank():
            for p in self.parameters:
                moments = {moment: torch.zeros_like(p) for moment in MOMENTS}
                self.optimizer.state[p] = moments | {"step": torch.tensor(float(self.step), device=p.device)}
        tensors = [*self.parameters, *self.averages, self.sums]
        tensors += [self.optimizer.state[p][moment] for p in self.parameters for moment in MOMENTS if has_moments]
        with torch.no_grad():
            for tensor in tensors:
                dense = tensor.detach().contiguous()  # of channels-last tensors a copy
                dist.broadcast(dense, 0)
                tensor.copy_(dense)

    def save(self, path: Path) -> None:
        """Write process 0's state."""
        if rank() == 0:
            super().save(path)
        self.saved_step = self.step

    @contextmanager
    def stop_signals(self) -> Iterator[Callable[[], bool]]:
        """Ask whether all processes have agreed to stop, because a signal came to any."""
        with stop_signals() as self._team.asked:
            yield lambda: self._team.stopping


def is_leader() -> bool:
    """Return whether this process leads, by the environment alone: also before and after the processes are joined."""
    return not is_started_by_torchrun() or os.environ.get("RANK", "0") == "0"


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
