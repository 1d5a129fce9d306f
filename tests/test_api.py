"""ablate in a script: the same numbers as the command, frames that are typed, errors in a line, and an import that is light."""

from __future__ import annotations

import inspect
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import command
import numpy as np
import pages
import pytest
from typer.testing import CliRunner

import ablate
from ablate import cli
from ablate.base.errors import AblateError
from ablate.cli.study import run
from ablate.store import tables

EXAMPLE = Path(__file__).parent.parent / "examples" / "drift.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pages.make(tmp_path_factory.mktemp("api") / "results", images=False)


def test_the_findings_are_those_of_the_command(folder: Path) -> None:
    results = ablate.load_results(folder)
    shown = CliRunner().invoke(cli.app, ["report", "--results", str(folder), "--format", "json"])
    told = json.loads(shown.output)["comparisons"]
    frame = results.verdicts()
    assert frame["label"].tolist() == [one["label"] for one in told]
    assert frame["adjusted"].tolist() == [one["adjusted"] for one in told]
    found = dict(
        zip(frame.loc[frame["metric"] == "fd", "label"], frame.loc[frame["metric"] == "fd", "verdict"], strict=True)
    )
    assert found == {"direct": "helps", "no_drift": "hurts", "v_pred": "undecided"}
    assert set(results.verdicts(variants="no_drift", metrics=["pd"])["label"]) == {"no_drift"}
    assert set(results.claims()["verdict"]) == {"supported", "contradicted", "undecided"}


def test_tables_are_frames_with_sensible_types(folder: Path) -> None:
    results = ablate.load_results(str(folder))
    assert {str(results.runs[name].dtype) for name in ("variant", "seed", "fd")} == {"string", "Int64", "float64"}
    assert len(results.runs) == 36
    for name in ("curves", "denoising", "fidelity", "latency", "quantized"):
        assert len(getattr(results, name)), name
    assert len(results.sampling) == 0
    assert results.runs is results.runs
    assert results.refresh().runs is not results.runs
    assert repr(results) == f"<Results {str(folder)!r}: 36 done>"
    run_id = results.runs["run_id"][0]
    assert results.artifacts(run_id) == folder / "artifacts" / run_id


def test_wide_runs_have_a_column_for_each_setting(tmp_path: Path) -> None:
    folder = pages.make(tmp_path, {"baseline": 0.0, "no_drift": 0.0}, range(3), images=False)
    runs = tables.read(folder, "runs")
    config = json.loads(runs["config"][0])
    config["train"] |= {"lr": 1, "flip": True}
    rows = tables.to_records(runs)
    rows[0]["config"], rows[1]["config"], rows[2]["config"] = json.dumps(config), None, "[1"
    tables.append(folder, {"runs": rows})
    results = ablate.load_results(folder)
    wide = results.wide().set_index("run_id")
    assert list(wide.columns[: len(runs.columns) - 1]) == list(runs.columns[1:])
    assert wide["config.train.lr"].dropna().to_dict() == {
        rows[0]["run_id"]: 1.0,
        **{row["run_id"]: 1e-3 for row in rows[3:]},
    }
    names = ("config.train.lr", "config.train.steps", "config.train.flip", "config.model.kernel")
    assert [str(wide[name].dtype) for name in names] == ["float64", "Int64", "boolean", "string"]
    assert set(wide["config.model.head_channels"].dropna()) == {json.dumps(config["model"]["head_channels"])}
    assert wide.groupby("config.model.head_channels")["fd"].mean().notna().all()
    settings = {name for name in wide if name.startswith("config.")}
    assert settings == {f"config.{section}.{key}" for section, keys in config.items() for key in keys}


def test_a_notebook_shows_verdicts_or_the_runs_where_they_do_not_compare(folder: Path, tmp_path: Path) -> None:
    shown = ablate.load_results(folder)._repr_html_()
    assert "1 makes the images worse" in shown
    assert shown.count("<tr>") == 1 + 3
    pages.make(tmp_path, {"baseline": 0.0}, [0], images=False)
    pages.make(tmp_path, {"<b>odd</b>": 0.0}, [1], images=False, preset="smoke")
    mixed = ablate.load_results(tmp_path)._repr_html_()
    assert "smoke" in mixed
    assert "&lt;b&gt;odd" in mixed
    assert "<b>odd" not in mixed
    (tmp_path / "empty").mkdir()
    assert "No runs yet" in ablate.load_results(tmp_path / "empty")._repr_html_()


