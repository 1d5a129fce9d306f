"""Runs pushed, pulled and loaded: the same rows and bits, whatever is wrong is one line, and nothing else is touched."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pandas as pd
import pyarrow as pa
import pytest
import torch
from command import ablate
from hub_server import hub

import ablate as api
from ablate.base.errors import AblateError
from ablate.models.denoiser import weights_of
from ablate.models.guidance import construct_sampled
from ablate.models.weight_files import digest, save_tensors
from ablate.store import tables
from ablate.study import variants

SIZE = "14 files, 0.3 MB"  # of the repository
CONFIG = variants.resolve(variants.load("no_drift"), "smoke")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of two runs, one with a model that nobody trained."""
    torch.manual_seed(0)
    weights = weights_of(construct_sampled(CONFIG))
    folder = tmp_path_factory.mktemp("study")
    pages.make(
        folder / "results",
        {"baseline": 0.0, "no_drift": 30.0},
        [0],
        config=CONFIG.to_json(),
        weights_digest=digest(weights),
        precision="fp32",
        held_out_twins=0.03,
        about="Without [drift](http://evil) | <b>bold</b>.",
        claims=json.dumps([{"metric": "fd", "expect": "worse", "because": "colour `drifts`"}]),
        preset="smoke",
        plan_id="plan",
    )
    plan = {"variants": "[]", "seeds": "[0]", "metrics": "[]"}
    tables.append(folder / "results", {"plans": [plan | {"plan_id": name} for name in ("plan", "other")]})
    save_tensors(folder / "results/artifacts" / run_id(folder) / "model.safetensors", weights, {})
    (folder / "results/artifacts" / run_id(folder) / "log.txt").write_text("private")
    return folder


@pytest.fixture
def folder(study: Path, tmp_path: Path) -> Path:
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def pushed(study: Path) -> Path:
    """The folder `./cats` that the run was pushed to, in the study's folder."""
    done = ablate("push", "no_drift", "./cats", cwd=study)
    assert (done.returncode, done.stderr) == (0, f"cats holds {run_id(study)}: {SIZE}\n")
    return study / "cats"


def run_id(folder: Path) -> str:
    runs = tables.read(folder / "results", "runs")
    return str(runs.loc[runs["variant"] == "no_drift", "run_id"].item())


def repository(pushed: Path, folder: Path, **columns: object) -> Path:
    """Return a copy of a repository whose row has other values."""
    shutil.copytree(pushed, folder / "cats", dirs_exist_ok=True)
    if columns:
        row = pd.read_parquet(folder / "cats/tables/runs.parquet").astype(object)
        schema_of = tables.load(folder / "cats/tables", "runs").schema
        values = {**row.where(row.notna(), None).iloc[0].to_dict(), **columns}
        tables.put(folder / "cats/tables", {"runs": pa.Table.from_pylist([values], schema=schema_of)})
    return folder / "cats"


