"""Deterministic algorithms: on in the block, off after it, and operations that have none are named. What is compiled, and where."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

import ablate
from ablate.base import machine
from ablate.base.errors import AblateError
from ablate.base.machine import deterministic


def test_they_are_on_in_the_block_alone() -> None:
    settings = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    with deterministic() as names:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert not torch.are_deterministic_algorithms_enabled()
    assert settings.fill_uninitialized_memory == filled  # type: ignore[attr-defined]
    assert names == set()


def test_operations_without_a_deterministic_form_are_named_each_time() -> None:
    for _ in range(2):
        with deterministic() as names:
            for _ in range(3):
                torch.zeros(4).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        assert names == {"put_"}


def test_other_warnings_come_through() -> None:
    with pytest.warns(UserWarning, match="mind the step"), deterministic():
        warnings.warn("mind the step", UserWarning, stacklevel=1)


def test_the_environment_names_the_version_of_ablate_whatever_its_distribution_is_called() -> None:
    assert json.loads(machine.environment(torch.device("cpu")))["ablate"] == ablate.__version__


def test_processors_of_one_name_that_compute_differently_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(flags: str) -> tuple[str, str]:
        monkeypatch.setattr(machine, "_cpu_info", lambda: ["model name : AMD EPYC", flags])
        environment = json.loads(machine.environment(torch.device("cpu")))
        return environment["cpu"].partition(",")[0], environment["cpu_features"]

    assert found("flags : sse2 avx2 avx fpu") == ("AMD EPYC", "avx avx2")
    assert found("flags : avx amx_bf16 avx2 avx512_bf16") == ("AMD EPYC", "amx_bf16 avx avx2 avx512_bf16")
    assert found("Features : fp asimd i8mm") == ("AMD EPYC", "asimd i8mm")


def test_long_trainings_compile_where_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    problem: list[str | None] = [None]
    monkeypatch.setattr(machine, "cannot_compile", lambda device: problem[0])
    assert [
        machine.pick_compile("auto", steps, cpu)
        for steps in (machine.COMPILE_FROM["cpu"] - 1, machine.COMPILE_FROM["cpu"])
    ] == [
        False,
        True,
    ]
    assert machine.pick_compile("on", 1, cpu)
    assert not machine.pick_compile("off", 10**6, cpu)
    problem[0] = "no compiler"
    assert not machine.pick_compile("auto", 10**6, cpu)
    with pytest.raises(AblateError, match=r"--compile on: .*no compiler"):
        machine.pick_compile("on", 1, cpu)


def test_why_nothing_compiles_is_one_printable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no\ncompiler \x1b[31m")

    monkeypatch.setattr(torch, "compile", broken)
    machine.cannot_compile.cache_clear()
    try:
        found = machine.cannot_compile(torch.device("cpu"))
    finally:
        machine.cannot_compile.cache_clear()
    assert found is not None
    assert found.startswith("no compiler")
    assert found.isprintable()
