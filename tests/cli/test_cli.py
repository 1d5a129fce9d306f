"""The command line as a user meets it: every command's help, one whole run, and bad input."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from unittest import mock

import command
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ablate.base.errors import DivergedError
from ablate.cli import app
from ablate.launch.ray_worker import resumable_files
from ablate.store import tables

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
COMMANDS = ["list", "show", "run", "plan", "report", "compare", "gate", "measure", "bench", "replay", "doctor"]
COMMANDS += ["sample", "export"]

# The files of a finished run at `tiny`, in order.
MADE = ["features.safetensors", "model.safetensors", "nearest.png", "samples.png"]
MADE += ["samples_1.png", "samples_2.png", "strip.png"]


def tiny(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return command.ablate("run", "--preset", "tiny", "--data", "set.npz", *words, cwd=cwd, **environment)


def said(stderr: str) -> list[str]:
    """Return the lines without the note how the data set was read."""
    return [line for line in stderr.splitlines() if not re.match(r"note: .* read as \(N, H, W, C\), values", line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a small data set and its own cache."""
    path = tmp_path_factory.mktemp("work")
    np.savez(path / "set.npz", np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), np.uint8))
    command.add_tiny_preset(path)
    os.environ |= {"ABLATE_CACHE": str(path / "cache"), "TORCH_HOME": str(path / "torch"), "ABLATE_OFFLINE": "1"}
    os.environ.pop("ABLATE_WEIGHTS", None)
    return path


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    """Two variants, run once."""
    done = tiny("--variant", "baseline", "--variant", "no_drift", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": done in ") == 2
    return folder


def test_a_run_leaves_tables_and_images(study: Path) -> None:
    runs = pd.read_parquet(study / "results" / "runs.parquet")
    assert sorted(runs["variant"]) == ["baseline", "no_drift"]
    assert set(runs["status"]) == {"done"}
    for name in (
        "fd",
        "fd_floor",
        "pd",
        "psnr_db",
        "macs",
        "params",
        "latency_step_ms",
        "latency_image_ms",
        "peak_memory_mb",
    ):
        assert (runs[name] > 0).all(), name
    assert runs[["fid", "lpips"]].isna().all().all()
    assert runs[["fd_inf", "kd", "diversity_pd", "nearest_pd", "memorised_pd", "memorised"]].notna().all().all()
    shares = runs.set_index("variant")["drift_macs_share"]
    assert shares["baseline"] > 0 == shares["no_drift"]
    names = ("curves", "denoising", "fidelity", "latency")
    tables = {name: pd.read_parquet(study / "results" / f"{name}.parquet") for name in names}
    for name, table in tables.items():
        assert set(table["run_id"]) == set(runs["run_id"]), name
    assert sorted(tables["denoising"]["t"].unique()) == pytest.approx([i / 10 for i in range(1, 10)])
    assert set(tables["latency"]["scope"]) == {"step", "image"}
    assert set(tables["latency"]["session"]) == {"run"}
    assert set(tables["latency"]["threads"]) == {1}
    own = tables["latency"].query("scope == 'step' and batch == 1").groupby("run_id")["latency_ms"].median()
    assert own.to_dict() == pytest.approx(runs.set_index("run_id")["latency_step_ms"].to_dict())
    measured = {"fd", "fd_inf", "kd", "precision", "recall", "diversity_pd", "nearest_pd"}
    assert set(tables["fidelity"]["metric"]) == measured | {f"{name}_floor" for name in measured} | {"memorised_pd"}
    for run_id in runs["run_id"]:
        artifacts = study / "results" / "artifacts" / run_id
        assert sorted(p.name for p in artifacts.iterdir()) == MADE
        assert Image.open(artifacts / "strip.png").width == 2 * (5 * 64 + 4 * 2)