def error(*words: str, cwd: Path, **environment: str) -> str:
    done = ablate(*words, cwd=cwd, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("error: ").rstrip()


def test_a_pushed_run_comes_back_exactly_as_it_was(folder: Path, pushed: Path) -> None:
    name = run_id(folder)
    names = {str(path.relative_to(pushed)) for path in pushed.rglob("*") if path.is_file()}
    grids = {"samples.png", "samples_187.png", "samples_375.png", "samples_750.png"}
    rows = ("runs", "curves", "denoising", "fidelity", "latency", "quantized", "plans")
    own = {f"tables/{table}.parquet" for table in rows}
    assert names == {"README.md", "config.json", "model.safetensors", *grids, *own}
    for _ in range(2):  # pulled again, nothing changes
        done = ablate("pull", str(pushed), "--results", "fresh", cwd=folder)
        assert done.returncode == 0, done.stderr
    assert done.stderr == f"fresh: {name} is there already; 1 run\n"
    for table in ("runs", "curves", "denoising", "fidelity", "latency", "quantized", "metrics", "plans"):
        then, now = (tables.read(folder / place, table) for place in ("results", "fresh"))
        then = then[then["run_id"] == name] if "run_id" in then else then[then["plan_id"].isin(now["plan_id"])]
        pd.testing.assert_frame_equal(then.reset_index(drop=True), now)
    for path in (folder / "fresh/artifacts" / name).iterdir():
        assert path.read_bytes() == (folder / "results/artifacts" / name / path.name).read_bytes()
    assert "no_drift" in ablate("report", "--results", "fresh", cwd=folder).stdout
    done = ablate("pull", str(pushed), cwd=folder)  # into the folder that it comes from
    assert done.stderr == f"results: {name} is there already; 2 runs\n"
    done = ablate("merge", "fresh", "-o", "results", cwd=folder)
    assert done.stderr == "results: 2 runs, 0 added\n"


def test_a_loaded_run_draws_the_bits_of_the_command_from_wherever_it_is(folder: Path, pushed: Path) -> None:
    done = ablate("sample", "no_drift", "-n", "3", "-o", "images.npz", cwd=folder)
    assert done.returncode == 0, done.stderr
    wanted = np.load(folder / "images.npz")["images"]
    name = run_id(folder)
    results = folder / "results"
    for place in (str(pushed), pushed, str(results / "no_drift"), results / name, results / "artifacts" / name):
        run = api.load_run(place, device="cpu")
        drawn = run.sample(3)
        assert (drawn.shape, drawn.dtype) == ((3, 64, 64, 3), np.uint8)
        np.testing.assert_array_equal(drawn, wanted)
    assert (run.row["run_id"], run.config.to_json()) == (name, CONFIG.to_json())
    assert not next(run.model.parameters()).requires_grad
    np.testing.assert_array_equal(run.sample(2, seed=0), wanted[:2])
    assert (run.sample(1, seed=1) != wanted[:1]).any()
    with pytest.raises(AblateError, match=r"sample\(n=0\): it must be at least 1"):
        run.sample(0)


def test_the_card_is_read_by_the_hubs_own_library(folder: Path, pushed: Path) -> None:
    library = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    card = library.ModelCard.load(pushed / "README.md")
    row = api.load_results(folder / "results").runs.set_index("run_id").loc[run_id(folder)]
    assert (card.data.library_name, card.data.license) == ("ablate-harness", None)
    assert card.data.model_name == run_id(folder)
    found = {one.metric_type: one for one in card.data.eval_results}
    assert found["pd"].metric_value == row["pd"]
    assert found["fd"].metric_name == "Frechet distance in EfficientNet-Lite0 features (fd, lower is better)"
    assert [found[name].metric_args for name in ("fd", "pd")] == [{"images": 512}, {"images": 64}]
    assert {one.dataset_args["digest"] for one in found.values()} == {row["data_digest"]}
    assert "](samples.png)" in card.text
    assert "3% of the held-out images have a near twin in training" in card.text
    assert r"Claim before the run, not judged here: fd worse, as colour \`drifts\`." in card.text
    assert r"\[drift](http://evil) \| \<b>bold\</b>" in card.text  # neither a link nor HTML
    assert "log.txt" not in card.content
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert '"./cats"' in ast.unparse(ast.parse(code)).replace("'", '"')
    assert json.loads((pushed / "config.json").read_text()) == json.loads(CONFIG.to_json())
    done = ablate("push", "no_drift", "./licensed", "--license", "mit", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert library.ModelCard.load(folder / "licensed/README.md").data.license == "mit"


def test_what_cannot_be_pushed_is_said_in_one_line(folder: Path, pushed: Path) -> None:
    assert "run 'nothing': not in results" in error("push", "nothing", "./new", cwd=folder)
    assert "model.safetensors: missing; restore it" in error("push", "baseline", "./new", cwd=folder)
    assert "--license Mine!: not the name of a licence" in error(
        "push", "no_drift", "./new", "--license", "Mine!", cwd=folder
    )
    assert "neither a folder nor a repository" in error("push", "no_drift", "new", cwd=folder)
    assert "neither a folder nor a repository" in error("push", "no_drift", "\x1b[31m/x", cwd=folder)
    assert "Write ./results/new or hf://results/new" in error("push", "no_drift", "results/new", cwd=folder)
    forbidden = error("push", "no_drift", "user/new", "--offline", cwd=folder)
    assert forbidden == "push user/new: --offline or ABLATE_OFFLINE forbids the network; push to a folder, as ./cats"
    rows = tables.to_records(tables.read(folder / "results", "runs"))
    tables.append(folder / "results", {"runs": [row | {"status": "failed", "error": "full"} for row in rows]})
    assert "only a finished run has a model" in error("push", "no_drift", "./new", cwd=folder)
    tables.append(folder / "results", {"runs": [row | {"config": "["} for row in rows]})
    assert "its configuration is not valid JSON" in error("push", "no_drift", "./new", cwd=folder)
    tables.append(folder / "results", {"runs": [row | {"weights_digest": None} for row in rows]})
    assert "it has no model" in error("push", "no_drift", "./new", cwd=folder)
    assert not (folder / "new").exists()


def test_a_folder_with_other_things_is_left_alone(folder: Path, pushed: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine/README.md").write_text("mine")
    assert "it holds other things (README.md)" in error("push", "no_drift", "./mine", cwd=folder)
    assert [path.read_text() for path in (folder / "mine").iterdir()] == ["mine"]
    (folder / "file").touch()
    assert "a file; name a folder" in error("push", "no_drift", "./file", cwd=folder)
    other = repository(pushed, folder, run_id="baseline-quick-cats-s7-00000000")
    assert "it holds the run baseline-quick-cats-s7-00000000" in error("push", "no_drift", "./cats", cwd=folder)
    repository(pushed, folder)
    (other / ".git").mkdir()
    (other / "autoencoder.safetensors").touch()  # of an older push
    assert ablate("push", "no_drift", "./cats", "--dry-run", cwd=folder).returncode == 0
    assert (other / "autoencoder.safetensors").exists()
    assert ablate("push", "no_drift", "./cats", cwd=folder).returncode == 0
    assert not (other / "autoencoder.safetensors").exists()
    assert (other / ".git").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"run_id": "../../evil"}, "'../../evil' cannot be a run: it is no plain file name"),
        ({"run_id": "a\x1b[31m"}, r"'a\x1b[31m' cannot be a run"),
        ({"artifacts": "../evil"}, "'../evil' cannot be a run"),
        ({"status": "failed"}, "is failed, not done"),
        ({"weights_digest": "0" * 64}, "not the weights that the run's row names (digest 000000000000...)"),
        ({"weights_digest": None}, "has no digest of it, so it may be any weights"),
        ({"config": "{}"}, "config.json: not the configuration in tables/runs.parquet"),
        ({"config": "["}, "this file or the row's configuration is not valid JSON"),
        ({"autoencoder_digest": "0" * 64}, "autoencoder.safetensors: missing"),
    ],
)
def test_a_repository_that_is_not_what_its_row_says_is_refused(
    folder: Path, pushed: Path, columns: dict[str, object], message: str
) -> None:
    place = repository(pushed, folder, **columns)
    assert message in error("pull", "./cats", "--results", "fresh", cwd=folder)
    assert not (folder / "fresh/runs.parquet").exists()
    with pytest.raises(AblateError) as raised:
        api.load_run(place, device="cpu")
    assert message in str(raised.value)


