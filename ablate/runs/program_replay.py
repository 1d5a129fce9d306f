"""A finished run of a program made again from its row, and a verdict on how equal its metrics are."""

from __future__ import annotations

import json
import math
import shlex
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablate.base.errors import ResultsError, VariantError
from ablate.base.progress import Progress
from ablate.base.source_code import code_of_command
from ablate.runs.program import environment_of, execute_program
from ablate.store import tables
from ablate.store.code_versions import read_version, versions_of
from ablate.study import variants
from ablate.study.plan import RunSpec
from ablate.study.program import ProgramConfig, ProgramData

if TYPE_CHECKING:
    from ablate.metrics.networks import MetricNetworks

TOLERANCE = 1e-6  # relative


@dataclass(frozen=True)
class ProgramReplay:
    """The outcome of a replay of a program."""

    run_id: str
    verdict: Literal["bit_exact", "within_tolerance", "environment_mismatch", "not_reproduced"]
    metrics: dict[str, tuple[float | None, float | None]]  # name -> (in the row, here); None: not there
    environment: dict[str, tuple[Any, Any]]  # what differs: name -> (in the row, here)


def replay_program(
    folder: Path,
    row: Mapping[str, Any],
    config: ProgramConfig,
    *,
    device: str,
    networks: Callable[[], MetricNetworks],
    progress: Progress,
    on_difference: Callable[[str, Any, Any], None],
) -> ProgramReplay:
    """Run a program again in a temporary folder, with the options of a row.

    The command is the row's too, but only if the variants here have the same: a table may come from
    anyone, and nothing that it holds is executed.

    Args:
        folder: The results folder.
        row: The run's row.
        config: Its configuration.
        device: As for `execute_program`.
        networks: Returns what images are measured with.
        progress: Bars to show.
        on_difference: Called before the program starts with each part of the environment that differs.

    Raises:
        ResultsError: The registry of the program is not here, or has another command.
        AblateError: The program fails this time.
    """
    if not variants.is_program():
        baseline = variants.own_folder() / "baseline.toml"
        raise ResultsError(f"run {row['run_id']}: of a program, but there is no {baseline} with [program]; go there")
    here: Any = variants.resolve(variants.load(variants.BASELINE), variants.DEFAULT_PRESET)
    _refuse_other_command(row, config, here)
    of_study = {name: getattr(here.program, name) for name in ("workdir", "reference", "metrics", "data")}
    config = config.replaced(program=of_study)
    differing = _differing(row, config, device)
    for part, (then, now) in differing.items():
        on_difference(part, then, now)
    spec: Any = RunSpec(row["variant"], row["axis"], row["preset"], row["seed"], config)  # type: ignore[arg-type]
    data = ProgramData(row["data"], row["data_digest"])
    with tempfile.TemporaryDirectory(prefix="ablate-replay-") as scratch:
        made = execute_program(spec, data, Path(scratch), networks=networks, progress=progress, device=device)
        now_values = _metrics(Path(scratch), made["run_id"])
    then_values = _metrics(folder, row["run_id"])
    names = sorted(then_values.keys() | now_values.keys())
    metrics = {name: (then_values.get(name), now_values.get(name)) for name in names}
    return ProgramReplay(row["run_id"], _verdict(metrics, bool(differing)), metrics, differing)


def _refuse_other_command(row: Mapping[str, Any], config: ProgramConfig, baseline: ProgramConfig) -> None:
    """Refuse to execute a command or an environment that no file of the variants here holds."""
    here: list[Any] = [baseline]
    with suppress(VariantError):  # the variant is not here
        here.append(variants.resolve(variants.load(row["variant"]), row["preset"]))
    known = [(one.program.command, one.program.environment) for one in here]
    if (config.program.command, config.program.environment) not in known:
        command = shlex.join(config.program.command)
        raise ResultsError(
            f"run {row['run_id']}: its command is not that of {variants.own_folder() / 'baseline.toml'}, and a command "
            f"from a table is not executed: {command}; if you trust it, write it there"
        )


def _verdict(
    metrics: Mapping[str, tuple[float | None, float | None]], differing: bool
) -> Literal["bit_exact", "within_tolerance", "environment_mismatch", "not_reproduced"]:
    if all(then == now for then, now in metrics.values()):
        return "bit_exact"
    pairs = [(then, now) for then, now in metrics.values() if then is not None and now is not None]
    if len(pairs) == len(metrics) and all(math.isclose(*pair, rel_tol=TOLERANCE) for pair in pairs):
        return "within_tolerance"
    return "environment_mismatch" if differing else "not_reproduced"


def _metrics(folder: Path, run_id: str) -> dict[str, float]:
    """Return what a run recorded, and what ablate measured of its images."""
    rows: list[Mapping[str, Any]] = []
    for table in ("metrics", "fidelity"):
        frame = tables.read(folder, table)
        rows += tables.to_records(frame[frame["run_id"] == run_id])
    return {str(row["metric"]): float(row["value"]) for row in rows if row["value"] is not None}


def _differing(row: Mapping[str, Any], config: ProgramConfig, device: str) -> dict[str, tuple[Any, Any]]:
    then, now = json.loads(row["environment"]), json.loads(environment_of(config, device))
    code = read_version(code_of_command(Path(config.program.workdir or "."), config.program.command))
    versions = versions_of(row["code"], row["git_commit"], row["git_dirty"])
    if not all(version.is_code_of(code) for version in versions):
        then["code"], now["code"] = " then ".join(map(str, versions)), str(code)
    return {key: (then.get(key), now.get(key)) for key in sorted(then | now) if then.get(key) != now.get(key)}
