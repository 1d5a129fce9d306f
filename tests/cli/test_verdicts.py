"""The commands that judge a study, in this process: exit codes, one line for bad input, files, strict JSON."""

from __future__ import annotations

import errno
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic

from ablate import cli

Command = Callable[..., tuple[int, str, str]]  # words -> exit code, stdout, stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder in which `no_drift` is far worse, `direct` better and `no_skip` the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    truth = {"baseline": 0.0, "no_drift": 12.0, "direct": -5.0, "no_skip": 0.0}
    return synthetic.save(tmp_path / "results", synthetic.rows(truth, range(12), spread=0.5))


def ablate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ablate", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    shown = capsys.readouterr()
    return int(left.value.code or 0), shown.out, shown.err


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return lambda *words: ablate(capsys, monkeypatch, *words)


def test_report_says_first_what_helps_and_what_hurts(run: Command) -> None:
    code, out, err = run("report")
    assert (code, err) == (0, "")
    lines = [line.rstrip() for line in out.splitlines()]
    assert [line.split()[0] for line in lines if line.endswith(("helps", "hurts", "undecided"))][:3] == [
        *("direct", "no_drift", "no_skip"),
    ]
    assert max(map(len, lines)) <= 80
    assert "Quality and costs" not in out
    assert "Quality and costs" in run("report", "--full")[1]


def test_a_file_that_says_something_else_now_is_noted(run: Command, folder: Path) -> None:
    before = run("report")
    assert before[2] == ""
    (folder.parent / "variants").mkdir()
    file = folder.parent / "variants" / "direct.toml"
    text = 'about = "Other words."\nsource = "b"\naxis = "drift"\n[model]\ndrift_channels = 8\n'
    file.write_text(text.replace("drift", "x") + "[")  # cannot be read
    assert run("report") == before
    (folder.parent / "variants" / "own.toml").write_text(text)
    file.unlink()
    made = synthetic.rows({"own": 1.0}, range(12))
    for row in made["runs"]:
        row |= {"about": "What it said.", "claims": "[]"}
    synthetic.save(folder, made)
    code, _, err = run("report")
    assert (code, err) == (0, "note: the files of own say something else now; judged is what the rows recorded\n")


def test_report_in_json_by_either_name(run: Command) -> None:
    assert run("report", "--json") == run("report", "--format", "json")
    code, _, err = run("report", "--json", "--format", "markdown")
    assert (code, err) == (1, "error: --json --format markdown: two forms; choose one of the two\n")


def test_names_may_be_separated_by_commas(run: Command) -> None:
    for words in (("report", "--json"), ("gate", "--metric", "fd", "--max-regression", "99%", "--json")):
        apart = run(*words, "--variant", "direct", "-v", "no_drift")
        assert run(*words, "--variant", "direct, no_drift") == apart
    assert run("report", "--json", "-m", "fd,pd") == run("report", "--json", "-m", "fd", "-m", "pd")


def test_report_by_other_metrics_against_another_variant(run: Command) -> None:
    words = ("report", "--format", "json", "--metric", "psnr_db", "--against", "no_drift", "--variant", "direct")
    document = json.loads(run(*words)[1], parse_constant=pytest.fail)
    assert document["compared"]["against"] == "no_drift"
    assert [metric["name"] for metric in document["metrics"]] == ["psnr_db"]
    assert [c["label"] for c in document["comparisons"]] == ["direct"]


def test_a_report_for_which_there_is_no_room_is_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = run("report", "-o", "report.md")
    assert (code, out) == (1, "")
    assert err.startswith(
        "error: report.md: cannot be written ([Errno 28] No space left on device); free some disk space"
    )
    assert not Path("report.md").exists()


def test_report_refuses_to_mix_and_says_what_to_choose(run: Command, folder: Path) -> None:
    more = synthetic.rows({"baseline": 0.0}, [0], preset="smoke")
    for rows in more.values():
        for row in rows:
            row["run_id"] += "x"
    synthetic.save(folder, more)
    for words in (("report",), ("gate", "--metric", "fd", "--max-regression", "5%"), ("compare", "baseline", "direct")):
        code, out, err = run(*words)
        assert (code, out) == (1, "")
        runs = 24 if words[0] == "compare" else 48
        listed = f"quick ({runs} runs), smoke (1 run); choose one, as in --preset quick"
        assert err == f"error: presets that do not compare: {listed}\n"
        assert run(*words, "--preset", "quick", "--results", str(folder))[2] == ""