def test_damaged_and_missing_files_are_said_in_one_line(folder: Path, pushed: Path) -> None:
    place = repository(pushed, folder)
    assert "nothing: neither a folder nor a repository" in error("pull", "nothing", cwd=folder)
    assert "no such folder" in error("pull", "./nothing", cwd=folder)
    assert "it holds no run: there is no tables/runs.parquet" in error("pull", "results", cwd=folder)
    with pytest.raises(AblateError, match=r"a results folder; name a run in it, as in .*results/RUN"):
        api.load_run(folder / "results")
    with pytest.raises(AblateError, match="no such folder"):
        api.load_run(folder / "nothing")
    (place / "model.safetensors").write_bytes(b"\x80\x04pickle")
    assert "model.safetensors: damaged" in error("pull", "./cats", "--results", "fresh", cwd=folder)
    (place / "config.json").unlink()
    shutil.copy(pushed / "model.safetensors", place)
    assert "config.json: missing" in error("pull", "./cats", "--results", "fresh", cwd=folder)
    (place / "tables/runs.parquet").write_bytes(b"PAR1")
    assert "runs.parquet: damaged" in error("pull", "./cats", "--results", "fresh", cwd=folder)


def test_other_rows_of_the_run_are_kept_unless_forced(folder: Path, pushed: Path) -> None:
    place, name = repository(pushed, folder, fd=1.5), run_id(folder)
    before = tables.read(folder / "results", "runs")
    assert "holds other rows of" in error("pull", str(place), cwd=folder)
    pd.testing.assert_frame_equal(tables.read(folder / "results", "runs"), before)
    done = ablate("pull", str(place), "--force", cwd=folder)
    assert done.stderr == f"results: {name} replaced; 2 runs\n"
    runs = tables.read(folder / "results", "runs").set_index("run_id")
    assert runs.loc[name, "fd"] == 1.5
    assert (folder / "results/artifacts" / name / "model.safetensors").is_file()


