"""One thread for the whole test run: small tensors, and threads that wait for each other on a busy machine cost tenfold."""

import functools
import gc
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import filelock
import pytest
import typer.main
import typer.testing
from hypothesis import HealthCheck, settings

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read when numpy and torch are first imported, and by the processes that tests start

# Without .pyc files, every process that a test starts compiles `ablate` (2 s) and perhaps torch (10 s).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

gc.disable()  # until all tests are collected: torch's import makes and keeps a million objects

os.environ["ABLATE_OFFLINE"] = "1"  # a run downloads the weights that it lacks

# Ray's workers give way to every other process, so beside other tests they would hardly run.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

# What a script starts in the background ignores Ctrl-C, and so does all that it starts, whose answer to Ctrl-C is tested here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure, and folders that examples share are written anew by each.
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("busy")

# typer reads the signatures of all commands at each call, for 0.05 s; a test run has thousands.
typer.main.get_command = typer.testing._get_command = functools.cache(typer.main.get_command)

# Several processes take these files first: one that starts last would leave the other processes idle.
LONGEST = (
    "docs",
    "ray",
    "number_formats",
    "kill",
    "slurm",
    "filters",
    "cli",
    "steal",
    "default_metrics",
    "start_model",
    "studies",
    "loop",
    "html",
    "set_distances",
    "api",
    "own_models",
    "ray_studies",  # late: two Ray clusters side by side on two cores take three times as long
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
        items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


_imported = 0  # modules when garbage collections were last spared what imports left


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """Spare later garbage collections what imports left: `ablate run` collects twice, 0.2 s each time."""
    global _imported
    if len(sys.modules) > _imported + 100:  # as torch._dynamo is, by the first training
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_collection_finish() -> None:
    gc.enable()
    pytest_runtest_logfinish()


@pytest.fixture(scope="session", autouse=True)
def scripts_bundled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the script that draws a page's plots: bundling takes 2.5 s in each process of pytest-xdist."""
    try:
        import vl_convert
    except ImportError:
        yield
        return
    base, bundle = tmp_path_factory.getbasetemp(), vl_convert.javascript_bundle
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def bundle_once(snippet: str) -> str:
        file = folder / f"{hashlib.sha256(snippet.encode()).hexdigest()}.js"
        with filelock.FileLock(f"{file}.lock"):
            if not file.exists():
                file.write_text(bundle(snippet), "utf-8")
        return file.read_text("utf-8")

    with mock.patch.object(vl_convert, "javascript_bundle", bundle_once):
        yield


@pytest.fixture(scope="module")
def cheap_cats() -> Iterator[None]:
    """Every command that names no data composes the same 12,000 cats, and embeds 768 held-out ones, for seconds."""
    from ablate.data import cats
    from ablate.metrics import neighbours

    with (
        mock.patch.object(cats, "compose", functools.cache(cats.compose)),
        mock.patch.multiple(neighbours, DIVERSITY_IMAGES=16, NEIGHBOUR_QUERIES=16),
    ):
        yield


@pytest.fixture(scope="module")
def each_graph_exported_once() -> Iterator[None]:
    """Keep what the ONNX exporter returns for a module: it takes twenty seconds, and commands export one run again and again."""
    import torch

    export, kept = torch.onnx.export, dict[str, Any]()

    def export_once(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], **options: Any) -> Any:
        digest = hashlib.sha256(repr((module, [x.shape for x in inputs], options)).encode())
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        key = digest.hexdigest()
        if key not in kept:
            kept[key] = export(module, inputs, **options)
        return kept[key]

    with mock.patch.object(torch.onnx, "export", export_once):
        yield
