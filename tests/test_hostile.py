"""Hostile input: each is one printable line that says what was found, nothing is written, and what was there is as it was."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import command
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_bytes import read_images
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from ablate import cli
from ablate.base import host
from ablate.base.errors import AblateError, DataError, ResultsError, VariantError
from ablate.base.text import message, printable, printable_lines
from ablate.models.kpn.filters import KERNEL_WEIGHTS
from ablate.store import health, tables
from ablate.store.artifacts import new_folder, new_working_folder, run_folder
from ablate.store.atomic_files import is_temporary
from ablate.study import variants
from ablate.study.config import Config, sections
from ablate.study.plan import RunSpec, parse_seeds, plan

HEAD = 'about = "a"\nsource = "s"\naxis = "x"\n'
ESCAPE = "\x1b[2J"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants").mkdir()
    return tmp_path / "variants"


def refused(call: Callable[[], object], kind: type[AblateError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert len(str(caught.value)) < 2000


TOML = {
    "nested a thousand deep": (HEAD + "x = " + "[" * 5000 + "]" * 5000, "cannot be read as TOML"),
    "inline tables a thousand deep": (HEAD + "x = " + "{a=" * 3000 + "1" + "}" * 3000, "cannot be read as TOML"),
    "a number of ten thousand digits": (HEAD + "[train]\nsteps = " + "9" * 10_000, "cannot be read as TOML"),
    "a hexadecimal number of five thousand digits": (
        HEAD + "[train]\nsteps = 0x" + "f" * 5000,
        "cannot be read as TOML",
    ),
    "a file of two megabytes": (HEAD + "#" * 2**21, r"bytes; allowed: 1,048,576"),
    "a number beyond 64 bits": (HEAD + "[train]\nsteps = " + "9" * 30, r"it must be at most 1000000000000"),
    "infinity": (HEAD + "[train]\nlr = inf\n", "it must be a finite number"),
    "not a number": (HEAD + "[train]\nema = -nan\n", "it must be a finite number"),
    "a date for a number": (HEAD + "[model]\nwidth = 2026-11-24\n", "it must be a whole number"),
    "a table for a number": (HEAD + "[model.width]\nx = 1\n", "it must be a whole number"),
    "an empty list": (HEAD + "[model]\nhead_channels = []\n", "must have 3 entries"),
    "a list with a truth": (
        HEAD + "[model]\nhead_channels = [1, true, 2]\n",
        r"head_channels\[1\] is True; it must be a whole",
    ),
    "an escape in a key": (HEAD + '[model]\n"dr\\u001b[2Jift" = 1\n', "unknown key"),
    "an escape in a word": ('about = "a\\u001b[2J"\nsource = "s"\naxis = "x"\n', "without control characters"),
    "an escape in a claim": (
        HEAD + 'claim = { metric = "fd", expect = "same", because = "\\u001b[2J" }\n',
        r"claim\[0\]\.because is .* without control characters",
    ),
    "two byte order marks": ("\ufeff\ufeff" + HEAD, "cannot be read as TOML"),
    "a null byte": (HEAD + "\0", "cannot be read as TOML"),
    "the same key twice": (HEAD + 'about = "b"\n', "cannot be read as TOML"),
}


@pytest.mark.parametrize("name", TOML)
def test_hostile_toml_is_one_line(user: Path, name: str) -> None:
    content, message = TOML[name]
    (user / "bad.toml").write_text(content, encoding="utf-8")
    refused(lambda: variants.resolve(variants.load("bad"), "smoke"), VariantError, message)


def test_files_that_are_not_text_or_not_files(user: Path) -> None:
    path = user / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    refused(lambda: variants.load("bad"), VariantError, "cannot be read as TOML")
    path.unlink()
    path.symlink_to(path)
    refused(lambda: variants.load("bad"), VariantError, "cannot be read as TOML: .*symbolic links")
    path.unlink()
    os.mkfifo(path)
    refused(lambda: variants.load("bad"), VariantError, "not a regular file")


@pytest.mark.parametrize(
    "name", [ESCAPE, "a\nb", "-rf", "a b", "x" * 65, "a+b", "\u202etxt", "caf\u00e9", "..x", "$(ls)", "a\tb"]
)
def test_a_file_that_cannot_be_a_name_is_refused_printably(user: Path, name: str) -> None:
    (user / f"{name}.toml").write_text(HEAD)
    if name.startswith("."):
        assert name not in variants.names()
        return
    with pytest.raises(VariantError, match="cannot be a variant's name") as caught:
        variants.names()
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", "..", ".", "con\\..\\x", "%2e%2e", "\x00", ESCAPE])
def test_a_name_that_is_asked_for_never_becomes_a_path(user: Path, name: str) -> None:
    (user.parent / "up.toml").write_text(HEAD)
    refused(lambda: variants.load(name), VariantError, "unknown variant")


@given(name=st.text(max_size=300), data=st.text(max_size=60))
def test_a_runs_name_is_one_folder_of_a_length_that_file_systems_take(name: str, data: str) -> None:
    (spec,) = plan(["no_drift"], [0], "smoke")
    run_id = RunSpec("+".join(["no_drift"] * 40), "x", "smoke", 0, spec.config).run_id(data, name)
    assert len(run_id) < 230
    assert "/" not in run_id
    assert run_id.isprintable()


@given(text=st.text(max_size=40) | st.from_regex(r"[0-9,\- ]{0,30}", fullmatch=True))
@example("0-999999999")
@example("9" * 5000)
@example("\u0663")  # a digit, but not one of ours
def test_seeds_are_a_list_or_an_error(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except VariantError:
        return
    assert seeds
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 10**9 for seed in seeds)


KEYS = sorted(f"{section}.{key}" for section, kind in sections("kpn").items() for key in kind.model_fields)
VALUES = st.one_of(
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.booleans(),
    st.text(max_size=8),
    st.lists(st.integers(-5, 200), max_size=4),
)


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\u{ord(c) % 0xD800:04x}" for c in value) + '"'
    return repr(value)


@settings(max_examples=150)
@given(changes=st.dictionaries(st.sampled_from([*KEYS, "model.drfit", "x.y"]), VALUES, min_size=1, max_size=3))
def test_a_variant_is_a_configuration_or_an_error(user: Path, changes: dict[str, object]) -> None:
    body = "".join(f"{key} = {as_toml(value)}\n" for key, value in changes.items())
    (user / "drawn.toml").write_text(HEAD + body)
    try:
        config = variants.resolve(variants.load("drawn"), "smoke")
    except VariantError:
        return
    assert variants.from_json(config.to_json(), "smoke").settings() == config.settings()


@settings(max_examples=150)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_variant_or_an_error(user: Path, content: bytes) -> None:
    (user / "drawn.toml").write_bytes(content)
    with pytest.raises(VariantError):
        variants.load("drawn")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*sections("kpn"), "width", "x"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(text=st.text(max_size=50) | JSON.map(json.dumps))
@example("[" * 100_000)
@example('{"train": {"ema": "x"}}')
@example('{"model": {"upscaler_channels": 3}}')
@example('{"model": {"kernel": "foo"}}')
@example('{"model": {"width": 64.0}}')
def test_a_rows_configuration_is_one_or_an_error(text: str) -> None:
    try:
        config = variants.from_json(text, "smoke")
    except VariantError:
        return
    assert isinstance(config, Config)
    found = json.loads(text)
    assert all(value == config.settings()[section][key] for section in found for key, value in found[section].items())
    assert type(config.model.width) is int
    assert config.model.kernel in KERNEL_WEIGHTS


def png(size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_a_zip_never_writes_outside_or_anywhere(tmp_path: Path) -> None:
    names = ["../../evil.png", "/tmp/ablate-evil.png", "a/../../evil2.png", "C:\\evil.png", "..\\evil3.png"]
    (tmp_path / "deep" / "er").mkdir(parents=True)
    path = zipped(tmp_path / "deep" / "er" / "slip.zip", dict.fromkeys(names, png()))
    before = sorted(tmp_path.rglob("*"))
    assert len(read_images(path, size=8)) == len(names)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/ablate-evil.png").exists()


def lying_size(path: Path, size: int) -> Path:
    """A zip that says its one entry is so long."""
    content = zipped(path, {"a.png": png()}).read_bytes()
    true = len(png()).to_bytes(4, "little")
    assert content.count(true) >= 2
    path.write_bytes(content.replace(true, size.to_bytes(4, "little")))
    return path


def header_bomb(path: Path) -> Path:
    """An array that says it has a hundred terabytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (10**8, 1000, 1000, 1)}
    )
    return zipped(path, {"images.npy": file.getvalue()})