def test_plans_of_other_runs_do_not_come_along(folder: Path, pushed: Path) -> None:
    place = repository(pushed, folder)
    tables.append(place / "tables", {"plans": [{"plan_id": "hostile", "variants": "[]"}]})
    assert ablate("pull", "./cats", "--results", "fresh", cwd=folder).returncode == 0
    assert tables.read(folder / "fresh", "plans")["plan_id"].tolist() == ["plan"]


def test_a_model_of_a_plugin_needs_its_file(folder: Path, pushed: Path) -> None:
    config = json.loads(CONFIG.to_json())
    config = {**config, "model": {"kind": "net"}, "plugins": {"model net": "0123456789abcdef"}}
    place = repository(pushed, folder, config=json.dumps(config))
    (place / "config.json").write_text(json.dumps(config))
    assert ablate("pull", "./cats", "--results", "fresh", cwd=folder).returncode == 0  # its code is not run
    with pytest.raises(AblateError, match=r"no model 'net'.* one of your own needs --plugin FILE.py"):
        api.load_run(place, device="cpu")


# Runs several commands in one process, without torch; each may begin with a variable of the environment.
COMMANDS = """
import os, sys
from ablate.cli import main
for words in sys.argv[1:]:
    first, *rest = words.split()
    name, equals, value = first.partition("=")
    if equals:
        os.environ[name] = value
    sys.argv = ["ablate", *(rest if equals else [first, *rest])]
    try:
        main()
    except SystemExit as ended:
        print(ended.code, flush=True)
    assert "./" not in words or "huggingface_hub" not in sys.modules
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_a_run_goes_to_the_hub_and_back(folder: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    name = run_id(folder)
    with hub() as server:
        server.repositories["me/other"] = {"README.md": b"mine"}
        commands = {
            "push no_drift ./local": f"local holds {name}: {SIZE}",
            "push no_drift me/cats --private": f"{server.url}/me/cats holds {name}: {SIZE}",
            "push no_drift me/cats": f"{server.url}/me/cats holds {name}: {SIZE}",
            "push no_drift me/other": "error: push me/other: it holds other things (README.md); choose another name",
            "pull me/cats --results fresh": f"fresh: {name} added; 1 run",
            "pull me/none": "error: pull me/none: no such folder here, and no such repository on the hub, or it is "
            "private; check the name, or log in with hf auth login",
            "HF_TOKEN=hf_wrong push no_drift me/cats": "error: push me/cats: the hub refused it (401: Invalid username "
            "or password.); log in with hf auth login",
            "HF_TOKEN= push no_drift me/cats": "error: push me/cats: no token of the hub on this machine; log in with "
            "hf auth login, or set HF_TOKEN",
            # What is in the hub's cache needs no network.
            "ABLATE_OFFLINE=1 pull me/cats --results fresh": f"fresh: {name} is there already; 1 run",
            "pull me/other": "error: pull me/other: no such folder here, it is not in the hub's cache, and the hub "
            "cannot be reached (or --offline or ABLATE_OFFLINE forbids it)",
        }
        env = {name: value for name, value in os.environ.items() if name != "ABLATE_OFFLINE"}
        env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hub"), "HF_TOKEN": server.token}
        words = [sys.executable, "-c", COMMANDS, *commands]
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines() == list(commands.values())
        assert done.stdout.split() == [str(int(said.startswith("error"))) for said in commands.values()]
        assert server.private == {"me/cats"}
        assert server.repositories["me/other"] == {"README.md": b"mine"}
    assert '"me/cats"' in server.repositories["me/cats"]["README.md"].decode()
    then, now = (tables.read(folder / place, "runs") for place in ("results", "fresh"))
    pd.testing.assert_frame_equal(then[then["run_id"] == name].reset_index(drop=True), now)