@pytest.mark.slow
def test_what_cannot_be_measured_is_null_and_said_once(study: Path, tmp_path: Path) -> None:
    words = ("--results", str(tmp_path / "results"), "--metric", "fid", "--seeds", "0-1")
    done = tiny(*words, cwd=study)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "inception" in line]
    assert line.startswith(
        "note: fid and the other metrics of inception-v3-compat are not measured: no weights for inception_v3"
    )
    assert "ABLATE_OFFLINE forbids a download" in line
    assert pd.read_parquet(tmp_path / "results" / "runs.parquet")["fid"].isna().all()


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"needs the real AlexNet weights in {WEIGHTS}")
@pytest.mark.slow
def test_lpips_is_measured_where_its_weights_are_at_hand(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    done = tiny("--results", str(folder), "--weights", str(WEIGHTS), cwd=study)
    assert done.returncode == 0, done.stderr
    (run,) = pd.read_parquet(folder / "runs.parquet").to_dict("records")
    denoising = pd.read_parquet(folder / "denoising.parquet")
    assert run["lpips"] == pytest.approx(denoising["lpips"].mean())
    assert run["nearest_lpips"] > 0
    assert run["diversity_lpips"] > 0
    report = command.ablate("report", "--results", str(folder), "--format", "json", cwd=study)
    assert [metric["name"] for metric in json.loads(report.stdout)["metrics"]] == ["fd", "lpips"]


@pytest.mark.slow
def test_a_finished_run_is_skipped_and_force_makes_the_same_again(study: Path) -> None:
    runs = study / "results" / "runs.parquet"
    before = pd.read_parquet(runs).set_index("variant")
    again = tiny("--variant", "no_drift", cwd=study)
    assert again.returncode == 0
    assert "skipped" in again.stdout
    forced = tiny("--variant", "no_drift", "--force", cwd=study)
    assert forced.returncode == 0, forced.stderr
    after = pd.read_parquet(runs).set_index("variant")
    assert len(after) == 2
    for column in ("weights_digest", "samples_digest", "fd", "pd"):
        assert after.loc["no_drift", column] == before.loc["no_drift", column]
    assert after.loc["no_drift", "finished_at"] > before.loc["no_drift", "finished_at"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), DivergedError("loss nan"), KeyboardInterrupt()]
)
def test_what_is_forced_and_does_not_finish_leaves_the_finished_rows(study: Path, error: BaseException) -> None:
    before = {path.name: path.read_bytes() for path in (study / "results").glob("*.parquet")}
    with (
        mock.patch("ablate.runs.pipeline.train_and_sample", side_effect=error),
        suppress(OSError),
    ):  # a full disk is no user's error
        forced = tiny("--variant", "no_drift", "--force", cwd=study)
        assert ("diverged: loss nan; the finished row stays" in forced.stdout) == isinstance(error, DivergedError)
    assert {path.name: path.read_bytes() for path in (study / "results").glob("*.parquet")} == before
    assert command.ablate("report", cwd=study).stdout.count("no_drift") > 0


def test_report_in_three_formats_tells_the_same(study: Path) -> None:
    table = command.ablate("report", "--full", cwd=study)
    assert table.returncode == 0, table.stderr
    assert max(map(len, table.stdout.splitlines())) <= 100
    document = json.loads(command.ablate("report", "--format", "json", cwd=study).stdout)
    markdown = command.ablate("report", "--format", "markdown", cwd=study).stdout
    fd = pd.read_parquet(study / "results" / "runs.parquet").set_index("variant").loc["no_drift", "fd"]
    assert f"{fd:.1f}" in table.stdout
    assert f"{fd:.1f}" in markdown
    assert str(fd)[:6] in json.dumps(document)
    assert "N = 8" in table.stdout


@pytest.mark.slow
def test_interrupting_saves_exits_130_and_resumes(study: Path, tmp_path: Path) -> None:
    variant = 'about = "Long."\nsource = "test"\naxis = "test"\n[train]\nsteps = 40\nperceptual = "none"\n'
    (study / "variants" / "long.toml").write_text(variant)
    words = ["run", "--preset", "tiny", "--data", "set.npz", "--variant", "long", "--no-baseline"]
    words += ["--results", str(tmp_path)]
    saved = lambda: list(tmp_path.glob("artifacts/*/checkpoint.safetensors"))  # noqa: E731
    with command.when(saved, lambda: os.kill(os.getpid(), signal.SIGINT)):
        interrupted = command.ablate(*words, cwd=study)
    assert interrupted.returncode == 130, interrupted.stderr
    assert "interrupted" in interrupted.stderr.splitlines()[-1]
    assert "Traceback" not in interrupted.stderr
    (folder,) = (path.parent for path in saved())
    left = {p.name for p in folder.iterdir()}  # one, where the signal came before the second was written
    assert left | {"previous_checkpoint.safetensors"} == {"checkpoint.safetensors", "previous_checkpoint.safetensors"}
    row = pd.read_parquet(tmp_path / "runs.parquet").iloc[0]
    assert row["status"] == "interrupted"
    assert 0 < row["steps"] < 40
    for name in (".tmpAb12Cd", "samples_50.png.99.tmp"):  # as a killed process leaves them: safetensors' own, and ours
        (folder / name).write_bytes(b"half")
    assert [path.name for path in resumable_files(folder)] == ["checkpoint.safetensors"]
    resumed = command.ablate(*words, cwd=study)
    (study / "variants" / "long.toml").unlink()
    assert resumed.returncode == 0, resumed.stderr
    runs = pd.read_parquet(tmp_path / "runs.parquet")
    assert list(runs["status"]) == ["done"]
    assert list(runs["steps"]) == [40]
    steps = pd.read_parquet(tmp_path / "curves.parquet")["step"]
    assert list(steps) == [10, 20, 30, 40]
    made = [path.name for path in (tmp_path / "artifacts" / row["run_id"]).iterdir()]
    assert "samples.png" in made
    assert [name for name in made if name.endswith(".tmp") or name.startswith(".")] == []


