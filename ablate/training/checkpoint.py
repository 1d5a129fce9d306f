"""The state of a training, and its checkpoints.

A checkpoint is one safetensors file. Weights, averaged weights, AdamW's moments and the running
sums are its tensors; scalars (as JSON) and a digest of all are its metadata. It is replaced
atomically, and the one before it is kept, to resume from if the newest is damaged.

No generator state is kept, because every random number is keyed by its index (`ablate.base.rng`):
`step` is the position in all streams.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ablate.base.errors import ResultsError
from ablate.base.signals import handled
from ablate.base.text import printable
from ablate.models.denoiser import persistent_buffers, weights_of
from ablate.models.weight_files import digest, read_tensors, save_tensors
from ablate.study.config import TrainConfig

SAVE_EVERY_S = 60.0  # default seconds between checkpoints
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names


class TrainingState:
    """Weights, averaged weights, optimiser and curve after `step` steps.

    Attributes:
        model: The network that is trained.
        ema: The network with the exponential moving average of the weights.
        sums: Running sums of the logged values since `logged_step`.
        curve: The logged rows.
        resume_warnings: Why a checkpoint was not used, or that the arithmetic changed; a line each.
        arithmetic_by_step: [first step, arithmetic] pairs; more than one if a resumed training
            computes differently from before.
        code: What `source_code.code_version` said in each process that trained, in order.
        guide_step: The step whose averaged weights are kept in `guide`; None: none are.
        guide: Those weights, once the step is over.
    """

    def __init__(self, model: nn.Module, ema: nn.Module, config: TrainConfig, num_sums: int) -> None:
        """Start at step 0, with `num_sums` running sums."""
        self.model, self.ema = model, ema.requires_grad_(False).eval()
        self.parameters: list[Tensor] = list(model.parameters())
        self.averages: list[Tensor] = list(ema.parameters())
        self.buffers, self.ema_buffers = persistent_buffers(model), persistent_buffers(ema)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.sums = torch.zeros(num_sums, device=self.parameters[0].device)
        self.step, self.logged_step, self.wall_s = 0, 0, 0.0
        self.saved_step, self.newest_is_valid = -1, False  # of the newest checkpoint
        self.curve: list[dict[str, Any]] = []
        self.resume_warnings: list[str] = []
        self.arithmetic_by_step: list[list[Any]] = []
        self.code: list[str] = []
        self.guide_step: int | None = None
        self.guide: dict[str, Tensor] = {}

    @property
    def mixed_arithmetic(self) -> str | None:
        """All arithmetics of the training and their first steps, or None if there is only one."""
        if len(self.arithmetic_by_step) < 2:
            return None
        return "; ".join(f"from step {step}: {arithmetic}" for step, arithmetic in self.arithmetic_by_step)

    def record_arithmetic(self, arithmetic: str) -> None:
        """Record how the steps from here on are computed, as `machine.arithmetic` says."""
        self.arithmetic_by_step = [pair for pair in self.arithmetic_by_step if pair[0] < self.step]
        if not self.arithmetic_by_step or self.arithmetic_by_step[-1][1] != arithmetic:
            self.arithmetic_by_step.append([self.step, arithmetic])
            if mixed := self.mixed_arithmetic:
                self.resume_warnings.append(f"resumed in another arithmetic, so no replay will be bit-exact ({mixed})")

    def record_code(self, version: str) -> None:
        """Record the code that computes the steps from here on, as `source_code.code_version` says."""
        if self.code and self.code[-1] != version:
            self.resume_warnings.append("resumed by another version of the code; the run's row names both")
        if version not in self.code:
            self.code.append(version)

    @torch.no_grad()
    def update(self, lr: float, grad_clip: float, ema: float) -> Tensor:
        """Clip gradients, step, average weights; return the gradient norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, grad_clip, foreach=True)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        for name, buffer in self.buffers.items():  # statistics of a normalisation are averages already
            self.ema_buffers[name].copy_(buffer)
        if self.step == self.guide_step:
            self.guide = {name: value.clone() for name, value in weights_of(self.ema).items()}
        return norm

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically; the file that it replaces becomes the previous one.

        Raises:
            ResultsError: The file cannot be written; older checkpoints are left unchanged.
        """
        tensors: dict[str, Tensor] = {"sums": self.sums}
        tensors |= {f"ema.{name}": p for name, p in self.ema.named_parameters()}
        tensors |= {f"buffer.{name}": buffer for name, buffer in self.buffers.items()}
        tensors |= {f"guide.{name}": value for name, value in self.guide.items()}
        for name, p in self.model.named_parameters():
            tensors[f"model.{name}"] = p
            if p in self.optimizer.state:
                tensors |= {f"{moment}.{name}": self.optimizer.state[p][moment] for moment in MOMENTS}
        values = {name: getattr(self, name) for name in ("step", "logged_step", "wall_s", "curve", "code")}
        scalars = json.dumps(values | {"computed": self.arithmetic_by_step})
        # A damaged newest file must not replace the valid one before it.
        previous = previous_of(path) if self.newest_is_valid else None
        save_tensors(path, tensors, {"scalars": scalars, "sha256": digest(tensors, scalars)}, previous)
        self.saved_step, self.newest_is_valid = self.step, True

    def load(self, path: Path) -> None:
        """Resume from a checkpoint, or from the one before it if it is missing or damaged.

        Changes nothing if there is neither. `resume_warnings` says which file was damaged.

        Raises:
            ResultsError: Every checkpoint is damaged or belongs to another model.
        """
        self.resume_warnings = []
        for candidate in (path, previous_of(path)):
            try:
                self._load(candidate)
            except FileNotFoundError:
                continue
            except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
                why = printable(" ".join(str(error).split()))[:200]
                self.resume_warnings.append(f"{candidate}: damaged checkpoint ({why})")
                continue
            self.saved_step, self.newest_is_valid = self.step, candidate == path
            self.resume_warnings = [f"{line}; resumed from the one before" for line in self.resume_warnings]
            return
        if self.resume_warnings:
            raise ResultsError(f"{'; '.join(self.resume_warnings)}; delete the file to train from the start")

    @torch.no_grad()
    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(path)
        if not os.access(path, os.R_OK):  # safetensors would say that it is missing
            raise PermissionError("no permission to read it")
        tensors, metadata = read_tensors(path)
        if metadata["sha256"] != digest(tensors, metadata["scalars"]):
            raise ValueError("its content does not match its digest")
        scalars = json.loads(metadata["scalars"])
        for kind, module in (("model", self.model), ("ema", self.ema)):
            for name, p in module.named_parameters():
                p.copy_(tensors[f"{kind}.{name}"])
        for name, p in self.model.named_parameters():
            if f"{MOMENTS[0]}.{name}" not in tensors:
                continue  # it gets no gradient
            state = {moment: torch.empty_like(p).copy_(tensors[f"{moment}.{name}"]) for moment in MOMENTS}
            self.optimizer.state[p] = state | {"step": torch.tensor(float(scalars["step"]), device=p.device)}
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[f"buffer.{name}"])
            self.ema_buffers[name].copy_(buffer)
        self.guide = {n.removeprefix("guide."): value for n, value in tensors.items() if n.startswith("guide.")}
        self.sums.copy_(tensors["sums"])
        self.step, self.logged_step = int(scalars["step"]), int(scalars["logged_step"])
        self.wall_s, self.curve = scalars["wall_s"], scalars["curve"]
        self.arithmetic_by_step = scalars.get("computed", [])  # older checkpoints lack it
        self.code = scalars.get("code", [])  # likewise


def previous_of(path: Path) -> Path:
    """Return the path of the checkpoint before the newest."""
    return path.with_name(f"previous_{path.name}")


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Catch SIGINT and SIGTERM in the block; yield a function that says whether one has arrived."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    with handled(note, signal.SIGINT, signal.SIGTERM):
        yield lambda: bool(received)
