"""The Ray launcher on two machines: losses, interruption, and the same rows as a local run."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import when
from kpn_networks import build
from safetensors import SafetensorError, safe_open

from ablate.base.errors import AblateError
from ablate.base.progress import Progress, Study
from ablate.launch import local, ray
from ablate.launch.leases import Lease
from ablate.launch.queue import QueuedRun
from ablate.launch.ray_messages import ProgressActor, RemoteProgress
from ablate.launch.ray_worker import Payload, RunResult
from ablate.launch.study_runs import study_runs
from ablate.runs.run_files import open_working_folder, record_remote_run
from ablate.store import tables
from ablate.store.artifacts import run_of
from ablate.store.schema import KEYS, RUN_TABLES
from ablate.study.plan import RunSpec, plan
from ablate.study.request import StudyRequest
from ablate.training.checkpoint import TrainingState
from ablate.training.loop import LOGGED

pytestmark = pytest.mark.slow

TIMES = (
    "_wall_s",
    "_at",
    "images_per_s",
    "peak_memory_mb",
    "latency_ms",
    "latency_step_ms",
    "latency_image_ms",
    "float_latency_step_ms",
)
STEPS = 100
LEASE = Lease(lambda: True, lambda: None, lambda state: None)
NOT_COMPARED = (*TIMES, "wall_s", "first_call_ms", "position", "device_ms")


def small(spec: RunSpec) -> RunSpec:
    """A run of a few seconds that is not over before somebody can end it."""
    train = {"perceptual": "none", "steps": STEPS, "batch": 2}
    measure = {"fd_samples": 8, "fd_reference": 8, "denoise_images": 1, "nearest_train": 8, "latency_samples": 1}
    return replace(spec, config=spec.config.replaced(train=train, measure=measure))


SPECS = [small(spec) for spec in plan(["direct", "direct+no_drift"], [0], "smoke")]


def brief(spec: RunSpec, steps: int = 1) -> RunSpec:
    """A run that is hardly trained."""
    return replace(spec, config=spec.config.replaced(train={"steps": steps}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Two machines of one CPU each beside the launcher's, and the study as made locally."""
    import ray as library
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABLATE_CACHE", str(folder / "cache"))
        patch.setenv("ABLATE_OFFLINE", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
        images = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
        np.savez(folder / "set.npz", images)
        launch(local.launch, folder, "reference", device="cpu", threads=1)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        library.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        here = library.get_runtime_context().get_node_id()
        yield {"folder": folder, "cluster": cluster, "other": next(node for node in nodes if node.node_id != here)}
        library.shutdown()
        cluster.shutdown()


def launch(
    launcher: Callable[..., None], folder: Path, name: str, specs: list[RunSpec] = SPECS, **options: Any
) -> dict[str, str]:
    """Make the study in a results folder of that name; return how each run ended."""
    said: dict[str, str] = {}
    tables.check_folder(folder / name)
    chosen = {field: options.pop(field) for field in StudyRequest.model_fields if field in options}
    request = StudyRequest(data=str(folder / "set.npz"), results=folder / name, save_every_s=0.1, **chosen)
    launcher(
        study_runs(request, specs),
        progress=Progress(enabled=False),
        on_row=lambda row, how: said.update({row["run_id"]: row["status"] if how == "made" else how}),
        on_missing=lambda *_: None,
        **options,
    )
    return said


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "artifacts").glob("*.part/checkpoint.safetensors"))


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint; 0 where it is gone by the time it is opened."""
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            return int(json.loads(file.metadata()["scalars"])["step"])
    except (OSError, SafetensorError):
        return 0


def assert_equal(folder: Path, reference: Path) -> None:
    """Every row of every table is there once, and is the reference's but for times."""
    for table in RUN_TABLES:
        found, wanted = (tables.read(path, table) for path in (folder, reference))
        columns = [name for name in wanted if not str(name).endswith(NOT_COMPARED)]
        keys = [name for name in KEYS[table] if name in columns]
        a, b = (frame[columns].sort_values(keys, ignore_index=True) for frame in (found, wanted))
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    for row in tables.read(folder, "runs").to_dict("records"):
        names = {path.name for path in (folder / "artifacts" / row["run_id"]).iterdir()}
        assert names == {path.name for path in (reference / "artifacts" / row["run_id"]).iterdir()}
    assert sorted(p.name for p in (folder / "artifacts").iterdir()) == sorted(tables.read(folder, "runs")["run_id"])
    assert [path.name for path in (folder / ".leases").iterdir()] == [".lock"]


