"""The GitHub action's steps, run by bash in their order, with a stand-in for GitHub's own commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "results" / "studies" / "quick_cats"


def run_action(folder: Path, **inputs: str) -> tuple[int, str]:
    """Return the action's exit code and the comment that it made."""
    action: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
    assert not inputs.keys() - action["inputs"].keys()
    values = {name: one.get("default", "") for name, one in action["inputs"].items()} | inputs
    (folder / "bin").mkdir()
    command = '#!/bin/bash\nprintf "%s\\n" "$*" >>calls\ncp "${@: -1}" comment\n'
    python = f'#!/bin/bash\nexec {sys.executable} -c "from ablate.cli import main; main()" "$@"\n'
    for name, script in (("gh", command), ("ablate", python)):
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    outputs = {name: folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    known = {f"inputs.{name}": value for name, value in values.items()}
    known |= {"github.token": "t", "github.event.pull_request.number": "7", "github.action_path": str(ROOT)}
    code = 0
    for step in action["runs"]["steps"]:
        if step["name"] == "Install":  # what the test runs is installed
            continue
        if outputs["GITHUB_OUTPUT"].is_file():
            known["steps.gate.outputs.code"] = outputs["GITHUB_OUTPUT"].read_text().strip().removeprefix("code=")
        own = {key: re.sub(r"\$\{\{ (.*?) \}\}", lambda m: known[m[1]], text) for key, text in step["env"].items()}
        environment = {**os.environ, **own, **{name: str(path) for name, path in outputs.items()}}
        environment |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        # As GitHub starts bash.
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        code = subprocess.run(words, cwd=folder, env=environment, check=False).returncode
    assert (folder / "calls").read_text().startswith("pr comment 7 ")
    assert outputs["GITHUB_STEP_SUMMARY"].read_text() == (folder / "comment").read_text()
    return code, (folder / "comment").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not STUDY.is_dir(), reason="the shipped studies are not here")
@pytest.mark.parametrize(("variant", "code", "word"), [("no_drift", 0, "passed"), ("normalized", 1, "failed")])
def test_the_action_gates_and_comments_the_report(tmp_path: Path, variant: str, code: int, word: str) -> None:
    inputs = {"metric": "fd", "max-regression": "10%", "results": str(STUDY), "variant": variant}
    ended, comment = run_action(tmp_path, **inputs)
    assert ended == code
    assert f"preset quick, data cats): {word}" in comment
    assert "### fd, lower is better" in comment


def test_the_documented_workflow_gives_the_actions_inputs() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "report.md").read_text(), re.DOTALL)
    step = yaml.safe_load(block)["jobs"]["gate"]["steps"][-1]
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    assert {name for name, one in inputs.items() if one.get("required")} <= step["with"].keys() <= inputs.keys()


def test_workflows_run_the_scripts_that_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    script = (ROOT / ".ci" / "run").read_text()
    assert all(re.search(rf"^{re.escape(hook['entry'])}$", script, re.MULTILINE) for hook in hooks)
