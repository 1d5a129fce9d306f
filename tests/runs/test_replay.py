"""Replay: the same bits from the row alone, and the right words where they are not the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import command
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from ablate import cli
from ablate.base.errors import AblateError
from ablate.base.source_code import code_version
from ablate.models.weight_files import digest
from ablate.runs import replay as replays
from ablate.runs.context import RunContext
from ablate.store import tables

CLAIMS = [{"metric": "fd", "expect": "same", "because": "It is small.", "margin": "5%"}]
CLAIM = 'claim = { metric = "fd", expect = "same", margin = "5%", because = "It is small." }\n'
VARIANT = 'about = "Small."\nsource = "test"\naxis = "test"\n' + CLAIM + command.CHEAP


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a data set and one finished run."""
    path = tmp_path_factory.mktemp("replay")
    np.savez(path / "set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    (path / "variants").mkdir()
    (path / "variants" / "small.toml").write_text(VARIANT)
    patch = pytest.MonkeyPatch()
    patch.chdir(path)
    patch.setenv("ABLATE_CACHE", str(path / "cache"))
    patch.setenv("ABLATE_OFFLINE", "1")
    words = ["run", "--preset", "smoke", "--data", "set.npz", "--variant", "small", "--no-baseline", "--threads", "1"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    (path / "variants" / "small.toml").unlink()  # the row has to be enough
    yield path
    patch.undo()


@pytest.fixture
def trained_once(study: Path, trainings: list[Any]) -> Iterator[None]:
    """Replays that train no more than once in this module: their bits are tested without it."""
    train = replays.train_and_sample

    def train_or_repeat(context: RunContext) -> Any:
        if not trainings:
            trainings.extend((train(context), dict(context.rows.run)))
        context.rows.run.update(trainings[1])
        return trainings[0]

    with mock.patch.object(replays, "train_and_sample", train_or_repeat):
        yield


@pytest.fixture(scope="module")
def trainings() -> list[Any]:
    return []


def replay(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["replay", "small", *words])


def copy(study: Path, tmp_path: Path, **values: object) -> Path:
    """A copy of the results with some of the row's values changed."""
    shutil.copytree(study / "results", tmp_path / "results")
    row = tables.read(tmp_path / "results", "runs").iloc[0]
    row = {k: (int(v) if isinstance(v, np.integer) else v) for k, v in row.items() if not pd.isna(v)} | values
    tables.append(tmp_path / "results", {"runs": [row]})
    return tmp_path / "results"


def test_the_row_names_its_code_and_that_it_was_stable(study: Path) -> None:
    row = tables.read(study / "results", "runs").iloc[0]
    assert json.loads(row["code"]) == [json.loads(code_version())]
    assert row["git_commit"] == json.loads(row["code"])[0]["commit"]
    assert pd.notna(row["unstable"])
    assert not row["unstable"]


def test_the_row_names_its_plan_and_what_its_file_claimed(study: Path) -> None:
    row = tables.read(study / "results", "runs").iloc[0]
    plan = tables.read(study / "results", "plans").set_index("plan_id").loc[row["plan_id"]]
    assert json.loads(plan["seeds"]) == [0]
    assert {"name": "small", "config_hash": row["config_hash"]} in json.loads(plan["variants"])
    assert plan["created_at"] <= row["started_at"]
    assert (row["about"], json.loads(row["claims"])) == ("Small.", CLAIMS)


@pytest.mark.slow
def test_its_samples_are_drawn_with_other_numbers_of_evaluations_once(study: Path, tmp_path: Path) -> None:
    folder = copy(study, tmp_path)
    (study / "variants" / "small.toml").write_text(VARIANT)
    row = tables.read(folder, "runs").iloc[0]
    words = ["run", "--preset", "smoke", "--data", "set.npz", "--variant", "small", "--no-baseline", "--threads", "1"]
    said = [
        CliRunner().invoke(cli.app, [*words, "--results", str(folder), "--nfe", "1,4,8"]).stdout.strip()
        for _ in range(2)
    ]
    (study / "variants" / "small.toml").unlink()
    assert [one.rpartition("; ")[2] for one in said] == ["2 rows added", "0 rows added"]
    added = tables.read(folder, "sampling")
    assert list(added["nfe"]) == [1, 8]  # 4 is what the run was measured with
    assert set(added["n"]) == {row["fd_n"]}
    assert set(added["ref_n"]) == {row["fd_ref_n"]}
    assert added["fd"].notna().all()
    assert added["samples_digest"].nunique() == 2
    assert row["samples_digest"] not in set(added["samples_digest"])


def test_the_row_is_enough_for_the_same_bits(study: Path) -> None:
    before = sorted(p for p in (study / "results").rglob("*"))
    done = replay("--data", "set.npz", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["verdict"] == "bit_exact"
    assert (found["weights_max_abs_diff"], found["environment"]) == (0.0, {})
    assert found["nondeterministic_ops"] == []
    assert sorted(p for p in (study / "results").rglob("*")) == before


@pytest.mark.usefixtures("trained_once")
def test_another_environment_is_named_and_the_difference_has_figures(study: Path, tmp_path: Path) -> None:
    row = tables.read(study / "results", "runs").iloc[0]
    environment = json.loads(row["environment"]) | {"torch": "1.0", "cpu": "an abacus\x1b[2J"}
    folder = copy(study, tmp_path, environment=json.dumps(environment), samples_digest="other", threads=2)
    done = replay("--data", "set.npz", "--results", str(folder), "--threads", "1")
    assert done.exit_code == 1
    assert "equal within tolerance, not bit-exact" in done.stdout
    assert "weights: largest difference 0\n" in done.stdout
    assert "samples: equal" in done.stdout
    assert "torch: 1.0 in the row" in done.stdout
    assert "threads: 2 in the row, 1 here" in done.stdout
    assert "cpu: an abacus\\x1b[2J in the row" in done.stdout


@pytest.mark.usefixtures("trained_once")
@pytest.mark.parametrize(("same", "verdict"), [(True, "not_reproduced"), (False, "environment_mismatch")])
def test_other_weights_are_not_reproduced(study: Path, tmp_path: Path, same: bool, verdict: str) -> None:
    (path,) = (study / "results").glob("artifacts/*/model.safetensors")
    weights = {name: w + 0.1 * torch.ones_like(w) for name, w in load_file(path).items()}
    row = {"weights_digest": digest(weights), "samples_digest": "x"} | ({} if same else {"environment": "{}"})
    folder = copy(study, tmp_path, **row)
    save_file(weights, next(folder.glob("artifacts/*/model.safetensors")))
    done = replay("--data", "set.npz", "--results", str(folder), "--json")
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert found["verdict"] == verdict
    assert found["weights_max_abs_diff"] == pytest.approx(0.1, rel=0.01)
    assert found["samples_psnr_db"] < 40


@pytest.mark.usefixtures("trained_once")
def test_without_the_kept_weights_it_says_so(study: Path, tmp_path: Path) -> None:
    folder = copy(study, tmp_path, weights_digest="other")
    shutil.rmtree(folder / "artifacts")
    done = replay("--data", "set.npz", "--results", str(folder))
    assert done.exit_code == 1
    assert "not reproduced" in done.stdout
    assert "model.safetensors: missing" in done.stdout


@pytest.mark.usefixtures("trained_once")
def test_a_run_of_two_arithmetics_says_why_it_differs(study: Path, tmp_path: Path) -> None:
    mixed = "from step 0: bf16 cpu 2 threads; from step 7: fp32 cpu 1 thread"
    folder = copy(study, tmp_path, weights_digest="other", mixed_arithmetic=mixed)
    done = replay("--data", "set.npz", "--results", str(folder))
    assert f"resumed in another arithmetic ({mixed})" in done.stdout


@pytest.mark.slow
def test_a_set_of_ones_own_that_is_called_cats_is_asked_for(study: Path, tmp_path: Path) -> None:
    done = replay("--results", str(copy(study, tmp_path, data="cats")))
    assert isinstance(done.exception, AblateError)
    assert re.search(r"trained on 'cats' \(\w{12}\.\.\.\), which is not embedded", str(done.exception))


def test_what_it_needs_is_asked_for(study: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", np.random.default_rng(1).integers(0, 256, (40, 64, 64, 3), np.uint8))
    for words, message in (
        ([], r"trained on 'set' \(\w+\.\.\.\), which is not embedded; fix: give its path with --data PATH"),
        (["--data", str(tmp_path / "set.npz")], r"digest .*the run's row says .*give the images"),
        (["--results", str(tmp_path)], r"run 'small': not in"),
    ):
        done = replay(*words)
        assert isinstance(done.exception, AblateError)
        with pytest.raises(AblateError, match=message):
            raise done.exception


def test_the_row_says_which_operations_are_not_deterministic(study: Path) -> None:
    (column,) = pq.read_table(study / "results" / "runs.parquet")["nondeterministic_ops"].to_pylist()
    assert column == ""
