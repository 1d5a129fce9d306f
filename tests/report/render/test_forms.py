"""The forms of a report: valid JSON, the same numbers in each, readable at any width, colour only for decided verdicts."""

from __future__ import annotations

import cProfile
import hashlib
import io
import json
import re
from functools import cache
from typing import Any

import jsonschema
import pytest
import synthetic
from pydantic import ValidationError
from rich.console import Console
from synthetic import findings_of, frames

from ablate.report import builder
from ablate.report.findings import Findings
from ablate.report.render import terminal
from ablate.report.render.markdown import to_markdown

TRUTH = {"baseline": 0.0, "no_drift": 5.0, "direct": -5.0, "v_pred": 0.2, "no_drift+v_pred": 4.0}
SCHEMA = Findings.model_json_schema(mode="serialization")
SCHEMA_SHA256 = "b92fd41e2e8a71a80691b4c184b1b2a7216f79068b27c46e2fa680264fd119c7"


@cache
def study(seeds: int = 12) -> Findings:
    return findings_of(synthetic.rows(TRUTH, range(seeds), spread=0.5, schemes=["int8", "fp8"]))


def rich(report: Findings, width: int, full: bool = True, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(terminal.render(report, full=full))
    return console.file.getvalue()  # type: ignore[attr-defined]


def validate(report: Findings) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    document: dict[str, Any] = json.loads(report.to_json(), parse_constant=refuse)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    return document


def test_the_schema_changes_only_on_purpose() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name, definition in (*SCHEMA["$defs"].items(), ("Findings", SCHEMA)):
        assert definition["required"] == list(definition["properties"]), name
        assert definition["additionalProperties"] is False, name
    shape = {name: definition["properties"] for name, definition in SCHEMA["$defs"].items()} | SCHEMA["properties"]
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
    assert digest == SCHEMA_SHA256, (
        "The JSON of `ablate report` has another form. If that is intended: say so in CHANGELOG.md, raise "
        "`Findings.version` if a field was removed or changed its meaning, and put the new digest here."
    )


@pytest.mark.parametrize("seeds", [1, 2, 6, 12])
def test_documents_are_valid(seeds: int) -> None:
    document = validate(study(seeds))
    assert document["version"] == 2
    assert {c["verdict"] for c in document["comparisons"]} == (
        {"helps", "hurts", "undecided"} if seeds >= 6 else {"undecided"}
    )


def test_documents_of_little_are_valid() -> None:
    made = synthetic.rows({"no_drift": 1.0}, [0])
    assert validate(findings_of(made))["compared"]["against"] is None
    made["runs"][0] |= {"status": "failed", "fd": None, "pd": None, "data": None, "data_digest": None}
    assert validate(findings_of(made))["rows"][0]["values"]["fd"] == {
        "mean": None,
        "sd": None,
        "low": None,
        "high": None,
        "n": 0,
    }
    assert validate(findings_of({"runs": [], "fidelity": [], "quantized": []}))["rows"] == []


def test_what_is_not_a_report_is_not_valid() -> None:
    document = validate(study())
    for change in ({"version": 1}, {"rows": None}, {"comparisons": [{}]}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(SCHEMA).validate(document | change)
    document["comparisons"][0]["verdict"] = "perhaps"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(document)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_rather_than_written(value: float) -> None:
    report = study()
    with pytest.raises(ValidationError, match="finite number"):
        type(report.comparisons[0])(**report.comparisons[0].model_dump() | {"mean": value})
    broken = report.comparisons[0].model_copy(update={"mean": value})  # pydantic does not validate copies
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.model_copy(update={"comparisons": (broken,)}).to_json()


def test_tables_from_elsewhere_may_hold_what_is_no_number() -> None:
    tables = synthetic.frames(synthetic.rows(TRUTH, range(3), schemes=["int8"]))
    for name, column in (("runs", "fd"), ("runs", "train_wall_s"), ("quantized", "psnr_db"), ("quantized", "fd")):
        tables[name].loc[3, column] = float("inf")
    report = builder.build(tables)
    validate(report)
    assert "inf" not in to_markdown(report).split("### Number formats")[1]
    assert any("for seed" in note for note in report.notes)


def markdown_table(text: str, title: str) -> list[dict[str, str]]:
    lines = text.split(f"### {title}")[1].strip().splitlines()
    table = [[cell.strip().replace("\\", "") for cell in line.strip("|").split(" | ")] for line in lines if "|" in line]
    end = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [dict(zip(table[0], row, strict=True)) for row in table[2:end]]


def rich_table(text: str, title: str) -> list[dict[str, str]]:
    """Of a terminal so wide that no cell breaks; heads stand in the line above the rule."""
    lines = text.split(f"\n{title}\n")[1].splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("─"))
    head = re.split(r"\s{2,}", lines[rule - 1].strip())
    rows = []
    for line in lines[rule + 1 :]:
        if not line.strip():
            break
        rows.append(dict(zip(head, re.split(r"\s{2,}", line.strip()), strict=True)))
    return rows


def number(text: str) -> float:
    return float(text.replace(",", ""))


def near(shown: str, value: float | None) -> bool:
    """Whether a shown number is the rounded one."""
    if value is None or shown == "-":
        return value is None and shown == "-"
    decimals = len(shown.partition(".")[2])
    return abs(number(shown) - value) <= 0.5000001 * 10.0**-decimals


@pytest.mark.parametrize("metric", ["fd", "pd"])
@pytest.mark.parametrize("seeds", [1, 6, 12])
def test_terminal_markdown_and_json_agree(metric: str, seeds: int) -> None:
    report = study(seeds)
    by_label = {c["label"]: c for c in validate(report)["comparisons"] if c["metric"] == metric}
    in_markdown = markdown_table(to_markdown(report), f"{metric}, lower is better")
    in_terminal = rich_table(rich(report, 400), f"{metric}, lower is better")
    assert [row["variant"] for row in in_markdown] == [row["variant"] for row in in_terminal]
    assert {row["variant"] for row in in_markdown} == set(by_label)
    for rows, head in ((in_markdown, f"{metric} vs baseline"), (in_terminal, "vs baseline")):
        for row in rows:
            c = by_label[row["variant"]]
            assert row["verdict"] == c["verdict"]
            assert row["why"] == c["why"]
            assert near(row[head], c["mean"])
            bounds = row["95 %"].strip("[]").split(", ")
            assert len(bounds) == 1 + (c["low"] is not None)
            assert near(bounds[0], c["low"])
            assert near(bounds[-1], c["high"])
            bounds = row["all"].strip("[]").split(", ")
            assert near(bounds[0], c["all_low"])
            assert near(bounds[-1], c["all_high"])
            assert number(row["e of 10"]) == pytest.approx(c["adjusted"], rel=0.02)
            assert near(row["detects"], c["detectable"])
            assert int(row["seeds"]) == c["n"]
            assert row["needs"] == ("-" if c["verdict"] != "undecided" else f"{c['seeds_needed'] or 'many'}")
    for text in (to_markdown(report), rich(report, 400)):
        for claim in validate(report)["claims"]:
            assert (
                f"{claim['metric'].replace('_', chr(92) + '_') if '###' in text else claim['metric']} {claim['expect']}"
                in text
            )
            assert claim["why"] in text.replace("\\", "")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 200])
