"""ablate: which parts of an image generator earn their place?

    import ablate
    results = ablate.run("no_drift", seeds="0-2", preset="quick")
    results = ablate.load_results("results")
    results.verdicts()
    ablate.judge("scores.csv")

What it offers is imported at its first use: `ablate --help` imports no library.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"
_PLUGINS = ("dataset", "metric", "model", "objective", "solver")  # decorators of plug-ins
_LIBRARIES = (
    "CUBLAS_",
    "GOMP_",
    "KINETO_",
    "MKL_",
    "OMP_",
    "OPENBLAS_",
    "ORT_",
    "PYTORCH_",
    "RAY_",
    "THP_",
    "TMPDIR",
    "TORCH",
)
__all__ = ["Results", "__version__", "import_scores", "judge", "load_results", "load_run", "merge", "run", *_PLUGINS]

# An empty variable counts as unset, as in CI: torch, for one, ends with a traceback where it expects a number.
# CUDA_VISIBLE_DEVICES is not among them: empty, it hides all GPUs.
for _name in [name for name, value in os.environ.items() if not value and name.startswith(_LIBRARIES)]:
    del os.environ[_name]
# ONNX Runtime sends telemetry unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Let torch use huge pages for large tensors: a few page faults instead of thousands (docs/log.md).
# Read at the first tensor. No effect except on Linux with huge pages enabled.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Threads that wait for each other sleep after some 0.1 ms instead of 15 ms of spinning: where other processes use the
# cores, a step takes half the time or less; alone it takes 3 % more (docs/log.md). Read when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def __getattr__(name: str) -> Any:
    if name in _PLUGINS:
        return getattr(importlib.import_module("ablate.study.plugins"), name)
    if name in __all__:
        return getattr(importlib.import_module("ablate.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