def linked(folder: Path) -> Path:
    (folder / "loop.png").symlink_to(folder / "loop.png")
    return folder


def around(folder: Path) -> Path:
    """A folder that contains itself, and an image: the loop is not followed."""
    (folder / "again").symlink_to(folder)
    (folder / f"x{ESCAPE}.png").write_bytes(b"nonsense")
    return folder


DATA: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a bomb of zeros": (lambda p: zipped(p / "a.zip", {"a.png": bytes(300 * 2**20)}), r"allowed: 268,435,456 for one"),
    "a size that lies low": (lambda p: lying_size(p / "a.zip", 20), r"a\.png: cannot be read"),
    "a size that lies high": (lambda p: lying_size(p / "a.zip", 2**31), r"a\.png: 2,147,483,648 bytes; allowed"),
    "a header that lies": (lambda p: header_bomb(p / "a.npz"), r"needs 100,000\.0 GB of memory, there are"),
    "a link to itself": (linked, r"loop\.png: not a regular file"),
    "a folder in itself, a name with an escape": (around, r"x\\x1b\[2J\.png: not an image"),
    "a name with an escape in a zip": (
        lambda p: zipped(p / "a.zip", {f"{ESCAPE}.png": b"x"}),
        r"\\x1b\[2J\.png: not an image",
    ),
    "a source with an escape": (lambda p: p / f"{ESCAPE}.zip", r"\\x1b\[2J\.zip: no such file"),
    "an array's name with an escape": (
        lambda p: zipped(p / "a.npz", {f"{ESCAPE}.npy": b"x"}),
        r"not an \.npz of plain",
    ),
    "a zip in a zip": (lambda p: zipped(p / "a.zip", {"b.zip": b"PK"}), "no images found"),
}