def test_a_diverged_run_is_a_row_without_a_score(study: Path, tmp_path: Path) -> None:
    (study / "variants" / "hot.toml").write_text(
        'about = "Hot."\nsource = "test"\naxis = "test"\n[train]\nlr = 1e30\nwarmup = 0\n'
    )
    done = tiny("--variant", "hot", "--no-baseline", "--results", str(tmp_path), cwd=study)
    (study / "variants" / "hot.toml").unlink()
    assert done.returncode == 0, done.stderr
    assert ": diverged: loss nan" in done.stdout
    row = pd.read_parquet(tmp_path / "runs.parquet").iloc[0]
    assert row["status"] == "diverged"
    assert pd.isna(row["fd"])


@pytest.mark.slow
def test_latent_is_charged_with_its_autoencoder(study: Path, tmp_path: Path) -> None:
    done = tiny("--variant", "latent", "--no-baseline", "--results", str(tmp_path), cwd=study)
    assert done.returncode == 0, done.stderr
    row = pd.read_parquet(tmp_path / "runs.parquet").iloc[0]
    for name in ("autoencoder_wall_s", "autoencoder_psnr_db", "autoencoder_pd", "autoencoder_fd", "decode_macs"):
        assert row[name] > 0, name
    assert row["wall_s"] > row["autoencoder_wall_s"] + row["train_wall_s"]
    assert len(row["autoencoder_digest"]) == 64
    names = sorted(p.name for p in (tmp_path / "artifacts" / row["run_id"]).iterdir())
    assert names == ["autoencoder.png", "autoencoder.safetensors", *MADE]
    assert "autoencoder_fd" in set(pd.read_parquet(tmp_path / "fidelity.parquet")["metric"])
    assert "its autoencoder alone: fd" in command.ablate("report", "--results", str(tmp_path), cwd=study).stdout


@pytest.mark.slow
def test_equal_training_macs_are_another_run_and_another_report(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "results", tmp_path / "results")
    words = (
        "--variant",
        "no_drift",
        "--variant",
        "baseline",
        "--budget",
        "macs",
        "--results",
        str(tmp_path / "results"),
    )
    done = tiny(*words, cwd=study)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped") == 1  # the baseline is its own measure
    runs = pd.read_parquet(tmp_path / "results" / "runs.parquet")
    matched = runs[runs["budget"] == "macs"].iloc[0]
    assert matched["steps"] > 4
    documents = {
        budget: json.loads(command.ablate("report", "--budget", budget, "--format", "json", cwd=tmp_path).stdout)
        for budget in ("steps", "macs")
    }
    hashes = {
        budget: {row["variant"]: row["config_hash"] for row in document["rows"]}
        for budget, document in documents.items()
    }
    assert hashes["macs"]["no_drift"] == matched["config_hash"] != hashes["steps"]["no_drift"]
    assert hashes["macs"]["baseline"] == hashes["steps"]["baseline"]
    assert not any("unequal budget" in note for note in documents["macs"]["notes"])


def test_a_dry_run_lists_and_writes_nothing(study: Path, tmp_path: Path) -> None:
    listed = tiny("--variant", "no_drift", "--factors", "drift,skip", "--seeds", "0-1", "--dry-run", cwd=study)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("│ to run │") == 14  # 8 combinations x 2 seeds, less those done
    assert listed.stdout.count("│ done ") == 2
    assert "14 of 16 to run: " in listed.stdout
    nowhere = tiny("--dry-run", "--results", str(tmp_path / "new"), cwd=study)
    assert "1 of 1 to run: unknown\ndisk: 1." in nowhere.stdout
    assert "nothing will be judged" in nowhere.stdout
    assert "to be judged by fd, pd: " in listed.stdout
    assert not (tmp_path / "new").exists()


