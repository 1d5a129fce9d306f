"""`ablate judge` and `ablate import`: the verdicts of a report, on a table from anywhere."""

from __future__ import annotations

import json
import math
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command import ablate as command

import ablate
from ablate.base.errors import ResultsError
from ablate.report.builder import build, read
from ablate.report.selection import Choice
from ablate.scores.reading import Options, Scores, read_scores
from ablate.store import tables

EXPORTS = Path(__file__).parents[1] / "fixtures/scores"
Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what was guessed
STUDY = Path(__file__).parents[2] / "results/studies/quick_cats"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command line in an empty folder."""
    return lambda *words: command(*words, cwd=tmp_path)


def table(variants: Sequence[str] = ("base", "big"), seeds: Sequence[object] = range(6)) -> list[str]:
    """Return the lines of a CSV: variant, seed and acc. Each variant is 0.02 better than the one before."""
    draw = random.Random(0)
    lines = ["variant,seed,acc"]
    for i, variant in enumerate(variants):
        lines += [f"{variant},{seed},{0.9 + 0.02 * i + draw.gauss(0, 0.002):.4f}" for seed in seeds]
    return lines


def write(path: Path, lines: Sequence[str], encoding: str = "utf-8") -> Path:
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def read_one(path: Path, **options: Any) -> Scores:
    return read_scores([path], Options(**options))


def values(scores: Scores) -> dict[tuple[str, int], dict[str, float]]:
    return {(one.variant, one.seed): dict(one.scores) for one in scores.runs}


@pytest.mark.skipif(not STUDY.is_dir(), reason="the shipped studies are not here")
def test_the_numbers_are_those_of_the_report_on_the_same_runs(tmp_path: Path, run: Run) -> None:
    frames = read(STUDY)
    csv = tmp_path / "fd.csv"
    frames["runs"][["variant", "seed", "fd"]].to_csv(csv, index=False)
    done = run("judge", str(csv), "--json")
    judged = {one["label"]: one for one in json.loads(done.stdout)["comparisons"]}
    reported = build(frames, Choice(metrics=("fd",))).comparisons
    assert len(judged) == len(reported) == 14
    for one in reported:
        mine = judged[one.label]
        for name in ("n", "mean", "sd", "low", "high", "alone", "relative"):
            assert mine[name] == getattr(one, name), (one.label, name)
        assert mine["differences"] == list(one.differences)
        assert mine["e_by_seed"] == list(one.e_by_seed or ())
    # Of the same tests the corrected values and the verdicts are the same as well.
    alone = frames["runs"].assign(pd=float("nan"), claims="[]", axis=None)
    for one in build(frames | {"runs": alone}, Choice(metrics=("fd",))).comparisons:
        assert judged[one.label] == json.loads(one.model_dump_json()), one.label


def test_an_imported_table_is_reported_as_it_is_judged(tmp_path: Path, run: Run) -> None:
    csv, folder = write(tmp_path / "scores.csv", table(("base", "big+x", "odd[lr=1"))), tmp_path / "results"
    assert run("import", str(csv), "--results", str(folder)).returncode == 0
    before = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    again = run("import", str(csv), "--results", str(folder))
    assert "0 written" in again.stderr
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    judged = run("judge", str(csv), "--json").stdout
    assert run("report", "--results", str(folder), "--json").stdout == judged
    assert json.loads(judged)["compared"]["against"] == "base"
    assert "big+x" in run("compare", "base", "odd[lr=1", "--results", str(folder)).stdout + judged
    gate = ("gate", "--metric", "acc", "--max-regression", "1%", "--results", str(folder), "--variant", "odd[lr=1")
    assert run(*gate).returncode == 0


def test_an_import_adds_and_refuses_other_values_without_force(tmp_path: Path) -> None:
    csv, folder = tmp_path / "scores.csv", tmp_path / "results"
    lines = table()
    for part in (lines[:-1], lines):
        ablate.import_scores(write(csv, part), folder)
    assert len(tables.read(folder, "runs")) == 12
    lines[-1] = "big,5,0.1"
    write(csv, lines)
    with pytest.raises(ResultsError, match=r"holds big, seed 5, with acc .*, not 0.1; --force replaces it"):
        ablate.import_scores(csv, folder)
    changed = ablate.import_scores(csv, folder, force=True).metrics
    assert changed["value"].min() == 0.1
    assert len(changed) == 12
    write(csv, [line + (",loss" if i == 0 else ",1") for i, line in enumerate(lines)])
    more = ablate.import_scores(csv, folder, metrics="loss").metrics  # another metric of the same runs
    assert more["metric"].value_counts().to_dict() == {"acc": 12, "loss": 12}


@pytest.mark.parametrize("form", ["html", "md", "tex", "csv", "json"])
def test_every_form_is_written(tmp_path: Path, run: Run, form: str) -> None:
    csv, output = write(tmp_path / "scores.csv", table()), tmp_path / f"report.{form}"
    assert run("judge", str(csv), "-o", str(output)).returncode == 0
    assert "big" in output.read_text()


def test_what_was_guessed_is_one_note(tmp_path: Path, run: Run) -> None:
    lines = [line + (",lr" if i == 0 else ",0.1") for i, line in enumerate(table())]
    lines[0] = "model,random_seed,top1,lr"
    done = run("judge", str(write(tmp_path / "s.csv", lines)))
    assert done.stderr.splitlines() == [
        "note: s.csv: variant = model; seed = random_seed; judged by top1 (higher is better); compared with base; not read: lr"
    ]
    named = (
        "--variant",
        "model",
        "--seed",
        "random_seed",
        "--metric",
        "top1",
        "--better",
        "higher",
        "--against",
        "base",
    )
    assert "variant =" not in run("judge", str(tmp_path / "s.csv"), *named).stderr


def test_long_wide_json_lines_parquet_and_frames_are_the_same(tmp_path: Path) -> None:
    wide = read_one(write(tmp_path / "wide.csv", table()))
    frame = pd.read_csv(tmp_path / "wide.csv")
    long = frame.rename(columns={"acc": "value"}).assign(metric="acc", unit="1", better="higher")
    long.to_csv(tmp_path / "long.tsv", sep="\t", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "a.json", orient="records")
    frame.to_parquet(tmp_path / "a.parquet")
    write(tmp_path / "index.csv", frame.to_csv().splitlines())
    for name in ("long.tsv", "a.jsonl", "a.json", "a.parquet", "index.csv"):
        assert values(read_one(tmp_path / name)) == values(wide), name
    assert values(read_scores(frame.set_index(["variant", "seed"]), Options())) == values(wide)
    assert read_one(tmp_path / "long.tsv").units == {"acc": "1"}
    verdicts = ablate.judge(frame)
    assert verdicts[["label", "verdict"]].to_numpy().tolist() == [["big", "helps"]]


@pytest.mark.parametrize(
    ("name", "variants", "metrics", "runs"),
    [
        ("mlflow_runs.csv", {"base", "wide", "deep"}, {"val_acc": "higher", "val_loss": "lower"}, 19),
        ("lm_eval", {"toy/base", "toy/wide"}, {"sums/acc": "higher", "sums/acc_norm": "higher"}, 6),
        ("wandb_runs.csv", {"base", "wide"}, {"val/acc": "higher", "val/loss": "lower"}, 13),
        ("wandb_chart.csv", {"base", "wide"}, {"val/acc": "higher"}, 12),
    ],
)
def test_exports_of_other_tools_are_read_as_they_are(
    name: str, variants: set[str], metrics: dict[str, str], runs: int
) -> None:
    scores = read_one(EXPORTS / name)
    assert {one.variant for one in scores.runs} == variants
    assert dict(scores.better) == metrics
    assert len(scores.runs) == runs
    assert scores.against.endswith("base")
    assert all(one.scores.keys() == metrics.keys() for one in scores.runs if one.status == "done")
    assert [one.seed for one in scores.runs if one.status == "failed"] == [6] * (runs in (13, 19))


def test_a_chart_and_a_table_of_the_same_runs_agree() -> None:
    chart, runs = (values(read_one(EXPORTS / f"wandb_{name}.csv")) for name in ("chart", "runs"))
    for key, scores in chart.items():
        assert scores["val/acc"] == pytest.approx(runs[key]["val/acc"])


def test_runs_by_the_python_api_of_wandb_are_read(tmp_path: Path) -> None:
    names = [(variant, seed) for variant in ("base", "wide") for seed in range(2)]
    frame = pd.DataFrame(
        {
            "summary": [{"acc": seed / 10, "_step": 9, "grad": {"w": 1}, "bad": math.nan} for _, seed in names],
            "config": [{"model": variant, "seed": seed, "layers": [1, 2]} for variant, seed in names],
            "name": [f"dandy-sun-{i}" for i in range(4)],
        }
    )
    frame.to_csv(tmp_path / "project.csv")
    assert values(read_one(tmp_path / "project.csv")) == {(name, seed): {"acc": seed / 10} for name, seed in names}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"3": None}, "seeds without a pair are not compared: base lacks seed 2; add those rows"),
        ({"13": "base,0,0.9027"}, None),
        ({"3": "base,2,"}, "s.csv: row 4: seed 2 of base has no acc; fill it in to use it"),
        ({"9": "big,2,nan"}, "s.csv: row 10: acc is not finite: seed 2 of big counts as diverged"),
        ({"9": "big,2,-inf"}, "s.csv: row 10: acc is not finite: seed 2 of big counts as diverged"),
    ],
)
def test_incomplete_rows_are_told(tmp_path: Path, change: dict[str, str | None], note: str | None) -> None:
    lines = dict(enumerate(table()))
    lines |= {int(row): line for row, line in change.items()}  # type: ignore[misc]
    if "13" in change:
        lines[13] = lines[1]
        note = "rows that repeat another are read once: 1 of 13"
    scores = read_one(write(tmp_path / "s.csv", [line for line in lines.values() if line is not None]))
    assert any(note in one for one in scores.notes), scores.notes  # type: ignore[operator]
    lost = [one for one in scores.runs if one.status == "diverged"]
    assert len(lost) == ("finite" in str(note))
    assert all(not one.scores for one in lost)


@pytest.mark.parametrize(
    ("lines", "encoding"),
    [
        (table(), "utf-8-sig"),
        (table(), "utf-16"),
        ([line.replace(",", ";").replace(".", ",") for line in table()], "utf-8"),
        ([line.replace(",", "\t") for line in table()], "utf-8"),
        ([line.replace(",", " , ") for line in table()], "utf-8"),
        ([line + "\r" for line in table()], "utf-8"),
        ([part for line in table() for part in (line, "")], "utf-8"),
        ([line.replace(",0,", ",0.0,") for line in table()], "utf-8"),
        ([line.replace(",0,", ",seed0,") for line in table()], "utf-8"),
    ],
)
def test_a_table_may_come_from_any_program(tmp_path: Path, lines: list[str], encoding: str) -> None:
    plain = values(read_one(write(tmp_path / "plain.csv", table())))
    assert values(read_one(write(tmp_path / "odd.csv", lines, encoding))) == plain


def test_percents_and_old_encodings(tmp_path: Path) -> None:
    lines = ["variant,seed,acc", *(f"{name},{seed},{90 + seed} %" for name in ("base", "größer") for seed in range(3))]
    long = ["variant;seed;metric;value", *(f"{name};{seed};loss;1,23{seed}" for name in ("base", "b") for seed in "12")]
    commas = read_one(write(tmp_path / "long.csv", long))
    assert values(commas)["b", 2] == {"loss": 1.232}
    assert "long.csv: the commas in loss are read as decimal points" in commas.notes
    scores = read_one(write(tmp_path / "s.csv", lines, "latin-1"))
    assert (scores.units, {one.variant for one in scores.runs}) == ({"acc": "%"}, {"base", "größer"})
    assert any("Windows-1252" in note for note in scores.notes)


def test_the_last_step_with_a_value_is_used(tmp_path: Path) -> None:
    lines = ["variant,seed,epoch,acc"]
    for variant in ("base", "big"):
        lines += [f"{variant},{seed},{epoch},{epoch / 10}" for seed in range(2) for epoch in (2, 0, 1)]
    lines += ["base,0,3,"]
    scores = read_one(write(tmp_path / "s.csv", lines))
    assert {value for run in values(scores).values() for value in run.values()} == {0.2}
    assert "s.csv: of each run the last epoch with a value is used (2)" in scores.notes


BAD: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "empty": ([], {}, "s.csv: empty"),
    "no rows": (table()[:1], {}, "a header without rows"),
    "one column": (["acc", "0.9"], {}, "row 1: one column only"),
    "text": ([*table(), "big,6,good"], {}, "row 14: acc is 'good', which is no number; correct it"),
    "plus minus": ([*table(), "big,6,0.9 ± 0.1"], {}, "row 14: acc is '0.9 ± 0.1', which is no number"),
    "thousands": (["variant,seed,loss", 'base,0,"1,000,000"', 'big,0,"1,000,001"'], {}, "row 2: loss is '1,000,000'"),
    "a thousand": (
        ["variant,seed,loss", 'base,0,"1,234"', 'big,0,"1,300"'],
        {},
        "row 2: loss is '1,234', which is no number",
    ),
    "seed": ([*table(), "big,last,0.9"], {}, "row 14: seed is 'last', which is no whole number"),
    "no name": ([*table(), ",6,0.9"], {}, "row 14: no variant; say which variant it is"),
    "repeated": ([*table(), "big,5,0.5"], {}, "row 13 and row 14: both are big, seed 5, with acc"),
    "long line": ([*table(), "big,6,0.9,1"], {}, "Expected 3 fields in line 14, saw 4"),
    "open quote": ([*table(), '"big,6,0.9'], {}, "not a table"),
    "trailing comma": (
        [*table()[:1], *(line + "," for line in table()[1:])],
        {},
        "row 2: 4 cells, but the header has 3",
    ),
    "same heads": (["variant,seed,acc,acc", "base,0,1,2"], {}, "two columns are called 'acc'; rename one"),
    "one variant": (table(("base",)), {}, "one variant only, base: nothing to compare"),
    "no baseline": (table(("a", "b")), {}, "which variant is the baseline? Name it, as in --against a"),
    "no pair": (["variant,seed,acc", "base,0,1", "big,1,2"], {}, "no variant has a seed of base"),
    "no seed": (["variant,acc", "base,1", "big,2"], {}, "no column says the seed, by which variants are paired"),
    "no variant": (["seed,acc", "0,1", "1,2"], {}, "no column says which variant a row is"),
    "direction": (
        [line.replace("acc", "zap") for line in table()],
        {},
        "is a higher or a lower zap better? Say so: --better",
    ),
    "two metrics": (
        ["variant,seed,zap,zop", *(f"{v},{s},{s}1,{s}2" for v in ("base", "big") for s in range(3))],
        {},
        "2 columns could be the metric: zap, zop; name those to judge, as in --metric zap",
    ),
    "unknown column": (table(), {"variant": "modle"}, "--variant modle: no such column"),
    "unknown metric": (table(), {"metrics": ("ac",)}, "--metric ac: no such metric; did you mean acc? Metrics: acc"),
    "unknown variant": (table(), {"against": "bsae"}, "--against bsae: no such variant; did you mean base?"),
    "bad direction": (table(), {"better": ("up",)}, "--better up: allowed: higher, lower"),
    "kinds of rows": (
        [
            "variant,seed,task,acc",
            *(f"{v},{s},{t},0.{s}{ord(t)}" for v in ("base", "big") for s in range(3) for t in "ab"),
        ],
        {},
        "they differ in task: keep the rows of one kind",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_one_line_that_names_the_place_and_the_fix(tmp_path: Path, name: str) -> None:
    lines, options, message = BAD[name]
    path = tmp_path / "s.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(ResultsError) as error:
        read_one(path, **options)
    said = str(error.value)
    assert message in said
    assert "s.csv" in said
    assert said.isprintable()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"variant": "a",', "a.json: not JSON"),
        ("a.json", b"[1, 2]", "a.json: row 1: not an object with column names"),
        ("a.json", b'{"results": {"t": {"acc,none": "x"}}, "model_name": "m"}', "a.json: its results have no score"),
        ("a.jsonl", b'{"variant": "a"}\n{"variant" 1}', "a.jsonl: row 2: not JSON"),
        ("a.parquet", b"PAR1", "a.parquet: cannot be read"),
        ("a.csv", bytes(range(256)), "a.csv: not a text file"),
        ("a.xlsx", b"PK", "save the sheet as CSV"),
    ],
)
def test_files_that_are_no_table_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResultsError) as error:
        read_one(tmp_path / name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ResultsError, match=r"no such file|a folder without"):
            read_one(path)


def test_files_together_need_the_same_columns(tmp_path: Path) -> None:
    a, b = (write(tmp_path / f"{name}.csv", table((name,))) for name in ("base", "big"))
    both = read_scores([a, b], Options())
    assert {one.variant for one in both.runs} == {"base", "big"}
    write(b, ["variant,seed,acc", "base,0,0.5"])
    with pytest.raises(ResultsError, match=r"base\.csv: row 2 and .*big\.csv: row 2: both are base, seed 0"):
        read_scores([a, b], Options())
    write(b, [line.replace("acc", "loss") for line in table(("big",))])
    with pytest.raises(ResultsError, match=r"big\.csv: other columns than .*base\.csv"):
        read_scores([a, b], Options())
