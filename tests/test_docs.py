"""README and docs: commands in blocks are run with small models, commands in sentences are parsed, links and paths exist."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from command import ablate, add_tiny_preset
from PIL import Image
from registered import forgotten
from typer.testing import CliRunner

from ablate.cli import app
from ablate.study.program import ProgramConfig

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LOG = ROOT / "docs/log.md"  # its commands and paths are those of their day
PAGES = [README, *sorted(page for page in (ROOT / "docs").glob("*.md") if page != LOG)]
OWN = ("own-model", "own-program")  # pages with a study of their own
BLOCKS = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
STUDIES = ROOT / "results/studies"

# `gate` exits with 1 for a regression, `replay` for other bits.
JUDGES = ("gate", "replay")


def blocks(page: Path, kind: str) -> list[str]:
    return [text for language, text in BLOCKS.findall(page.read_text()) if language == kind]


def commands(page: Path) -> Iterator[str]:
    """The lines of a page's blocks that start `ablate` or Python; installing and testing are CI's own steps."""
    for language, text in BLOCKS.findall(page.read_text()):
        for line in text.splitlines():
            if language == "bash" or (language == "console" and line.startswith("$ ")):
                for command in line.removeprefix("$ ").split("  #")[0].split(" && "):
                    if command.startswith(("ablate ", "python ")):
                        yield command.strip()


def sentences(page: Path) -> Iterator[list[str]]:
    """The words of commands in a page's text, without what stands for the rest of them."""
    for code in re.findall(r"`(ablate [a-z][^`]*)`", BLOCKS.sub("", page.read_text())):
        yield shlex.split(re.sub(r"\.\.\.|[\[\]]", "", code))


def at_tiny_size(command: str) -> str:
    """The command with the smallest preset and few seeds, rounds and number formats."""
    if re.match(r"ablate run\b", command):
        command = command.replace(" --preset smoke", "") + " --preset tiny"
        command += " --quantize none" if "--quantize" not in command else ""
    if command.startswith("ablate bench"):
        command = f"{re.sub(r' --rounds [0-9]+', '', command)} --rounds 5"
        command = command.replace("--schemes all", "--schemes fp32,bf16")  # the others need an exported graph
    if command.startswith("ablate export"):  # the graph of filters is exported in tests/inference, and takes 20 seconds
        command = command.replace("no_drift", "direct")
    if command.startswith("ablate replay"):  # a replay of a shipped run trains for minutes
        command = command.replace(" --results results/studies/quick_cats", "")
    command = re.sub(r"no_drift,v_pred( --until-decided)", r"direct\1", command).replace("rm v_pred", "rm direct")
    if "--without-seed" in command:  # the user's folder has one seed
        command += " --results results/studies/quick_cats"
    command = command.replace("--max-seeds 16", "--max-seeds 2").replace("--at-steps 500,4500", "--at-steps 2")
    command = command.replace(
        "no_drift,v_pred --tune train.lr=5e-4,1e-3,2e-3", "direct --tune train.lr=1e-3,2e-3 --tune-seeds 9"
    ).replace("--nfe 4,8,16,32", "--nfe 1,2")
    return re.sub(r"--seeds 0-\d", "--seeds 0", re.sub("-(quick|smoke)-", "-tiny-", command))


def offline(folder: Path) -> dict[str, str]:
    return {"ABLATE_OFFLINE": "1", "ABLATE_CACHE": str(folder / "cache")}


def run(command: str, folder: Path) -> None:
    """Run one command of a page in a user's folder; none of them may fail."""
    words = shlex.split(at_tiny_size(command))
    if words[0] == "python":
        env = os.environ | offline(folder) | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *words[1:]], cwd=folder, env=env, capture_output=True, text=True)
    else:
        done = ablate(*words[1:], cwd=folder, **offline(folder))
    assert done.returncode in ((0, 1) if words[1] in JUDGES else (0,)), f"{command}\n{done.stdout}\n{done.stderr}"
    assert "error:" not in done.stderr, f"{command}\n{done.stderr}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, each_graph_exported_once: None, cheap_cats: None) -> Path:
    """A new user's folder with images of their own, after the README's commands and two more variants."""
    if not STUDIES.is_dir():
        pytest.skip("the shipped studies are not here")
    folder = tmp_path_factory.mktemp("user")
    for number, name in enumerate(("photos", "samples", "a", "b")):
        (folder / name).mkdir()
        for i, image in enumerate(np.random.default_rng(number).integers(0, 256, (40, 64, 64, 3), np.uint8)):
            Image.fromarray(image).save(folder / name / f"{i}.png")
    subprocess.run([sys.executable, "-m", "zipfile", "-c", "photos.zip", "photos"], cwd=folder, check=True)
    add_tiny_preset(folder)
    (folder / "results").mkdir()
    (folder / "results/studies").symlink_to(STUDIES)
    for command in commands(README):
        run(command, folder)
    run("ablate run --variant normalized --variant direct", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if page.stem not in OWN], ids=lambda page: page.stem)
