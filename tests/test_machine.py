"""Deterministic algorithms: on in the block, off after it, and operations that have none are named."""

from __future__ import annotations

import warnings

import pytest
import torch

from ablate.machine import deterministic


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