def test_verdicts_fit_at_any_width(width: int) -> None:
    text = rich(study(), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    first = text.split("Claims")[0]
    for c in study().comparisons:
        assert re.search(rf"^{re.escape(c.label)} .*{c.verdict}", first, re.M), (c.label, width)
    assert "e of 10" in first.split("fd, lower")[1].split("pd, lower")[0] or width < 100
    assert ("why" in first) == (width >= 200)


@pytest.mark.parametrize("full", [False, True])
def test_the_verdict_table_comes_first_and_says_each_verdict_once(full: bool) -> None:
    lines = [line.rstrip() for line in rich(study(), 100, full).splitlines()]
    assert lines[0] == "preset quick, data cats (55555555), equal steps: variants 5, runs 60"
    assert " ".join(lines[1:3]) == (
        "Of 4 changes to baseline, 2 make the images worse, 1 makes the images better and 1 is undecided: "
        "judged by fd over 12 seeds, with e-values of a grown study."
    )
    assert lines[4] == "fd, lower is better"
    text = "\n".join(lines)
    for metric in ("fd", "pd"):
        table = text.split(f"{metric}, lower is better")[1].split("lower is better")[0].split("hurts:")[0]
        assert [line.split()[0] for line in table.splitlines() if re.search(r" (helps|hurts|undecided)$", line)] == [
            *("direct", "no_drift", "no_drift+v_pred", "v_pred"),
        ]
    assert full or len(re.findall(r" (?:helps|hurts)$", text, re.M)) == 2 * 3


def test_a_study_of_four_variants_fits_one_screen() -> None:
    brief = rich(study(), 100, full=False).splitlines()
    assert len(brief) <= terminal.SCREEN
    text = " ".join(" ".join(brief).split())
    assert "hurts: the change makes the metric worse than baseline" in text
    assert "Quality and costs" not in text
    assert "--full: also" in text
    assert len(rich(study(), 100).splitlines()) > terminal.SCREEN


def test_what_does_not_fit_is_named_instead() -> None:
    names = ["baseline", "direct", "no_drift", *(f"synthetic_{i}" for i in range(11))]
    made = synthetic.rows(dict.fromkeys(names, 0.0), range(6))
    brief = rich(findings_of(made), 100, full=False)
    assert "Claims" not in brief
    assert "--full: also claims, quality, costs and trade-offs" in " ".join(brief.split())
    only_claims = rich(findings_of(synthetic.rows({"baseline": 0.0, "no_drift": 1.0}, range(6))), 100, full=False)
    assert re.search(r"no_drift +fd worse +undecided", only_claims)


def test_without_a_comparison_the_terminal_shows_quality() -> None:
    assert "Quality and costs" in rich(findings_of(synthetic.rows({"no_drift": 1.0}, [0])), 100, full=False)


def test_colour_stands_only_where_a_verdict_does() -> None:
    def coloured(report: Findings) -> set[str]:
        text = rich(report, 120, force_terminal=True, color_system="standard", legacy_windows=False)
        return {word.strip() for _, word in re.findall(r"\x1b\[(?:\d;)*(3[1-7])m([^\x1b]*)\x1b", text)}

    assert coloured(study()) == {"helps", "hurts", "supported", "contradicted"}
    assert coloured(study(3)) == set()


def test_few_seeds_are_said_at_any_width() -> None:
    said = f"With fewer than {study(3).compared.least_seeds} seeds none of these tests can decide."
    assert study(3).compared.tests == 10
    for width in (60, 200):
        assert said in " ".join(rich(study(3), width).split())
    assert "none of these tests" not in rich(study(), 200)


@pytest.mark.slow
def test_a_report_of_a_thousand_runs_calls_hardly_more_than_one_of_sixty() -> None:
    """What is done per run is done on whole arrays. `ablate bench --ops "report of 10,000"` measures the time."""

    def report_and_calls(seeds: int) -> tuple[str, int]:
        tables = frames(synthetic.rows(dict.fromkeys(names, 0.0), range(seeds), schemes=["int8"]))
        with cProfile.Profile() as profile:
            text = rich(builder.build(tables), 80)
        return text, sum(entry.callcount for entry in profile.getstats())

    names = [*TRUTH, *(f"synthetic_{i}" for i in range(5))]
    report_and_calls(6)  # imports and caches
    text, few = report_and_calls(6)
    assert "variants 10, runs 60" in text
    text, many = report_and_calls(100)
    assert "variants 10, runs 1000" in text
    assert many < few + 40 * (1000 - 60)  # a function with 40 calls for each run exceeds it
