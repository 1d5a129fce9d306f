"""The wheel and the source archive hold every file that the package reads while it runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from ablate.base.errors import EXTRAS, install

ROOT = Path(__file__).parents[1]
DATA = {
    *(f"ablate/variants/{path.relative_to(ROOT / 'variants')}" for path in (ROOT / "variants").rglob("*.toml")),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "ablate").rglob("*") if path.suffix in (".html", ".css", ".js")),
}


def build(target: str, project: Path, folder: Path) -> Path:
    words = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(words, cwd=project, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    return archive


@pytest.mark.slow
def test_the_wheel_holds_variants_presets_and_templates_also_when_built_from_the_source_archive(tmp_path: Path) -> None:
    assert len(DATA) > 15 + 4 + 3
    direct = build("wheel", ROOT, tmp_path / "direct")
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (project,) = (tmp_path / "unpacked").iterdir()
    from_sdist = build("wheel", project, tmp_path / "from_sdist")
    with zipfile.ZipFile(direct) as wheel, zipfile.ZipFile(from_sdist) as other:
        names = {name for name in wheel.namelist() if name.startswith("ablate/")}
        assert set(other.namelist()) == set(wheel.namelist())
        assert {name for name in names if not name.endswith((".py", ".pyi", ".json", "py.typed"))} == DATA
        assert {f"ablate/{path.relative_to(ROOT / 'ablate')}" for path in (ROOT / "ablate").rglob("*.py")} <= names
    assert direct.name.startswith("ablate_harness-")


# Runs the command line as if the extras were not installed.
WITHOUT_EXTRAS = f"""
import sys
sys.modules.update(dict.fromkeys({[name for packages in EXTRAS.values() for name in packages]!r}))
from ablate.cli import main
for words in sys.argv[1:]:
    sys.argv = ["ablate", *words.split()]
    try:
        main()
    except SystemExit as ended:
        print(words, "ended with", ended.code, flush=True)
"""


def without_extras(*commands: str) -> subprocess.CompletedProcess[str]:
    """Run commands, in one process, without what the extras install."""
    words = [sys.executable, "-c", WITHOUT_EXTRAS, *commands]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_the_base_install_lists_reports_judges_and_diagnoses(tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("variant,seed,loss\n" + "".join(f"{v},{s},{s + (v == 'b')}\n" for v in "ab" for s in range(6)))
    study = "--results results/studies/quick_cats"
    commands = (
        "list",
        f"report {study}",
        f"ls {study} --where seed<1",
        f"judge {scores} --against a",
        f"doctor {study}",
    )
    done = without_extras(*commands)
    assert "Traceback" not in done.stderr
    assert re.findall(r"^.* ended with (\d+)$", done.stdout, re.MULTILINE) == ["0"] * len(commands)
    advice = f"torch: not installed, so nothing can be trained or measured here; fix: {install('train')}"
    assert advice in " ".join(done.stdout.split())  # the terminal wraps it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [("run --preset smoke", "torch", "train"), ("report -o {page} --results results/studies/quick_cats", "", "page")],
)
def test_what_needs_an_extra_names_it_in_one_line(tmp_path: Path, command: str, package: str, extra: str) -> None:
    done = without_extras(command.format(page=tmp_path / "page.html"))
    assert re.fullmatch(rf"error: .*{package}.* is not installed; fix: {re.escape(install(extra))}\n", done.stderr)
    assert "ended with 1" in done.stdout


def test_the_list_of_optional_packages_is_that_of_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    modules = metadata.packages_distributions()
    for extra, packages in EXTRAS.items():
        names = {re.split(r"[<>=\[]", requirement)[0].lower().replace("_", "-") for requirement in extras[extra]}
        known = [name for name in packages if name in modules]
        found = {modules[name][0].lower().replace("_", "-") for name in known}
        assert found <= names
        assert len(packages) == len(names)
