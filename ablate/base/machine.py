"""The machine of a run: device, precision, and what is recorded so that the run can be repeated."""

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
from ablate.base.host import cpu_flags, cpu_name, host_bytes, vector_units
from ablate.base.text import printable

# Their versions are part of a row.
LIBRARIES = (
    "lpips", "numba", "numpy", "onnxruntime", "pillow", "robohash", "safetensors",
    "scipy", "timm", "torch", "torch-fidelity", "torchvision",
)  # fmt: skip

# Training steps that repay a compilation at the sizes of `quick` (docs/log.md); estimated on a GPU.
COMPILE_FROM_STEPS = {"cpu": 1000, "cuda": 5000}
# Parts of torch's warnings.
_NOT_DETERMINISTIC = "does not have a deterministic implementation"  # follows the operation's name
_ATTENTION = "attention defaults to a non-deterministic algorithm"


def pick_device(name: str) -> torch.device:
    """Return the device for `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`.

    Raises:
        AblateError: The name is unknown, or the machine has no such device.
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
    """Return the total memory of a device in bytes, None if unknown."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else host_bytes()


def pick_precision(device: torch.device) -> str:
    """Return `bf16` if the device multiplies bfloat16 natively, else `fp32`.

    Native bfloat16 made training 1.9 to 2.6 times faster (docs/log.md).
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "fp32"


def pick_compile(choice: str, steps: int, device: torch.device) -> bool:
    """Return whether a training compiles its transformer blocks.

    Args:
        choice: `on`, `off` or `auto`. `auto` compiles if `torch.compile` works and the training is
            long enough to repay the compilation.
        steps: Length of the training.
        device: Where it trains.

    Raises:
        AblateError: `choice` is `on` and `torch.compile` does not work.
    """
    if choice == "off" or (choice == "auto" and steps < COMPILE_FROM_STEPS[device.type]):
        return False
    problem = compile_problem(device)
    if problem is not None and choice == "on":
        raise AblateError(
            f"--compile on: torch.compile does not work here ({problem}); install what it needs, or use --compile off"
        )
    return problem is None


@cache
def compile_problem(device: torch.device) -> str | None:
    """Try `torch.compile` once; return its error in one line, or None if it works."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # one graph does not need a process pool
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # silence its note that there is no GPU
    try:
        torch.compile(lambda x: x.exp() + 1, dynamic=False)(torch.zeros(64, device=device))
    except Exception as error:  # no compiler, missing headers, a library that does not load
        return printable(" ".join(str(error).split()))[:200]
    return None


def compiler() -> str | None:
    """Return name and version of the C++ compiler that `torch.compile` would use, or None."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if (path := shutil.which(name)) is not None:
            with suppress(OSError, subprocess.SubprocessError):
                words = [path, "--version"]
                done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True, errors="replace")
                return printable((done.stdout.splitlines() or [name])[0])
    return None


def environment(device: torch.device) -> str:
    """Return JSON with the versions of libraries and Python, the platform, the CPU and the GPU."""
    values = {"ablate": __version__}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):  # of an extra that is not installed
            values[name] = metadata.version(name)
    values |= {"python": platform.python_version(), "platform": platform.platform(), "cpu": cpu_name()}
    values["cpu_features"] = vector_units()
    values["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if device.type == "cuda":  # the filters have no fused kernels without it
        with suppress(metadata.PackageNotFoundError):
            values["triton"] = metadata.version("triton")
    return json.dumps(values, sort_keys=True)


@contextmanager
def deterministic() -> Iterator[set[str]]:
    """Make torch choose deterministic algorithms in the block.

    Yields:
        The names of the operations that ran without a deterministic algorithm. The set is filled
        when the block ends.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; torch warns without it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill_before, names = settings.fill_uninitialized_memory, set[str]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("default", message=f".*{_NOT_DETERMINISTIC}")
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False  # a debugging aid that costs a pass over every tensor
        try:
            yield names
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            settings.fill_uninitialized_memory = fill_before
    for warning in caught:
        text = str(warning.message)
        if _NOT_DETERMINISTIC in text:
            names.add(text.split()[0])
        elif _ATTENTION in text.lower():
            # With 64 tokens it gave the same bits each time (docs/log.md).
            names.add("scaled_dot_product_attention")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def threads() -> int:
    """Return the number of CPU threads torch uses."""
    return torch.get_num_threads()


def arithmetic(device: torch.device, precision: str, *, compiled: bool = False) -> str:
    """Return precision, device type, threads and compilation in one line.

    A training that is resumed with another line does not have the bits of an uninterrupted one.
    """
    words = [precision, device.type, f"{threads()} thread{'' if threads() == 1 else 's'}"]
    return " ".join(words + ["compiled"] * compiled)


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Set the number of torch's CPU threads in the block; None keeps it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def governor() -> str | None:
    """Return the CPU frequency governor (`performance`, `powersave`, ...), None if unknown."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip() or None
    except OSError:
        return None


def conditions(device: torch.device) -> dict[str, object]:
    """Return the columns of the latency table that describe the machine."""
    return {
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": threads(),
        "governor": governor(),
    }
