"""The host's memory and CPU, and the environment variables that set thread counts."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

from ablate.base.errors import DataError

# Libraries choose kernels, which round differently, by these instruction sets. CPUs of one name may
# differ in them.
VECTOR_UNITS = ("amx", "asimd", "avx", "bf16", "i8mm", "sve")

# numpy's and torch's libraries read these when they are first imported.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def host_bytes() -> int | None:
    """Return the memory of the machine or container in bytes, None if unknown."""
    limits = []
    with suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # the file says "max" where there is no limit
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits, default=None)


def check_memory(where: str, what: str, needed: int) -> None:
    """Refuse to allocate more memory than this machine has.

    Args:
        where: The path, for the message.
        what: What is allocated, for the message.
        needed: Bytes.

    Raises:
        DataError: More is needed than the machine has in all.
    """
    available = host_bytes()
    if available is not None and needed > available:
        found = f"{what} needs {needed / 1e9:,.1f} GB of memory, there are {available / 1e9:,.1f} GB in all"
        raise DataError(f"{where}: {found}; fix: use fewer or smaller images")


def cpu_flags() -> set[str]:
    """Return the instruction sets of the CPU; empty if unknown."""
    for line in _cpu_info():
        if line.startswith(("flags", "Features")):  # on x86, on ARM
            return set(line.partition(":")[2].split())
    return set()


def vector_units() -> str:
    """Return the CPU's instruction sets that change how sums round, in one line."""
    return " ".join(sorted(flag for flag in cpu_flags() if flag.startswith(VECTOR_UNITS)))


def gpu_name() -> str | None:
    """Return the name of the first NVIDIA GPU without a CUDA library; None: there is none, or it is unknown."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip()
    return None


def cpu_name() -> str:
    """Return the name of the CPU and its number of cores."""
    for line in _cpu_info():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
