"""The inputs of `fuzz.py`, by kind: each function changes the files of a folder and returns a command for it."""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from command import CHEAP
from PIL import Image
from safetensors.numpy import save_file

from ablate.cli import app

WRITES = ("results", "study", "out", "cache", "home/.cache", "__pycache__")  # what most commands may change
VARIANT = 'about = "a"\nsource = "s"\naxis = "x"\n[model]\ndrift_channels = 4\n[sample]\nnum_steps = 2\n'
VARIANT += CHEAP.replace("[train]", "[train]\nsteps = 2")
RUN = "run --preset smoke --data set.npz -v one --no-baseline"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
# fmt: off
TEXTS = (
    *("", " ", ".", "..", "../outside/x", "/", "a/b", "-", "--", "\\", "%s", "{}", "*", "nan", "inf", "-1", "0", "1", "2"),
    *("1e309", "0x" + "f" * 5000, "9" * 5000, "٣", "x" * 300, "é" * 200, "y" * 100_000, ESCAPES, "a\nb", "\t", "\udcff"),
    *("cats", "results", "study", "set.npz", "images", "one", "baseline", "no_drift", "one,one", "one+one", "fd", "fd,pd"),
    *("smoke", "0-3", "3-0", "0-99999999999", "seed < 3", "variant ==", "(" * 500, "__import__('os')", "true", "5%", "7"),
)
NUMBERS = (None, 0, -1, 1, 2**31, 2**62, -(2**62), 1e308, float("nan"), float("inf"), -0.0, 5e-324)
READERS = (
    "ls", "ls --json", "report", "report --json", "report --full --format latex", "report --format csv", "report -o out.html",
    "report --variant one --against baseline", "compare one baseline", "gate -m fd --max-regression 5%", "doctor --results results",
    "sample one -n 1 -o out.png", "bench one --rounds 5 --batch 1 --schemes fp32", "plan -v one --preset smoke --data set.npz", "merge study results -o out", "push one ./out",
)
WRITERS = (
    "doctor --clear orphans --results results", "rm one-smoke -y", "rm --where seed>=0 -y", "tag --where seed<1 x",
    RUN, f"{RUN} --force", "replay one", "import scores.csv --results study",
)
VALUES = (
    '"x"', "0x" + "f" * 6000, "9" * 5000, "nan", "[" * 2000, "{a=" * 500, "2026-11-24", "true", "''", "[1, [2]]", "-1", "1e400",
    '"\\u001b]0;x"', '"' + "x" * 10**5 + '"', "[]", "{}", "10000000000",
)
TABLES = (
    "[train]", "[program]\ncommand = ['true']", "[[model]]", "extends = 'bad'", "claim = [{}]", "[options]\nx = 1", "\0",
    f"[{ESCAPES}]",
)
PLUGINS = (
    "", "x", "import nonexistent", "raise RuntimeError('\\x1b]0;x\\x07')", "def f(:", "\0", "raise MemoryError", "1/0",
    "raise OSError(28, 'full')", "raise AssertionError('y' * 10**5)", "def f(): f()\nf()", "import ablate.nonexistent",
    *(f"import ablate\n@ablate.{kind}\n{body}" for kind, body in (
        ("model('one')", "class M: pass"), ("model('\\x1b[2J')", "class M: pass"), ("metric('m')", "def m(*a): return 1"),
        ("dataset('d')", "def d(*a): return 'x'"), ("solver(3)", "def s(): pass"),
    )),
)
JSON = (
    "[" * 10_000, '{"results": {"x": {"acc": 1e999}}}', '[{"variant": "a", "seed": 0, "acc": 1}]' * 2, "null", "[1]",
    '[{"variant": {}, "seed": [], "acc": null}]', '{"a": ' * 3000, "9" * 10_000,
)
# fmt: on


@dataclass
class Input:
    """A command, and the conditions under which it runs."""

    line: str | list[str]
    environment: dict[str, str] = field(default_factory=dict)
    streams: str = "files"
    limits: dict[int, int] = field(default_factory=dict)
    writes: tuple[str, ...] = WRITES  # what the command may change
    keeps: bool = True  # the rows of the results folders stay

    @property
    def words(self) -> list[str]:
        return self.line.split() if isinstance(self.line, str) else self.line


