"""ablate: which parts of a small image generator earn their place?

    import ablate
    results = ablate.run(variant=["baseline", "no_drift"], seeds="0-2", preset="quick")
    results = ablate.load_results("results")
    results.verdicts()

`run`, `load_results` and `Results` are imported when they are first asked for: a command that needs no torch does not wait for it.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"
__all__ = ["Results", "__version__", "load_results", "run"]

# ONNX Runtime reports every process to its makers over the network, unless it is told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# torch asks for large tensors' memory anew each time: in huge pages that is a few faults instead of thousands (docs/log.md). Read once, at
# the first tensor; elsewhere than on Linux, or where the kernel is set to `never`, it does nothing.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("ablate.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
