"""`ablate run --until-decided`: seeds are added until every variant is decided or has the most seeds."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import ablate, add_tiny_preset

import ablate as package
from ablate.launch import model_runs
from ablate.launch.time_left import StudyClock
from ablate.store import tables
from ablate.study.plan import RunSpec

DATA = SimpleNamespace(name="set", digest="d" * 64, notes=("2 images are left out",))
# Variant -> its true difference, in standard deviations. `direct` is never decided.
BEST_LR = {"baseline": 2e-3, "no_drift": 1e-3}  # a tenth of it or ten times as much cost 10
EFFECTS = {"baseline": 0.0, "no_drift": 20.0, "v_pred": 4.0, "direct": 0.0}


class Fake:
    """Stands in for the making of a run: writes a finished row with metrics of a known truth.

    Attributes:
        made: Variant and seed of the runs, in order.
        ends: Variant and seed -> another status, or an exception.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int]] = []
        self.ends: dict[tuple[str, int], Any] = {}
        self.before: Callable[[str, int], None] = lambda variant, seed: None
        monkeypatch.setattr(model_runs, "study_images", lambda source, specs: DATA)
        networks = SimpleNamespace(missing={"inception-v3-compat": "none"})
        monkeypatch.setattr("ablate.metrics.networks.load_networks", lambda *_, **__: networks)
        monkeypatch.setattr("ablate.runs.pipeline.execute_run", self)

    def __call__(self, spec: RunSpec, data: Any, folder: Path, **_: object) -> dict[str, Any]:
        run = (spec.variant, spec.seed)
        self.made.append(run)
        self.before(*run)
        end = self.ends.get(run, "done")
        if isinstance(end, BaseException):
            raise end
        noise = (-1) ** spec.seed * (1 + spec.seed % 3 / 10) if spec.variant != "baseline" else 0.0
        name = spec.variant.partition("[")[0]
        off = abs(math.log10(spec.config.train.lr / BEST_LR[name])) if spec.purpose or spec.tuned else 0.0
        value = 100 + 3 * spec.seed + EFFECTS[name] + noise + 10 * off
        row = {"run_id": spec.run_id("set", DATA.digest), "variant": spec.variant, "preset": spec.preset}
        row |= {"seed": spec.seed, "axis": spec.axis, "config": spec.config.to_json(), "config_hash": spec.config.hash}
        row |= {"data": "set", "data_digest": DATA.digest, "budget": spec.budget, "plan_id": spec.plan_id}
        row |= {"purpose": spec.purpose, "tuned": spec.tuned}
        row |= {"claims": "[]", "about": "", "started_at": datetime.now(UTC), "finished_at": datetime.now(UTC)}
        row |= {"status": end, "error": None if end == "done" else end, "decode_macs": 0, "steps": 12}
        if end == "done":
            row |= {"fd": value, "fd_n": 16, "fd_ref_n": 16, "fd_floor": 1.0, "fd_floor_n": 16, "wall_s": 1.0}
            row |= {"pd": value / 100, "psnr_db": 20.0}
        tables.append(folder, {"runs": [row]})
        return row


def until_decided(folder: Path, *words: str, variants: str = "no_drift,direct", most: int = 12) -> Any:
    options = ("--preset", "smoke", "--until-decided", "--max-seeds", str(most), "--device", "cpu")
    return ablate("run", "--variant", variants, *options, *words, cwd=folder)


def seeds_of(fake: Fake, variant: str) -> list[int]:
    return [seed for name, seed in fake.made if name == variant]


