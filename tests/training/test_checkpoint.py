"""Checkpoints: two are kept, a damaged one is never loaded, the one before it is used instead."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ablate.base.errors import ResultsError
from ablate.models.weight_files import digest, read_tensors
from ablate.study import variants
from ablate.training.checkpoint import TrainingState, previous_of

TRAIN = variants.resolve(variants.load("baseline"), "smoke").train


def state(seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    return TrainingState(nn.Linear(3, 2), nn.Linear(3, 2), TRAIN, 4)


def step(training: TrainingState) -> None:
    training.model(torch.ones(1, 3)).sum().backward()
    training.update(1e-2, 1.0, 0.9)


def weights(training: TrainingState) -> list[float]:
    return [x for p in training.parameters for x in p.detach().flatten().tolist()]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, list[list[float]]]:
    """A checkpoint after step 3 with its previous one after step 2; the weights after each step."""
    training, path, after = state(), tmp_path / "c.safetensors", []
    for _ in range(3):
        step(training)
        training.save(path)
        after.append(weights(training))
    return path, after


def test_the_last_two_checkpoints_are_kept(saved: tuple[Path, list[list[float]]]) -> None:
    path, after = saved
    assert sorted(p.name for p in path.parent.iterdir()) == ["c.safetensors", "previous_c.safetensors"]
    for file, wanted in ((path, 3), (previous_of(path), 2)):
        fresh = state(1)
        fresh._load(file)
        assert (fresh.step, weights(fresh)) == (wanted, after[wanted - 1])


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "gone", "folder"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_previous_with_a_warning(
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
    fresh.save(path)  # replaces the damaged one, which must not become the previous one
    for file, wanted in ((path, 3), (previous_of(path), 2)):
        again = state(1)
        again._load(file)
        assert again.step == wanted


def test_resuming_in_another_arithmetic_is_recorded_with_a_warning(tmp_path: Path) -> None:
    path, training = tmp_path / "c.safetensors", state()
    training.record_arithmetic("fp32 cpu 2 threads")
    step(training)
    training.save(path)
    same, other = state(1), state(1)
    for training, how in ((same, "fp32 cpu 2 threads"), (other, "bf16 cpu 1 thread")):
        training.load(path)
        training.record_arithmetic(how)
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
    unstarted = state(1)
    unstarted.record_arithmetic("bf16 cpu 1 thread")
    unstarted.record_arithmetic("fp32 cpu 1 thread")  # before the first step
    assert unstarted.mixed_arithmetic is None


def test_two_damaged_checkpoints_are_an_error_that_names_both(saved: tuple[Path, list[list[float]]]) -> None:
    path, _ = saved
    for file in (path, previous_of(path)):
        file.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ResultsError, match=r"c\.safetensors: damaged .*previous_c\.safetensors: damaged .*delete"):
        state().load(path)


def test_a_kill_at_any_moment_of_a_write_leaves_a_valid_checkpoint(
    saved: tuple[Path, list[list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = saved
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    training = state()
    training.load(path)
    step(training)
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
        calls, training.newest_is_valid = 0, True
        if allowed < 2:
            with pytest.raises(Killed):
                training.save(path)
        else:
            training.save(path)
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
def test_any_metadata_loads_or_is_called_a_damaged_checkpoint(
    saved: tuple[Path, list[list[float]]], scalars: str, signed: bool
) -> None:
    path, _ = saved
    tensors, _ = read_tensors(previous_of(path))
    odd = path.parent / "odd.safetensors"
    metadata = {"scalars": scalars} | ({"sha256": digest(tensors, scalars)} if signed else {})
    save_file(tensors, odd, metadata)
    fresh, message = state(1), ""
    try:
        fresh.load(odd)
    except ResultsError as error:
        message = str(error)
    assert ("damaged checkpoint" in message and "\n" not in message) or type(fresh.step) is int


def test_a_write_is_flushed_before_it_replaces_the_file(
    saved: tuple[Path, list[list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, order = saved[0], []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(Path, "replace", lambda old, new: (order.append("replace"), replace(old, new))[1])
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle))[1])
    training = state()
    training.load(path)
    training.save(path)
    assert order == ["fsync", "replace", "replace", "fsync"]