def test_the_commands_of_a_page_work_in_their_order(page: Path, folder: Path) -> None:
    for text in blocks(page, "csv"):
        (folder / "scores.csv").write_text(text)
    for command in commands(page):
        run(command, folder)
    # The questions to the tables have a test of their own, of every library that is installed.
    for code in blocks(page, "python") if page.stem != "tables" else ():
        code = code.replace('"quick"', '"tiny"').replace('"0-5"', '"0"')
        code = code.replace("ablate.run(", "ablate.run(quantize='none', ")
        with mock.patch.dict(os.environ, offline(folder)), contextlib.chdir(folder):
            exec(compile(code, page.name, "exec"), {"__name__": "__main__"})
    for text in blocks(page, "toml"):
        preset = text.startswith("extends")
        (folder / "variants" / ("presets/mine.toml" if preset else "mine.toml")).write_text(text)
        run("ablate show no_drift --preset mine" if preset else "ablate show mine", folder)


def write_files(page: Path, folder: Path) -> None:
    """Write the files of a page, whose names stand before their blocks."""
    files = re.findall(r"^`([\w./]+)`[^\n]*:\n\n```\w+\n(.*?)```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(files) > 2
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.mark.slow
def test_the_page_of_own_models_leads_to_a_report(tmp_path: Path, cheap_cats: None) -> None:
    page = ROOT / "docs/own-model.md"
    write_files(page, tmp_path)
    add_tiny_preset(tmp_path)
    with forgotten():
        for command in commands(page):
            words = shlex.split(at_tiny_size(command))[1:]
            done = ablate(*words, cwd=tmp_path, ABLATE_PLUGIN="model.py", **offline(tmp_path))
            assert (done.returncode, "error:" in done.stderr) == (0, False), f"{command}\n{done.stdout}\n{done.stderr}"
    runs = pd.read_parquet(tmp_path / "results/runs.parquet")
    assert set(runs["variant"]) == {"baseline", "no_residual", "baseline[sample.solver=midpoint]"}
    assert set(runs["data"]) == {"cats", "blobs"}


@pytest.mark.slow
def test_the_page_of_own_programs_leads_to_a_verdict(tmp_path: Path) -> None:
    page = ROOT / "docs/own-program.md"
    write_files(page, tmp_path)
    for command in commands(page):
        fresh = Path(tempfile.mkdtemp(dir=tmp_path)) if "init" in command else tmp_path
        done = ablate(*shlex.split(command)[1:], cwd=fresh)
        if "report" in command:
            assert re.search(r"no_average .* hurts", done.stdout), done.stdout
        assert (done.returncode, "error:" in done.stderr) == (0, False), f"{command}\n{done.stdout}\n{done.stderr}"
    keys = tomllib.loads(blocks(page, "toml")[-1])
    ProgramConfig.model_validate(keys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "torch_mnist_like"])
