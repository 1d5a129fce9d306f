"""The machine a run is made on: device, number format, and what must be recorded to repeat it."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ablate import __version__
from ablate.base.errors import AblateError
from ablate.base.host import host_bytes
from ablate.base.text import printable

LIBRARIES = (
    "lpips",
    "numba",
    "numpy",
    "onnxruntime",
    "pillow",
    "robohash",
    "safetensors",
    "scipy",
    "timm",
    "torch",
    "torch-fidelity",
    "torchvision",
)

# Instructions by which libraries choose kernels that round differently: processors of one name may not have the same.
VECTOR_UNITS = ("amx", "asimd", "avx", "bf16", "i8mm", "sve")

# The steps at the sizes of `quick` that repay the compilation; on a GPU an estimate (docs/log.md).
COMPILE_FROM = {"cpu": 1000, "cuda": 5000}
_NOT_DETERMINISTIC = "does not have a deterministic implementation"  # torch's words, behind the operation's name
_ATTENTION = "attention defaults to a non-deterministic algorithm"  # torch's words, whichever library it takes on a GPU


def pick_device(name: str) -> torch.device:
    """Return the device of a name: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        AblateError: The device is unknown or not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdigit())):
        raise AblateError(f"--device {name}: unknown device. Allowed: auto, cpu, cuda, cuda:N")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= count:
        raise AblateError(f"--device {name}: this machine has {count} CUDA devices; use --device cpu or auto")
    return torch.device(name)


def device_bytes(device: torch.device) -> int | None:
    """Return the memory that a device has in all, in bytes; None where it is unknown."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else host_bytes()


def pick_precision(device: torch.device) -> str:
    """Return `bf16` where the device multiplies bfloat16 natively (measured 1.9-2.6x faster in training), else `fp32`."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "fp32"


def pick_compile(choice: str, steps: int, device: torch.device) -> bool:
    """Return whether a training compiles its transformer blocks.

    Args:
        choice: `on`, `off`, or `auto`: where the training is long enough to repay the compilation, and `torch.compile` works.
        steps: Of the training.
        device: Where it trains.

    Raises:
        AblateError: `on`, and `torch.compile` does not work.
    """
    if choice == "off" or (choice == "auto" and steps < COMPILE_FROM[device.type]):
        return False
    problem = cannot_compile(device)
    if problem is not None and choice == "on":
        raise AblateError(
            f"--compile on: torch.compile does not work here ({problem}); install what it needs, or use --compile off"
        )
    return problem is None


@cache
def cannot_compile(device: torch.device) -> str | None:
    """Why `torch.compile` does not work, found by trying it; None where it does."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # one graph needs no pool of processes
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no GPU is no news
    try:
        torch.compile(lambda x: x.exp() + 1, dynamic=False)(torch.zeros(64, device=device))
    except Exception as error:  # a missing compiler, its missing headers, a library that does not load
        return printable(" ".join(str(error).split()))[:200]
    return None


def compiler() -> str | None:
    """Return the C++ compiler that `torch.compile` would start, and its version, or None."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if (path := shutil.which(name)) is not None:
            with suppress(OSError, subprocess.SubprocessError):
                words = [path, "--version"]
                done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True, errors="replace")
                return printable((done.stdout.splitlines() or [name])[0])
    return None


def environment(device: torch.device) -> str:
    """Return the environment as JSON: libraries' versions, Python, platform, processor with its vector units, and GPU."""
    values = {"ablate": __version__} | {name: metadata.version(name) for name in LIBRARIES}
    values |= {"python": platform.python_version(), "platform": platform.platform(), "cpu": _cpu_name()}
    values["cpu_features"] = " ".join(sorted(flag for flag in _cpu_flags() if flag.startswith(VECTOR_UNITS)))
    values["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if device.type == "cuda":  # without it the filters are computed step by step
        with suppress(metadata.PackageNotFoundError):
            values["triton"] = metadata.version("triton")
    return json.dumps(values, sort_keys=True)


@contextmanager
def deterministic() -> Iterator[set[str]]:
    """Make torch choose deterministic algorithms in the block.

    Yields:
        The names of operations that have none and ran all the same: complete when the block has ended.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; without it torch warns
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled, names = settings.fill_uninitialized_memory, set[str]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("default", message=f".*{_NOT_DETERMINISTIC}")
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False  # it finds bugs, and costs a pass over every tensor
        try:
            yield names
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            settings.fill_uninitialized_memory = filled
    for warning in caught:
        text = str(warning.message)
        if _NOT_DETERMINISTIC in text:
            names.add(text.split()[0])
        elif _ATTENTION in text.lower():
            names.add("scaled_dot_product_attention")  # of 64 tokens it repeated its bits all the same (docs/log.md)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def git_state() -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the checkout that this package is run from, or (None, None) outside one."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None, None

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def threads() -> int:
    """Return the threads that torch computes with."""
    return torch.get_num_threads()


def arithmetic(device: torch.device, precision: str, *, compiled: bool = False) -> str:
    """Return in a line how numbers are computed here: a training that goes on otherwise has other bits than one in one go."""
    words = [precision, device.type, f"{threads()} thread{'' if threads() == 1 else 's'}"]
    return " ".join(words + ["compiled"] * compiled)


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads in the block; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def governor() -> str | None:
    """Return how the system sets the processor's clock (`performance`, `powersave`, ...), or None where it does not tell."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip() or None
    except OSError:
        return None


def conditions(device: torch.device) -> dict[str, object]:
    """Return what a latency depends on beside the call: columns of the latency table."""
    return {
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": threads(),
        "governor": governor(),
    }


def _cpu_flags() -> set[str]:
    for line in _cpu_info():
        if line.startswith(("flags", "Features")):  # on x86, on ARM
            return set(line.partition(":")[2].split())
    return set()


def _cpu_name() -> str:
    for line in _cpu_info():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