class Evil:
    """A pickle of it runs code."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, ("owned", "w"))


def image(draw: random.Random, kind: str) -> bytes:
    file, (height, width) = io.BytesIO(), draw.choice([(8, 8), (64, 64), (1, 300)])
    pixels = np.frombuffer(draw.randbytes(3 * height * width), np.uint8).reshape(height, width, 3)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


STRANGERS = {
    "a.onnx": b'\x08\x07\x12\x00:\x10\n\x0e\x12\x01x\x1a\x01y"\x04Relu' * 3,
    "a.pkl": pickle.dumps(Evil()),
    "a.zip": b"PK\x05\x06" + bytes(18),
    "a.elf": Path(sys.executable).read_bytes()[:5000],
    "a.png": image(random.Random(0), "PNG"),
    "a.csv": b"a,b\n1,2\n",
    "a.tar": bytes(1024),
    "a.gz": b"\x1f\x8b\x08" + bytes(30),
    "a.safetensors": b"\xff" * 8 + b"{}",
    "a.html": b"<script>" + ESCAPES.encode(),
}


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Return a file's content with flipped bits, cut off, repeated, or of another kind."""
    data = bytearray(content)
    match draw.randrange(6):
        case 0:
            return bytes(data[: draw.randrange(len(data) + 1)])
        case 1:
            return draw.choice([b"", b"\0" * 100, draw.randbytes(300), *STRANGERS.values()])
        case 2:
            at, size = draw.randrange(len(data) + 1), draw.choice([1, 8, 1000])
            return bytes(data[:at] + data[max(0, at - size) : at] * draw.choice([1, 50]) + data[at:])
    for _ in range(draw.choice([1, 3, 30]) if data else 0):
        near = min(len(data), draw.choice([64, 1000, len(data)]))  # headers are at the beginning, footers at the end
        at = draw.randrange(near) if draw.random() < 0.5 else -1 - draw.randrange(near)
        data[at] ^= 1 << draw.randrange(8) if draw.random() < 0.5 else draw.randrange(256)
    return bytes(data)


def rewrite(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="replace"))


def command_lines(draw: random.Random, folder: Path) -> Input:
    """A command with random options and values."""
    name = draw.choice(sorted(COMMANDS))
    words = [name] if draw.random() < 0.97 else [draw.choice(TEXTS)]
    for param in draw.sample(COMMANDS[name].params, min(len(COMMANDS[name].params), draw.randrange(6))):
        option = draw.choice(param.opts) if param.param_type_name == "option" else ""
        if option in ("--watch", "--help", "--launcher", "--nodes", "--replicas"):
            continue  # they run until they are interrupted, or start other machines
        words += [option] if option else []
        words += [] if option and getattr(param, "is_flag", False) else [draw.choice(TEXTS)]
    words += ["--dry-run"] * (name == "run")
    written = os.listdir(folder) if name != "init" else ["train.py", "model.py", "variants"]
    return Input(words, writes=(*WRITES, *written), keeps=name not in ("rm", "import", "tag"))


def toml(draw: random.Random, folder: Path) -> Input:
    """Files of variants, presets and baselines, and --set."""
    lines = VARIANT.splitlines()
    for _ in range(draw.randrange(4)):
        at = draw.randrange(len(lines))
        changed = f"{lines[at].partition('=')[0] or draw.choice(TEXTS)} = {draw.choice(VALUES)}"
        lines[at] = changed if draw.random() < 0.8 else draw.choice(TABLES)
    content = "\n".join(lines).encode(errors="replace")
    content = damaged(draw, content) if draw.random() < 0.3 else content
    rewrite(
        folder / "variants" / draw.choice(["bad", "presets/bad", "baseline", "one", "presets/smoke"]).__add__(".toml"),
        content,
    )
    dry = "run --dry-run --preset smoke --data set.npz"
    words = draw.choice(
        [
            "list",
            "show bad",
            "list --json",
            "show one --preset bad",
            f"{dry} -v bad",
            f"{dry} -v one",
            "plan -v bad --preset smoke --data set.npz",
            "report",
            "ls",
        ]
    ).split()
    if "run" in words and draw.random() < 0.3:
        words += ["--set", f"{draw.choice(['train.lr', 'model.width', 'x', 'train'])}={draw.choice(TEXTS)}"]
    return Input(words)


def tables(draw: random.Random, folder: Path) -> Input:
    """Tables: bits, types, nulls, texts, keys, versions."""
    where = draw.choice(["results", "study"])
    path = draw.choice(sorted((folder / where).glob("*.parquet")))
    if draw.random() < 0.35:
        rewrite(path, damaged(draw, path.read_bytes()))
    else:
        table = pq.read_table(path)
        for _ in range(draw.choice([1, 1, 3])):
            table = _other_table(draw, table)
        pq.write_table(table, path)
    line = draw.choice([*READERS, *WRITERS[:4]])
    chosen = "" if line.startswith(("merge", "doctor")) else f" --results {where}"
    return Input(line.replace("results results", f"results {where}") + chosen, keeps=False)