def test_the_examples_of_own_programs_run(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    shutil.copytree(ROOT / "examples" / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    variant = "no_scale" if name == "digits" else "no_dropout"
    done = ablate("run", "--preset", "smoke", "--variant", variant, cwd=tmp_path / name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done in") == 2
    for line in re.findall(r"^\+(.+)$", (ROOT / "examples" / name / "README.md").read_text(), re.MULTILINE):
        assert f"\n{line}\n" in (ROOT / "examples" / name / "train.py").read_text()


def test_every_command_is_shown() -> None:
    shown = {command.split()[1] for page in PAGES for command in commands(page)}
    every = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    assert every <= shown


@pytest.mark.slow
def test_the_commands_in_sentences_parse() -> None:
    found = [words for page in PAGES for words in sentences(page)]
    assert len(found) > 20
    for words in found:
        value = ["1"] * words[-1].startswith("--")  # a sentence may end with an option whose value it leaves out
        done = CliRunner().invoke(app, [*words[1:], *value, "--help"])  # an unknown option is refused before --help
        assert done.exit_code == 0, f"{words}\n{done.output}"
    assert CliRunner().invoke(app, ["run", "--varaint", "baseline", "--help"]).exit_code == 2


@pytest.mark.parametrize(
    "page",
    [*PAGES, LOG, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "docs/demo/README.md"))],
    ids=lambda page: page.stem,
)
def test_links_and_paths_exist_and_lines_are_short(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    if page != LOG:
        rooms = "ablate|benchmarks|docs|examples|tests"
        for path in re.findall(rf"[`\s]((?:{rooms})/[\w./]*\w/?)(?=[`\s])", text):
            assert (ROOT / path).exists() or path == "ablate/variants/", path  # this one exists in a wheel alone
    prose = BLOCKS.sub("", text).splitlines()
    assert not [line for line in prose if len(line) > 100 and not line.startswith(("|", "#", "!["))]


def test_the_readme_is_one_page() -> None:
    assert len(README.read_bytes()) < 10_000
    assert len(README.read_text().splitlines()) <= 160


LIBRARIES = ("pandas", "polars", "duckdb")  # in the order of the blocks of docs/tables.md


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_answers_the_questions_to_the_tables(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not STUDIES.is_dir():
        pytest.skip("the shipped studies are not here")
    pytest.importorskip(library)
    (tmp_path / "results").symlink_to(STUDIES / "quick_cats")
    monkeypatch.chdir(tmp_path)
    answers: dict[str, Any] = {}
    exec(blocks(ROOT / "docs/tables.md", "python")[LIBRARIES.index(library)], answers)

    def rows(name: str, *columns: str) -> list[tuple[Any, ...]]:
        """An answer as sorted rows with one number at the end, whatever its shape."""
        frame = answers[name]
        if library != "pandas":
            frame = frame.df() if library == "duckdb" else pd.DataFrame(frame.to_dict(as_series=False))
            if name == "losses" and library == "polars":
                frame = frame.melt("step", var_name="seed", value_name="loss")
        elif name in ("differences", "losses"):
            frame = frame.melt(ignore_index=False, value_name=columns[-1]).dropna().reset_index()
        else:
            frame = frame.reset_index()
        lines = frame.rename(columns={"config.train.lr": "lr"})[[*columns]].astype(
            {"seed": int} if "seed" in columns else {}
        )
        return sorted(
            tuple(tuple(sorted(x)) if isinstance(x, list | np.ndarray) else x for x in line)
            for line in lines.itertuples(index=False)
        )

    def close(lines: Iterable[tuple[Any, ...]]) -> list[Any]:
        return [(*line[:-1], pytest.approx(line[-1])) for line in sorted(lines)]

    tables = {name: pd.read_parquet(f"results/{name}.parquet") for name in ("runs", "curves", "latency")}
    runs = tables["runs"].set_index("run_id")
    assert (runs["status"] == "done").all()
    fd = {(run.variant, run.seed): run.fd for run in runs.itertuples()}
    of = {name: [value for (variant, _), value in fd.items() if variant == name] for name in set(runs["variant"])}
    assert rows("fd_by_variant", "variant", "count", "mean") == close(
        (name, len(of[name]), mean(of[name])) for name in of
    )
    assert rows("fd_by_variant", "variant", "std") == close((name, stdev(of[name])) for name in of)
    assert rows("differences", "variant", "seed", "difference") == close(
        (name, seed, value - fd["baseline", seed]) for (name, seed), value in fd.items()
    )
    steps = tables["curves"].join(runs[["variant", "seed"]], on="run_id").query("variant == 'no_drift'")
    assert rows("losses", "step", "seed", "loss") == close(
        zip(steps["step"], steps["seed"], steps["loss"], strict=True)
    )
    times: dict[tuple[str, str, str], list[float]] = {}
    for call in tables["latency"].query("scope == 'step' and batch == 1").itertuples():
        times.setdefault((runs["variant"][call.run_id], call.scheme, call.engine), []).append(call.latency_ms)
    medians = {key: median(values) for key, values in times.items()}
    fastest = [min((ms, key) for key, ms in medians.items() if key[0] == name) for name in of]
    assert rows("fastest", "variant", "scheme", "engine", "latency_ms") == close((*key, ms) for ms, key in fastest)
    used: dict[tuple[float, str], list[str]] = {}
    for run_id, run in runs.iterrows():
        used.setdefault((json.loads(run["config"])["train"]["lr"], run["git_commit"]), []).append(str(run_id))
    assert rows("rates", "lr", "git_commit", "run_id") == sorted(
        (*key, tuple(sorted(ids))) for key, ids in used.items()
    )


def test_every_page_is_in_the_sites_navigation() -> None:
    listed = re.findall(r"^ +- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
