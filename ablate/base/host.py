"""What this host gives a process: its memory, and the variables that set thread counts."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# Read by numpy's and torch's libraries when they are first imported.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def host_bytes() -> int | None:
    """Return what this machine, or the container's limit, has of memory in all, in bytes; None where the system does not tell."""
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found, default=None)
