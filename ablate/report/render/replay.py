"""What a replay found, in words."""

from __future__ import annotations

from typing import Any, Protocol

from ablate.base.text import printable

WORDS = {
    "bit_exact": "bit-exact: weights and samples have the row's digests",
    "within_tolerance": "equal within tolerance, not bit-exact",
    "environment_mismatch": "environment mismatch: not the same outcome, and not the same environment",
    "not_reproduced": "not reproduced, though nothing of the recorded environment differs",
}


class Outcome(Protocol):
    """What `ablate.runs.replay.Replay` holds."""

    @property
    def run_id(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def weights_max_abs_diff(self) -> float | None: ...
    @property
    def samples_psnr_db(self) -> float | None: ...
    @property
    def environment(self) -> dict[str, tuple[Any, Any]]: ...
    @property
    def nondeterministic_ops(self) -> list[str]: ...
    @property
    def note(self) -> str: ...


def lines(outcome: Outcome) -> list[str]:
    """Return the verdict, the figures, what differs, and which operations cannot be deterministic."""
    found = [f"{outcome.run_id}: {WORDS[outcome.verdict]}"]
    if outcome.verdict != "bit_exact":
        if outcome.weights_max_abs_diff is not None:
            found.append(f"  weights: largest difference {outcome.weights_max_abs_diff:.3g}")
            psnr = outcome.samples_psnr_db
            found.append("  samples: equal" if psnr is None else f"  samples: PSNR {psnr:.2f} dB")
        for part, (then, here) in outcome.environment.items():
            found.append(f"  {part}: {printable(then)} in the row, {printable(here)} here")
    if outcome.nondeterministic_ops:
        found.append(f"  operations without a deterministic form: {', '.join(outcome.nondeterministic_ops)}")
    if outcome.note:
        found.append(f"  note: {printable(outcome.note)}")
    return found