def test_report_to_a_file(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("report", "-o", "r.md") == (0, "", "r.md: written\n")
    assert Path("r.md").read_text().startswith("## preset quick")
    assert "exists already" in run("report", "-o", "r.md")[2]
    assert run("report", "-o", "r.md", "--force")[0] == 0
    assert run("report", "--format", "json", "-o", "r.json")[0] == 0
    assert json.loads(Path("r.json").read_text())["version"] == 2
    assert "the ending says markdown" in run("report", "--format", "json", "-o", "x.md")[2]
    assert "allowed: .html, .htm, .md, .json, .tex, .csv" in run("report", "-o", "x.pdf")[2]
    assert "needs a file to write to, as in -o report.html" in run("report", "--format", "html")[2]
    page = types.ModuleType("ablate.report.render.html")
    page.to_html = lambda findings, folder: f"<p>{findings.compared.tests} {folder}</p>"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ablate.report.render.html", page)
    assert run("report", "-o", "r.html")[0] == 0
    assert Path("r.html").read_text() == "<p>6 results</p>"


def test_report_as_a_table_for_a_paper_and_as_data(run: Command) -> None:
    for ending, format_, start in (("tex", "latex", "% Needs "), ("csv", "csv", "preset,data,variant,")):
        assert run("report", "-o", f"r.{ending}") == (0, "", f"r.{ending}: written\n")
        code, out, _ = run("report", "--format", format_)
        assert (code, out) == (0, Path(f"r.{ending}").read_text())
        assert out.startswith(start)
        assert f"--watch --format {format_}: needs a file" in run("report", "--watch", "--format", format_)[2]
    assert run("report", "--format", "csv", "-m", "fd", "-v", "direct")[1].count("\n") == 3


def test_csv_has_no_notes_but_the_command_says_them(run: Command, folder: Path) -> None:
    lost = synthetic.rows({"direct": 0.0}, [99], status="failed", fd=None, error="it broke")
    synthetic.save(folder, {"runs": lost["runs"]})
    _, out, err = run("report", "--format", "csv")
    assert err == "note: direct: seed 99 failed, not in the means: it broke\n"
    assert "note" not in out


def test_gate_fails_only_where_the_interval_says_so(run: Command) -> None:
    words = ("gate", "--metric", "fd", "--max-regression", "5%")
    code, out, err = run(*words)
    assert (code, err) == (1, "")
    assert "failed (1 failed, 2 passed)" in " ".join(out.split())
    assert run(*words, "--variant", "direct", "--variant", "no_skip")[0] == 0
    code, out, _ = run("gate", "--metric", "fd", "--max-regression", "12%", "--variant", "no_drift")
    assert code == 0
    assert "undecided (1 undecided)" in " ".join(out.split())
    assert "This cannot be decided yet" in out
    code, out, _ = run(*words, "--json")
    assert code == 1
    assert json.loads(out, parse_constant=pytest.fail)["failed"] is True


def test_compare_two_variants(run: Command) -> None:
    code, out, err = run("compare", "baseline", "no_drift")
    assert (code, err) == (0, "")
    assert "fd: no_drift hurts" in out
    document = json.loads(run("compare", "baseline", "no_drift", "--json")[1], parse_constant=pytest.fail)
    assert len(document["pairs"]) == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("report --results absent", "--results absent: no such folder; make a run first: ablate run"),
        ("report --metric fdd", "--metric fdd: no such metric; did you mean fd"),
        ("report --metric fid", "--metric fid: no finished run here has it"),
        ("report --against dirct", "no run of variant 'dirct'; did you mean direct?"),
        ("report --variant latent", "no run of variant 'latent'"),
        ("report --samples 7", "--samples 7: no run was measured with so many. Found: 512/2048"),
        ("report --extractor f", "--extractor f: no run was measured with such weights"),
        ("compare baseline", "Missing argument 'B'"),
        ("compare baseline drct", "compare drct: no variant and no run here; did you mean direct?"),
        ("gate --metric fd", "Missing option '--max-regression'"),
        (
            "gate --metric fd --max-regression five",
            "--max-regression five: not a tolerance; allowed: a percentage as in 5%",
        ),
        ("gate --metric fd --max-regression 5% --against x", "no run of variant 'x'"),
    ],
)
def test_bad_input_is_one_clear_line(run: Command, words: str, message: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2 if message.startswith("Missing") else 1, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    if code == 1:
        assert len(err.splitlines()) == 1