@pytest.mark.parametrize("name", DATA)
def test_hostile_images_are_one_printable_line(tmp_path: Path, name: str) -> None:
    arrange, message = DATA[name]
    source = arrange(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_images(source, size=8)
    assert str(caught.value).isprintable()


def test_more_images_than_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "a.zip", {f"{i}.png": b"not read" for i in range(100)})
    monkeypatch.setattr(host, "host_bytes", lambda: 100 * 3 * 64 * 64 - 1)
    refused(lambda: read_images(path, size=64), DataError, r"100 images of 64 x 64 needs 0\.0 GB of memory")


def test_what_steers_a_terminal_is_shown_as_its_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printable("a\x1b[2J\u202e\x07\udcff caf\u00e9") == "a\\x1b[2J\\u202e\\x07\\udcff caf\u00e9"
    monkeypatch.setattr(sys, "argv", ["ablate", "show", f"x{ESCAPE}"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "\x1b" not in capsys.readouterr().err


def test_a_table_from_elsewhere_does_not_steer_the_terminal(tmp_path: Path) -> None:
    done = {"run_id": "r", "variant": f"v{ESCAPE}", "preset": "smoke", "seed": 0, "status": "done", "fd": 1.0}
    failed = done | {"run_id": "f", "status": "failed", "error": f"{ESCAPE}\u202e", "seed": 1}
    tables.append(tmp_path, {"runs": [{**row, "data": ESCAPE} for row in (done, failed)]})
    for format_ in ("rich", "markdown", "json"):
        shown = CliRunner().invoke(cli.app, ["report", "--results", str(tmp_path), "--format", format_])
        assert shown.exit_code == 0, shown.output
        assert "\x1b[2J" not in shown.output
        assert "\u202e" not in shown.output


ROW = {"run_id": "r", "variant": "v", "preset": "smoke", "data": "d", "seed": 0, "status": "done", "fd": 1.0}


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "/tmp/x", "a\\b", "C:x", "a\0", "a\n", ESCAPE, "x" * 231, "\ud800"]
)
def test_a_runs_name_from_a_table_is_one_part_of_a_path_or_refused(tmp_path: Path, name: str) -> None:
    for folder_of in (run_folder, new_working_folder, new_folder):
        refused(lambda of=folder_of: of(tmp_path, name), ResultsError, "cannot be a run")


