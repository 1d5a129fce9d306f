"""`ablate init --model` and `ablate check` of a model; the example with a network of diffusers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from command import add_tiny_preset
from registered import forgotten
from typer.testing import CliRunner

from ablate import cli

EXAMPLE = Path(__file__).parents[2] / "examples" / "unet"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATE_OFFLINE", "1")
    with forgotten():
        yield


def test_the_files_of_a_new_model_pass_the_check(tmp_path: Path) -> None:
    made = CliRunner().invoke(cli.app, ["init", "--model"])
    assert made.exit_code == 0, made.output
    checked = CliRunner().invoke(cli.app, ["check", "--plugin", "model.py", "-v", "no_residual"])
    assert checked.exit_code == 0, checked.output
    lines = checked.stdout.splitlines()
    assert lines[0].startswith(f"model convnet ({tmp_path / 'model.py'}): 30,659 parameters (first 1,184, blocks ")
    assert lines[2] == "seed 0 twice gives the same weights after 2 steps"
    assert lines[3].startswith("metric saturation: 0.")
    assert lines[4] == "ok"
    listed = CliRunner().invoke(cli.app, ["list", "--plugin", "model.py"])
    assert "no_residual" in listed.stdout
    assert "no_drift" not in listed.stdout
    assert "exists already" in str(CliRunner().invoke(cli.app, ["init", "--model"]).exception)


def test_a_check_tells_randomness_idle_parameters_and_bad_metrics() -> None:
    CliRunner().invoke(cli.app, ["init", "--model"])
    code = Path("model.py").read_text()
    code = code.replace("return self.last(h)", "return self.last(h) * (1 + random.random())").replace(
        "import torch\n", "import random\nimport torch\n", 1
    )
    code = code.replace("self.residual = residual\n", "self.residual = residual\n        self.idle = nn.Linear(2, 2)\n")
    code += "\n@ablate.metric('nan')\ndef nan(samples):\n    return float('nan')\n"
    Path("model.py").write_text(code)
    checked = CliRunner().invoke(cli.app, ["check", "--plugin", "model.py"])
    assert checked.exit_code == 1
    assert "note: seed 0 twice gives other weights" in checked.stdout
    assert "note: parameters without a gradient: idle.weight, idle.bias" in checked.stdout
    assert "model.py): it returned nan" in checked.stdout
    assert checked.stdout.splitlines()[-1] == "not ok"


def test_init_says_what_it_can_make() -> None:
    assert "--program: a study of your own program; --model: of a torch model" in str(
        CliRunner().invoke(cli.app, ["init"]).exception
    )
    both = CliRunner().invoke(cli.app, ["init", "--model", "--program"])
    assert "choose one" in str(both.exception)


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_cats")
def test_the_example_with_diffusers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "unet")
    monkeypatch.chdir(tmp_path / "unet")
    add_tiny_preset(tmp_path / "unet")
    run = ["run", "--plugin", "unet.py", "--preset", "tiny", "-v", "no_attention,no_ema,v_prediction"]
    done = CliRunner().invoke(cli.app, run, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    runs = pd.read_parquet("results/runs.parquet").set_index("variant")
    assert len(runs) == 4
    assert runs.loc["no_attention", "params"] < runs.loc["baseline", "params"]
    assert runs.loc["no_ema", "weights_digest"] != runs.loc["baseline", "weights_digest"]
    assert set(pd.read_parquet("results/metrics.parquet")["metric"]) == {"saturation"}
