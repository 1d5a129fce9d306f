"""The result of `ablate replay` in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablate.base.text import printable

VERDICTS = {
    "bit_exact": "bit-exact: weights and samples have the row's digests",
    "within_tolerance": "equal within tolerance, not bit-exact",
    "environment_mismatch": "environment mismatch: the result differs, and so does the environment",
    "not_reproduced": "not reproduced, although the environment is the recorded one",
}


def lines(outcome: Mapping[str, Any]) -> list[str]:
    """Return the verdict, how far the results differ, and what may have caused it.

    Args:
        outcome: The document of `ablate replay --json`, of a training or of a program.
    """
    exact, metrics = outcome["verdict"] == "bit_exact", outcome.get("metrics", {})
    verdict = VERDICTS[outcome["verdict"]]
    if exact and "metrics" in outcome:
        verdict = f"bit-exact: {len(metrics)} metrics have the row's values"
    text = [f"{outcome['run_id']}: {verdict}"]
    text += [_differs(printable(name), *values) for name, values in metrics.items() if values[0] != values[1]]
    if not exact:
        if outcome.get("weights_max_abs_diff") is not None:
            text.append(f"  weights: largest difference {outcome['weights_max_abs_diff']:.3g}")
            psnr = outcome["samples_psnr_db"]
            text.append("  samples: equal" if psnr is None else f"  samples: PSNR {psnr:.2f} dB")
        text += [_differs(part, *values) for part, values in outcome["environment"].items()]
    if outcome.get("nondeterministic_ops"):
        text.append(f"  operations without a deterministic form: {', '.join(outcome['nondeterministic_ops'])}")
    if outcome.get("note"):
        text.append(f"  note: {printable(outcome['note'])}")
    return text


def _differs(name: str, then: object, here: object) -> str:
    return f"  {name}: {printable(then)} in the row, {printable(here)} here"
