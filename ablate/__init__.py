"""ablate: which parts of a small image generator earn their place?

    import ablate
    results = ablate.run(variant=["baseline", "no_drift"], seeds="0-2", preset="quick")
    results = ablate.load_results("results")
    results.verdicts()

`run`, `load_results` and `Results` are imported when they are first asked for: a command that needs no torch does not wait for it.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Results", "__version__", "load_results", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("ablate.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