def _other_table(draw: random.Random, table: pa.Table) -> pa.Table:
    at = draw.randrange(table.num_columns)
    name, values, kind = table.column_names[at], table.column(at).to_pylist(), table.schema.field(at).type
    match draw.randrange(8):
        case 0:
            column = pa.array([draw.choice(NUMBERS[:7]) for _ in values])
        case 1:
            column = pa.nulls(len(values), kind)
        case 2:
            column = pa.array([draw.choice([text for text in TEXTS if text != "\udcff"]) for _ in values])
        case 3:
            version = {b"ablate.schema_version": draw.choice([b"999", b"x", b"", b"1", b"9" * 5000])}
            return table.replace_schema_metadata(draw.choice([{}, (table.schema.metadata or {}) | version]))
        case 4:
            return (
                pa.concat_tables([table, table.slice(0, 1)])
                if draw.random() < 0.5
                else table.slice(0, draw.randrange(2))
            )
        case 5:
            return table.drop_columns(name) if table.num_columns > 1 else table
        case _:  # strange values of the right type
            floats, texts = pa.types.is_floating(kind), pa.types.is_string(kind)
            some = [text for text in TEXTS if text != "\udcff"] if texts else NUMBERS if floats else NUMBERS[:7]
            try:
                column = pa.array([draw.choice([value, draw.choice(some)]) for value in values], kind)
            except (pa.ArrowException, TypeError):
                column = pa.nulls(len(values), kind)
    return table.set_column(at, pa.field(name, column.type), column)