def test_interrupted_then_a_machine_lost_and_all_is_as_if_made_here(
    world: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = world["folder"], world["folder"] / "study"
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with when(lambda: bool(checkpoints(study)), interrupt) as acted, pytest.raises(KeyboardInterrupt):
        launch(ray.launch, folder, "study", isolated=True)
    assert acted
    runs = tables.read(study, "runs")
    assert "interrupted" in set(runs["status"]) <= {"interrupted", "done"}  # on a busy machine one may end first
    runs = runs[runs["status"] == "interrupted"]
    before = {path: step_of(path) for path in checkpoints(study)}
    assert any(0 < step < STEPS for step in before.values())
    # a run that was interrupted before its first step has no checkpoint
    assert {run_of(path.parent.name) for path in before} <= set(runs["run_id"])

    def went_on() -> bool:
        return any(step_of(path) > before.get(path, 0) for path in checkpoints(study))

    lose = lambda: world["cluster"].remove_node(world["other"], allow_graceful=False)  # noqa: E731
    with when(went_on, lose) as acted:
        said = launch(ray.launch, folder, "study", isolated=True)
    assert acted
    assert all(how.startswith("done") for how in said.values())
    assert len(said) == 2
    shown = capsys.readouterr()
    assert "the run goes on elsewhere" in shown.err
    assert "raylet" not in shown.out.lower()  # ray's own messages are not the result
    assert_equal(study, folder / "reference")


def test_in_a_folder_that_all_see_and_finished_runs_are_skipped(world: dict[str, Any]) -> None:
    folder, specs = world["folder"], [brief(SPECS[0])]
    said = launch(ray.launch, folder, "shared", specs)
    assert list(said.values()) == ["done"]
    assert (folder / "shared" / "artifacts" / next(iter(said))).is_dir()
    again = launch(ray.launch, folder, "shared", specs)
    assert list(again.values()) == ["done before; skipped (--force makes it again)"]
    assert list((folder / "shared" / ".leases").glob("*shared*")) == []


def test_a_run_goes_on_from_the_launchers_checkpoint(world: dict[str, Any]) -> None:
    spec, folder = SPECS[0], world["folder"]
    found = tables.read(folder / "reference", "runs").set_index("variant").loc["direct"]
    state = TrainingState(
        *(build(spec.config.model, 0, torch.device("cpu")) for _ in "12"), spec.config.train, len(LOGGED)
    )
    for p in state.parameters:
        p.grad = torch.zeros_like(p)
    state.update(0.0, 1.0, 0.0)  # so that there are moments to save
    with torch.no_grad():
        for p in state.averages:
            p.fill_(0.5)
    state.step = state.logged_step = spec.config.train.steps  # so that nothing is left to train
    state.wall_s = 1.0
    tables.check_folder(folder / "planted")
    state.save(open_working_folder(folder / "planted", found["run_id"]) / "checkpoint.safetensors")
    launch(ray.launch, folder, "planted", [spec], isolated=True)
    with safe_open(folder / "planted" / "artifacts" / found["run_id"] / "model.safetensors", framework="numpy") as file:
        assert all((file.get_tensor(name) == 0.5).all() for name in file.keys())  # noqa: SIM118 (not a dict)


def test_finished_runs_are_quantised_apart(world: dict[str, Any]) -> None:
    folder, spec = world["folder"], brief(SPECS[0])
    config = spec.config.replaced(quantize={"schemes": ("bf16",), "samples": 2, "calibration": 2})
    before = tables.read(folder / "shared", "latency")
    options = {"quantize": "bf16", "isolated": True, "quantize_finished": True}
    launch(ray.launch, folder, "shared", [replace(spec, config=config)], **options)
    found = tables.read(folder / "shared", "quantized")
    assert found["scheme"].tolist() == ["fp32", "bf16"]
    assert len(tables.read(folder / "shared", "latency")) == len(before)  # nothing that an engine runs
    assert len(tables.read(folder / "shared", "runs")) == 1


def test_a_failure_is_told_when_the_others_are_made(world: dict[str, Any]) -> None:
    (one, two), folder = map(brief, SPECS), world["folder"]
    bad = one.config.replaced(train={"batch": 10**9})
    with pytest.raises(AblateError, match=r"direct-.*memory.*run the same command again"):
        launch(ray.launch, folder, "failing", [replace(one, config=bad), two])
    assert tables.read(folder / "failing", "runs")["variant"].tolist() == ["direct+no_drift"]


def test_a_run_that_no_machine_survives_is_a_failed_row(tmp_path: Path) -> None:
    launcher = object.__new__(ray._Launcher)
    launcher._data = SimpleNamespace(name="set", digest="d")  # type: ignore
    run = QueuedRun("run-1", SPECS[0], False, False, LEASE)
    result = launcher._give_up(SimpleNamespace(run=run), "the worker died")  # type: ignore[arg-type]
    assert result.payload is not None
    record_remote_run(tmp_path, "run-1", result.payload.files, result.payload.rows)
    (row,) = tables.read(tmp_path, "runs").to_dict("records")
    assert (row["status"], row["error"], row["seed"]) == ("failed", "the worker died", 0)
    kept = launcher._give_up(SimpleNamespace(run=replace(run, finished_before=True)), "died")  # type: ignore[arg-type]
    assert kept.payload == Payload()  # the finished row stays


@pytest.fixture
def stub(tmp_path: Path) -> Any:
    """A launcher without a cluster: `ends` are what its tasks come to, `said` is what was told."""
    import ray as library

    made = object.__new__(ray._Launcher)
    ends: list[Any] = []
    said: list[Any] = []

    def get(ref: object) -> Any:
        end = ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end

    made._ray = SimpleNamespace(  # type: ignore[attr-defined]
        exceptions=library.exceptions,
        get=get,
        wait=lambda refs, **options: (refs, []),
        cluster_resources=lambda: {"CPU": 1},
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 1}}],
    )
    made._threads, made._jobs, made._gpus, made._may_grow, made._folder = 1, None, 0.0, True, tmp_path  # type: ignore[attr-defined]
    made._failures, made._running, made._data = [], {}, SimpleNamespace(name="set", digest="d")  # type: ignore[attr-defined,assignment]
    made._on_row = lambda row, how: said.append((row["status"], how))  # type: ignore[attr-defined]
    made._progress, made._study = SimpleNamespace(say=said.append), Study()  # type: ignore[attr-defined,assignment]
    made._updates = lambda: ray.Updates({}, [], {})  # type: ignore[method-assign]
    made._start = lambda one: made._running.__setitem__(object(), one)  # type: ignore[method-assign]
    return SimpleNamespace(launcher=made, ends=ends, said=said)


