"""Studies on a Ray cluster of this machine: seed by seed, and of a program. Not beside `test_ray.py` (see `conftest.py`)."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from command import ablate, add_tiny_preset

from ablate.store import tables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]


def test_all_seeds_of_a_study_use_one_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray  # here: every process of pytest-xdist imports this module, for a second

    started, start = [], ray.init
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options) or start(**options))
    np.savez(tmp_path / "set.npz", np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), np.uint8))
    add_tiny_preset(tmp_path)
    words = "--preset tiny --until-decided --max-seeds 2 --device cpu --data set.npz --threads 1 --quantize none"
    done = ablate("run", "--variant", "direct", *words.split(), "--launcher", "ray", "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("direct: undecided with 2 seeds")
    assert len(tables.read(tmp_path / "results", "runs")) == 4
    assert len(started) == 1
    assert not ray.is_initialized()


def test_a_program_on_a_ray_cluster(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import json, sys; json.dump({'acc': int(sys.argv[1])}, open(sys.argv[2] + '/metrics.json', 'w'))"
    )
    (tmp_path / "variants").mkdir()
    command = json.dumps([sys.executable, "train.py", "{seed}", "{out}"])
    head = f'about = "a"\nsource = "b"\naxis = "baseline"\n[program]\ncommand = {command}\n'
    (tmp_path / "variants" / "baseline.toml").write_text(head)
    done = ablate("run", "--seeds", "0-2", "--launcher", "ray", "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done in") == 3
    assert tables.read(tmp_path / "results", "metrics")["value"].sort_values().tolist() == [0, 1, 2]
