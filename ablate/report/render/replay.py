"""The result of `ablate replay` in words."""

from __future__ import annotations

from typing import Any, Protocol

from ablate.base.text import printable

VERDICTS = {
    "bit_exact": "bit-exact: weights and samples have the row's digests",
    "within_tolerance": "equal within tolerance, not bit-exact",
    "environment_mismatch": "environment mismatch: the result differs, and so does the environment",
    "not_reproduced": "not reproduced, although the environment is the recorded one",
}


class Outcome(Protocol):
    """What this module needs of `ablate.runs.replay.Replay`."""

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


class ProgramOutcome(Protocol):
    """What this module needs of `ablate.runs.program_replay.ProgramReplay`."""

    @property
    def run_id(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def metrics(self) -> dict[str, tuple[float | None, float | None]]: ...
    @property
    def environment(self) -> dict[str, tuple[Any, Any]]: ...


def program_lines(outcome: ProgramOutcome) -> list[str]:
    """Return the verdict on a program, the metrics that differ, and what may have caused it."""
    same = f"bit-exact: {len(outcome.metrics)} metrics have the row's values"
    text = [f"{outcome.run_id}: {same if outcome.verdict == 'bit_exact' else VERDICTS[outcome.verdict]}"]
    for name, (then, here) in outcome.metrics.items():
        if then != here:
            text.append(f"  {printable(name)}: {then} in the row, {here} here")
    if outcome.verdict != "bit_exact":
        for part, values in outcome.environment.items():
            text.append(f"  {part}: {printable(values[0])} in the row, {printable(values[1])} here")
    return text


def lines(outcome: Outcome) -> list[str]:
    """Return the verdict, how far weights and samples differ, and what may have caused it."""
    text = [f"{outcome.run_id}: {VERDICTS[outcome.verdict]}"]
    if outcome.verdict != "bit_exact":
        if outcome.weights_max_abs_diff is not None:
            text.append(f"  weights: largest difference {outcome.weights_max_abs_diff:.3g}")
            psnr = outcome.samples_psnr_db
            text.append("  samples: equal" if psnr is None else f"  samples: PSNR {psnr:.2f} dB")
        for part, (then, here) in outcome.environment.items():
            text.append(f"  {part}: {printable(then)} in the row, {printable(here)} here")
    if outcome.nondeterministic_ops:
        text.append(f"  operations without a deterministic form: {', '.join(outcome.nondeterministic_ops)}")
    if outcome.note:
        text.append(f"  note: {printable(outcome.note)}")
    return text