@pytest.mark.slow
def test_each_variant_gets_seeds_until_it_is_decided_or_has_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)
    done = until_decided(tmp_path)
    assert done.returncode == 0, done.stderr
    assert seeds_of(fake, "direct") == list(range(12))
    needed = len(seeds_of(fake, "no_drift"))
    assert seeds_of(fake, "no_drift") == list(range(needed))
    assert 3 < needed < 12
    assert seeds_of(fake, "baseline") == list(range(12))
    assert len(set(fake.made)) == len(fake.made)
    last = done.stdout.splitlines()[-2:]
    assert last == [
        f"no_drift: decided with {needed} seeds: fd hurts, pd hurts",
        "direct: undecided with 12 seeds: fd undecided, pd undecided",
    ]
    assert f"seed {needed}: 1 of 2 variants are undecided" in done.stderr
    assert done.stderr.count("not measured") == 1
    assert done.stderr.count("2 images are left out") == 1

    (plan,) = tables.to_records(tables.read(tmp_path / "results", "plans"))
    assert (plan["max_seeds"], plan["seeds"]) == (12, json.dumps(list(range(12))))
    assert set(tables.read(tmp_path / "results", "runs")["plan_id"]) == {plan["plan_id"]}
    report = json.loads(ablate("report", "--json", cwd=tmp_path).stdout)
    words = {one["label"]: one["verdict"] for one in report["comparisons"] if one["metric"] == "fd"}
    assert words == {"no_drift": "hurts", "direct": "undecided"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_of_the_study_says_how_many_runs_there_may_be_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake(monkeypatch)
    said, state = list[str](), StudyClock.state
    monkeypatch.setattr(StudyClock, "state", lambda self: said.append(str(state(self))) or state(self))
    words = ("--preset", "smoke", "--until-decided", "--max-seeds", "2", "--device", "cpu")
    done = ablate("run", "--variant", "direct", *words, cwd=tmp_path, terminal=Terminal())
    assert done.returncode == 0
    runs = [line.partition(" · ")[0] for line in said]
    assert list(dict.fromkeys(runs)) == [*(f"runs {n} of at most 4" for n in range(4)), "runs 4 of 4"]
    assert "runs 2 of at most 4 · at most 2 s left" in said


@pytest.mark.slow
def test_it_ends_as_soon_as_all_are_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    done = until_decided(tmp_path, "--seeds", "3-5", variants="no_drift", most=30)
    assert done.returncode == 0, done.stderr
    assert fake.made[:6] == [(name, seed) for seed in (3, 4, 5) for name in ("baseline", "no_drift")]
    seeds = seeds_of(fake, "no_drift")
    assert seeds == list(range(3, 3 + len(seeds)))
    assert len(seeds) < 30
    assert done.stdout.splitlines()[-1] == f"no_drift: decided with {len(seeds)} seeds: fd hurts, pd hurts"
    again = until_decided(tmp_path, "--seeds", "3-5", variants="no_drift", most=30)
    assert again.stdout == f"no_drift: decided with {len(seeds)} seeds: fd hurts, pd hurts\n"
    assert seeds_of(fake, "no_drift") == seeds
    assert len(tables.read(tmp_path / "results", "plans")) == 1


@pytest.mark.slow
def test_it_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    fake.ends = {("direct", 2): KeyboardInterrupt()}
    stopped = until_decided(tmp_path, most=6)
    assert stopped.returncode == 130
    assert "the same command goes on from here" in stopped.stderr
    before, fake.made, fake.ends = fake.made, [], {}
    assert until_decided(tmp_path, most=6).returncode == 0
    assert set(before) & set(fake.made) == {("direct", 2)}
    assert seeds_of(fake, "direct") == [2, 3, 4, 5]
    assert len(tables.read(tmp_path / "results", "plans")) == 1


@pytest.mark.slow
def test_a_diverged_seed_is_made_once_and_a_failed_one_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)
    fake.ends = {("direct", 1): "diverged"}
    for _ in range(2):
        done = until_decided(tmp_path, variants="direct", most=4)
        assert done.returncode == 0, done.stderr
        assert seeds_of(fake, "direct") == [0, 1, 2, 3]
    assert done.stdout.startswith("direct: undecided with 3 seeds")
    fake.ends = {("direct", 4): package.base.errors.AblateError("the disk is full")}
    failed = until_decided(tmp_path, variants="direct", most=5)
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: 1 run failed: direct-smoke-set-s4-")
    assert ": the disk is full; fix that" in last
    assert fake.made[-1] == ("direct", 4)


@pytest.mark.slow
def test_a_baseline_is_made_at_seeds_that_a_variant_alone_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    words = ("--variant", "direct", "--preset", "smoke", "--seeds", "0-2", "--no-baseline", "--device", "cpu")
    assert ablate("run", *words, cwd=tmp_path).returncode == 0
    fake.made.clear()
    assert until_decided(tmp_path, variants="direct", most=4).returncode == 0
    assert fake.made == [("baseline", 0), ("baseline", 1), ("baseline", 2), ("baseline", 3), ("direct", 3)]


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    options: dict[str, Any] = {"preset": "smoke", "until_decided": True, "max_seeds": 5, "device": "cpu"}
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(package.run, ["v_pred", "direct"], results=tmp_path, **options) for _ in range(2)]
    assert all(one.exception() is None for one in both)
    assert sorted(fake.made) == sorted((name, seed) for name in ("baseline", "v_pred", "direct") for seed in range(5))
    assert len(tables.read(tmp_path, "plans")) == 1


def test_the_call_says_how_each_variant_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Fake(monkeypatch)
    with pytest.warns(UserWarning, match="no fid") as warned:
        package.run(
            "direct", 0, "smoke", until_decided=True, max_seeds=2, results=tmp_path, device="cpu", metrics="fid"
        )
    assert len(warned) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "direct: undecided with 2 seeds: fd undecided, pd undecided"


