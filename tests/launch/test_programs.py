"""Studies of a program: what works as for a torch model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ablate
from torchvision.models import alexnet

from ablate.base.progress import Progress
from ablate.launch.ray_worker import Networks, RunTask, _run_isolated
from ablate.launch.study_runs import study_runs
from ablate.metrics import weights
from ablate.metrics.networks import MetricNetworks
from ablate.models.weight_files import digest, save_tensors
from ablate.runs.run_files import record_remote_run
from ablate.store import tables
from ablate.study import variants
from ablate.study.plan import plan
from ablate.study.program import ProgramConfig, ProgramData
from ablate.study.request import StudyRequest

TRAIN = """
import json, random, sys
seed, out, lr = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
random.seed(seed)
task = random.random()  # every variant has the same
random.seed(seed + 1000 * lr)
noise = random.gauss(0, 0.001)
json.dump({"acc": task - (lr - 0.3) ** 2 + noise, "nll": -task}, open(out + "/metrics.json", "w"))
open(out + "/model", "w").write(str(lr))
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A program whose variant `low` is worse."""
    (tmp_path / "variants" / "presets").mkdir(parents=True)
    (tmp_path / "train.py").write_text(TRAIN)
    head = 'about = "a"\nsource = "b"\naxis = "lr"\n'
    command = json.dumps([sys.executable, "train.py", "{seed}", "{out}", "{lr}"])
    own = f"[program]\ncommand = {command}\n[program.metrics]\nacc = 'higher'\n[options]\nlr = 0.3\n"
    (tmp_path / "variants" / "baseline.toml").write_text(head + own)
    (tmp_path / "variants" / "low.toml").write_text(f"{head}[options]\nlr = 0.1\n")
    return tmp_path


def runs(folder: Path) -> list[tuple[str, int, str]]:
    rows = tables.to_records(tables.read(folder / "results", "runs"))
    return sorted((row["variant"], row["seed"], row["status"]) for row in rows)


def run(folder: Path, *words: str) -> Any:
    done = ablate("run", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_settings_are_chosen_on_seeds_that_are_not_judged(study: Path) -> None:
    done = run(study, "--variant", "low", "--seeds", "0-1", "--tune", "options.lr=0.1,0.3,0.9", "--tune-seeds", "90")
    assert "baseline: options.lr=0.3 is best, acc " in done.stdout
    report = json.loads(ablate("report", "--json", cwd=study).stdout)
    assert (report["tuning"]["metric"], report["tuning"]["higher_is_better"]) == ("acc", True)
    wrong = ablate("run", "--tune", "options.lr=0.1,0.3", "--tune-metric", "ac", "--tune-seeds", "90", cwd=study)
    assert "--tune-metric ac: no run recorded it; did you mean acc?" in wrong.stderr


@pytest.mark.slow
def test_seeds_are_added_until_decided_and_the_plan_says_what_counts(study: Path) -> None:
    done = run(study, "--variant", "low", "--seeds", "0-3", "--until-decided", "--max-seeds", "12")
    assert "low: decided with " in done.stdout
    report = json.loads(ablate("report", "--json", cwd=study).stdout)
    assert [(one["metric"], one["verdict"]) for one in report["comparisons"]] == [("acc", "hurts")]  # not nll


def test_a_forecast_and_a_plan(study: Path) -> None:
    run(study, "--variant", "low")
    shown = ablate("run", "--variant", "low", "--seeds", "0-1", "--dry-run", cwd=study).stdout
    assert "2 of 4 to run: " in shown
    assert "to be judged by acc: low; 1 tests" in shown
    assert "judged by: acc" in ablate("plan", "--variant", "low", "--seeds", "0-5", cwd=study).stdout


def test_finished_runs_are_kept_until_the_program_changes(study: Path) -> None:
    run(study, "--variant", "low")
    assert "done before; skipped" in run(study, "--variant", "low").stdout
    (study / "train.py").write_text(f"{TRAIN}\n# changed")
    again = run(study, "--variant", "low")
    assert "2 finished runs were computed by other code" in again.stderr
    assert "done in" not in again.stdout
    assert run(study, "--variant", "low", "--stale").stdout.count("done in") == 2
    assert "other code" not in run(study, "--variant", "low").stderr


def test_a_failure_does_not_end_the_others_and_is_made_again(study: Path) -> None:
    (study / "train.py").write_text(f"{TRAIN}\nif lr < 0.2: sys.exit('no gradient')")
    done = ablate("run", "--variant", "low", cwd=study)
    assert done.returncode == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "exit code 1: no gradient; its log: artifacts/low-" in error[0]
    assert runs(study) == [("baseline", 0, "done"), ("low", 0, "failed")]
    (study / "train.py").write_text(TRAIN)
    run(study, "--variant", "low")
    assert runs(study) == [("baseline", 0, "done"), ("low", 0, "done")]
    for words in (["sample", "-o", "x.png"], ["export", "-o", "x.onnx"], ["bench"]):
        refused = ablate(words[0], "low-quick-program-s0", *words[1:], cwd=study)
        assert "of a program, whose model ablate does not know" in refused.stderr
    assert ablate("rm", "low-quick-program-s0", "--yes", cwd=study).returncode == 0
    assert runs(study) == [("baseline", 0, "done")]


def test_results_say_the_same_wherever_the_command_is_typed(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "next: the same command with --variant low, which compares it" in run(study).stderr
    (study / "elsewhere").mkdir()
    again = ablate("run", "--variants", "../variants", "--results", "../results", cwd=study / "elsewhere")
    assert "done before; skipped" in again.stdout
    moved = study.with_name("moved")
    study.rename(moved)
    assert "done before; skipped" in run(moved).stdout


def test_rows_of_torch_models_can_be_read_beside_a_program(study: Path) -> None:
    text = variants.resolve(variants.load("no_drift"), "smoke").to_json()
    with variants.registry(study / "variants"):
        assert variants.from_json(text, "smoke").to_json() == text


def test_two_folders_are_merged(study: Path) -> None:
    run(study, "--variant", "low", "--seeds", "0", "--results", "a")
    run(study, "--variant", "low", "--seeds", "1", "--results", "b")
    assert ablate("merge", "a", "b", "-o", "results", cwd=study).returncode == 0
    assert [seed for _, seed, _ in runs(study)] == [0, 1, 0, 1]
    assert len(tables.read(study / "results", "metrics")) == 8
    assert "done before; skipped" in run(study, "--variant", "low", "--seeds", "0-1").stdout


def test_a_replay_runs_the_program_again_and_compares_its_metrics(study: Path) -> None:
    run(study, "--variant", "low", "--no-baseline")
    replayed = ablate("replay", "low", cwd=study)
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert "bit-exact: 2 metrics have the row's values" in replayed.stdout
    (study / "train.py").write_text(TRAIN.replace("-task}", "-task + 1}"))
    other = ablate("replay", "low", "--json", cwd=study)
    found = json.loads(other.stdout)
    assert (other.returncode, found["verdict"], list(found["environment"])) == (1, "environment_mismatch", ["code"])
    assert found["metrics"]["nll"][1] == pytest.approx(found["metrics"]["nll"][0] + 1)
    assert found["metrics"]["acc"][0] == found["metrics"]["acc"][1]
    assert "note: code differs" in other.stderr
    baseline = study / "variants" / "baseline.toml"
    text = baseline.read_text()
    baseline.write_text(text.replace("train.py", "other.py"))
    refused = ablate("replay", "low", cwd=study)  # the row's command may be a stranger's
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "a command from a table is not executed" in refused.stderr
    baseline.unlink()
    assert "of a program, but there is no" in ablate("replay", "low", cwd=study).stderr


def test_images_are_measured(study: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    np.savez(study / "real.npz", images=images)
    baseline = study / "variants" / "baseline.toml"
    settings = "[program]\nimages = 'some.npz'\nreference = 'real.npz'\n"
    baseline.write_text(baseline.read_text().replace("[program]\n", settings))
    copy = "import shutil; shutil.copy('real.npz', out + '/some.npz')"
    (study / "train.py").write_text(f"{TRAIN}\nif lr > 0.2: {copy}")
    done = ablate("run", "--variant", "low", cwd=study)
    assert "some.npz is missing in {out}" in done.stderr
    (row,) = tables.to_records(tables.read(study / "results", "runs").query("status == 'done'"))
    assert row["fd"] == pytest.approx(0, abs=1e-3)
    assert (row["fd_n"], row["fd_ref_n"]) == (6, 6)
    assert (study / "results" / "artifacts" / row["run_id"] / "samples.png").is_file()
    assert {"fd", "precision"} <= set(tables.read(study / "results", "fidelity")["metric"])
    (study / "real.npz").unlink()
    gone = ablate("run", cwd=study)
    assert "[program] reference = " in gone.stderr
    assert len(gone.stderr.splitlines()) == 1


def test_a_run_in_a_folder_of_its_own_returns_all_of_its_files(study: Path, tmp_path: Path) -> None:
    with variants.registry(study / "variants"):
        (spec,) = plan(["low"], [3], "quick")
    config: Any = spec.config
    assert isinstance(config, ProgramConfig)
    data = ProgramData.of(config.program)
    networks, run_id = MetricNetworks(torch.device("cpu"), {}, {}, {}), spec.run_id(data.name, data.digest)
    (scratch := tmp_path / "node").mkdir()
    request = StudyRequest(results=scratch, device="cpu", threads=1)
    made = {"quantise": False, "finished_before": False, "still_ours": lambda: True}
    sent = {"request": request, "marker": None, "session": "", "networks": Networks((), {}), "load_wall_s": 0.0}
    task = RunTask(run_id, spec, **made, **sent)
    result = _run_isolated(study_runs(request, [spec]), task, networks, Progress(enabled=False), [], None)
    assert (result.how, result.row["metrics"]["nll"] < 0) == ("made", True)
    assert result.payload is not None
    record_remote_run(study / "results", run_id, result.payload.files, result.payload.rows)
    assert (study / "results" / "artifacts" / run_id / "out" / "model").read_text() == "0.1"
    assert runs(study) == [("low", 3, "done")]
    assert "done before; skipped" in run(study, "--variant", "low", "--seeds", "3", "--no-baseline").stdout


@pytest.mark.slow
def test_a_study_in_slurm_jobs(study: Path) -> None:
    pytest.importorskip("submitit")
    run(study, "--variant", "low", "--launcher", "slurm", "--slurm", "cluster=local", "--jobs", "1")
    assert [status for *_, status in runs(study)] == ["done"] * 2


@pytest.mark.slow
def test_finished_runs_get_the_metrics_of_images_that_they_lack(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(study / "real.npz", images=np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8))
    baseline = study / "variants" / "baseline.toml"
    settings = "[program]\nimages = 'some.npz'\nreference = 'real.npz'\n"
    baseline.write_text(baseline.read_text().replace("[program]\n", settings))
    (study / "train.py").write_text(f"{TRAIN}\nimport shutil; shutil.copy('real.npz', out + '/some.npz')")
    run(study)
    before = tables.read(study / "results", "fidelity")
    assert "lpips" not in set(before["metric"].str.rpartition("_")[2])
    (study / "weights").mkdir()
    trunk = {f"features.{name}": tensor for name, tensor in alexnet().features.state_dict().items()}
    save_tensors(study / "weights" / "alexnet_features.safetensors", trunk, {})
    monkeypatch.setitem(
        weights.BACKBONES, "alexnet_features", replace(weights.BACKBONES["alexnet_features"], digest=digest(trunk))
    )
    assert "done before; 3 rows added" in run(study, "--weights", "weights").stdout
    after = tables.read(study / "results", "fidelity")
    assert set(after["metric"]) - set(before["metric"]) == {"diversity_lpips", "nearest_lpips", "memorised_lpips"}
    (row,) = tables.to_records(tables.read(study / "results", "runs"))
    assert row["diversity_lpips"] > 0
    assert row["fd_n"] == 6
    assert row["data_notes"].count("array images of shape (6, 32, 32, 3)") == 2
    assert "done before; skipped" in run(study, "--weights", "weights").stdout
