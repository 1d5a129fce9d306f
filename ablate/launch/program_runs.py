"""The runs of a user's own program on this machine. torch is imported for images only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ablate.base.errors import DataError
from ablate.base.progress import Progress
from ablate.base.source_code import code_of_command
from ablate.base.text import printable
from ablate.launch.study_runs import Networks, StudyRuns
from ablate.runs.program import OUT, config_of, environment_of, execute_program
from ablate.runs.rows import Row
from ablate.study.plan import Planned, RunSpec
from ablate.study.program import ProgramData
from ablate.study.run_times import RunTimes

if TYPE_CHECKING:
    from ablate.metrics.networks import MetricNetworks


class ProgramRuns(StudyRuns):
    """The runs of a program. The time of one is that of finished runs of its configuration, else of its preset."""

    @property
    def environment(self) -> str:
        """As in the base class."""
        return environment_of(config_of(self.specs[0]), self.request.device)

    @property
    def measured_file(self) -> str | None:
        """The images that the program writes, if there are real ones to compare them with."""
        program = config_of(self.specs[0]).program
        return None if program.images is None or program.reference is None else f"{OUT}/{program.images}"

    def code(self, specs: Sequence[RunSpec]) -> dict[str, str]:
        """Return name of a run -> the code of its program now."""
        version = cache(code_of_command)
        programs = {spec.run_id(self.data.name, self.data.digest): config_of(spec).program for spec in specs}
        return {run_id: version(Path(one.workdir or "."), one.command) for run_id, one in programs.items()}

    def load_networks(self, device: str, progress: Progress, on_missing: Callable[[str, str], None]) -> MetricNetworks:
        """As in the base class; none, where the program writes no images."""
        if config_of(self.specs[0]).program.images is not None:
            return super().load_networks(device, progress, on_missing)
        from ablate.base.machine import pick_device
        from ablate.metrics.networks import MetricNetworks

        return MetricNetworks(pick_device(device), {}, {}, {})

    def make(self, spec: RunSpec, networks: Networks, progress: Progress, **options: Any) -> Row:
        """Run the program."""
        options |= {"device": self.request.device, "timeout_s": self.request.timeout, "progress": progress}
        data = cast("ProgramData", self.data)
        return execute_program(spec, data, self.request.results, networks=networks, **options)

    def measure_more(
        self, spec: RunSpec, run_id: str, networks: Networks, progress: Progress, *, lacking: bool, session: str | None
    ) -> int:
        """As in the base class; a program has no number formats."""
        from ablate.runs.missing_metrics import add_missing_image_metrics

        return add_missing_image_metrics(self.request.results, run_id, config_of(spec), networks(), progress=progress)

    def _load_data(self) -> ProgramData:
        return program_data(self.specs[0])

    def _planned(self, spec: RunSpec, run_id: str, finished: bool, times: RunTimes) -> Planned:
        return Planned(spec, run_id, finished, times.wall_s(spec.config.hash))


def program_data(spec: RunSpec) -> ProgramData:
    """Return the label of the data that a program's runs are compared on, with the digest of the reference.

    Raises:
        DataError: The reference cannot be read.
    """
    program = config_of(spec).program
    if program.reference is None:
        return ProgramData.of(program)
    return ProgramData.of(program, _digest(Path(program.workdir or ".") / program.reference))


def _digest(path: Path) -> str:
    """Return the digest of the files of a reference."""
    total = hashlib.sha256()
    try:
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            total.update(f"{file.relative_to(path).as_posix()}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise DataError(
            f"[program] reference = {printable(path)}: cannot be read ({error.strerror}); give a folder, zip or .npz "
            "of real images, from the folder that holds the registry"
        ) from None
    return total.hexdigest()
