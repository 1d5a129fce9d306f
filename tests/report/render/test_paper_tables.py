"""LaTeX and CSV: the numbers and verdicts of the findings, and text of any kind as it is."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from scipy import stats
from synthetic import findings_of

from ablate.report.findings import Findings, TunedVariant, Tuning
from ablate.report.render.csv import to_csv
from ablate.report.render.latex import escape, to_latex

TRUTH = {"baseline": 0.0, "no_drift": 5.0, "direct": -5.0, "v_pred": 0.2, "base[train.lr=0.0003]": -8.0}
HOSTILE = (
    r"[2cm] --a---b ``x'' ?`!` \input{x} \end{table} \\ %c $m$ #1 & ~^_ {} <a|b> *"
    ' "q" é ß « Ð 中 ф 😀 +,;=^^M\n\x1b'
)


@cache
def study(seeds: int = 12) -> Findings:
    return findings_of(synthetic.planned(synthetic.rows(TRUTH, range(seeds), spread=0.5), ["fd", "pd"]))


def body(text: str) -> dict[str, list[str]]:
    """Variant -> the other cells of its line."""
    lines = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0].replace("\\midrule\n", "").strip().splitlines()
    cells = [line.removesuffix(r" \\").split(" & ") for line in lines]
    return {name.removeprefix(r"\texttt{").removesuffix("}").replace("\\", ""): rest for name, *rest in cells}


def near(cell: str, *values: float | None) -> bool:
    """Whether a cell shows these numbers, rounded."""
    words = re.findall(r"[+-]?\d+\.\d+", cell)
    return len(words) == len(values) and all(
        value is not None and abs(float(word) - value) <= 0.5001 * 10.0 ** -len(word.partition(".")[2])
        for word, value in zip(words, values, strict=True)
    )


def test_the_caption_says_that_settings_were_tuned() -> None:
    tried = TunedVariant(label="no_drift", choice=None, edge=(), settings=("train.lr=1",), scores=(1.0,), wall_s=1.0)
    tuning = Tuning(metric="pd", higher_is_better=False, seeds=(1000, 1001), variants=(tried,))
    text = to_latex(study().model_copy(update={"tuning": tuning}))
    assert r"own best \texttt{train.lr}, chosen by pd on other seeds (1000, 1001)." in text


@pytest.mark.parametrize("seeds", [6, 12])
def test_latex_has_the_means_differences_and_verdicts_of_the_findings(seeds: int) -> None:
    report = study(seeds)
    table = body(to_latex(report))
    assert list(table) == [row.label for row in report.rows]
    for row in report.rows:
        for i, metric in enumerate(("fd", "pd")):
            mean, difference = table[row.label][2 * i : 2 * i + 2]
            value = row.values[metric]
            half = stats.t.ppf(0.975, value.n - 1) * value.sd / value.n**0.5  # type: ignore[operator]
            assert near(mean, value.mean, half)
            one = next((c for c in report.comparisons if (c.label, c.metric) == (row.label, metric)), None)
            if one is None:
                assert difference == ""
                continue
            assert near(difference, one.mean, (one.high - one.low) / 2)
            mark = {"helps": "b", "hurts": "w", "undecided": ""}[one.verdict]
            assert re.findall(r"\\textsuperscript\{(\w)\}", difference) == [*mark]


def test_the_caption_says_seeds_test_family_and_level() -> None:
    planned = to_latex(study())
    assert r"Mean over 12 seeds $\pm$ half its 95\,\% interval." in planned
    how = f"Joint sign-flip test of a planned study, step-down max-T over {study().compared.tests} tests"
    assert f"{how}; family-wise error at most 0.05." in planned
    assert r"Ablation on \texttt{cats}, preset \texttt{quick}, equal training steps." in planned
    report = findings_of(synthetic.rows(TRUTH, range(12)), metrics=("psnr_db", "fd"))
    grown = to_latex(report)
    assert f"E-values of a grown study, corrected for {report.compared.tests} tests" in grown
    assert "Exploratory: psnr\\_db." in grown
    assert r"psnr\_db $\uparrow$" in grown


def test_bold_is_the_best_mean_where_its_verdict_stands() -> None:
    def bold(report: Findings) -> list[str]:
        return [name for name, cells in body(to_latex(report)).items() if "mathbf" in cells[0]]

    assert bold(study()) == ["base[train.lr=0.0003]"]
    assert bold(study(3)) == []  # the best is undecided
    assert bold(findings_of(synthetic.rows({"baseline": 0.0, "no_drift": 9.0}, range(12)))) == ["baseline"]
    assert bold(findings_of(synthetic.rows({"baseline": 0.0, "no_drift": 9.0, "v_pred": 0.01}, range(12)))) == []


def test_diverged_seeds_are_counted_and_notes_are_comments() -> None:
    made = synthetic.rows({"baseline": 0.0, "no_drift": 9.0}, range(9))
    made["runs"][-1] |= {"status": "diverged", "fd": None, "pd": None}
    report = findings_of(made)
    text = to_latex(report)
    assert [cells[0] for cells in body(text).values()] == ["9", "8/9, 1 diverged"]
    assert "Mean over the finished seeds" in text
    assert [line for line in text.splitlines() if line.startswith("% Note: ")] == [f"% Note: {n}" for n in report.notes]
    assert pd.read_csv(io.StringIO(to_csv(report))).set_index(["variant", "metric"])["diverged"].to_dict() == {
        **{("baseline", metric): 0 for metric in ("fd", "pd")},
        **{("no_drift", metric): 1 for metric in ("fd", "pd")},
    }


def hostile() -> str:
    names = {"baseline": 0.0, HOSTILE: 5.0, "base[train.lr=0.0003]": 1.0, r"\end{tabular}": 1.0, "x" * 300 + "\\": 0.0}
    return to_latex(findings_of(synthetic.rows(names, range(6), data=HOSTILE, axis=HOSTILE)))


def test_hostile_text_has_no_command_of_its_own() -> None:
    text = escape(HOSTILE)
    allowed = r"\\(?:text(?:backslash|asciitilde|asciicircum|asciigrave|less|greater|bar)\{\}|symbol\{34\}|[&%$#_{}])"
    rest = re.sub(allowed, "", text).replace("-{}", "-")
    assert not set(rest) & set('\\&%$#_{}~^`<>|"'), rest
    assert "--" not in text
    assert text.isprintable()
    assert len(hostile().splitlines()) == len(to_latex(study()).splitlines()) + len(re.findall("% Note", hostile()))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_it_compiles_whatever_the_names_are(tmp_path: Path) -> None:
    empty = findings_of({"runs": [], "fidelity": [], "quantized": []})
    alone = findings_of(synthetic.rows({"no_drift": 1.0}, [0]))
    tables = [to_latex(study()), hostile(), to_latex(alone), to_latex(empty)]
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + "".join(tables) + r"\end{document}"
    (tmp_path / "paper.tex").write_text(document, "utf-8")
    words = ("pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-draftmode", "paper.tex")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout


def test_csv_has_every_number_unrounded_in_columns_of_one_type() -> None:
    report = findings_of(synthetic.rows(TRUTH | {HOSTILE: 1.0}, range(7)), metrics=("fd", "psnr_db"))
    table = pd.read_csv(io.StringIO(to_csv(report)), engine="python")  # it parses numbers exactly
    assert len(table) == 2 * len(report.rows)
    kinds = {name: str(kind) for name, kind in table.dtypes.items() if kind not in ("object", "str")}
    assert {name for name, kind in kinds.items() if kind == "int64"} == {"n", "pairs", "diverged"}
    assert {name for name, kind in kinds.items() if kind == "bool"} == {"higher_is_better", "exploratory"}
    assert {name for name, kind in kinds.items() if kind == "float64"} == {
        *("mean", "sd", "low", "high"),
        *("difference", "difference_sd", "difference_low", "difference_high", "alone", "adjusted"),
    }
    by_key = table.set_index(["variant", "metric"])
    for row in report.rows:
        for metric in ("fd", "psnr_db"):
            line = by_key.loc[(row.label, metric)]
            assert {name: line[name] for name in ("mean", "sd", "low", "high", "n")} == row.values[metric].model_dump()
    for c in report.comparisons:
        line = by_key.loc[(c.label, c.metric)]
        shown = (line["pairs"], line["difference"], line["difference_low"], line["difference_high"], line["adjusted"])
        assert shown == (c.n, c.mean, c.low, c.high, c.adjusted)
        assert (line["verdict"], line["evidence"], line["why"]) == (c.verdict, "e", c.why)
    assert set(table["exploratory"][table["metric"] == "psnr_db"]) == {True, False}  # False: the baseline's row


def test_little_or_nothing_is_a_table_too() -> None:
    empty = findings_of({"runs": [], "fidelity": [], "quantized": []})
    assert to_latex(empty).startswith("% No runs yet")
    assert len(pd.read_csv(io.StringIO(to_csv(empty)))) == 0
    alone = findings_of(synthetic.rows({"no_drift": 1.0}, [0]))
    assert len(pd.read_csv(io.StringIO(to_csv(alone)))) == 2
    assert body(to_latex(alone)) == {"no_drift": [f"${alone.rows[0].values['fd'].mean:.1f}$", "$0.1015$"]}
    assert "interval" not in to_latex(alone)