def images(draw: random.Random, folder: Path) -> Input:
    """Folders and archives of images."""
    kinds = draw.choices(("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"), k=4)
    entries = {f"{i}.{kind.lower()}": image(draw, kind) for i, kind in enumerate(kinds)}
    for name in draw.sample(sorted(entries), draw.randrange(3)):
        other = draw.choice(
            [name, f"{ESCAPES}.png", "../outside/x.png", "a/../../b.png", "x" * 200 + ".png", "\xff.png"]
        )
        entries[other] = damaged(draw, entries.pop(name))
    source = draw.choice(["own", "own.zip"])
    if source == "own":
        for name, content in entries.items():
            rewrite(folder / source / name.replace("/", "_"), content)
    else:
        with zipfile.ZipFile(folder / source, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        rewrite(
            folder / source,
            damaged(draw, (folder / source).read_bytes()) if draw.random() < 0.5 else (folder / source).read_bytes(),
        )
    lines = (
        "measure F set.npz -m fd",
        "measure F",
        "run --dry-run --data F -v one --preset smoke",
        "measure set.npz F --size 8 --json",
    )
    return Input(draw.choice(lines).replace("F", source))


def arrays(draw: random.Random, folder: Path) -> Input:
    """Files of numpy: pickles, lying headers, other types."""
    shape = (4, 8, 8, 3)
    given = [np.zeros(shape, kind) for kind in (float, complex, ">f8", "M8[s]", bool)]
    given += [np.full(shape, value) for value in (np.nan, -np.inf, 1e30)]
    given += [np.zeros(size, np.uint8) for size in ((0, 8, 8, 3), (5,), (4, 3, 2, 9), (3, 0, 0, 3), (4, 8, 8, 1))]
    given += [np.array([Evil()], object), np.array(["x"])]
    file = io.BytesIO()
    np.savez(file, **{draw.choice(["images", "x", ESCAPES, "../outside/x", ""]): draw.choice(given)})
    content = draw.choice([file.getvalue(), file.getvalue(), (folder / "set.npz").read_bytes()])
    source = draw.choice(["bad.npz", "bad.npz", "bad.npy"])
    rewrite(folder / source, damaged(draw, content) if draw.random() < 0.4 else content)
    lines = (
        "measure F",
        "measure F set.npz",
        "run --dry-run --data F -v one --preset smoke",
        "measure set.npz F --array images",
    )
    return Input(draw.choice(lines).replace("F", source))


def weights(draw: random.Random, folder: Path) -> Input:
    """Files of weights: safetensors and pickles, of strangers."""
    names = (
        "inception_v3",
        "alexnet",
        "vgg16",
        "dinov2_vits14",
        "pt_inception-2015-12-05-6726825d",
        "alexnet-owt-7be5be79",
    )
    for name in draw.sample(names, 3):
        file = io.BytesIO()
        torch.save(
            draw.choice([Evil(), {"x": torch.zeros(2)}, {"features.0.weight": Evil()}, [1], {"state_dict": {}}]), file
        )
        key, values = (
            draw.choice(["x", "features.0.weight", ESCAPES]),
            draw.choice([np.zeros(3, np.float32), np.zeros(0, np.float16)]),
        )
        save_file({key: values}, folder / "own.safetensors")
        content = draw.choice([file.getvalue(), (folder / "own.safetensors").read_bytes(), *STRANGERS.values()])
        path = folder / "own" / f"{name}{draw.choice(['.pth', '.safetensors'])}"
        rewrite(path, damaged(draw, content) if draw.random() < 0.5 else content)
    measure = "measure set.npz set.npz -m"
    line = draw.choice(
        ["doctor --json", "doctor", "weights", "weights --json", f"{measure} lpips", f"{measure} fid", f"{measure} fd"]
    )
    return Input(f"{line} --weights own") if draw.random() < 0.6 else Input(line, {"ABLATE_WEIGHTS": "own"})


def artifacts(draw: random.Random, folder: Path) -> Input:
    """Files of runs that are missing, cut off, damaged, links, or of strangers."""
    run = next((folder / "results" / "artifacts").glob("*"))
    for path in draw.sample(sorted(run.iterdir()), 2):
        match draw.randrange(6):
            case 0:
                path.unlink()
            case 1:
                path.unlink()
                path.symlink_to(draw.choice(["/etc/passwd", path.name, "/nonexistent"]))
            case 2:
                path.unlink()
                path.mkdir()
            case _:
                rewrite(path, damaged(draw, path.read_bytes()))
    if draw.random() < 0.2:
        run.with_name(draw.choice([f"{run.name}.part", ESCAPES, "x.part"])).mkdir()
    if draw.random() < 0.4:
        table = pq.read_table(folder / "results" / "runs.parquet")
        at = table.column_names.index(
            draw.choice(["weights_digest", "samples_digest", "artifacts", "config", "autoencoder_digest"])
        )
        column = pa.array([draw.choice([None, "x", "..", "y" * 300])] * len(table), pa.string())
        pq.write_table(table.set_column(at, table.schema.field(at), column), folder / "results" / "runs.parquet")
    return Input(draw.choice([*READERS, *WRITERS[:6]]), keeps=False)


def strangers(draw: random.Random, folder: Path) -> Input:
    """Files of strangers (ONNX, archives, programs) wherever a path is asked for."""
    name = draw.choice(sorted(STRANGERS))
    rewrite(folder / name, STRANGERS[name] if draw.random() < 0.5 else damaged(draw, STRANGERS[name]))
    lines = [
        "measure F",
        "measure set.npz F",
        "run --dry-run --data F -v one",
        "list --plugin F",
        "judge F",
        "ls --results F",
    ]
    lines += [
        "import F --results out",
        "merge F -o out",
        "sample one -n 1 -o F",
        "export one -o F",
        "list --variants F",
        "report -o F",
    ]
    lines += ["doctor --weights F", "measure set.npz set.npz --weights F", "sample one -n 1 --plugin F -o out.png"]
    return Input(draw.choice(lines).replace("F", name))


def environment(draw: random.Random, folder: Path) -> Input:
    """Variables of the environment."""
    names = "ABLATE_CACHE ABLATE_WEIGHTS ABLATE_VARIANTS ABLATE_PLUGIN ABLATE_OFFLINE COLUMNS LINES TERM NO_COLOR FORCE_COLOR HOME CXX"
    names += (
        " RAY_ADDRESS TORCH_HOME XDG_CACHE_HOME LANG TZ _ABLATE_COMPLETE CUDA_VISIBLE_DEVICES GIT_DIR OMP_NUM_THREADS"
    )
    values = [value for value in TEXTS if len(value) < 100_000]
    written = (
        *WRITES,
        *os.listdir(folder),
        *(value for value in TEXTS if value.isalnum()),
        "1e309",
        "fd,pd",
        "one,one",
        "one+one",
    )
    line = draw.choice([*READERS, "list", "show one", "measure set.npz set.npz -m fd"])
    given = {name: draw.choice(values) for name in draw.sample(names.split(), 2)}
    return Input(line, given, writes=(*written, *given.values()))


def streams(draw: random.Random, folder: Path) -> Input:
    """Closed, full and broken streams, one of ASCII alone, and a terminal."""
    kind = draw.choice(
        ["no stdin", "no stdout", "no stderr", "full stdout", "full stderr", "broken", "terminal", "ascii"]
    )
    if kind != "terminal":
        line = draw.choice(
            [*READERS, *WRITERS, "list", "--help", "show one", "judge scores.csv", "x", "--version", "run --help"]
        )
        return Input(line, streams=kind, keeps=False)
    table = pq.read_table(folder / "study" / "runs.parquet")
    for name in draw.sample(["data", "error", "about", "variant", "tags", "preset"], 2):
        at = table.column_names.index(name)
        texts = pa.array([f"{row}{ESCAPES}" for row in range(len(table))], pa.string())
        table = table.set_column(at, table.schema.field(at), texts)
    pq.write_table(table, folder / "study" / "runs.parquet")
    line = draw.choice(["report", "report --full", "ls", "doctor", "compare baseline no_drift"])
    return Input(f"{line} --results study", streams=kind, keeps=False)


def limits(draw: random.Random, folder: Path) -> Input:
    """Limits of memory, of the size of files, of their number."""
    sizes = {resource.RLIMIT_FSIZE: (0, 100, 10_000, 60_000, 300_000), resource.RLIMIT_NOFILE: (3, 8, 16, 30)}
    sizes |= {resource.RLIMIT_AS: (0, 2**20, 2**24, 2**26, 2**28)}
    kind = draw.choice(list(sizes))
    # The JavaScript engine that draws plots ends the process where it has no memory.
    lines = [line for line in (*READERS, *WRITERS, "measure set.npz set.npz", "judge scores.csv") if "html" not in line]
    line = draw.choice(lines)
    return Input(line, limits={kind: draw.choice(sizes[kind])}, keeps=not line.startswith(("rm", "tag")))


def scores(draw: random.Random, folder: Path) -> Input:
    """Tables of scores for `judge` and `import`."""
    name = draw.choice(["scores.csv", "scores.json", "scores.jsonl", "scores.parquet", "scores.tsv"])
    cells = (["a", "b"], list("0123"), ["1", "2.5"])
    rows = [[draw.choice([*some, *some, draw.choice(TEXTS)]) for some in cells] for _ in range(6)]
    text = "\n".join(",".join(row) for row in [["variant", "seed", draw.choice(["acc", "loss", *TEXTS])], *rows])
    text = draw.choice([text, *JSON]) if "json" in name else text
    content = (folder / "study" / "runs.parquet").read_bytes() if "parquet" in name else text.encode(errors="replace")
    rewrite(folder / name, damaged(draw, content) if draw.random() < 0.4 else content)
    lines = (
        "judge F",
        "judge F --json",
        "import F --results out",
        "judge F --against a",
        "judge F F",
        "judge F --metric acc --full",
    )
    return Input(draw.choice(lines).replace("F", name))


def plugins(draw: random.Random, folder: Path) -> Input:
    """Plug-ins that are no plug-ins, or do not do what they must."""
    text = draw.choice(PLUGINS).encode()
    rewrite(folder / "plugin.py", damaged(draw, text) if draw.random() < 0.2 else text)
    dry = "run --dry-run -v one --preset smoke --data"
    line = draw.choice(
        [
            "list",
            "show one",
            f"{dry} set.npz",
            f"{dry} d",
            "sample one -n 1 -o out.png",
            "plan -v one --metric m --preset smoke --data set.npz",
        ]
    )
    path = draw.choice(["plugin.py", "plugin.py", "plugin.py", ".", "absent.py", "set.npz", ESCAPES, "x" * 300])
    return Input([*line.split(), "--plugin", path])


def disk(draw: random.Random, folder: Path) -> Input:
    """A file system that fills up."""
    (folder / "full").mkdir()
    size = draw.choice([16, 64, 128, 512, 1024])
    mount(folder / "full", size).check_returncode()
    (folder / "full" / "x").write_bytes(bytes(draw.randrange(size) * 1024))
    lines = [f"{RUN} --results full", "report --format latex -o full/x.tex", "merge study results -o full/m"]
    line = draw.choice([*lines, "import scores.csv --results full", "sample one -n 1 -o full/x.png", "report --json"])
    variables = draw.choice([{}, {"ABLATE_CACHE": "full/cache"}, {"TMPDIR": "full"}])
    return Input(line, variables, writes=(*WRITES, "full"))


def mount(folder: Path, kilobytes: int) -> subprocess.CompletedProcess[str]:
    """Put a small file system in memory at a folder."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True, text=True)


# fmt: off
KINDS: dict[str, Callable[[random.Random, Path], Input]] = {
    "words": command_lines, "toml": toml, "tables": tables, "images": images, "arrays": arrays, "weights": weights,
    "artifacts": artifacts, "strangers": strangers, "environment": environment, "streams": streams, "limits": limits,
    "scores": scores, "plugins": plugins, "disk": disk,
}
