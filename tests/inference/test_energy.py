"""Energy: joules by hand from a fake sysfs tree and a fake NVML, and the reason where there is no counter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ablate.inference.energy import EnergyCounter, energy_counter

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
RANGE_UJ = 10_000_000


def domain(folder: Path, zone: str, name: str, energy_uj: int = 0) -> Path:
    """A folder of the kernel's powercap interface."""
    path = folder / zone
    path.mkdir(parents=True)
    for file, value in {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": RANGE_UJ}.items():
        (path / file).write_text(f"{value}\n")
    return path


def joules(counter: EnergyCounter | str, packages: dict[Path, int], calls: int) -> float:
    """Joules of a call that takes a second and so many microjoules of each package."""
    assert isinstance(counter, EnergyCounter)
    now = iter(range(1000))

    def call() -> None:
        for path, used_uj in packages.items():
            file = path / "energy_uj"
            file.write_text(str((int(file.read_text()) + used_uj) % RANGE_UJ))

    return counter.joules_of(call, seconds=calls - 0.5, clock=lambda: float(next(now)))


def test_joules_of_a_call_by_hand_with_a_counter_that_starts_again(tmp_path: Path) -> None:
    first = domain(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    second = domain(tmp_path, "intel-rapl:1", "package-1")
    domain(tmp_path, "intel-rapl:0:0", "core")
    domain(tmp_path, "intel-rapl:2", "psys")
    counter = energy_counter(CPU, tmp_path)
    assert isinstance(counter, EnergyCounter)
    assert counter.source == "RAPL, 2 CPU packages with all that runs there"
    assert joules(counter, {first: 2_000_000, second: 500_000}, calls=3) == pytest.approx(2.5)


def test_a_machine_without_a_counter_says_why(tmp_path: Path) -> None:
    assert energy_counter(CPU, tmp_path / "absent") == f"no RAPL counter in {tmp_path / 'absent'}"
    path = domain(tmp_path, "intel-rapl:0", "package-0")
    (path / "energy_uj").unlink()
    assert "RAPL's counter cannot be read (" in str(energy_counter(CPU, tmp_path))


def test_a_counter_for_root_alone_says_how_to_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0")
    read = Path.read_text

    def refuse(path: Path, *words: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError
        return read(path, *words)

    monkeypatch.setattr(Path, "read_text", refuse)  # the tests may run as root
    assert str(energy_counter(CPU, tmp_path)).endswith(f"fix: sudo chmod a+r {tmp_path}/*/energy_uj")


class NVMLError(Exception):
    """Of NVML."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An NVML whose GPU has used `mj` millijoules."""
    fake = SimpleNamespace(mj=5000, NVMLError=NVMLError, nvmlInit=lambda: None)
    fake.nvmlDeviceGetHandleByUUID = {"GPU-abc": "handle"}.__getitem__
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: fake.mj
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return fake


def test_joules_of_a_gpu(nvml: SimpleNamespace) -> None:
    counter = energy_counter(GPU)
    assert isinstance(counter, EnergyCounter)
    now = iter(range(1000))

    def call() -> None:
        nvml.mj += 1500

    assert counter.joules_of(call, seconds=2.5, clock=lambda: float(next(now))) == pytest.approx(1.5)


def test_a_gpu_without_a_counter_says_why(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: str) -> int:
        raise NVMLError("Not Supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = unsupported
    assert energy_counter(GPU) == "NVML has no energy counter for this GPU (Not Supported)"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert str(energy_counter(GPU)).endswith("fix: pip install 'ablate-harness[energy]'")
