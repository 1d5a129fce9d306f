"""The state of a training run, and how it survives an interruption.

A checkpoint is one safetensors file: weights, averaged weights, AdamW's moments and the running sums as tensors, the scalars as JSON in
the file's metadata. It is replaced atomically. No generator's state is kept: every random number is keyed by its index (`ablate.rng`).
"""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ablate.errors import ResultsError
from ablate.files import replacing
from ablate.variant import TrainConfig

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
        self.curve: list[dict[str, Any]] = []

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
        """Write the state to a file, atomically.

        Raises:
            ResultsError: The file cannot be written; an older checkpoint is left as it was.
        """
        tensors = {f"model.{name}": p for name, p in self.model.named_parameters()}
        tensors |= {f"ema.{name}": p for name, p in self.ema.named_parameters()}
        for name, p in self.model.named_parameters():
            tensors |= {
                f"{moment}.{name}": self.optimizer.state[p][moment] for moment in MOMENTS if p in self.optimizer.state
            }
        scalars = {"step": self.step, "logged_step": self.logged_step, "wall_s": self.wall_s, "curve": self.curve}
        save_tensors(path, tensors | {"sums": self.sums}, {"scalars": json.dumps(scalars)})

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Continue from a file; a missing one changes nothing.

        Raises:
            ResultsError: The file is damaged or belongs to another model.
        """
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as file:
                scalars = json.loads(file.metadata()["scalars"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            for kind, module in (("model", self.model), ("ema", self.ema)):
                for name, p in module.named_parameters():
                    p.copy_(tensors[f"{kind}.{name}"])
            for name, p in self.model.named_parameters():
                state = {moment: torch.empty_like(p).copy_(tensors[f"{moment}.{name}"]) for moment in MOMENTS}
                self.optimizer.state[p] = state | {"step": torch.tensor(float(scalars["step"]), device=p.device)}
            self.sums.copy_(tensors["sums"])
            self.step, self.logged_step = scalars["step"], scalars["logged_step"]
            self.wall_s, self.curve = scalars["wall_s"], scalars["curve"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ResultsError(
                f"{path}: damaged checkpoint ({error}); delete the file to train from the start"
            ) from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 digest of tensors' bytes, in the order of their names, as hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file, atomically.

    Raises:
        ResultsError: The file cannot be written; the old one, if any, is left as it was.
    """
    try:
        with replacing(path) as temporary:
            save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, dict(metadata))
    except (OSError, SafetensorError) as error:
        mend = "free some space or choose another --results folder"
        raise ResultsError(f"{path}: cannot be written ({error}); {mend}") from error


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks between two steps: has one come?"""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # Not the main thread: signals are someone else's.
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
