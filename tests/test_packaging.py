"""The wheel and the source archive hold every file that the package reads while it runs."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

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
