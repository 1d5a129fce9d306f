"""Checkpoints: two are kept, damage falls back to the one before, and no damage is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ablate.base.errors import ResultsError
from ablate.study import variants
from ablate.training import checkpoint
from ablate.training.checkpoint import TrainingState, previous_of

TRAIN = variants.resolve(variants.load("baseline"), "smoke").train


def state(seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    return TrainingState(nn.Linear(3, 2), nn.Linear(3, 2), TRAIN, 4)


def step(some: TrainingState) -> None:
    some.model(torch.ones(1, 3)).sum().backward()
    some.update(1e-2, 1.0, 0.9)


def weights(some: TrainingState) -> list[float]:
    return [x for p in some.parameters for x in p.detach().flatten().tolist()]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, list[list[float]]]:
    """A file with the state after step 3, the one before it after step 2, and the weights after each step."""
    made, path, after = state(), tmp_path / "c.safetensors", []
    for _ in range(3):
        step(made)
        made.save(path)
        after.append(weights(made))
    return path, after


def test_the_last_two_are_kept(saved: tuple[Path, list[list[float]]]) -> None:
    path, after = saved
    assert sorted(p.name for p in path.parent.iterdir()) == ["c.safetensors", "previous_c.safetensors"]
    for file, wanted in ((path, 3), (previous_of(path), 2)):
        fresh = state(1)
        fresh._load(file)
        assert (fresh.step, weights(fresh)) == (wanted, after[wanted - 1])


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "gone", "folder"])
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(
    saved: tuple[Path, list[list[float]]], damage: str
) -> None:
    path, after = saved
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    if damage in ("gone", "folder"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    if damage not in ("gone", "folder"):
        path.write_bytes({"cut": content[:-3], "empty": b"", "bit": content}[damage])
    fresh = state(1)
    fresh.load(path)
    assert (fresh.step, weights(fresh)) == (2, after[1])
    assert len(fresh.resume_warnings) == (damage not in ("gone", "folder"))
    assert all("c.safetensors: damaged checkpoint (" in line and "\n" not in line for line in fresh.resume_warnings)
    if damage == "folder":
        return
    step(fresh)
    fresh.save(path)  # over the damaged one, which must not push out the sound one
    for file, wanted in ((path, 3), (previous_of(path), 2)):
        again = state(1)
        again._load(file)
        assert again.step == wanted


def test_a_training_that_goes_on_in_another_arithmetic_says_so(tmp_path: Path) -> None:
    path, made = tmp_path / "c.safetensors", state()
    made.record_arithmetic("fp32 cpu 2 threads")
    step(made)
    made.save(path)
    same, other = state(1), state(1)
    for some, how in ((same, "fp32 cpu 2 threads"), (other, "bf16 cpu 1 thread")):
        some.load(path)
        some.record_arithmetic(how)
    assert (same.mixed_arithmetic, same.resume_warnings) == (None, [])
    assert other.mixed_arithmetic == "from step 0: fp32 cpu 2 threads; from step 1: bf16 cpu 1 thread"
    assert other.resume_warnings == [
        f"resumed in another arithmetic, so no replay will be bit-exact ({other.mixed_arithmetic})"
    ]
    step(other)
    other.save(path)
    again = state(1)
    again.load(path)
    again.record_arithmetic("bf16 cpu 1 thread")
    assert again.mixed_arithmetic == other.mixed_arithmetic
    assert again.resume_warnings == []
    unmoved = state(1)
    unmoved.record_arithmetic("bf16 cpu 1 thread")
    unmoved.record_arithmetic("fp32 cpu 1 thread")  # before the first step
    assert unmoved.mixed_arithmetic is None


def test_two_damaged_ones_are_an_error_that_names_both(saved: tuple[Path, list[list[float]]]) -> None:
    path, _ = saved
    for file in (path, previous_of(path)):
        file.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ResultsError, match=r"c\.safetensors: damaged .*previous_c\.safetensors: damaged .*delete"):
        state().load(path)


def test_every_moment_of_a_write_leaves_a_sound_one(
    saved: tuple[Path, list[list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = saved
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    made = state()
    made.load(path)
    step(made)
    replace, calls = Path.replace, 0

    class Killed(BaseException):
        pass

    def kill(old: Path, new: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise Killed
        return replace(old, new)

    monkeypatch.setattr(Path, "replace", kill)
    for allowed in (0, 1, 2):
        for name, content in before.items():
            (path.parent / name).write_bytes(content)
        calls, made.newest_is_sound = 0, True
        if allowed < 2:
            with pytest.raises(Killed):
                made.save(path)
        else:
            made.save(path)
        fresh = state(1)
        fresh.load(path)
        assert fresh.step == (4 if allowed == 2 else 3)


@settings(max_examples=60)
@given(
    scalars=st.one_of(
        st.text(max_size=40),
        st.dictionaries(
            st.sampled_from(["step", "logged_step", "wall_s", "curve", "x"]), st.integers() | st.text()
        ).map(json.dumps),
    ),
    signed=st.booleans(),
)
def test_no_metadata_is_more_than_a_damaged_checkpoint(
    saved: tuple[Path, list[list[float]]], scalars: str, signed: bool
) -> None:
    path, _ = saved
    with safe_open(previous_of(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    odd = path.parent / "odd.safetensors"
    metadata = {"scalars": scalars} | ({"sha256": checkpoint.digest(tensors, scalars)} if signed else {})
    save_file(tensors, odd, metadata)
    fresh, message = state(1), ""
    try:
        fresh.load(odd)
    except ResultsError as error:
        message = str(error)
    assert ("damaged checkpoint" in message and "\n" not in message) or type(fresh.step) is int


def test_a_write_is_flushed_before_it_is_put_in_place(
    saved: tuple[Path, list[list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, order = saved[0], []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(Path, "replace", lambda old, new: (order.append("replace"), replace(old, new))[1])
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle))[1])
    made = state()
    made.load(path)
    made.save(path)
    assert order == ["fsync", "replace", "replace", "fsync"]
