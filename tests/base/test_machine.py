"""Deterministic algorithms, the recorded environment, and the choice to compile."""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

import ablate
from ablate.base import host, machine
from ablate.base.errors import AblateError
from ablate.base.machine import deterministic
from ablate.base.source_code import code_version


def test_deterministic_algorithms_are_on_only_inside_the_block() -> None:
    settings = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    with deterministic() as names:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert not torch.are_deterministic_algorithms_enabled()
    assert settings.fill_uninitialized_memory == filled  # type: ignore[attr-defined]
    assert names == set()


def test_operations_without_a_deterministic_algorithm_are_named_every_time() -> None:
    for _ in range(2):
        with deterministic() as names:
            for _ in range(3):
                torch.zeros(4).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        assert names == {"put_"}


def test_other_warnings_are_not_swallowed() -> None:
    with pytest.warns(UserWarning, match="mind the step"), deterministic():
        warnings.warn("mind the step", UserWarning, stacklevel=1)


def test_the_code_is_named_by_commit_and_by_its_sources() -> None:
    version = json.loads(code_version())
    assert set(version) == {"commit", "dirty", "source"}
    assert re.fullmatch("[0-9a-f]{16}", version["source"])
    root = Path(ablate.__file__).parents[1]
    if (root / ".git").exists():
        done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert version["commit"] == done.stdout.strip()


def test_the_environment_names_the_version_of_ablate_whatever_its_distribution_is_called() -> None:
    assert json.loads(machine.environment(torch.device("cpu")))["ablate"] == ablate.__version__


def test_cpus_of_one_name_with_other_instruction_sets_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(flags: str) -> tuple[str, str]:
        monkeypatch.setattr(host, "_cpu_info", lambda: ["model name : AMD EPYC", flags])
        environment = json.loads(machine.environment(torch.device("cpu")))
        return environment["cpu"].partition(",")[0], environment["cpu_features"]

    assert recorded("flags : sse2 avx2 avx fpu") == ("AMD EPYC", "avx avx2")
    assert recorded("flags : avx amx_bf16 avx2 avx512_bf16") == ("AMD EPYC", "amx_bf16 avx avx2 avx512_bf16")
    assert recorded("Features : fp asimd i8mm") == ("AMD EPYC", "asimd i8mm")


def test_long_trainings_compile_if_compilation_works(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    problem: list[str | None] = [None]
    monkeypatch.setattr(machine, "compile_problem", lambda device: problem[0])
    enough = machine.COMPILE_FROM_STEPS["cpu"]
    assert [machine.pick_compile("auto", steps, cpu) for steps in (enough - 1, enough)] == [False, True]
    assert machine.pick_compile("on", 1, cpu)
    assert not machine.pick_compile("off", 10**6, cpu)
    problem[0] = "no compiler"
    assert not machine.pick_compile("auto", 10**6, cpu)
    with pytest.raises(AblateError, match=r"--compile on: .*no compiler"):
        machine.pick_compile("on", 1, cpu)


def test_the_compile_problem_is_one_printable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no\ncompiler \x1b[31m")

    monkeypatch.setattr(torch, "compile", broken)
    machine.compile_problem.cache_clear()
    try:
        problem = machine.compile_problem(torch.device("cpu"))
    finally:
        machine.compile_problem.cache_clear()
    assert problem is not None
    assert problem.startswith("no compiler")
    assert problem.isprintable()