@pytest.mark.slow
def test_errors_say_what_is_allowed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AblateError, match="no such folder; make a run first"):
        ablate.load_results(tmp_path / "missing")
    results = ablate.load_results(folder)
    with pytest.raises(AblateError, match=r"findings\(prest=...\): unknown option.*did you mean preset\?"):
        results.findings(prest="quick")
    with pytest.raises(AblateError, match=r"findings\(budget='time'\): unknown; allowed: steps, macs"):
        results.findings(budget="time")
    assert results.findings(samples=512).compared.runs > 0
    assert results.findings(without_seeds=np.int64(3)) == results.findings(without_seeds=[3])
    with pytest.raises(AblateError, match="no column 'sed'; did you mean seed"):
        results.verdicts(where="sed == 1")
    with pytest.raises(AblateError, match="not in"):
        results.artifacts("nothing")
    with pytest.raises(AblateError, match=r"run\(budget='time'\): it must be one of: steps, macs"):
        ablate.run(budget="time", results=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(AblateError, match="no_drfit"):
        ablate.run("no_drfit", results=tmp_path)
    with pytest.raises(AblateError, match=r"ends in \.txt"):
        results.to_html(tmp_path / "report.txt")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ablate.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_nothing_stands_for_what_is_left_out(folder: Path) -> None:
    results = ablate.load_results(folder)
    assert results.findings(against=None, metrics=None, preset=None) == results.findings()


@pytest.mark.parametrize("threads", [0, -1, "2"])
def test_threads_are_a_number(tmp_path: Path, threads: Any) -> None:
    with pytest.raises(AblateError, match=r"run\(threads=.*it must be (at least 1|a whole number)"):
        ablate.run(threads=threads, results=tmp_path)


def fake_launch(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let no study be made: return the requests and runs that the launcher gets."""
    from ablate.launch import local

    launched: list[Any] = []

    def launch(runs: Any, *, on_row: Any, on_missing: Any, **_: Any) -> None:
        launched.append((runs.request, runs.specs))
        for spec in runs.specs:
            on_row({"run_id": spec.variant, "status": "failed", "error": "full"}, "made")
        if runs.request.metrics:
            with pytest.warns(UserWarning, match="no fid: no weights"):
                on_missing("inception-v3-compat", "no weights")

    monkeypatch.setattr(local, "launch", launch)
    return launched


def test_a_metric_asked_for_that_cannot_be_measured_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = fake_launch(monkeypatch)
    ablate.run(seeds=np.int64(3), metrics="fid", results=tmp_path)
    request, specs = launched[0]
    assert [(spec.variant, spec.seed) for spec in specs] == [("baseline", 3)]
    assert request.metrics == ("fid",)


def test_a_study_brings_its_baseline_and_shows_a_line_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched = fake_launch(monkeypatch)
    ablate.run("no_drift", results=tmp_path)
    assert [spec.variant for spec in launched[-1][1]] == ["baseline", "no_drift"]
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "baseline: failed: full\nno_drift: failed: full\n")
    rows: list[str] = []
    ablate.run("no_drift", results=tmp_path, baseline=False, on_row=lambda row, how: rows.append(row["run_id"]))
    assert rows == ["no_drift"]
    assert capsys.readouterr().err == ""


def test_all_runs_of_a_study_get_its_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_launch(monkeypatch)
    row = {"variant": "v", "preset": "smoke", "seed": 0, "status": "done"}
    tables.append(tmp_path, {"runs": [{"run_id": name, **row} for name in ("baseline", "no_drift", "other")]})
    ablate.run("no_drift", results=tmp_path, tag=["paper", "draft"])
    assert tables.read(tmp_path, "runs")["tags"].fillna("").tolist() == ["paper,draft", "paper,draft", ""]


def test_the_call_and_the_command_ask_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = fake_launch(monkeypatch)
    ablate.run("v_pred", "0-1", "smoke", factors="drift", results=tmp_path, failed=True, compile="off", save_every_s=5)
    words = "run -v v_pred --seeds 0,1 --preset smoke --factors drift --failed --compile off --save-every 5"
    assert CliRunner().invoke(cli.app, [*words.split(), "--results", str(tmp_path)]).exit_code == 0
    assert launched[0] == launched[1]


def test_every_option_of_the_command_is_one_of_the_call() -> None:
    from ablate.study.request import StudyRequest

    fields = set(StudyRequest.model_fields)
    assert set(inspect.signature(ablate.run).parameters) == fields | {"on_row", "variants", "plugin"}
    assert set(inspect.signature(run).parameters) == fields | {"dry_run", "variants", "plugin"}


def test_the_package_lists_what_it_has() -> None:
    assert {"run", "load_results", "merge", "Results"} <= set(dir(ablate))


@pytest.mark.slow
def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cheap_cats: None
) -> None:
    monkeypatch.setenv("ABLATE_OFFLINE", "1")
    command.add_tiny_preset(tmp_path)
    monkeypatch.setenv("ABLATE_VARIANTS", str(tmp_path / "variants"))
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "tiny", "0", str(tmp_path)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    shown = capsys.readouterr().out
    assert "no_drift by fd: undecided" in shown
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("data:image/webp") == 2 * (
        1 + 2 + 2
    )  # samples, two sketches, strip and neighbours: the embedded cats may be shown
    assert "David Revoy" in page
