"""Models, metrics, data sets, objectives and solvers of plug-ins, from `ablate run` to the report and back."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import add_tiny_preset
from registered import forgotten
from typer.testing import CliRunner

from ablate import cli
from ablate.base.errors import PluginError, ResultsError
from ablate.diffusion.solvers import evaluations, steps_within
from ablate.inference.onnx import export_graphs, exportable
from ablate.models import denoiser
from ablate.models.autoencoder import GREY_CODEC
from ablate.models.cost import cost
from ablate.study import plugins, variants

PLUGIN = """
import numpy as np
import torch
from torch import nn

import ablate


@ablate.model("net")
class Settings:
    width: int = 8
    middle: bool = True
    dropout: float = 0.1

    def build(self, shape):
        return Net(shape[0], self.width, self.middle, self.dropout)


class Net(nn.Module):
    def __init__(self, channels, width, middle, dropout):
        super().__init__()
        self.first = nn.Conv2d(channels + 1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.middle = nn.Conv2d(width, width, 3, padding=1) if middle else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.ConvTranspose2d(width, channels, 3, padding=1)
        nn.init.trunc_normal_(self.first.weight, std=0.02)

    def forward(self, z, t):
        times = t.view(-1, 1, 1, 1).expand(-1, 1, *z.shape[2:])
        h = torch.relu(self.norm(self.first(torch.cat([z, times], 1))))
        return self.last(self.dropout(torch.relu(self.middle(h)))).to(torch.bfloat16)


@ablate.metric("contrast", better="higher", unit="levels")
def contrast(samples):
    return 255 * samples.std()


@ablate.metric("brightness_gap", of="sets")
def brightness_gap(samples, real):
    return abs(float(samples.mean() - real.mean()))


@ablate.metric("mean_error", of="pairs")
def mean_error(denoised, true):
    return (denoised - true).abs().mean()


@ablate.metric("size", of="run", unit="parameters")
def size(row):
    return row["params"]


@ablate.metric("broken")
def broken(samples):
    raise ValueError("no such thing")


@ablate.dataset("blobs")
def blobs(size):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    centres = rng.uniform(0.2, 0.8, (80, 2, 1, 1))
    light = np.exp(-((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2) / 0.02)
    return (255 * light).astype(np.uint8)


@ablate.objective("straight")
class Straight:
    def draw(self, x, eps, u):
        t = u.view(-1, 1, 1, 1)
        return t * x + (1 - t) * eps, u

    def loss(self, output, x, eps, z, t):
        return (output - x).abs().mean()

    def denoise(self, output, z, t):
        return output


@ablate.solver("midpoint")
def midpoint(denoise, z, num_steps):
    for i in range(num_steps):
        t, h = i / num_steps, 1 / num_steps
        half = z + h / 2 * (denoise(z, z.new_full((len(z),), t)) - z) / (1 - t)
        z = z + h * (denoise(half, z.new_full((len(z),), t + h / 2)) - half) / (1 - t - h / 2)
    return z
"""
HEAD = 'about = "a"\nsource = "s"\naxis = "x"\n'
FILES = {
    "baseline": '[model]\nkind = "net"\n[data]\nsize = 16\nchannels = 1\n',
    "shallow": "[model]\nmiddle = false\n",
    "straight": '[diffusion]\nobjective = "straight"\n',
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study of three variants of a small model, made by the command line."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(PLUGIN)
    add_tiny_preset(folder)
    for name, body in FILES.items():
        (folder / "variants" / f"{name}.toml").write_text(HEAD + body)
    with pytest.MonkeyPatch.context() as patch, forgotten():
        patch.chdir(folder)
        patch.setenv("ABLATE_OFFLINE", "1")
        patch.setenv("ABLATE_PLUGIN", "mine.py")
        done = CliRunner().invoke(
            cli.app, ["run", "--preset", "tiny", "-v", "all", "--data", "blobs"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        yield folder


@pytest.fixture
def here(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(study)
    return study


def table(study: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(study / "results" / f"{name}.parquet")


def test_a_users_model_is_trained_measured_and_recorded(study: Path) -> None:
    runs = table(study, "runs")
    assert set(runs["status"]) == {"done"}
    assert set(runs["variant"]) == {"baseline", "shallow", "straight"}
    assert set(runs["data"]) == {"blobs"}
    assert runs[["fd", "pd", "psnr_db", "latency_step_ms", "macs"]].notna().all().all()
    assert runs["drift_params_share"].isna().all()
    by_variant = runs.set_index("variant")
    assert by_variant.loc["baseline", "params"] - by_variant.loc["shallow", "params"] == 8 * 8 * 9 + 8
    assert set(json.loads(by_variant.loc["straight", "plugins"])) >= {"model net", "objective straight", "metric size"}
    assert set(json.loads(by_variant.loc["straight", "config"])["plugins"]) == {"model net", "objective straight"}


def test_metrics_of_a_plugin_have_a_unit_and_a_direction(study: Path) -> None:
    metrics, runs = table(study, "metrics"), table(study, "runs")
    assert set(metrics["metric"]) == {"contrast", "brightness_gap", "mean_error", "size"}  # and not the broken one
    contrast = metrics[metrics["metric"] == "contrast"]
    assert set(zip(contrast["unit"], contrast["better"], strict=True)) == {("levels", "higher")}
    sizes = metrics[metrics["metric"] == "size"].set_index("run_id")["value"]
    assert sizes.to_dict() == runs.set_index("run_id")["params"].astype(float).to_dict()


def test_the_report_judges_a_metric_of_a_plugin(here: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["report", "--metric", "contrast"])
    assert re.search(r"contrast.*levels.*higher is better", shown.output)
    assert "shallow" in shown.output


def test_samples_are_drawn_again_and_a_run_is_replayed(here: Path) -> None:
    again = CliRunner().invoke(cli.app, ["replay", "baseline-tiny"])
    assert "bit-exact" in again.output, again.output
    drawn = CliRunner().invoke(cli.app, ["sample", "shallow-tiny", "-n", "4", "-o", "drawn.npz"])
    assert drawn.exit_code == 0, drawn.output
    images = np.load("drawn.npz")["images"]
    assert images.shape == (4, 16, 16, 3)
    assert (images[..., 0] == images[..., 2]).all()  # grey


def test_a_replay_refuses_other_code(here: Path) -> None:
    with forgotten():
        try:
            (here / "mine.py").write_text(PLUGIN + "\n# changed\n")
            refused = CliRunner().invoke(cli.app, ["replay", "baseline-tiny"])
        finally:
            (here / "mine.py").write_text(PLUGIN)
    assert "the code of model net is not the run's" in str(refused.exception)


@pytest.mark.slow
def test_number_formats_of_a_users_model(here: Path) -> None:
    done = CliRunner().invoke(
        cli.app,
        ["run", "--preset", "tiny", "-v", "shallow", "--no-baseline", "--data", "blobs", "--quantize", "int8,bf16"],
    )
    assert done.exit_code == 0, done.output
    rows = table(here, "quantized")
    assert set(zip(rows["scheme"], rows["scope"], strict=True)) == {("fp32", "all"), ("int8", "all"), ("bf16", "all")}
    wrong = CliRunner().invoke(
        cli.app, ["run", "--preset", "tiny", "--data", "blobs", "--quantize", "int8", "--scopes", "up"]
    )
    assert "unknown 'up'. Allowed: first, norm, middle, last, all" in str(wrong.exception)


@pytest.mark.slow
def test_a_model_without_a_form_in_onnx_is_one_line(here: Path) -> None:
    class Sorted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return z * self.scale if float(z.sum()) > 0 else z  # a branch that depends on the data

    config = variants.resolve(variants.load("baseline"), "tiny")
    with pytest.raises(ResultsError, match=r"model net \(.*mine.py\): cannot be exported to ONNX"):
        export_graphs(exportable(Sorted(), config, GREY_CODEC))


def test_what_two_variants_share_starts_with_the_same_weights(here: Path) -> None:
    cpu = torch.device("cpu")
    full, shallow = (
        denoiser.build(variants.resolve(variants.load(name), "tiny"), 3, cpu) for name in ("baseline", "shallow")
    )
    other = denoiser.build(variants.resolve(variants.load("baseline"), "tiny"), 4, cpu)
    shared = shallow.state_dict()
    assert {"first.weight", "last.weight", "last.bias"} <= set(shared)
    for name, value in shared.items():
        assert torch.equal(value, full.state_dict()[name]), name
    assert not torch.equal(full.first.weight, other.first.weight)
    assert 0.015 < float(full.first.weight.detach().std()) < 0.025  # as its own initialisation says


def test_the_cost_is_counted_by_running(here: Path) -> None:
    spent = cost(variants.resolve(variants.load("baseline"), "tiny"))
    assert spent.params == {"first": 2 * 8 * 9 + 8, "norm": 16, "middle": 8 * 8 * 9 + 8, "last": 8 * 9 + 1}
    assert {name: macs for name, macs in spent.macs.items() if macs} == {
        "first": 256 * 2 * 8 * 9,
        "middle": 256 * 8 * 8 * 9,
        "last": 256 * 8 * 9,
    }


def test_network_evaluations_of_a_solver_are_counted(here: Path) -> None:
    assert evaluations("midpoint", 4) == 8
    assert steps_within("midpoint", 9) == 4
    config = variants.resolve(variants.load("baseline[sample.solver=midpoint]"), "tiny")
    assert set(config.plugins) == {"model net", "solver midpoint"}


NET = """
import torch
import ablate

@ablate.model("bad")
class Bad:
    def build(self, shape):
        {build}
        return Net()

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1)

    def forward(self, z, t):
        {forward}
"""


@pytest.mark.parametrize(
    ("build", "forward", "message"),
    [
        ("raise ValueError('too wide')", "return z", "build fails: ValueError: too wide"),
        ("return 3", "return z", "build returns int; it must return an nn.Module"),
        ("return torch.nn.Identity()", "return z", "the network has no parameters"),
        ("torch.manual_seed(0)", "return z", "build sets torch's seed; remove torch.manual_seed"),
        ("pass", "torch.manual_seed(0); return z", "forward sets torch's seed"),
        (
            "pass",
            "return z[:, :2]",
            r"the output has shape \(2, 2, 64, 64\); it must have that of the input, \(2, 3, 64, 64\)",
        ),
        ("pass", "return {'sample': z}", "the network returns dict; return a tensor"),
        ("pass", "return z / 0 * 0", "the untrained network returns NaN"),
        ("pass", "return z > 0", "the output is torch.bool; it must be a floating-point tensor"),
        ("pass", "print('hi'); return z", r"forward prints to stdout \('hi'\)"),
        ("pass", "return self.conv(t)", r"forward\(z \(2, 3, 64, 64\), t \(2,\), float32 on cpu\) fails: RuntimeError"),
    ],
)
def test_a_bad_model_is_one_line_that_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, forward: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text(NET.format(build=build, forward=forward))
    Path("variants").mkdir()
    Path("variants/mine.toml").write_text(HEAD + '[model]\nkind = "bad"\n')
    with forgotten():
        plugins.load_file(Path("bad.py"))
        config = variants.resolve(variants.load("mine"), "smoke")
        with pytest.raises(PluginError, match=message) as error:
            denoiser.probe(config, torch.device("cpu"))
    assert f"model bad ({tmp_path / 'bad.py'})" in str(error.value)
