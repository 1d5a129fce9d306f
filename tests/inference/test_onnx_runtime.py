"""Graphs for ONNX Runtime against torch, their multiply-accumulates against a hand count, and what a damaged file says."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from ablate.base.errors import ResultsError
from ablate.inference import onnx_runtime
from ablate.inference.onnx_modules import ShuffledConv2d, Step
from ablate.models.cost import cost
from ablate.models.kpn.denoiser import build
from ablate.study import variants

pytestmark = pytest.mark.slow

CONFIG = variants.resolve(variants.load("baseline"), "smoke")


@pytest.fixture(scope="module")
def step() -> Step:
    """The smoke model with no layer at zero."""
    model = build(CONFIG.model, 0, torch.device("cpu")).requires_grad_(False)
    for name, p in model.named_parameters():
        if not p.any():
            p.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return Step(model, CONFIG.diffusion)


@pytest.fixture(scope="module")
def graph(step: Step) -> onnx.ModelProto:
    return onnx_runtime.export_module(step, {"z": noise(2), "t": torch.tensor([0.2, 0.7])}, "x_hat")


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
    found = dict.fromkeys(onnx_runtime.MODULE_GROUPS, 0)
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
    assert 1e-4 < error < 0.02  # 0.11 where products overflow
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
