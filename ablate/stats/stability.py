"""Whether a training was stable, by its own gradient norms.

A run is unstable where a logged gradient norm exceeds FACTOR times the median of those logged before it, after
warm-up. In the shipped studies stable runs stay below 5.1 times, unstable ones exceed 20.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FACTOR = 10.0
HISTORY = 5  # logged norms that a judgement needs before it


def first_jump(steps: Sequence[int], grad_norms: Sequence[float], warmup: int) -> int | None:
    """Return the first step at which the gradient norm left its own history, or None where it never did.

    Args:
        steps: (n,) training steps at which norms were logged, ascending.
        grad_norms: (n,) gradient norms before clipping. A norm that is not finite counts as a jump.
        warmup: Steps of the learning rate's warm-up; norms up to here are ignored.
    """
    logged = [(step, norm) for step, norm in zip(steps, grad_norms, strict=True) if step > warmup]
    for i, (step, norm) in enumerate(logged):
        if i >= HISTORY and not norm <= FACTOR * np.median([earlier for _, earlier in logged[:i]]):
            return step
    return None
