"""The state of a training run, and how it survives an interruption.

A checkpoint is one safetensors file: weights, averaged weights, AdamW's moments and the running sums as tensors, the scalars as JSON in
the file's metadata, and a digest of both. It is replaced atomically, and the one before it is kept beside it: a damaged newest one falls
back to that. No generator's state is kept: every random number is keyed by its index (`ablate.base.rng`), so `step` is the position of all.
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
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ablate.base.errors import ResultsError
from ablate.base.signals import handled
from ablate.base.text import printable
from ablate.models.weight_files import digest, save_tensors
from ablate.study.config import TrainConfig

SAVE_EVERY_S = 60.0  # seconds between checkpoints, unless said otherwise
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingState:
    """Weights, averaged weights, optimiser and training curve after `step` steps."""

    def __init__(self, model: nn.Module, ema: nn.Module, config: TrainConfig, sums: int) -> None:
        """Start at step 0, with `sums` running sums for the log."""
        self.model, self.ema = model, ema.requires_grad_(False).eval()
        self.parameters: list[Tensor] = list(model.parameters())
        self.averages: list[Tensor] = list(ema.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.sums = torch.zeros(sums, device=self.parameters[0].device)
        self.step, self.logged_step, self.wall_s = 0, 0, 0.0
        self.saved_step, self.newest_is_sound = -1, False  # of the newest checkpoint
        self.resume_warnings: list[
            str
        ] = []  # of going on: checkpoints that could not be used, another arithmetic; one line each
        self.curve: list[dict[str, Any]] = []
        self.computed: list[list[Any]] = []  # from which step on, in which arithmetic

    @property
    def mixed_arithmetic(self) -> str | None:
        """What the training was computed in, where it was interrupted and went on in another arithmetic; else None."""
        return "; ".join(f"from step {step}: {how}" for step, how in self.computed) if len(self.computed) > 1 else None

    def record_arithmetic(self, arithmetic: str) -> None:
        """Note what the steps from here on are computed in."""
        self.computed = [part for part in self.computed if part[0] < self.step]
        if not self.computed or self.computed[-1][1] != arithmetic:
            self.computed.append([self.step, arithmetic])
            if self.mixed_arithmetic:
                self.resume_warnings.append(
                    f"resumed in another arithmetic, so no replay will be bit-exact ({self.mixed_arithmetic})"
                )

    @torch.no_grad()
    def update(self, lr: float, grad_clip: float, ema: float) -> Tensor:
        """Clip, step, average; return the gradient norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, grad_clip, foreach=True)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        return norm

    def save(self, path: Path) -> None:
        """Write the state to a file, atomically; the file that stood there becomes the previous one.

        Raises:
            ResultsError: The file cannot be written; older checkpoints are left as they were.
        """
        tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in self.model.named_parameters()}
        tensors |= {f"ema.{name}": p for name, p in self.ema.named_parameters()}
        for name, p in self.model.named_parameters():
            tensors |= {
                f"{moment}.{name}": self.optimizer.state[p][moment] for moment in MOMENTS if p in self.optimizer.state
            }
        kept = {name: getattr(self, name) for name in ("step", "logged_step", "wall_s", "curve", "computed")}
        tensors, scalars = tensors | {"sums": self.sums}, json.dumps(kept)
        metadata = {"scalars": scalars, "sha256": digest(tensors, scalars)}
        # A newest file that was found damaged must not take the place of the one that was fallen back to.
        save_tensors(path, tensors, metadata, previous_of(path) if self.newest_is_sound else None)
        self.saved_step, self.newest_is_sound = self.step, True

    def load(self, path: Path) -> None:
        """Continue from a file, or from the one before it where the file is missing or damaged; where there is neither, change nothing.

        What was wrong with a file that could not be used stands in `problems` afterwards.

        Raises:
            ResultsError: Every file there is is damaged or belongs to another model.
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
            self.saved_step, self.newest_is_sound = self.step, candidate == path
            self.resume_warnings = [f"{line}; training goes on from the one before" for line in self.resume_warnings]
            return
        if self.resume_warnings:
            raise ResultsError(f"{'; '.join(self.resume_warnings)}; delete the file to train from the start")

    @torch.no_grad()
    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(path)
        if not os.access(path, os.R_OK):  # safetensors would call it missing
            raise PermissionError("it may not be read")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata["sha256"] != digest(tensors, metadata["scalars"]):
            raise ValueError("its content does not match its digest")
        scalars = json.loads(metadata["scalars"])
        for kind, module in (("model", self.model), ("ema", self.ema)):
            for name, p in module.named_parameters():
                p.copy_(tensors[f"{kind}.{name}"])
        for name, p in self.model.named_parameters():
            state = {moment: torch.empty_like(p).copy_(tensors[f"{moment}.{name}"]) for moment in MOMENTS}
            self.optimizer.state[p] = state | {"step": torch.tensor(float(scalars["step"]), device=p.device)}
        self.sums.copy_(tensors["sums"])
        self.step, self.logged_step = int(scalars["step"]), int(scalars["logged_step"])
        self.wall_s, self.curve = scalars["wall_s"], scalars["curve"]
        self.computed = scalars.get("computed", [])  # came later


def previous_of(path: Path) -> Path:
    """Return where the checkpoint before the newest is kept."""
    return path.with_name(f"previous_{path.name}")


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks between two steps: has one come?"""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    with handled(note, signal.SIGINT, signal.SIGTERM):
        yield lambda: bool(seen)
