"""Errors of libraries that have no class of their own."""

import pytest

from ablate.base.errors import is_out_of_memory


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_the_lack_of_memory_is_known_by_its_words(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
