"""Imports run downward only, and what must be light never meets torch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ablate"
# A room may import from the lines above its own, and from itself. The report reads tables, statistics and variants
# (and the data set's credit) alone; nothing but the command line and the Python API imports it.
LAYERS = [
    ["base"],
    ["stats", "store"],
    ["data"],
    ["study"],
    ["scores"],
    ["models"],
    ["diffusion"],
    ["metrics"],
    ["training"],
    ["inference"],
    ["runs"],
    ["launch"],
    ["report"],
    ["studies"],
    ["live_view", "planning", "results_folder"],
    ["hub"],
    ["api"],
    ["cli"],
    ["__main__"],
]
RANK = {name: i for i, names in enumerate(LAYERS) for name in names}
REPORT_READS = {"base", "data", "report", "stats", "store", "study"}
REPORT_READERS = {"cli", "hub", "live_view", "planning", "report", "results_folder", "studies"}
WITHOUT_TORCH = [
    "api",
    "base.errors",
    "base.host",
    "base.progress",
    "base.signals",
    "base.source_code",
    "base.text",
    "cli",
    "data.cats",
    "data.datasets",
    "data.image_arrays",
    "data.image_files",
    "data.pairing",
    "hub.hugging_face",
    "hub.repository",
    "hub.sharing",
    "launch.local",
    "launch.program_runs",
    "launch.study",
    "launch.time_left",
    "live_view",
    "planning",
    "report.render.html",
    "results_folder",
    "runs.program",
    "runs.rows",
    "runs.run_files",
    "studies",
    *(
        f"{room}.{path.stem}"
        for room in ("report", "scores", "stats", "store", "study")
        for path in (PACKAGE / room).glob("[a-z]*.py")
    ),
]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ablate":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ablate.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        assert not imported(path)
        return
    assert own in RANK, f"{own} has no layer"
    for name in imported(path):
        assert name in RANK, f"{path.name} imports {name}, which has no layer"
        assert name == own or RANK[name] < RANK[own], f"{own} imports {name}, which is not below it"
        assert name != "report" or own in REPORT_READERS, f"{own} imports report"
        assert own != "report" or name in REPORT_READS, f"report imports {name}"


@pytest.mark.slow
def test_light_modules_import_neither_torch_nor_timm() -> None:
    """One process imports all of them, then those of a dry run, which need torch; the last does import timm."""
    dry = ["base.rng", "inference.requested_formats", "launch.model_runs"]
    modules = [f"ablate.{name}" for name in (*WITHOUT_TORCH, *dry, "metrics.networks")]
    code = (
        "import importlib, sys\n"
        "heavy = ['timm', 'torch']\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    for package in [one for one in heavy if one in sys.modules]:\n"
        "        heavy.remove(package)\n"
        "        print('first with', package, name)"
    )
    shown = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert shown.stdout == "first with torch ablate.base.rng\nfirst with timm ablate.metrics.networks\n"


def test_an_empty_variable_of_a_library_counts_as_unset() -> None:
    code = "import os, ablate; print('TORCHINDUCTOR_COMPILE_THREADS' in os.environ, os.environ['CUDA_VISIBLE_DEVICES'])"
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "", "CUDA_VISIBLE_DEVICES": ""}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("name", "own"), [("ORT_DISABLE_TELEMETRY", "1"), ("THP_MEM_ALLOC_ENABLE", "1"), ("GOMP_SPINCOUNT", "2000")]
)
@pytest.mark.parametrize("given", [None, "", "0"])
def test_libraries_read_settings_that_stand_before_they_are_imported(name: str, own: str, given: str | None) -> None:
    code = f"import os, sys, ablate; print(os.environ['{name}'], {{'torch', 'onnxruntime'}} & set(sys.modules))"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {} if given is None else {name: given}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.strip() == f"{given or own} set()"
