"""`benchmarks/gpu_study.py`: the order of its stages, and the end of its budget. Nothing is trained."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_study import Stage, run_stages, stages


def python(code: str, name: str = "stage", **options: float) -> Stage:
    return Stage(name, (sys.executable, "-S", "-c", code), **options)  # type: ignore[arg-type]


def option(stage: Stage, name: str) -> str:
    return stage.command[stage.command.index(name) + 1]


def test_the_tests_come_first_then_the_posts_program_then_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    tests, published, study = stages("cats.zip", tmp_path, tmp_path / "results")
    assert [tests.name, published.name, study.name] == ["tests", "published", "study"]
    assert [option(stage, "--preset") for stage in (published, study)] == ["published", "quick"]
    assert option(published, "--variant") == "drift_bottleneck"
    assert option(study, "--seeds") == "0-7"
    assert study.processes == 3
    assert all(option(stage, "--quantize") == "none" for stage in (published, study))
    (tmp_path / "vgg16_features.safetensors").touch()
    (again,) = (stage for stage in stages("cats.zip", tmp_path, tmp_path, tests=False) if stage.name == "published")
    assert option(again, "--variant") == "drift_bottleneck+lpips_loss"


def test_each_stage_has_what_the_budget_leaves(tmp_path: Path) -> None:
    planned = [
        python("", "short"),
        python("import sys; sys.exit('error: no such data')", "wrong"),
        python("import time; time.sleep(60)", "limited", limit_s=0.2),
        python(f"import os, time; open(f'{tmp_path}/{{os.getpid()}}.ran', 'w'); time.sleep(60)", "long", processes=3),
        python("", "late"),
    ]
    begun = time.monotonic()
    outcomes = dict(run_stages(planned, 2.5, tmp_path / "logs", least_s=0.5, grace_s=0.5))
    assert time.monotonic() - begun < 10
    assert list(outcomes) == ["short", "wrong", "limited", "long", "late"]
    assert outcomes["short"].startswith("done in ")
    assert outcomes["wrong"].endswith("error: no such data")
    assert all("the same command goes on" in outcomes[name] for name in ("limited", "long"))
    assert outcomes["late"].startswith("not begun: ")
    assert len(list(tmp_path.glob("*.ran"))) == 3