def test_doctor_clears_only_what_ablate_wrote(tmp_path: Path) -> None:
    tables.append(tmp_path / "results", {"runs": [ROW]})
    ours = ["results/artifacts/v-smoke-d-s1-0123abcd/samples.png", "cache/cats/" + "0" * 64 + ".npz"]
    ours += ["results/.removed/v-smoke-d-s2-0123abcd/model.safetensors"]
    theirs = ["results/artifacts/my_model/model.safetensors", "results/artifacts/v-smoke-d-s1-0123abcf/thesis.tex"]
    theirs += ["results/.removed/mine.txt", "cache/cats/mine.npz", "cache/weights/mine/model.safetensors"]
    for name in ours + theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for words in (("orphans", "--results", "results"), ("all",)):
        assert command.ablate("doctor", "--clear", *words, cwd=tmp_path, ABLATE_CACHE="cache").returncode == 0
    assert [name for name in ours + theirs if (tmp_path / name).exists()] == theirs
    assert any(
        "a folder that no run wrote" in found.what for found in health.examine(tmp_path / "results", ()).findings
    )


def test_a_long_message_keeps_its_beginning_and_the_advice() -> None:
    long = f"--where {'x' * 100_000}: cannot be read; give a shorter one"
    assert message(long) == f"--where {'x' * 50}...{'x' * 19}: cannot be read; give a shorter one"
    assert message("a " * 400 + "b; fix it") == "a " * 144 + "a...; fix it"
    assert len(message("a " * 400)) == len(message("; " * 400)) == 300
    assert message("short") == "short"


@pytest.mark.parametrize("words", [[f"{ESCAPE}{'x' * 1000}"], ["ls", f"--{ESCAPE}"], ["ls", "--results", "x" * 1000]])
def test_wrong_words_are_one_printable_line(tmp_path: Path, words: list[str]) -> None:
    done = command.ablate(*words, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()
    assert len(line) <= 300
    assert done.returncode == (1 if "--results" in words else 2)


def test_control_characters_of_a_table_reach_no_command(tmp_path: Path) -> None:
    rows = [ROW | {"run_id": f"r{ESCAPE}{seed}", "data": f"\x9b{ESCAPE}", "seed": seed} for seed in range(2)]
    rows += [row | {"run_id": row["run_id"] + name, "variant": name} for row in rows for name in ("b", f"c{ESCAPE}")]
    tables.append(tmp_path, {"runs": rows, "curves": [{"run_id": f"gone{ESCAPE}", "step": 1}]})
    for line in ("ls", "ls --json", "report --against v", "compare v b",
                 "report --against v --format csv", "compare v b --json"):  # fmt: skip
        done = command.ablate(*line.split(), "--results", str(tmp_path), cwd=tmp_path, ABLATE_CACHE="cache")
        assert done.returncode == 0, done.stderr
        assert printable_lines(done.stdout + done.stderr) == done.stdout + done.stderr
        if line.endswith("--json"):
            json.loads(done.stdout)


@pytest.mark.parametrize(
    "cell", ['"a"', "[]", "{}", '{"x": []}', "[[1]]", "null", "true", "1e999", "9" * 4000, "-0.0", '"\\u001b[2J"']
)
@pytest.mark.parametrize("column", ["variant", "seed", "acc"])
def test_any_cell_of_scores_in_json_is_judged_or_one_line(tmp_path: Path, column: str, cell: str) -> None:
    rows = [{"variant": f'"{name}"', "seed": str(seed), "acc": "0.5"} for name in "ab" for seed in range(3)]
    rows[1][column] = cell
    text = ", ".join("{" + ", ".join(f'"{key}": {value}' for key, value in row.items()) + "}" for row in rows)
    (tmp_path / "scores.json").write_text(f"[{text}]")
    done = command.ablate("judge", "scores.json", cwd=tmp_path)
    assert done.returncode in (0, 1)
    assert [line.startswith("error: ") for line in done.stderr.splitlines()][: done.returncode] == [
        True
    ] * done.returncode


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_before_the_command_line_is_imported_ends_at_once() -> None:
    code = "import os, signal, sys\nclass Stop:\n def find_spec(self, name, *rest):\n  name == 'ablate.cli' and os.kill(os.getpid(), signal.SIGINT)\nsys.meta_path.insert(0, Stop())\nfrom ablate.__main__ import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_table_without_names_of_runs_or_with_texts_that_are_none_is_damaged(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [ROW]})
    path = tmp_path / "runs.parquet"
    table = pq.read_table(path)
    no_text = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    for name, column in (("run_id", pa.nulls(1, pa.string())), ("variant", no_text), ("error", no_text)):
        at = table.column_names.index(name)
        pq.write_table(table.set_column(at, pa.field(name, pa.string()), column), path)
        for line in ("report", "ls", "doctor --clear orphans"):
            done = command.ablate(*line.split(), "--results", ".", cwd=tmp_path)
            assert done.stderr.startswith("error: runs.parquet: damaged ("), done.stderr
    pq.write_table(pa.table({"variant": no_text, "seed": [0], "acc": [1.0]}), tmp_path / "scores.parquet")
    assert "scores.parquet: cannot be read: " in command.ablate("judge", "scores.parquet", cwd=tmp_path).stderr
    frame = pd.DataFrame({"variant": list("aabb"), "seed": [0, 1, 0, 1], "acc": [0.1, 0.2, 0.3, 0.4]}).astype(
        {"variant": "string"}
    )
    noted = pa.Table.from_pandas(frame)
    for damage in (b'"stjing"', b'"\x9f"'):
        broken = {key: value.replace(b'"string"', damage) for key, value in noted.schema.metadata.items()}
        pq.write_table(noted.replace_schema_metadata(broken), tmp_path / "scores.parquet")
        assert command.ablate("judge", "scores.parquet", "--against", "a", cwd=tmp_path).returncode == 0


def test_a_row_without_a_digest_of_its_weights_is_refused(tmp_path: Path) -> None:
    (spec,) = plan(["no_drift"], [0], "smoke")
    row = ROW | {"config": spec.config.to_json(), "precision": "fp32"}
    tables.append(tmp_path, {"runs": [row]})
    (tmp_path / "artifacts" / "r").mkdir(parents=True)
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "artifacts" / "r" / "model.safetensors")
    done = command.ablate("sample", "r", "-n", "1", "-o", "x.png", "--results", ".", cwd=tmp_path)
    assert "the run's row has no digest of it" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory")
