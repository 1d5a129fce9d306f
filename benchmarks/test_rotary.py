"""Time that the rotary kernel of `ablate.models.kpn.rotary` saves in an evaluation at `quick`.

    pytest benchmarks/test_rotary.py -s
The model runs with the kernel and with plain torch in turns, in one process and one thread. The
ratio of the median CPU times is printed. No test fails by time.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from ablate.base import machine
from ablate.models.kpn import rotary
from ablate.models.kpn.denoiser import build
from ablate.study import variants

BATCH, ROUNDS = 16, 15


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_evaluation_with_and_without_the_kernel(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = variants.resolve(variants.load(variants.BASELINE), "quick")
    model = build(config.model, 0, torch.device("cpu"))
    z = torch.randn(BATCH, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    t = torch.rand(BATCH)
    times: dict[str, list[float]] = {"fused": [], "plain": []}
    with machine.use_threads(1), torch.inference_mode():
        for _ in range(ROUNDS + 1):
            for name, seconds in times.items():
                with (
                    monkeypatch.context() as patch,
                    torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
                ):
                    if name == "plain":
                        patch.setattr(rotary, "fits_kernel", lambda qkv, cos: False)
                    start = time.thread_time()
                    model(z, t)
                    seconds.append(time.thread_time() - start)
    fused, plain = (statistics.median(seconds[1:]) for seconds in times.values())
    print(f"\n{precision}: plain {1e3 * plain:.1f} ms, fused {1e3 * fused:.1f} ms, ratio {plain / fused:.3f}")
