"""Energy of a call in joules, where the machine has a counter.

    joules = (counter after - counter before) / calls,   calls repeated for at least MIN_SECONDS

A CPU's counter is RAPL, read from /sys/class/powercap: whole CPU packages with all that runs on
them and their idle power. A GPU's is NVML's, of that GPU alone. Both advance in steps of
milliseconds, so one short call cannot be measured.

Reference:
    https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ablate.base.errors import install
from ablate.base.text import one_line

POWERCAP = Path("/sys/class/powercap")
MIN_SECONDS = 1.0  # a hundred steps of a GPU's counter, a thousand of a CPU's


@dataclass(frozen=True)
class EnergyCounter:
    """Counters that count up in joules.

    Attributes:
        source: What they cover, in words.
        read: () -> joules of each counter.
        ranges: The joules at which each counter starts again from 0; infinite if it never does.
    """

    source: str
    read: Callable[[], tuple[float, ...]]
    ranges: tuple[float, ...]

    def joules_of(
        self,
        call: Callable[[], object],
        *,
        seconds: float = MIN_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> float:
        """Return the joules of one call, from calls repeated for at least so many seconds.

        A counter must not start again twice within that time; RAPL's take minutes.
        """
        calls, before, start_s = 0, self.read(), clock()
        while clock() - start_s < seconds:
            call()
            calls += 1
        used = [
            (after - first) % span if span < float("inf") else after - first
            for first, after, span in zip(before, self.read(), self.ranges, strict=True)
        ]
        return sum(used) / calls


def energy_counter(device: torch.device, powercap: Path = POWERCAP) -> EnergyCounter | str:
    """Return the counter of a device, or why it has none.

    Args:
        device: A CPU or a CUDA device.
        powercap: The folder of RAPL's counters.
    """
    return _of_gpu(device) if device.type == "cuda" else _of_cpu(powercap)


def _of_cpu(powercap: Path) -> EnergyCounter | str:
    # intel-rapl:0 is a package, on AMD's CPUs too; intel-rapl:0:1 is a part of it. `psys` holds
    # the packages, so it would count them twice.
    packages = []
    for domain in sorted(powercap.glob("intel-rapl:*")):
        try:
            if domain.name.count(":") == 1 and (domain / "name").read_text().startswith("package"):
                packages.append(domain)
        except OSError:
            continue
    if not packages:
        return f"no RAPL counter in {powercap}"
    files = [package / "energy_uj" for package in packages]

    def read() -> tuple[float, ...]:
        return tuple(int(file.read_text()) / 1e6 for file in files)

    try:
        ranges = tuple(int((package / "max_energy_range_uj").read_text()) / 1e6 for package in packages)
        read()
    except PermissionError:
        return f"{files[0]} may be read by root alone; fix: sudo chmod a+r {powercap}/*/energy_uj"
    except (OSError, ValueError) as error:
        return f"RAPL's counter cannot be read ({one_line(error)})"
    count = f"{len(packages)} CPU package{'' if len(packages) == 1 else 's'}"
    return EnergyCounter(f"RAPL, {count} with all that runs there", read, ranges)


def _of_gpu(device: torch.device) -> EnergyCounter | str:
    try:
        import pynvml
    except ModuleNotFoundError:
        return f"nvidia-ml-py is not installed; fix: {install('energy')}"
    try:
        pynvml.nvmlInit()
        # torch and NVML number GPUs differently, e.g. under CUDA_VISIBLE_DEVICES.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")

        def read() -> tuple[float, ...]:
            torch.cuda.synchronize(device)
            return (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,)

        read()
    except pynvml.NVMLError as error:
        return f"NVML has no energy counter for this GPU ({one_line(error)})"
    return EnergyCounter("NVML, this GPU alone", read, (float("inf"),))
