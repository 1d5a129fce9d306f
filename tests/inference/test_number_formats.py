"""Number formats and exported files: a run, measured, exported, sampled from; bad input; its graph against torch.

One file, because the graph is exported once: that takes twenty seconds.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import command
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from command import add_tiny_preset
from kpn_networks import build
from PIL import Image
from torch import Tensor, nn

from ablate.base.errors import ResultsError
from ablate.inference import executorch, export, onnx_runtime, openvino
from ablate.inference.onnx import ExportableModel, ImageGenerator, calibration_inputs
from ablate.inference.onnx_modules import ShuffledConv2d, Step
from ablate.inference.requested_formats import groups_of, parse_formats, scopes_of, with_formats
from ablate.models.cost import cost
from ablate.models.kpn.drift import ZeroInit
from ablate.runs.loading import load_run
from ablate.study import variants
from ablate.study.plan import RunSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_graph_exported_once")]

PAGE = Path(__file__).parents[2] / "docs/number-formats.md"
CONFIG = variants.resolve(variants.load("baseline"), "smoke")


def ablate(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command.ablate(*words, cwd=cwd, ABLATE_CACHE=str(cwd / "cache"), ABLATE_OFFLINE="1")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = ablate("run", "--preset", "tiny", "--data", "set.npz", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, each_graph_exported_once: None) -> Path:
    """The baseline with int8 and int4, and its file of each scheme. No layer is near zero."""
    path = tmp_path_factory.mktemp("work")
    add_tiny_preset(path)
    np.savez(path / "set.npz", np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), np.uint8))
    draw = lambda layer: [nn.init.normal_(p, 0, 0.05) for p in layer.parameters()]  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZeroInit, "reset_parameters", draw)
        run("--quantize", "int8,int4", "--scopes", "kpn,filters,drift", cwd=path)
    for scheme in ("fp32", "int8"):
        done = ablate("export", "baseline", "--scheme", scheme, "-o", f"{scheme}.onnx", cwd=path)
        assert done.returncode == 0, done.stderr
    return path


def table(study: Path) -> pd.DataFrame:
    return pd.read_parquet(study / "results" / "quantized.parquet").set_index(["scheme", "scope"]).sort_index()


def test_rows_say_what_is_real_and_what_is_simulated(study: Path) -> None:
    rows = table(study)
    expected = {(s, scope) for s in ("int8", "int4") for scope in ("kpn", "filters", "drift")} | {("fp32", "all")}
    assert expected <= set(rows.index)
    real = [("fp32", "all"), ("int8", "kpn"), ("int8", "drift")]
    assert not rows.loc[real, "simulated"].any()
    assert rows.loc[real, ["file_bytes", "latency_step_ms"]].notna().all().all()
    others = rows[rows["simulated"]]
    assert set(others["engine"]) == {"torch"}
    assert others[["file_bytes", "latency_step_ms", "float_latency_step_ms"]].isna().all().all()
    assert set(rows.loc[real[1:], "float_latency_step_ms"]) == {rows.loc[("fp32", "all"), "latency_step_ms"]}
    measured = rows.drop(index=("fp32", "all"))
    assert measured[["psnr_db", "pd", "fd", "fd_change", "fd_change_low", "macs_share"]].notna().all().all()
    assert (measured["psnr_db"] > 10).all()
    assert rows.loc[("int8", "kpn"), "file_bytes"] < rows.loc[("fp32", "all"), "file_bytes"]
    digests = rows["calibration_digest"].dropna().unique()
    assert len(digests) == 1
    assert rows.loc["int4", "calibration_digest"].isna().all()
    latency = pd.read_parquet(study / "results" / "latency.parquet").query("engine == 'onnxruntime'")
    assert set(latency["scheme"]) == {"fp32", "int8", "int8/drift"}
    assert set(latency["batch"]) == {1, 8}


def test_a_finished_run_gets_what_it_lacks_and_nothing_twice(study: Path) -> None:
    before = table(study)
    done = run("--quantize", "int8,bf16", "--scopes", "kpn", cwd=study)
    assert "done before; 1 rows added" in done.stdout
    after = table(study)
    assert set(after.index) - set(before.index) == {("bf16", "kpn")}
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    assert "0 rows" in run("--quantize", "int8,bf16", "--scopes", "kpn", cwd=study).stdout
    assert after.loc[("bf16", "kpn"), "psnr_db"] > after.loc[("int4", "kpn"), "psnr_db"]


def test_the_report_lists_them_in_every_form(study: Path) -> None:
    rich, markdown, text = (
        ablate("report", "--format", form, "--full", cwd=study).stdout for form in ("rich", "markdown", "json")
    )
    found = json.loads(text)["quantized"]["rows"]
    assert {(row["scheme"], row["scope"]) for row in found} >= {("int8", "kpn"), ("int4", "filters")}
    row = next(row for row in found if (row["scheme"], row["scope"]) == ("int8", "kpn"))
    for shown in (rich, markdown):
        assert f"{row['psnr_db']:.1f}" in shown
        assert "module groups alone, the most sensitive first" in " ".join(shown.split())


def test_a_file_says_what_it_is_and_the_documented_code_draws_a_cat_from_it(study: Path) -> None:
    words = {p.key: p.value for p in onnx.load(study / "int8.onnx").metadata_props}
    assert words["ablate.run_id"].startswith("baseline-tiny-set")
    assert words["ablate.scheme"] == "int8"
    assert {"ablate.data_licence", "ablate.preprocessing", "ablate.postprocessing"} <= set(words)
    section = PAGE.read_text()
    code = re.search(r"```python\n(.*?)```", section, re.S)
    assert code is not None
    assert len(code[1].strip().splitlines()) <= 15
    (study / "cats.onnx").write_bytes((study / "int8.onnx").read_bytes())
    done = subprocess.run([sys.executable, "-c", code[1]], cwd=study, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Image.open(study / "cat.png").size == (64, 64)


def test_engines_draw_the_same_images(study: Path) -> None:
    for name, words in {
        "torch": [],
        "fp32": ["--engine", "onnx"],
        "int8": ["--engine", "onnx", "--scheme", "int8"],
    }.items():
        done = ablate("sample", "baseline", "-n", "5", "-o", f"{name}.npz", *words, cwd=study)
        assert done.returncode == 0, done.stderr
    drawn = {name: np.load(study / f"{name}.npz")["images"].astype(float) for name in ("torch", "fp32", "int8")}
    assert np.abs(drawn["torch"] - drawn["fp32"]).mean() < 1  # of 255: torch's are bf16 where the processor has it
    assert 0 < np.abs(drawn["int8"] - drawn["fp32"]).mean() < 5


BENCH = ("bench", "baseline", "--batch", "2", "--rounds", "5", "--scope", "image", "--json")


def test_bench_times_every_installed_engine_beside_torch(study: Path) -> None:
    done = ablate(*BENCH, "--schemes", "all", cwd=study)
    assert done.returncode == 0, done.stderr
    timed = {(row["scheme"], row["engine"]) for row in json.loads(done.stdout)["groups"][0]["rows"]}
    there = {"torch", "onnxruntime"} | ({"openvino"} if importlib.util.find_spec("openvino") else set())
    lowered = {("fp32", "executorch")} if importlib.util.find_spec("executorch") else set()
    graphs = {(s, e) for s in ("fp32", "int8") for e in there} - {("int8", "torch")}
    assert timed == {("bf16", "torch")} | graphs | lowered
    rows = pd.read_parquet(study / "results" / "latency.parquet").query("session != 'run'")
    assert set(zip(rows["scheme"], rows["engine"], strict=True)) == timed


def test_an_engine_that_disagrees_with_torch_is_not_timed(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (study / "results" / "latency.parquet").read_bytes()
    monkeypatch.setattr(export, "FLOAT_TOLERANCE", 0.0)
    done = ablate(*BENCH, "--schemes", "fp32/onnxruntime", cwd=study)
    assert done.returncode == 1
    said = r"error: baseline-tiny-set-s0-\w+: step as fp32/onnxruntime: largest difference to PyTorch .*; it is not timed\n"
    assert re.fullmatch(said, done.stderr)
    assert (study / "results" / "latency.parquet").read_bytes() == before


def test_executorch_computes_what_torch_does() -> None:
    pytest.importorskip("executorch", reason="executorch is not installed: pip install 'ablate-harness[executorch]'")
    config = variants.resolve(variants.load("direct"), "smoke")  # lowering filters takes minutes
    step = Step(build(config.model, 0, torch.device("cpu")), config)
    z, t = torch.randn(2, 3, 64, 64), torch.tensor([0.0, 0.9])
    torch.testing.assert_close(executorch.Session(step, 1)(z, t), step(z, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_computes_what_torch_does_at_any_batch(step: Step, graph: onnx.ModelProto, batch: int) -> None:
    if importlib.util.find_spec("openvino") is None:  # importing it here would report that
        pytest.skip("openvino is not installed: pip install 'ablate-harness[openvino]'")
    session = openvino.Session(graph, 1)
    assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)  # it reports to Google Analytics
    for size in (batch, 2, batch):
        z, t = torch.randn(size, 3, 64, 64), torch.linspace(0, 0.9, size)
        torch.testing.assert_close(session(z, t), step(z, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--quantize", "int9"], "unknown 'int9'; did you mean int8?"),
        (["run", "--quantize", "int8", "--scopes", "head"], "unknown 'head'; did you mean heads?"),
        (["export", "nope", "-o", "a.onnx"], "run 'nope': not in results"),
        (["export", "baseline", "-o", "a.txt"], "allowed: .onnx"),
        (["export", "baseline", "-o", "nowhere/a.onnx"], "is not a writable folder"),
        (["export", "baseline", "-o", "int8.onnx"], "exists already"),
        (["export", "baseline", "--scheme", "fp8", "-o", "a.onnx"], "--scheme fp8: unknown"),
        (["sample", "baseline", "--scheme", "int8", "-o", "a.png"], "add --engine onnx"),
        (["sample", "baseline", "--engine", "onnx", "--scheme", "int2", "-o", "a.png"], "--scheme int2: unknown"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(study: Path, words: list[str], said: str) -> None:
    before = sorted(p.name for p in study.iterdir())
    done = ablate(*words, cwd=study)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert sorted(p.name for p in study.iterdir()) == before


def test_a_damaged_model_is_one_line(study: Path) -> None:
    model = next((study / "results" / "artifacts").iterdir()) / "model.safetensors"
    whole = model.read_bytes()
    try:
        model.write_bytes(whole[:-100])
        done = ablate("export", "baseline", "-o", "a.onnx", cwd=study)
    finally:
        model.write_bytes(whole)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*model\.safetensors: damaged .*\n", done.stderr)


def test_scopes_are_module_groups() -> None:
    there = ["backbone", "upscaler", "heads", "filters", "drift"]
    assert groups_of("kpn", there) == there[:4]
    assert groups_of("all", there) == there
    assert groups_of("heads", there) == ["heads"]
    assert groups_of("decoder", there) == []
    edge = ExportableModel(CONFIG, Step(build(CONFIG.model, 0, torch.device("cpu")), CONFIG), None)
    assert edge.groups == there


def test_the_option_takes_lists_each_and_none() -> None:
    default = CONFIG
    assert parse_formats(None, None, default) == default.quantize
    assert parse_formats("all", "each", default).scopes == scopes_of(CONFIG)
    assert scopes_of(CONFIG) == ("kpn", "backbone", "upscaler", "heads", "filters", "drift", "decoder", "all")
    assert parse_formats("none", None, default).schemes == ()
    assert parse_formats("int4, int8,int4", "all", default).schemes == ("int4", "int8")
    assert parse_formats("int8", "all", default).scopes == ("all",)


def test_each_run_keeps_what_was_not_asked_for() -> None:
    own = CONFIG.replaced(quantize={"samples": 300})
    specs = [RunSpec("a", "", "smoke", 0, config) for config in (CONFIG, own)]
    found, asked = with_formats(specs, "int8", None)
    assert [spec.config.quantize.samples for spec in found] == [CONFIG.quantize.samples, 300]
    assert [spec.config.quantize.schemes for spec in found] == [("int8",)] * 2
    assert asked
    assert with_formats(specs, None, None) == (specs, False)
    assert not with_formats(specs, "none", None)[1]


def test_finished_runs_without_weights_are_skipped_or_told_at_the_end(study: Path, tmp_path: Path) -> None:
    """Nothing is asked of them by `none`; by a format, the others are made before the error."""
    shutil.copytree(study, tmp_path / "copy")
    folder = tmp_path / "copy"
    for path in (folder / "results" / "artifacts").glob("baseline-*/model.safetensors"):
        path.unlink()
    words = ("run", "--preset", "tiny", "--data", "set.npz", "--variant", "baseline")
    done = ablate(*words, "--quantize", "none", cwd=folder)
    assert (done.returncode, "done before; skipped" in done.stdout) == (0, True), done.stderr
    done = ablate(*words, "--variant", "direct", "--quantize", "fp8", "--scopes", "filters,heads", cwd=folder)
    assert done.returncode == 1
    assert re.search(r"direct-tiny-set-s0-\w+: done in", done.stdout)
    assert "model.safetensors: missing" in done.stderr


def test_calibration_sees_all_times_of_noise_that_no_sample_starts_from() -> None:
    network = ImageGenerator(lambda z, t: z * 0.5)
    found = calibration_inputs(network, CONFIG, 0, 3)
    times = [float(t[0]) for _, t in found.inputs["step"]]
    assert times == [i / CONFIG.sample.num_steps for i in range(CONFIG.sample.num_steps)]
    first = found.inputs["step"][0][0]
    seen: list[torch.Tensor] = []
    ImageGenerator(lambda z, t: seen.append(z) or z).draw(CONFIG, 0, range(3))
    assert not torch.isclose(first, seen[0]).flatten(1).all(1).any()
    assert (
        calibration_inputs(network, CONFIG, 0, 3).digest
        == found.digest
        != calibration_inputs(network, CONFIG, 1, 3).digest
    )


@pytest.fixture(scope="module")
def step(study: Path) -> Step:
    return Step(load_run(study / "results", "baseline", torch.device("cpu")).model, CONFIG)


@pytest.fixture(scope="module")
def graph(study: Path) -> onnx.ModelProto:
    return onnx.load(study / "fp32.onnx")


@pytest.fixture(scope="module")
def quantised(graph: onnx.ModelProto) -> onnx.ModelProto:
    inputs = [{"z": noise(4, seed), "t": torch.linspace(0, 1, 4)} for seed in range(4)]
    return onnx_runtime.to_int8(graph, ("backbone", "upscaler", "heads"), inputs)


def noise(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_computes_what_torch_does_at_any_batch(step: Step, graph: onnx.ModelProto, batch: int) -> None:
    z, t = noise(batch, 7), torch.linspace(0, 1, batch)
    torch.testing.assert_close(onnx_runtime.Session(graph, 1)(z, t), step(z, t), rtol=0, atol=1e-5)


def test_a_transposed_convolution_is_a_convolution_and_a_shuffle() -> None:
    transposed = nn.ConvTranspose2d(6, 4, 2, stride=2)
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(ShuffledConv2d(transposed)(x), transposed(x))
    with pytest.raises(ValueError, match="kernel"):
        ShuffledConv2d(nn.ConvTranspose2d(6, 4, 3, stride=2))


def test_multiply_accumulates_of_the_graph_are_those_of_the_model(graph: onnx.ModelProto) -> None:
    found = dict.fromkeys(scopes_of(CONFIG), 0)
    for name, macs in onnx_runtime.product_macs(graph).items():
        found[name.split("/")[0]] += macs
    counted = cost(CONFIG).macs
    for group in ("backbone", "upscaler", "heads", "drift"):
        assert found[group] == counted[group], group


def test_integer_multiply_accumulates_by_hand(graph: onnx.ModelProto, quantised: onnx.ModelProto) -> None:
    w, (a, b, c), tokens = CONFIG.model.width, CONFIG.model.upscaler_channels, 64
    hidden = -(-8 * w // 3 // 32) * 32
    embed, time = 3 * 64 * w * tokens, 128 * w + w * w
    block = tokens * (3 * w * w + w * w + 2 * w * hidden + hidden * w) + 6 * w * w
    stages = sum(s * s * (9 * i * i + 4 * i * i + 4 * i * o) for s, i, o in ((8, w, a), (16, a, b), (32, b, c)))
    heads = sum(29 * channels * s * s for s, channels in ((16, a), (32, b), (64, c)))
    assert onnx_runtime.int8_macs(quantised, graph) == embed + time + CONFIG.model.depth * block + stages + heads
    assert onnx_runtime.int8_macs(graph, graph) == 0


def test_int8_is_near_and_leaves_the_other_groups_alone(
    step: Step, graph: onnx.ModelProto, quantised: onnx.ModelProto
) -> None:
    z, t = noise(4, 11), torch.full((4,), 0.5)
    error = (onnx_runtime.Session(quantised, 1)(z, t) - step(z, t)).square().mean().sqrt() / step(z, t).std()
    assert 1e-4 < error < 0.02  # with a model at smoke, 0.11 where products overflowed (x86 without VNNI)
    kept = {tensor.name for tensor in quantised.graph.initializer}
    assert {"denoiser.drift.down.0.weight", "denoiser.drift.out.weight"} <= kept
    assert "denoiser.heads.2.0.weight" not in kept
    with pytest.raises(ValueError, match="no weights"):
        onnx_runtime.to_int8(graph, ("decoder",), [])


def test_the_file_names_no_path_of_this_machine(graph: onnx.ModelProto) -> None:
    text = graph.SerializeToString()
    for word in (str(Path(onnx_runtime.__file__).parent), "site-packages", "forward("):
        assert word.encode() not in text


def test_damaged_file_is_one_line(graph: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(graph.SerializeToString()[:5000])
    with pytest.raises(ResultsError, match=r"cut\.onnx: not a model") as error:
        onnx_runtime.Session(path, 1)
    assert "\n" not in str(error.value)
