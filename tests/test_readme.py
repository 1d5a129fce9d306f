"""Every command of the README: those of its blocks are run, at `smoke`, those in its sentences are parsed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ablate.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.compile(r"```(bash|console)\n(.*?)```", re.DOTALL)

# `gate` and `replay` say by 1 what they found: a regression, an environment or bits that differ.
JUDGES = ("gate", "replay")


def commands(kind: str) -> Iterator[str]:
    """The lines of the blocks of a kind that start `ablate` or Python; installing and testing are CI's own steps."""
    for block in (block for found, block in BLOCKS.findall(README) if found == kind):
        for line in block.splitlines():
            if kind == "console" and not line.startswith("$ "):
                continue  # output
            for command in line.removeprefix("$ ").split("  #")[0].split(" && "):
                if command.startswith(("ablate ", "python ")):
                    yield command.strip()


def sentences() -> list[list[str]]:
    """The words of commands in the text, without what stands for the rest of them."""
    text = BLOCKS.sub("", README)
    found = [shlex.split(re.sub(r"\.\.\.|[\[\]]", "", code)) for code in re.findall(r"`(ablate [a-z][^`]*)`", text)]
    return [words for words in found if words[1] != "COMMAND"]


def small(command: str) -> str:
    """The command at the smallest size: preset, names of runs, seeds, rounds, and number formats where it asks for them."""
    formats = "" if "--quantize" in command else " --quantize none"
    command = re.sub(r"^ablate run\b", f"ablate run --preset smoke{formats}", command)
    command = re.sub(r"^ablate bench\b(.*?)( --rounds \d+|$)", r"ablate bench\1 --rounds 5", command)
    command = command.replace(" --results results/studies/quick_cats", "")  # the shipped study: here the test's own
    return command.replace("-quick-", "-smoke-").replace("--seeds 0-2", "--seeds 0-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new user's folder, with pictures of their own."""
    for number, name in enumerate(("photos", "samples", "a", "b")):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(np.random.default_rng(number).integers(0, 256, (40, 64, 64, 3), np.uint8)):
            Image.fromarray(picture).save(tmp_path / name / f"{i}.png")
    subprocess.run([sys.executable, "-m", "zipfile", "-c", "photos.zip", "photos"], cwd=tmp_path, check=True)
    return tmp_path


def run(commands: list[str], folder: Path) -> None:
    """Run commands as a shell does, one after another."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "ABLATE_OFFLINE": "1", "ABLATE_CACHE": str(folder / "cache")}
    env.pop("ABLATE_WEIGHTS", None)
    for command in map(small, commands):
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True)
        judges = command.split()[1] in JUDGES
        assert done.returncode in ((0, 1) if judges else (0,)), f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
        assert "error:" not in done.stderr, f"{command}\n{done.stderr}"


@pytest.mark.slow
def test_the_tour_works_in_its_order(folder: Path) -> None:
    tour = list(commands("bash"))
    shown = {command.split()[1] for command in (*tour, *commands("console"))}
    assert {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    } <= shown
    run(tour, folder)
    assert (folder / "report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_the_commands_with_output_work_on_a_study_of_their_variants(folder: Path) -> None:
    shown = list(commands("console"))
    assert len(shown) > 4
    names = ("baseline", "no_drift", "normalized", "v_pred", "latent", "direct")
    study = " ".join(f"--variant {name}" for name in names)
    run([f"ablate run {study}", *shown], folder)


def test_the_commands_in_the_sentences_can_be_given() -> None:
    found = sentences()
    assert len(found) > 8
    for words in found:
        value = ["1"] * words[-1].startswith("--")  # a sentence may end with an option whose value it leaves out
        done = CliRunner().invoke(app, [*words[1:], *value, "--help"])  # an option that is unknown is told before
        assert done.exit_code == 0, f"{words}\n{done.output}"
    assert CliRunner().invoke(app, ["run", "--varaint", "baseline", "--help"]).exit_code == 2
