"""The cases of `ablate bench --ops` and their references, by pytest-benchmark.

    pytest benchmarks/test_ops.py --benchmark-group-by=param:name
No test fails by time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.operations import CASES


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("side", ["reference", "ours"])
def test_case(benchmark: Any, name: str, side: str, tmp_path: Path) -> None:
    call = getattr(CASES[name](torch.device("cpu"), tmp_path), side)
    if call is None:
        pytest.skip("nothing to compare with")
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)