def test_a_variant_brings_the_baseline_that_it_is_compared_with(study: Path, tmp_path: Path) -> None:
    words = ("--results", str(tmp_path / "new"), "--seeds", "0,1", "--dry-run")
    for asked, runs in {
        ("-v", "no_drift"): 4,
        ("-v", "no_drift,v_pred"): 6,
        ("-v", "no_drift", "--no-baseline"): 2,
    }.items():
        assert f"{runs} of {runs} to run" in tiny(*asked, *words, cwd=study).stdout
    shown = tiny("--variant", "no_drift", "--dry-run", cwd=study).stdout
    assert [line.split()[1] for line in shown.splitlines() if " done " in line] == ["baseline", "no_drift"]


def test_the_hint_at_the_end_leads_to_a_report_of_what_was_run(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my results; ls"
    shutil.copytree(study / "results", folder)
    done = tiny("--variant", "no_drift", "--results", str(folder), cwd=study)
    assert done.returncode == 0, done.stderr
    hint = done.stderr.splitlines()[-1].split("; next: ")[1]
    assert hint == f"ablate report --results '{folder}'"
    report = command.ablate(*shlex.split(hint)[1:], cwd=study)
    assert report.returncode == 0
    assert "no_drift" in report.stdout
    alone = folder / "runs.parquet"
    runs = pd.read_parquet(alone)
    tables.append(tmp_path / "alone", {"runs": tables.to_records(runs[runs["variant"] == "baseline"])})
    done = tiny("--results", str(tmp_path / "alone"), cwd=study)
    assert "next: the same command with --variant no_drift" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
@pytest.mark.slow
def test_with_bars_on_the_result_lines_come_out_whole(study: Path) -> None:
    import pty

    words = ["run", "--preset", "tiny", "--data", "set.npz", "--variant", "no_drift"]
    program, end = pty.openpty()
    with os.fdopen(end, "w") as terminal:
        done = command.ablate(*words, cwd=study, terminal=terminal)
    assert done.returncode == 0
    shown = b""
    with suppress(OSError):  # the terminal is closed
        while content := os.read(program, 65536):
            shown += content
    os.close(program)
    lines = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode().replace("\r", "\n").splitlines()
    skipped = [line for line in lines if "skipped" in line]
    assert [line.split("-")[0] for line in skipped] == ["baseline", "no_drift"]
    assert skipped[0].endswith("done before; skipped")  # nobody named the baseline: --force leaves it
    assert skipped[1].endswith("done before; skipped (--force makes it again)")


@pytest.mark.slow
def test_bench_times_runs_side_by_side_and_keeps_what_was_measured_before(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "results", tmp_path / "results")
    before = pd.read_parquet(tmp_path / "results" / "latency.parquet")
    words = ["bench", "no_drift", "all", "--batch", "1,2", "--rounds", "5", "--schemes", "fp32,bf16", "--threads", "1"]
    shown = command.ablate(*words, cwd=tmp_path, COLUMNS="80")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert [line for line in map(str.rstrip, shown.stdout.splitlines()) if line.startswith("batch ")] == [
        "batch 1",
        "batch 2",
    ]
    document = json.loads(command.ablate(*words, "--json", "--scope", "image", cwd=tmp_path).stdout)
    assert document["reference"]["run_id"].startswith("no_drift")
    assert [row["scheme"] for row in document["groups"][1]["rows"]] == ["fp32", "bf16"] * 2
    table = pd.read_parquet(tmp_path / "results" / "latency.parquet")
    pd.testing.assert_frame_equal(table[: len(before)], before)
    added = table[len(before) :]
    assert added.groupby("session", sort=False)["scope"].unique().map(list).tolist() == [["step"], ["image"]]
    assert len(added) == 2 * 2 * 2 * 2 * 5  # sessions, batch sizes, runs, schemes, rounds


def test_bench_refuses_a_run_that_is_not_there_or_diverged(study: Path, tmp_path: Path) -> None:
    from ablate.store import tables as results

    shutil.copytree(study / "results", tmp_path / "results")
    lost = {
        "run_id": "hot-1",
        "variant": "hot",
        "preset": "smoke",
        "seed": 0,
        "status": "diverged",
        "error": "loss nan",
    }
    results.append(tmp_path / "results", {"runs": [lost]})
    before = (tmp_path / "results" / "latency.parquet").read_bytes()
    refused = {
        "no_drfit": "error: run 'no_drfit': not in results",
        "hot": "error: run hot-1: diverged (loss nan); only a finished run has a model",
    }
    for name, message in refused.items():
        shown = command.ablate("bench", "baseline", name, cwd=tmp_path)
        assert shown.returncode == 1
        assert shown.stdout == ""
        assert shown.stderr.startswith(message)
        assert len(shown.stderr.splitlines()) == 1
    assert (tmp_path / "results" / "latency.parquet").read_bytes() == before


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(folder: Path, name: str) -> None:
    shown = command.ablate(name, "--help", cwd=folder)
    assert shown.returncode == 0
    assert f"Example: ablate {name}" in " ".join(shown.stdout.split())
    assert not {"<bool>", "range", "list["} & set(re.findall(r"<bool>|range|list\[", shown.stdout))


def test_paragraphs_of_the_help_fill_a_terminal_of_any_width() -> None:
    for help_text in (registered.help for registered in app.registered_commands):
        assert help_text
        assert "\n" not in help_text.replace("\n\n", "")


def test_list_and_show(folder: Path) -> None:
    assert "no_drift" in command.ablate("list", cwd=folder).stdout
    rows = json.loads(command.ablate("list", "--json", cwd=folder).stdout)
    assert {"name": "no_drift", "axis": "drift"}.items() <= rows[
        [row["name"] for row in rows].index("no_drift")
    ].items()
    shown = json.loads(command.ablate("show", "no_drift+v_pred", "--preset", "smoke", "--json", cwd=folder).stdout)
    assert shown["delta"] == {"model.drift": False, "diffusion.prediction": "v", "diffusion.loss": "v"}
    assert shown["params"]["drift"] == 0
    assert shown["macs"]["backbone"] > 0
    page = command.ablate("show", "no_drift", cwd=folder).stdout
    assert "model.drift" in page
    assert "share of MACs" in page


@pytest.mark.slow
def test_help_does_not_import_torch(folder: Path) -> None:
    code = "import sys; sys.argv = ['ablate', '--help']\ntry:\n import ablate.cli as c; c.main()\nfinally: print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert shown.stdout.splitlines()[-1] == "False"
    control = subprocess.run(
        [sys.executable, "-c", f"import torch\n{code}"], capture_output=True, text=True, cwd=folder
    )
    assert control.stdout.splitlines()[-1] == "True"


BAD = [
    (
        ["run", "--ray-address", "10.0.0.1:6379"],
        1,
        "--ray-address 10.0.0.1:6379: the local launcher makes one run at a time",
    ),
    (["run", "--launcher", "ray", "--gpus", "1.5"], 1, "--gpus 1.5: it must be a fraction from 0.0001 to 1"),
    (["run", "--launcher", "ray", "--gpus", "0.00001"], 1, "--gpus 1e-05: it must be a fraction"),
    (["run", "--variant", "no_drfit"], 1, "did you mean no_drift?"),
    (["run", "--preset", "quik"], 1, "did you mean quick?"),
    (["run", "--seeds", "-1"], 1, "'-1' is not a seed"),
    (["run", "--seeds", "5-2"], 1, "runs backwards"),
    (["run", "--jobs", "2"], 1, "--jobs 2: the local launcher makes one run at a time, here; choose the launcher ray"),
    (["run", "--launcher", "pbs"], 2, "'pbs' is not one of"),
    (["run", "--slurm", "partition=gpu"], 1, "--slurm partition=gpu: the launcher is local; choose the launcher slurm"),
    (
        ["run", "--launcher", "slurm", "--slurm", "partition"],
        1,
        "it must be a setting and its value, as in partition=gpu",
    ),
    (
        ["run", "--launcher", "slurm", "--gpus", "1"],
        1,
        "--gpus 1.0: not an option of the launcher slurm; use slurm gpus_per",
    ),
    (["run", "--launcher", "slurm", "--steal"], 1, "--steal: jobs would steal from each other"),
    (["run", "--data", "absent"], 1, "absent: no such file or folder"),
    (["run", "--data", "empty"], 1, "empty: no images found"),
    (["run", "--device", "tpu"], 1, "--device tpu: unknown device"),
    (["run", "--results", "set.npz"], 1, "set.npz"),
    (["run", "--results", "/proc/ablate"], 1, "/proc/ablate"),
    (["run", "--factors", "drfit"], 1, "did you mean drift?"),
    (["run", "--budget", "time"], 2, "time"),
    (["run", "--threads", "0"], 1, "--threads 0: it must be at least 1"),
    (["run", "--force", "--failed"], 1, "--force --failed: force makes finished runs again"),
    (["run", "--save-every", "-1"], 1, "--save-every -1.0: it must be at least 0"),
    (["replay", "x", "--results", "absent"], 1, "absent: no such folder"),
    (["replay", "x", "--results", "."], 1, "run 'x': not in ."),
    (["replay"], 2, "RUN"),
    (["doctor", "--results", "absent"], 1, "absent: no such folder"),
    (["report", "--results", "a\x1b[2Jb"], 1, "a\\x1b[2Jb: no such folder"),
    (["run", "--metric", "lpip"], 1, "--metric lpip: no such metric; did you mean lpips?"),
    (["run", "--weights", "absent", "--data", "set.npz", "--preset", "smoke"], 1, "absent: no such folder of weights"),
    (["run", "--dry-run", "--data", "absent"], 1, "absent: no such file or folder"),
    (["run", "--varient", "x"], 2, "No such option"),
    (["bench"], 2, "RUN"),
    (["bench", "x", "--results", "absent"], 1, "--results absent: no such folder"),
    (["bench", "x", "--batch", "1,0"], 1, "--batch 1,0: '0' is not a batch size"),
    (["bench", "x", "--schemes", "fp23"], 1, "--schemes fp23: unknown scheme 'fp23'; did you mean fp32?"),
    (["bench", "x", "--rounds", "4"], 2, "rounds"),
    (["bench", "x", "--scope", "pixel"], 2, "scope"),
    (["bench", "x", "--threads", "0"], 2, "threads"),
    (["bench", "x", "--device", "tpu"], 1, "--device tpu: unknown device"),
    (["report", "--results", "absent"], 1, "absent: no such folder"),
    (["report", "--format", "pdf"], 2, "pdf"),
    (["show", "nothing"], 1, "unknown variant 'nothing'"),
    (["frobnicate"], 2, "No such command"),
]


@pytest.mark.parametrize(("words", "code", "message"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_bad_input_is_one_clear_line_and_writes_nothing(
    folder: Path, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "set.npz").write_bytes((folder / "set.npz").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    shown = command.ablate(*words, cwd=tmp_path, COLUMNS="200")
    assert shown.returncode == code, shown.stderr
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr
    if code == 1:
        assert all(line.startswith("error: ") for line in said(shown.stderr)), shown.stderr
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert [path.name for path in left if path.suffix in (".parquet", ".safetensors", ".png", ".tmp")] == []


def test_a_damaged_or_newer_table_is_one_clear_line_and_stays_as_it_was(study: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    table = tmp_path / "results" / "runs.parquet"
    content = (study / "results" / "runs.parquet").read_bytes()[:-200]
    table.write_bytes(content)
    for words in (["report"], ["run", "--preset", "smoke", "--data", str(study / "set.npz")]):
        shown = command.ablate(*words, cwd=tmp_path)
        assert shown.returncode == 1
        (line,) = said(shown.stderr)
        assert line.startswith("error: ")
        assert "runs.parquet" in line
    assert table.read_bytes() == content


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("run --variant no_d", "no_drift no_drift_matched"),
        ("run --variant no_drift+v_", "no_drift+v_pred"),
        ("run --variant no_drift,v_", "no_drift,v_pred"),
        ("report --preset s", "smoke standard"),
        ("replay --results {}/results no_", "no_drift-tiny-set-s0"),
        ("replay --results absent no_", ""),
    ],
)
def test_a_shell_completes(study: Path, monkeypatch: pytest.MonkeyPatch, line: str, wanted: str) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "")  # else click takes `ablate` for a part of pytest
    done = command.ablate(cwd=study, **completion(line.format(study)))
    offered = [re.sub(r"-[0-9a-f]{8}$", "", name) for name in done.stdout.split()]  # without the digest of a run's name
    assert offered == wanted.split(), done.stderr


def test_the_installed_program_completes(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("ablate")
    done = subprocess.run(
        [program], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **completion("be")}
    )
    assert done.stdout.split() == ["bench"], done.stderr


def completion(line: str) -> dict[str, str]:
    """The environment in which a shell asks how a line goes on."""
    words = f"ablate {line}".split()
    return {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_ABLATE_COMPLETE": "complete_bash"}