def make_all(stub: Any, *, quantise: bool = False, lease: Lease = LEASE) -> None:
    run = QueuedRun("run-1", SPECS[0], quantise, quantise, lease)
    stub.launcher.make_all(SimpleNamespace(), iter([run]), lambda *_: None, 1.0)


def test_a_run_that_a_signal_stopped_goes_on_elsewhere_and_is_not_dropped(stub: Any) -> None:
    stub.ends += [RunResult("interrupted"), RunResult("made", {"status": "done"})]
    make_all(stub)
    assert stub.said == ["run-1: its process was stopped by a signal; the run goes on elsewhere", ("done", "made")]
    stub.ends += [RunResult("interrupted")] * (ray.RETRIES + 1)
    with pytest.raises(AblateError, match="stopped by a signal; fix that, and run the same command again"):
        make_all(stub)


def test_what_comes_from_a_run_that_another_process_took_over_is_not_recorded(stub: Any, tmp_path: Path) -> None:
    row = {"run_id": "run-1", "variant": "direct", "preset": "smoke", "seed": 0, "status": "done"}
    stub.ends.append(RunResult("made", row, payload=Payload({"model.safetensors": b""}, {"runs": [row]})))
    with pytest.raises(AblateError, match="run-1: another process took this run over"):
        make_all(stub, lease=Lease(lambda: False, lambda: None, lambda state: None))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_board_that_was_killed_is_only_without_news(stub: Any) -> None:
    import ray as library

    stub.launcher._actor = SimpleNamespace(take=SimpleNamespace(remote=lambda: None))
    stub.ends.append(library.exceptions.ActorDiedError())
    assert ray._Launcher._updates(stub.launcher) == ray.Updates({}, [], {})


