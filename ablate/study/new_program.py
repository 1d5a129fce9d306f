"""The files that `ablate init --program` writes: a baseline, a variant, a preset and a README.

Without a command they are of a small example program, which is written too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ablate.base.errors import AblateError
from ablate.base.text import printable

# Names of options, hyphens as underscores.
OUT_OPTIONS = (
    *("out", "output", "outdir", "out_dir", "output_dir", "work_dir", "workdir"),
    *("save_dir", "log_dir", "logdir", "run_dir"),
)
LENGTHS = ("steps", "max_steps", "num_steps", "epochs", "num_epochs", "max_epochs", "iterations", "iters")

EXAMPLE = '''"""An example to replace: logistic regression on two noisy clouds of points."""

import argparse
import json
import math
import random

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--steps", type=int, required=True)
options = parser.parse_args()

random.seed(options.seed)


def points(count):
    return [(random.gauss(label, 1.5), random.gauss(-label, 1.5), label > 0) for label in (-1, 1) for _ in range(count)]


train, test, weights = points(200), points(2000), [0.0, 0.0, 0.0]
for step in range(options.steps):
    x, y, label = random.choice(train)
    error = 1 / (1 + math.exp(-(weights[0] * x + weights[1] * y + weights[2]))) - label
    weights = [w - options.lr * error * feature for w, feature in zip(weights, (x, y, 1.0))]

right = sum((weights[0] * x + weights[1] * y + weights[2] > 0) == label for x, y, label in test)
with open(f"{options.out}/metrics.json", "w") as file:
    json.dump({"accuracy": right / len(test)}, file)
'''


def program_files(words: Sequence[str]) -> dict[str, str]:
    """Return path -> content, for a folder that has none of them.

    Args:
        words: The user's command, as in `python train.py --lr 0.1 --epochs 5`; empty: an example.
            Its options become `[options]`.

    Raises:
        AblateError: An option that cannot be read.
    """
    example = not words
    command, options = _parse(words or ("python", "train.py", "--lr", "0.03", "--steps", "2000"))
    listed = ", ".join(map(_toml, command))
    given = [word for word in words if word.startswith("--")]
    assumed = [f"--{place}" for place in ("seed", "out") if f"--{place}" in command and f"--{place}" not in given]
    places = f"  # added by ablate init: {' and '.join(assumed)}" if assumed and not example else ""
    variant, change = _first_change(options)
    files = {"train.py": EXAMPLE} if example else {}
    return files | {
        "variants/baseline.toml": f'''about  = "The program as it is."
source = "{"an example" if example else "own work"}"
axis   = "baseline"

[program]
command = [{listed}]{places}

[program.metrics]  # what the study is judged by; delete it to be judged by all that metrics.json holds
{'accuracy = "higher"' if example else '# accuracy = "higher"'}

[options]
{"".join(f"{_key(name)} = {_toml(value)}{chr(10)}" for name, value in options.items())}''',
        f"variants/{variant}.toml": f'''about  = "One change, as an example."
source = "own work"
axis   = "{variant}"
{change}''',
        "variants/presets/smoke.toml": _smoke(options),
        "variants/README.md": f"""# A study with `ablate`

- `baseline.toml`: the command, and its options with their usual values
- `{variant}.toml`: a variant, that is what one change sets; add a file for each change
- `presets/smoke.toml`: options of a run of seconds

    ablate check                                     # does the program fit?
    ablate run --preset smoke --variant {variant}
    ablate run --variant {variant} --seeds 0-5
    ablate report
""",
    }


def write_new(folder: Path, files: dict[str, str]) -> list[Path]:
    """Write files that must not exist yet, and return their paths.

    Raises:
        AblateError: One exists, or cannot be written.
    """
    for name in files:
        if (folder / name).exists() and name != "train.py":
            raise AblateError(f"{folder / name}: exists already; ablate init writes a new registry only")
    if (folder / "train.py").exists() and "train.py" in files:
        raise AblateError("train.py: exists already; if it is your program: ablate init --program python train.py")
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, "utf-8")
    except OSError as error:
        raise AblateError(f"{folder / name}: cannot be written ({error.strerror})") from None
    return [folder / name for name in files]


def _parse(words: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """Return the command with placeholders, and its options."""
    command, options, rest = list[str](), dict[str, object](), list(words)
    places = {"seed": "", "out": ""}  # word -> how the command spells it
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            if options:
                raise AblateError(f"{printable(word)}: words after options belong in baseline.toml; leave it out here")
            command.append(word.replace("{", "{{").replace("}", "}}"))
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals and rest and not rest[0].startswith("--"):
            equals, value = "=", rest.pop(0)
        place = "out" if _plain(name) in OUT_OPTIONS else name
        if place in places:
            places[place] = f"--{name}"
        else:
            options[name] = _value(value) if equals else True
    for place, spelled in places.items():
        command += [spelled or f"--{place}", f"{{{place}}}"]
    return [*command, "{options}"] if options else command, options


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()


def _value(text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else _toml(name)


def _first_change(options: dict[str, object]) -> tuple[str, str]:
    """Return a variant's name, and its table: the first number is halved."""
    for name, value in options.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and _plain(name) not in LENGTHS:
            half = value / 2 if isinstance(value, float) else value // 2
            if half != value:
                return f"half_{_plain(name)}", f"\n[options]\n{_key(name)} = {_toml(half)}\n"
    return "changed", '\n[program.environment]  # or [options], with another value of one\nMY_CHANGE = "1"\n'


def _smoke(options: dict[str, object]) -> str:
    lengths = {name: value for name, value in options.items() if _plain(name) in LENGTHS and isinstance(value, int)}
    shorter = {name: max(1, value // 100) for name, value in lengths.items() if value > 1}
    if not shorter:
        return "# Options of a run of seconds go to [options].\n[program]\ntimeout_s = 600\n"
    return "[options]\n" + "".join(f"{name} = {value}\n" for name, value in shorter.items())
