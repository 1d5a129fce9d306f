"""The report: the numbers by hand, and one source for all three forms."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from ablate.report import builder
from ablate.report.findings import Findings, Value
from ablate.report.render import number_text, terminal
from ablate.report.render.markdown import to_markdown
from ablate.report.selection import Choice
from ablate.store import tables

START = datetime(2026, 11, 24, tzinfo=UTC)


def run(variant: str, seed: int, fd: float | None, *, status: str = "done", **values: object) -> dict[str, object]:
    preset, config, digest = (
        values.get(k, v) for k, v in (("preset", "quick"), ("config_hash", variant), ("data_digest", "d"))
    )
    row: dict[str, object] = {
        "run_id": f"{variant}-{seed}-{preset}-{config}-{digest}",
        "variant": variant,
        "axis": "baseline" if variant == "baseline" else "drift",
        "preset": "quick",
        "seed": seed,
        "status": status,
        "data": "cats",
        "data_digest": "d",
        "config_hash": variant,
        "finished_at": START + timedelta(minutes=seed),
        "device": "cpu",
    }
    if status == "done":
        row |= {
            "fd": fd,
            "pd": None if fd is None else fd / 1000,
            "fd_n": 512,
            "fd_ref_n": 2048,
            "steps": 500,
            "train_macs": 10**12,
            "nfe": 32,
        }
        row |= {
            "fd_floor": 21.9,
            "fd_floor_n": 512,
            "params": 4_412_345,
            "macs": 1_054_000_000,
            "train_wall_s": 600.0 + seed,
        }
    return row | values


def frame(folder: Path, *rows: dict[str, object]) -> pd.DataFrame:
    tables.append(folder, {"runs": rows})
    return tables.read(folder, "runs")


def build(folder: Path, *rows: dict[str, object], **choice: object) -> Findings:
    return builder.build({"runs": frame(folder, *rows)}, Choice(**choice))  # type: ignore[arg-type]


def rich(report: Findings, width: int = 80, encoding: str = "utf-8") -> str:
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding, newline="\n")
    Console(file=file, width=width).print(terminal.render(report, full=True))
    file.flush()
    return buffer.getvalue().decode(encoding)


def close(mean: float, sd: float, n: int) -> object:
    half = {2: 12.706204736}[n] * sd / math.sqrt(n)  # Student's t of n - 1 degrees of freedom
    return pytest.approx({"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n})


STUDY = (
    run("baseline", 0, 260.0),
    run("baseline", 1, 270.0),
    run("baseline", 2, 283.0),
    run("no_drift", 0, 270.0),
    run("no_drift", 1, 284.0),
    run("no_drift", 2, None, status="diverged", error="loss is nan\nat step 120"),
)


def test_means_spread_and_paired_differences_by_hand(tmp_path: Path) -> None:
    group = build(tmp_path, *STUDY)
    baseline, variant = group.rows
    assert baseline.values["fd"].mean == pytest.approx(271.0)
    assert baseline.values["fd"].sd == pytest.approx(math.sqrt((121 + 1 + 144) / 2))
    assert baseline.differences is None
    assert variant.values["fd"].model_dump() == close(277.0, math.sqrt(98), 2)
    assert variant.differences is not None
    # Paired: +10 and +14 on seeds 0 and 1; the difference of the means would be +6.
    assert variant.differences["fd"].model_dump() == close(12.0, math.sqrt(8), 2)
    assert variant.differences["pd"].mean == pytest.approx(0.012)
    assert (variant.seeds, variant.runs, variant.unfinished) == (
        (0, 1),
        3,
        {"diverged": 1, "failed": 0, "interrupted": 0},
    )
    assert variant.costs["train_wall_s"] == 600.5
    assert "no_drift: seed 2 diverged, not in the means: loss is nan at step 120" in group.notes


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    report = build(tmp_path, run("baseline", 0, 260.0), run("no_drift", 0, 270.0))
    assert report.rows[1].values["fd"] == Value(mean=270.0, sd=None, low=None, high=None, n=1)
    assert "270.0 ± -" in rich(report)
    assert "+10.0 ± -" in rich(report)


def test_a_metric_of_a_run_that_is_not_done_never_counts(tmp_path: Path) -> None:
    rows = (*STUDY[:5], run("no_drift", 2, None, status="interrupted") | {"fd": 1.0, "pd": 0.001})
    assert build(tmp_path, *rows).rows[1].values["fd"].mean == 277.0


def test_fid_and_lpips_lead_only_where_every_finished_run_has_them(tmp_path: Path) -> None:
    both = {"fid": 30.0, "lpips": 0.2}
    rows = [run("baseline", 0, 260.0) | both, run("no_drift", 0, 270.0) | both, STUDY[5]]
    report = build(tmp_path / "all", *rows)
    assert [m.name for m in report.metrics] == ["fid", "lpips"]
    assert report.metrics[0].floor is None  # the recorded floor is that of fd
    assert "fid: Frechet distance in Inception-v3 features" in rich(report)
    report = build(tmp_path / "one", *rows, run("no_drift", 1, 275.0))
    assert [m.name for m in report.metrics] == ["fd", "pd"]


def test_too_few_images_for_a_full_rank_are_said(tmp_path: Path) -> None:
    few = build(tmp_path / "few", run("baseline", 0, 290.0))
    assert "fewer images than the 1,280 features" in rich(few, 200)
    enough = build(tmp_path / "enough", run("baseline", 0, 290.0, fd_n=2048))
    assert "fewer images" not in rich(enough, 200)
    inception = build(tmp_path / "fid", run("baseline", 0, 290.0, fd_n=2000, fid=30.0, fid_floor=2.5))
    assert "fewer images than the 2,048 features" in rich(inception, 200)
    assert inception.metrics[0].floor == 2.5


def test_copies_of_training_images_are_said(tmp_path: Path) -> None:
    report = build(tmp_path, run("baseline", 0, 290.0, memorised=False), run("no_drift", 1, 290.0, memorised=True))
    (note,) = [note for note in report.notes if "copies" in note]
    assert note.startswith("no_drift: seed 1: samples lie next to training images")


def test_unequal_configurations_are_rows_of_their_own(tmp_path: Path) -> None:
    later = START + timedelta(days=1)
    new = run("baseline", 0, 200.0, config_hash="new", finished_at=later, steps=900)
    group = build(tmp_path, *STUDY, new)
    assert [row.label for row in group.rows] == ["baseline @new", "baseline @baseline", "no_drift"]
    assert group.rows[0].values["fd"].mean == 200.0
    assert group.rows[2].differences is not None
    assert group.rows[2].differences["fd"] == Value(mean=70.0, sd=None, low=None, high=None, n=1)
    assert "the baseline has several configurations; differences are to the newest, @new" in group.notes
    assert "no_drift: an unequal budget: 500 steps, nfe 32; the baseline: 900 steps, nfe 32" in group.notes
    failed = run("baseline", 0, None, status="failed", config_hash="bad", finished_at=later)
    group = build(tmp_path / "failed", *STUDY, failed)
    assert group.rows[0].label == "baseline @baseline"  # a configuration that never finished is no baseline


def test_seeds_that_the_baseline_lacks_are_said(tmp_path: Path) -> None:
    group = build(tmp_path, *STUDY[:2], run("no_drift", 1, 284.0), run("no_drift", 7, 400.0))
    assert group.rows[1].differences is not None
    assert group.rows[1].differences["fd"] == Value(mean=14.0, sd=None, low=None, high=None, n=1)
    assert "no_drift: fd difference over seed 1: the baseline lacks seed 7" in group.notes


def test_times_of_unequal_devices_are_flagged(tmp_path: Path) -> None:
    group = build(tmp_path, *STUDY[:2], run("no_drift", 0, 1.0, device="cuda"))
    assert any("do not compare: cpu (2 runs), cuda (1 runs)" in note for note in group.notes)
    cards = [json.dumps({"cpu": "Xeon, 8 cores", "gpu": gpu}) for gpu in ("H100", "T4", "")]
    cards += [json.dumps({"cpu": "Xeon, 8 cores", "gpu": "", "cpu_features": "avx2"}), "broken", "[1]"]
    cards += [json.dumps({"cpu": [1], "cpu_features": {}}), json.dumps({"gpu": [1]})]
    rows = [run("no_drift", seed, 1.0, environment=text) for seed, text in enumerate(cards)]
    (note,) = [note for note in build(tmp_path / "cards", STUDY[0], *rows).notes if "do not compare" in note]
    listed = (
        "cpu (5 runs), cpu H100 (1 runs), cpu T4 (1 runs), cpu Xeon, 8 cores (1 runs), cpu Xeon, 8 cores avx2 (1 runs)"
    )
    assert note.endswith(f"do not compare: {listed}; costs show times of one machine only")
    assert not any("do not compare" in note for note in build(tmp_path / "same", *STUDY).notes)


def test_times_of_another_machine_are_blank(tmp_path: Path) -> None:
    times = {"latency_step_ms": 10.0, "latency_image_ms": 100.0}
    slow = {"latency_step_ms": 999.0, "latency_image_ms": 999.0, "device": "cuda"}
    rows = [run("baseline", 0, 1.0, **times), run("baseline", 1, 1.0, **times), run("baseline", 2, 1.0, **slow)]
    rows += [run("direct", 0, 1.0, **times), run("direct", 2, 1.0, **slow), run("no_drift", 0, 1.0, **slow)]
    report = build(tmp_path, *rows)
    costs = {row.label: row.costs for row in report.rows}
    assert {label: cost["latency_step_ms"] for label, cost in costs.items()} == {
        "baseline": 10.0,
        "direct": 10.0,
        "no_drift": None,
    }
    assert costs["no_drift"]["train_wall_s"] is None
    assert costs["no_drift"]["params"] == 4_412_345
    assert "999" not in rich(report, 200)
    assert any(note.endswith("costs show times of one machine only") for note in report.notes)
    same = build(tmp_path / "same", *rows[:2], run("no_drift", 0, 1.0, **times))
    assert [row.costs["latency_image_ms"] for row in same.rows] == [100.0, 100.0]


def test_pairs_of_unequal_arithmetic_are_said(tmp_path: Path) -> None:
    other = [run("baseline", 2, 260.0, precision="fp32"), run("no_drift", 2, 270.0, precision="bf16")]
    same = [run("baseline", 3, 260.0, precision="bf16"), run("no_drift", 3, 270.0, precision="bf16")]
    alone = run("no_drift", 9, 270.0, precision="bf16")
    study = [{**row, "precision": "fp32"} for row in STUDY if row["seed"] < 2]
    (note,) = [note for note in build(tmp_path, *study, *other, *same, alone).notes if "are paired" in note]
    assert note.startswith("no_drift: at seed 2 runs in bf16 and fp32 are paired: ")
    assert not any("are paired" in note for note in build(tmp_path / "same", *study, *same, alone).notes)


def test_order_is_baseline_then_axis(tmp_path: Path) -> None:
    rows = [run("a", 0, 1.0, axis="loss"), run("z", 0, 1.0, axis="drift"), run("b", 0, 1.0, axis="drift"), STUDY[0]]
    assert [row.variant for row in build(tmp_path, *rows).rows] == ["baseline", "b", "z", "a"]


def test_the_three_forms_show_the_same_numbers(tmp_path: Path) -> None:
    report = build(tmp_path, *STUDY)
    document = json.loads(report.to_json())
    row = document["rows"][1]
    assert (row["values"]["fd"]["mean"], row["differences"]["fd"]["mean"]) == (277.0, 12.0)
    expected = ["277.0 ± 9.9", "+12.0 ± 2.8", "0.2770 ± 0.0099", "+0.0120 ± 0.0028", "2/3", "4.41 M", "1.05 G"]
    for text in (to_markdown(report), rich(report, 200), rich(report, 80)):
        for part in (*expected, "N = 512 samples", "2,048", "21.9", "preset quick", "cats", "Lower is better"):
            assert part in text
    assert "| baseline | baseline | 3 | 271.0 ± 11.5 |  | 0.2710 ± 0.0115 |  | 4.41 M |" in to_markdown(report)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 200])
def test_no_number_is_cut_or_broken_at_any_width(tmp_path: Path, width: int) -> None:
    report = build(tmp_path, *STUDY, run("no_drift+v_pred", 0, 290.0, axis="drift+prediction"))
    text = rich(report, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    compact = text.replace(" ± ", "±")
    for number in ("277.0±9.9", "+12.0±2.8", "0.2770±0.0099", "+0.0120±0.0028"):
        assert number in compact
    assert all(number in text for number in ("4.41 M", "1.05 G"))
    quality = text.split("Quality and costs")[1].split("Lower is better")[0]
    heads = [line for line in quality.splitlines() if line.startswith("variant")]
    assert len(heads) == {60: 4, 80: 2, 100: 2}.get(width, 1)  # without the times, which no run has


def test_plain_ascii_terminal(tmp_path: Path) -> None:
    assert "277.0 +- 9.9" in rich(build(tmp_path, *STUDY), 200, encoding="ascii")


def test_names_are_never_markup(tmp_path: Path) -> None:
    rows = (*STUDY[:1], run("[red]a|b", 0, 1.0), run("[red]a|b", 1, None, status="failed", error="[bold] no | way"))
    report = build(tmp_path, *rows)
    assert "[red]a|b" in rich(report)
    assert "[bold] no | way" in rich(report)
    assert "| \\[red]a\\|b |" in to_markdown(report)


def test_only_unfinished_runs(tmp_path: Path) -> None:
    report = build(tmp_path, run("baseline", 0, None, status="failed", data_digest=None, error="no images"))
    for text in (rich(report), to_markdown(report)):
        assert "0/1" in text
        assert "no images" in text
    json.loads(report.to_json())


def test_an_empty_study(tmp_path: Path) -> None:
    report = builder.build({"runs": tables.read(tmp_path, "runs")}, Choice(preset="quick"))
    document = json.loads(report.to_json())
    assert (document["rows"], document["comparisons"], document["compared"]["preset"]) == ([], [], None)
    assert "No runs yet" in rich(report)
    assert "No runs yet" in to_markdown(report)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("params", 31_054_467.0, "31.1 M"),
        ("params", 999.0, "999"),
        ("macs", 5.27e9, "5.27 G"),
        ("macs", 2e15, "2,000 T"),
        ("nfe", 32.0, "32"),
        ("train_wall_s", 12.0, "12.0"),
        ("train_wall_s", 1052.4, "1,052"),
        ("latency_step_ms", 0.0, "0"),
        ("latency_step_ms", None, "-"),
    ],
)
def test_quantities(name: str, value: float | None, text: str) -> None:
    assert number_text.quantity(name, value) == text


def test_a_small_negative_difference_is_not_minus_zero() -> None:
    assert (
        number_text.mean_sd(Value(mean=-0.00001, sd=0.002, low=-0.005, high=0.005, n=3), 3, "±", sign=True)
        == "+0.000±0.002"
    )


def test_a_budget_chooses_the_runs_it_makes_comparable(tmp_path: Path) -> None:
    dear = [run("no_drift", seed, 280.0, train_macs=2 * 10**12) for seed in (0, 1)]
    matched = run("no_drift", 0, 300.0, config_hash="m", budget="macs", steps=250, train_macs=10**12 + 1)
    lone = run("latent", 0, 1.0, train_macs=3 * 10**12)
    runs = frame(tmp_path, *STUDY[:3], *dear, matched, lone)
    steps, macs = (builder.build({"runs": runs}, Choice(budget=budget)) for budget in ("steps", "macs"))
    assert {row.label: row.values["fd"].mean for row in steps.rows} == {
        "baseline": 271.0,
        "latent": 1.0,
        "no_drift": 280.0,
    }
    assert "left out: 1 run with the baseline's training MACs (see --budget macs)" in steps.notes
    assert {row.label: row.values["fd"].mean for row in macs.rows} == {"baseline": 271.0, "no_drift": 300.0}
    assert "no run with the baseline's training MACs (ablate run --budget macs): latent" in macs.notes
    assert "equal training MACs" in rich(macs)
    assert "equal training MACs" not in rich(steps)