def test_a_raylet_that_was_killed_is_one_error_line(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import worker

    node = SimpleNamespace(dead_processes=lambda: [("raylet", None)])
    monkeypatch.setattr(worker, "_global_node", node)
    with pytest.raises(AblateError, match=r"Ray's raylet died on this machine .* run the same command again"):
        make_all(stub)


def test_an_error_that_nobody_expected_keeps_its_cause(stub: Any) -> None:
    import ray as library

    cause = PermissionError(13, "Permission denied", "/cache")
    stub.ends.append(library.exceptions.RayTaskError("work", "a\nlong\ntraceback", cause))
    with pytest.raises(AblateError, match=r"run-1: PermissionError: \[Errno 13\] Permission denied: '/cache'"):
        make_all(stub)


def test_a_finished_run_that_cannot_be_measured_is_not_called_failed(stub: Any) -> None:
    stub.ends.append(RunResult("failed", error="its weights are missing"))
    with pytest.raises(AblateError, match="its weights are missing"):
        make_all(stub, quantise=True)
    assert stub.said == []


def test_a_machine_alone_that_has_too_little_is_an_error(stub: Any) -> None:
    stub.launcher._threads, stub.launcher._may_grow = 2, False
    with pytest.raises(AblateError, match="this machine does not have 2 CPU for a run"):
        make_all(stub)


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AblateError, match=r"ray is not installed; fix: pip install 'ablate-harness\[ray\]'"):
        launch(ray.launch, tmp_path, "results")


def test_an_empty_ray_address_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert StudyRequest(launcher="ray").cluster is None
    assert StudyRequest(launcher="local").cluster is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert StudyRequest(launcher="ray").cluster == "head:6379"
    assert StudyRequest(launcher="ray", ray_address="other:1").cluster == "other:1"


def test_the_cluster_chooses_the_gpu(tmp_path: Path) -> None:
    with pytest.raises(AblateError, match="Allowed: auto, cpu, cuda"):
        launch(ray.launch, tmp_path, "results", device="cuda:1")


def test_reports_of_a_run_are_not_too_many() -> None:
    actor = ProgressActor()

    class Method:
        def __init__(self, call: Callable[..., None]) -> None:
            self.remote = call

    sent: list[Any] = []
    handle = type("Handle", (), {"report": Method(lambda *state: sent.append(state)), "say": Method(actor.say)})
    progress = RemoteProgress(handle, "run", "host")
    start = time.monotonic()
    with progress.task("train", 1000) as task:
        while time.monotonic() - start < 1.2:
            task.advance()
    assert 2 <= len(sent) <= 4
    run_id, state = sent[-1]
    assert (run_id, state.name, state.total, state.host) == ("run", "train", 1000, "host")
    progress.say("a note")
    assert actor.take().messages == ["a note"]
    assert actor.take().messages == []