@pytest.mark.slow
def test_what_cannot_be_judged_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pd` of a variant in latent space does not compare with the baseline's."""
    fake = Fake(monkeypatch)
    monkeypatch.setitem(EFFECTS, "latent", 20.0)
    write = tables.append

    def in_latents(folder: Path, rows: Any, **options: Any) -> None:
        for row in rows.get("runs", ()):
            row["decode_macs"] = 5 * (row["variant"] == "latent")
        write(folder, rows, **options)

    monkeypatch.setattr(tables, "append", in_latents)
    done = until_decided(tmp_path, variants="latent", most=20)
    assert done.returncode == 0, done.stderr
    seeds = len(seeds_of(fake, "latent"))
    assert seeds < 20
    assert done.stdout.splitlines()[-1] == f"latent: decided with {seeds} seeds: fd hurts, pd not judged"


def test_a_dry_run_lists_the_most_runs_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    until_decided(tmp_path, variants="direct", most=2)
    fake.made.clear()
    shown = until_decided(tmp_path, "--dry-run", variants="direct", most=4)
    assert "4 of 8 to run: 4 s" in shown.stdout
    assert "a variant gets no more seeds once it is decided" in shown.stdout
    assert fake.made == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max-seeds 16", "--max-seeds 16: it limits a study that goes on until decided; add until-decided"),
        ("--until-decided --max-seeds 1 -v direct", "--max-seeds 1: it must be at least 2"),
        ("--until-decided --max-seeds 2000 -v direct", "--max-seeds 2000: it must be at most 1000"),
        (
            "--until-decided --seeds 0-19 -v direct",
            "--seeds 0-19: 20 seeds are asked for, but max-seeds is 16",
        ),
        ("--until-decided", "--until-decided: there is nothing to decide on the baseline alone; name a variant"),
        ("--until-decided -v direct --no-baseline", "--until-decided: variants are compared with the baseline"),
        ("--until-decided -v direct --force", "--until-decided --force: seeds are added to finished runs"),
        ("--until-decided -v direct --stale", "--until-decided --stale: seeds are added to finished runs"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(tmp_path: Path, words: str, message: str) -> None:
    done = ablate("run", "--preset", "smoke", *words.split(), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_other_runs_of_the_folder_that_do_not_compare_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake(monkeypatch)
    until_decided(tmp_path, variants="direct", most=2)
    row = tables.to_records(tables.read(tmp_path / "results", "runs"))[0]
    others = [row | {"run_id": "size", "variant": "v_pred", "fd_n": 8}]
    others += [row | {"run_id": "preset", "preset": "quick"}, row | {"run_id": "data", "data_digest": "e" * 64}]
    tables.append(tmp_path / "results", {"runs": others})
    done = until_decided(tmp_path, variants="direct", most=3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("direct: undecided with 3 seeds")


@pytest.mark.slow
def test_real_runs_are_added(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), np.uint8))
    add_tiny_preset(tmp_path)
    words = ("--data", "set.npz", "--preset", "tiny", "--threads", "1", "--quantize", "none")
    done = until_decided(tmp_path, *words, variants="direct", most=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("direct: undecided with 2 seeds")
    assert len(tables.read(tmp_path / "results", "runs")) == 4


def tune(folder: Path, *words: str) -> Any:
    options = ("--preset", "smoke", "--device", "cpu", "--tune", "train.lr=5e-4,1e-3,2e-3", *words)
    return ablate("run", "--variant", "no_drift", "--seeds", "0-5", *options, cwd=folder)


@pytest.mark.slow
def test_each_variant_is_judged_at_its_own_best_setting_chosen_on_other_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)
    dry = tune(tmp_path, "--dry-run")
    assert "24 of 24 to run" in dry.stdout
    assert "to be judged by fd, pd: no_drift; 2 tests" in dry.stdout
    done = tune(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no_drift: train.lr=0.001 is best, pd 31.2" in done.stdout
    edge = "at the edge of the grid: train.lr, so try more values"
    assert edge in next(
        line for line in done.stdout.splitlines() if line.startswith("baseline: train.lr=0.002 is best")
    )

    runs = tables.read(tmp_path / "results", "runs")
    tried = runs[runs["purpose"] == "tuning"]
    assert set(tried["seed"]) == {1000, 1001}
    assert tried["plan_id"].isna().all()
    judged = runs[runs["purpose"].isna()]
    assert set(judged["variant"]) == {"baseline", "no_drift"}
    lr = {row["variant"]: json.loads(row["config"])["train"]["lr"] for row in tables.to_records(judged)}
    assert lr == {"baseline": 2e-3, "no_drift": 1e-3}
    tuned = json.loads(judged[judged["variant"] == "no_drift"]["tuned"].iloc[0])
    assert (tuned["choice"], tuned["metric"], tuned["seeds"], tuned["wall_s"]) == (
        "train.lr=0.001",
        "pd",
        [1000, 1001],
        6.0,
    )

    report = ablate("report", cwd=tmp_path).stdout
    assert "Each is at its own best train.lr." in " ".join(report.split())
    assert "belong to one plan of 6" in " ".join(report.split())
    found = json.loads(ablate("report", "--json", cwd=tmp_path).stdout)
    assert found["compared"]["runs"] == 12
    assert [one["mean"] for one in found["comparisons"] if one["metric"] == "fd"] == [pytest.approx(20.0)]
    assert {one["label"]: one["choice"] for one in found["tuning"]["variants"]} == {
        "baseline": "train.lr=0.002",
        "no_drift": "train.lr=0.001",
    }
    assert any("the best train.lr is at the edge" in note and "baseline" in note for note in found["notes"])
    made = list(fake.made)
    assert tune(tmp_path).returncode == 0
    assert fake.made == made


def test_a_run_that_is_judged_may_not_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)
    ablate("run", "--variant", "no_drift", "--seeds", "7", "--preset", "smoke", "--device", "cpu", cwd=tmp_path)
    made = list(fake.made)
    refused = tune(tmp_path, "--tune-seeds", "7,8")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: --tune: baseline-smoke-set-s7-")
    assert "is judged, so it may not choose" in refused.stderr
    assert fake.made == made


@pytest.mark.slow
def test_a_setting_that_diverges_is_not_chosen_and_an_unfinished_choice_starts_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)
    fake.ends = {
        ("no_drift[train.lr=0.001]", 1001): "diverged",
        ("baseline[train.lr=0.0005]", 1000): RuntimeError("no memory"),
    }
    failed = tune(tmp_path)
    assert failed.returncode == 1
    assert "1 run failed: baseline@train.lr=0.0005@-smoke-set-s1000" in failed.stderr
    assert {seed for _, seed in fake.made} == {1000, 1001}
    fake.ends.popitem()
    done = tune(tmp_path)
    assert "no_drift: train.lr=0.0005 is best" in done.stdout  # as good as 0.002 here
    assert done.stderr.count("not measured") == 1
    assert "diverged" in ablate("report", "--full", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tune", "train.lr=1"), "train.lr"),
        (("--tune-seeds", "5-6"), "seed 5 would choose the setting and be judged"),
        (("--tune-metric", "fdd"), "did you mean fd"),
        (("--tune-metric", "precision"), "no such metric of runs"),
        (("--set", "train.lr=1"), "train.lr is set already"),
        (("--tune-metric", "lpips"), "was not measured by it"),
    ],
)
def test_bad_tuning_is_one_clear_line(
    words: tuple[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake(monkeypatch)
    refused = tune(tmp_path, *words)
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert message in line


@pytest.mark.slow
def test_other_numbers_of_steps_are_trained_each_and_have_no_part_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(monkeypatch)
    words = ("run", "--variant", "no_drift", "--seeds", "0-5", "--preset", "smoke", "--device", "cpu")
    done = ablate(*words, "--at-steps", "6,12,24", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = ("{}[train.steps=6]", "{}[train.steps=24]", "{}")
    assert fake.made[:6] == [(name.format(base), 0) for base in ("baseline", "no_drift") for name in names]
    (plan,) = tables.to_records(tables.read(tmp_path / "results", "plans"))
    assert [one["name"] for one in json.loads(plan["variants"])] == ["baseline", "no_drift"]
    found = json.loads(ablate("report", "--json", cwd=tmp_path).stdout)
    assert (found["compared"]["design"], found["compared"]["tests"], found["compared"]["runs"]) == ("planned", 2, 12)
    xs = {(curve["metric"], tuple(point["x"] for point in curve["lines"][0]["points"])) for curve in found["curves"]}
    assert xs == {("fd", (6, 12, 24)), ("pd", (6, 12, 24))}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--at-steps 5,x", "whole numbers from 1"),
        ("--nfe 0", "whole numbers from 1"),
        ("--at-steps 6 --budget macs", "choose the budget steps"),
        ("--nfe 4 --launcher ray", "not with ray"),
        ("--at-steps 6 --until-decided", "in a command of its own"),
    ],
)
def test_bad_curves_are_one_clear_line(words: str, message: str, tmp_path: Path) -> None:
    refused = ablate("run", "--variant", "no_drift", *words.split(), cwd=tmp_path)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