def test_libraries_that_find_no_memory_are_one_line(tmp_path: Path) -> None:
    tables.append(tmp_path, {"runs": [ROW]})
    code = "import resource as r; r.setrlimit(r.RLIMIT_AS, (3 * 10**8,) * 2); from ablate.__main__ import main; main()"
    words = [sys.executable, "-c", code, "report", "--results", "."]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.stderr.startswith("error: out of memory: ")
    assert len(done.stderr.splitlines()) == done.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="closes files by their numbers")
@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_stream_is_one_that_says_nothing(tmp_path: Path, closed: int) -> None:
    code = f"import os; os.closerange({closed}, {closed} + 1); os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'ablate', 'init'])"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ablate init: of what?") or (closed, done.stderr) == (2, "")


SMALL = HEAD + command.CHEAP


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing_and_the_run_goes_on_when_there_is_room(user: Path) -> None:
    import resource
    import signal

    np.savez("set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    (user / "small.toml").write_text(SMALL)
    earlier = {"run_id": "earlier", "variant": "v", "preset": "smoke", "seed": 0, "status": "done"}
    tables.append(Path("results"), {"runs": [earlier]})

    @contextmanager
    def full(limit: int) -> Iterator[None]:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            signal.signal(signal.SIGXFSZ, handler)

    def ablate(*words: str) -> subprocess.CompletedProcess[str]:
        return command.ablate(*words, cwd=user.parent, ABLATE_CACHE="cache", ABLATE_OFFLINE="1")

    run = ("run", "--preset", "smoke", "--data", "set.npz", "--variant", "small", "--no-baseline")
    # Bytes a file: the tables fit and a checkpoint does not; then a checkpoint does and an image does not.
    for limit in (60_000, 300_000):
        with full(limit):
            done = ablate(*run)
        assert done.returncode == 1, done.stderr
        error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(error) == 1
        assert "cannot be written" in error[0]
        assert "Traceback" not in done.stderr
        assert tables.read(Path("results"), "runs")["run_id"].tolist()[0] == "earlier"
        assert [path for path in Path("results").rglob("*") if is_temporary(path)] == []
    done = ablate(*run)
    assert done.returncode == 0, done.stderr
    assert sorted(tables.read(Path("results"), "runs")["status"]) == ["done", "done"]
    model = next(Path("results").rglob("model.safetensors"))
    model.write_bytes(model.read_bytes()[:1000])
    shown = ablate("sample", "small", "-n", "1", "-o", "x.png")
    assert shown.returncode == 1
    assert "model.safetensors: damaged" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert not Path("x.png").exists()
    shutil.rmtree("results")


def test_a_width_of_thousands_of_digits_is_no_width(tmp_path: Path) -> None:
    digits = "9" * 5000
    done = command.ablate("list", cwd=tmp_path, COLUMNS=digits, LINES=digits)
    assert done.returncode == 0, done.stderr
