"""What a study is asked to do: the model that `ablate run` and `ablate.run()` both build."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

import pyarrow as pa
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ablate.base.errors import AblateError, did_you_mean
from ablate.base.text import split_names
from ablate.store.schema import SCHEMAS
from ablate.store.tags import check_tags
from ablate.study import plugins, variants
from ablate.study.config import Config
from ablate.study.metric_names import METRICS, Metric, choose
from ablate.study.overrides import sweep
from ablate.study.plan import MAX_SEEDS, RunSpec, factor_combinations, parse_seeds, plan
from ablate.study.validation import Settings, explain

DEFAULT_MAX_SEEDS = 16
TUNE_SEEDS = (1000, 1001)
TUNE_METRIC = "pd"
OPTIONS = {"metrics": "--metric", "save_every_s": "--save-every"}  # field -> option, if the names differ
# Options that mean nothing for a program, and what to do instead.
OF_TORCH_MODELS = {
    "array": "it reads its own data",
    "data": 'it reads its own data, which data = "..." below [program] of baseline.toml names',
    "budget": "ablate does not know what it computes; set its options in a preset",
    "at_steps": "ablate does not know its steps; vary an option with --set",
    "nfe": "ablate cannot sample from it",
    "quantize": "ablate cannot measure it in number formats",
    "scopes": "ablate cannot measure it in number formats",
    "compile": "it compiles itself",
}


class Rerun(StrEnum):
    """Which runs of a study are made."""

    unfinished = "unfinished"  # all but finished ones
    failed = "failed"  # failed and diverged ones only
    stale = "stale"  # unfinished ones, and finished ones that other code computed
    all = "all"  # finished ones too


def _path_text(given: Any) -> Any:
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _converted(convert: Callable[[Any], Any]) -> BeforeValidator:
    """Convert a value; an error in it is reported as the field's."""

    def validate(given: Any) -> Any:
        try:
            return convert(given)
        except AblateError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


def _seeds(given: Any) -> Any:
    several = isinstance(given, Iterable) and not isinstance(given, str)
    return tuple(parse_seeds(",".join(map(str, given)) if several else str(given)))


def _combinations(axes: Any) -> Any:
    return tuple(factor_combinations(axes)) if isinstance(axes, str) else ()


def _sweep(given: Any) -> Any:
    texts = (given,) if isinstance(given, str) else given
    return tuple(sweep(texts)) if texts and all(isinstance(text, str) for text in texts) else given


def _known_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    if not variants.is_program():  # which has metrics of its own
        choose(_built_in(names))
    return names


def _built_in(names: Iterable[str]) -> list[str]:
    """Return the metrics that no plug-in adds. Those of plug-ins are measured of every run."""
    return [name for name in names if name in METRICS or name not in plugins.names("metric")]


def _tags(given: Any) -> Any:
    check_tags(names := split_names(given))
    return names


def _pairs(given: Any) -> Any:
    texts = (given,) if isinstance(given, str) else tuple(given)
    for text in texts:
        if not (isinstance(text, str) and text.partition("=")[0].isidentifier() and "=" in text):
            raise ValueError("it must be a setting and its value, as in partition=gpu")
    return texts


def _of_runs(name: str) -> str:
    if variants.is_program():
        return name
    # The column `precision` is the dtype that a run computed in.
    allowed = [field.name for field in SCHEMAS["runs"] if field.name in METRICS and field.type == pa.float64()]
    if name not in allowed:
        raise ValueError(f"no such metric of runs{did_you_mean(name, allowed)} Allowed: {', '.join(allowed)}")
    return name


def _gpus(gpus: float) -> float:
    if gpus % 1 if gpus > 1 else round(gpus, 4) != gpus:
        raise ValueError("it must be a fraction from 0.0001 to 1, or a whole number")
    return gpus


def _counts(given: Any) -> Any:
    texts = str(given).split(",") if isinstance(given, str | int) else [str(one) for one in given]
    if not all(re.fullmatch(r"\s*[1-9]\d{0,8}\s*", text) for text in texts):
        raise ValueError("whole numbers from 1, as in 4,8,16")
    return tuple(sorted({int(text) for text in texts}))


Counts = Annotated[tuple[int, ...], BeforeValidator(_counts)]
Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]
File = Annotated[Path, Field(strict=False)]


class StudyRequest(Settings):
    """What to run, on what, where, and how.

    Attributes:
        variant: Variants: names, `a+b` for a combination, `all` for every one.
        factors: Combinations of variants, from axes as in `drift,prediction`.
        set: Settings for every variant chosen, as in `train.lr=3e-4`; `train.lr=1e-3,3e-4`: one
            variant per value.
        tune: Settings to choose from for each variant by itself, as in `train.lr=5e-4,1e-3,2e-3`.
        tune_seeds: Seeds of the runs that choose. They are never judged.
        tune_metric: The metric that chooses.
        at_steps: Also train every variant with these numbers of steps, for curves that are shown but
            not judged.
        nfe: Also draw every run's samples with these numbers of network evaluations, for curves.
        baseline: Also run the baseline at the same seeds, to have something to compare with.
        seeds: Seeds, as in `0-4` or `0,3`.
        until_decided: After these seeds go on seed by seed, each variant until it is decided.
        max_seeds: Seeds at most, with `until_decided`; None: `DEFAULT_MAX_SEEDS`.
        preset: The preset.
        budget: Train each variant for equal steps, or for the baseline's training MACs.
        data: `cats`, or a folder, zip or `.npz` of images.
        array: The array of an `.npz` that holds the images; empty: as the configuration says.
        results: The results folder.
        metrics: Metrics to measure with a network of their own, instead of `fid`, `kid` and `lpips`.
        weights: A folder of weights; None: `ABLATE_WEIGHTS`.
        offline: Download no weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        launcher: `local`: one run after another in this process; `ray`: tasks of a Ray cluster; `slurm`: jobs
            of a SLURM cluster.
        ray_address: The cluster's address; None: `RAY_ADDRESS`, else a cluster on this machine.
        slurm: With slurm: settings of a job, as in `partition=gpu`.
        jobs: With ray: runs at once; None: as many as fit. With slurm: jobs; None: one per run.
        threads: Threads of a run; None: torch's own choice, or 1 with ray.
        gpus: With ray: GPUs of a run, as in 0.5; None: 1 if there are any.
        quantize: Number formats, as in `int8,fp8`, `all` or `none`; None: the preset's.
        scopes: What is quantised; None: the preset's.
        timeout: Seconds that a program may take for a run; None: as its settings say.
        fail_fast: Stop at the first failed run; else the others are made first.
        force: Make finished runs again.
        failed: Make failed and diverged runs again, and no others.
        stale: Also make finished runs again that were computed by other code.
        steal: Take runs that other processes are making, after all others.
        compile: Compile the transformer blocks; `auto`: if the training is long enough.
        save_every_s: Seconds between checkpoints.
        log: Trackers that record finished runs too: `tensorboard`, `mlflow`.
        tag: Tags that all runs of the study get.
    """

    variant: Annotated[Names, Field(min_length=1)] = (variants.BASELINE,)
    factors: Annotated[tuple[str, ...], _converted(_combinations)] = ()
    set: Annotated[tuple[str, ...], _converted(_sweep)] = ()
    tune: Annotated[tuple[str, ...], _converted(_sweep)] = ()
    tune_seeds: Annotated[tuple[int, ...], _converted(_seeds)] = TUNE_SEEDS
    at_steps: Counts = ()
    nfe: Counts = ()
    tune_metric: Annotated[str, AfterValidator(_of_runs)] = TUNE_METRIC
    baseline: bool = True
    seeds: Annotated[tuple[int, ...], _converted(_seeds)] = (0,)
    until_decided: bool = False
    max_seeds: Annotated[int, Field(ge=2, le=MAX_SEEDS)] | None = None
    preset: str = variants.DEFAULT_PRESET
    budget: Literal["steps", "macs"] = "steps"
    data: Annotated[str, BeforeValidator(_path_text)] = "cats"
    array: str = ""
    results: File = Path("results")
    metrics: Annotated[Names, AfterValidator(_known_metrics)] = ()
    weights: File | None = None
    offline: bool = False
    device: str = "auto"
    launcher: Literal["local", "ray", "slurm"] = "local"
    ray_address: str | None = None
    slurm: Annotated[tuple[str, ...], BeforeValidator(_pairs)] = ()
    jobs: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    gpus: Annotated[float, Field(ge=0), AfterValidator(_gpus)] | None = None
    quantize: str | None = None
    scopes: str | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    fail_fast: bool = False
    force: bool = False
    failed: bool = False
    stale: bool = False
    steal: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    save_every_s: Annotated[float, Field(ge=0)] = 60.0
    log: Names = ()
    tag: Annotated[tuple[str, ...], _converted(_tags)] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.force and self.failed:
            _refuse("force makes finished runs again, failed only failed ones; choose one", "force", "failed")
        if self.stale and self.force:
            _refuse("force makes all finished runs again, stale only those of other code; choose one", "force", "stale")
        if self.stale and self.failed:
            _refuse("stale makes finished runs again, failed only failed ones; choose one", "failed", "stale")
        self._check_until_decided()
        self._check_tune()
        self._check_curves()
        self._check_launcher()
        self._check_program()
        return self

    def _check_program(self) -> None:
        """Refuse options of torch models for a program, and the other way round."""
        if not variants.is_program():
            if self.timeout is not None:
                _refuse("only a run of your own program has a time limit", "timeout")
            return
        for name, instead in OF_TORCH_MODELS.items():
            if getattr(self, name) != type(self).model_fields[name].default:
                _refuse(f"not for a program; {instead}", name)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            _refuse("unknown device; allowed: auto, cpu, cuda, cuda:N", "device")

    def _check_launcher(self) -> None:
        if self.launcher != "local" and self.fail_fast:
            why = f"with {self.launcher} other runs go on beside a failed one; choose the launcher local"
            _refuse(why, "fail_fast")
        if self.launcher == "slurm":
            for name, instead in (("gpus", "slurm gpus_per_node=1"), ("ray_address", "launcher ray")):
                if getattr(self, name) is not None:
                    _refuse(f"not an option of the launcher slurm; use {instead}", name)
            if self.steal:
                _refuse("jobs would steal from each other; end the job that hangs with scancel", "steal")
        elif self.slurm:
            _refuse(f"the launcher is {self.launcher}; choose the launcher slurm", "slurm")
        if self.launcher == "local":
            for name in ("jobs", "gpus", "ray_address"):
                if getattr(self, name) is not None:
                    _refuse("the local launcher makes one run at a time, here; choose the launcher ray", name)

    def _check_until_decided(self) -> None:
        if not self.until_decided:
            if self.max_seeds is not None:
                _refuse("it limits a study that goes on until decided; add until-decided, or choose seeds", "max_seeds")
            return
        for name in ("force", "failed", "stale"):
            if getattr(self, name):
                _refuse("seeds are added to finished runs; make those again first", "until_decided", name)
        if not self.baseline:
            _refuse("variants are compared with the baseline, so it must be run too", "until_decided")
        if set(map(variants.canonical, self.names)) == {variants.BASELINE}:
            _refuse("there is nothing to decide on the baseline alone; name a variant", "until_decided")
        if len(self.seeds) > len(self.all_seeds):
            most = self.max_seeds or DEFAULT_MAX_SEEDS
            _refuse(f"{len(self.seeds)} seeds are asked for, but max-seeds is {most}", "max_seeds", "seeds")

    def _check_curves(self) -> None:
        if self.nfe and self.launcher == "ray":
            _refuse("not with ray; make the runs, then run this command again with the launcher local", "nfe")
        if self.at_steps and self.budget == "macs":
            _refuse("equal training MACs set the steps; choose the budget steps", "at_steps", "budget")
        if self.at_steps and self.until_decided:
            _refuse("a curve has the seeds that are asked for; make it in a command of its own", "at_steps")

    def _check_tune(self) -> None:
        if len(self.tune) == 1:
            _refuse("one value leaves nothing to choose; name several, or use set", "tune")
        for name, default in (("tune_seeds", TUNE_SEEDS), ("tune_metric", TUNE_METRIC)):
            if not self.tune and getattr(self, name) != default:
                _refuse("there is nothing to tune; add tune", name)
        both = sorted({*self.tune_seeds} & {*self.all_seeds})
        if self.tune and both:
            _refuse(f"seed {both[0]} would choose the setting and be judged; choose others", "tune_seeds", "seeds")

    @classmethod
    def of(cls, spelled: Callable[[Mapping[str, Any]], str], options: Mapping[str, Any]) -> Self:
        """Return a request of these options.

        Args:
            spelled: Writes options as the user gave them, for messages.
            options: Field -> value; None means the default.

        Raises:
            AblateError: A value that is not allowed, or options that do not go together.
        """
        given = {name: value for name, value in options.items() if value is not None}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            names = error.errors()[0].get("ctx", {}).get("options", ())
            subject = spelled({name: given[name] for name in names or error.errors()[0]["loc"][:1] if name in given})
            raise AblateError(explain(error, cls, lambda at, value: f"{subject}:")) from None

    @property
    def names(self) -> tuple[str, ...]:
        """The variants asked for, with the combinations of the factors, each with what is set."""
        chosen = (*self.variant, *self.factors)
        if not self.set:
            return chosen
        every = [name for given in chosen for name in (variants.names() if given == "all" else [given])]
        return tuple(name + end for name in every for end in self.set)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """All seeds that may be run: those asked for and, with `until_decided`, the next ones up to `max_seeds`."""
        if not self.until_decided:
            return self.seeds
        following = range(max(self.seeds) + 1, max(self.seeds) + 1 + MAX_SEEDS)
        return (*self.seeds, *following)[: self.max_seeds or DEFAULT_MAX_SEEDS]

    @property
    def rerun(self) -> Rerun:
        """Which runs are made."""
        chosen = {Rerun.all: self.force, Rerun.failed: self.failed, Rerun.stale: self.stale}
        return next((rerun for rerun, asked in chosen.items() if asked), Rerun.unfinished)

    @property
    def cluster(self) -> str | None:
        """The address of the Ray cluster; None: start one on this machine."""
        return self.ray_address or os.environ.get("RAY_ADDRESS") or None

    @property
    def asked_metrics(self) -> list[Metric]:
        """The metrics asked for by name, of those that ablate measures."""
        return choose(name for name in self.metrics if name in METRICS)

    def specs(
        self, match: Callable[[Config, Config], Config] | None = None, choices: Mapping[str, str] | None = None
    ) -> list[RunSpec]:
        """Return the runs, seed by seed, with `until_decided` all that may be needed.

        `match` and `choices` are as in `plan`.

        Raises:
            VariantError: An unknown variant or preset, or an invalid file.
        """
        return plan(
            self.names,
            self.all_seeds,
            self.preset,
            match,
            add_baseline=self.baseline,
            choices=choices,
            at_steps=self.at_steps,
            array=self.array,
        )


def as_options(given: Mapping[str, Any]) -> str:
    """Write fields as options of the command line: `--threads 0`."""
    words = []
    for name, value in given.items():
        values = value if isinstance(value, list | tuple) else [] if value is True else [value]
        words += [OPTIONS.get(name, f"--{name.replace('_', '-')}"), *map(str, values)]
    return " ".join(words)


def as_call(given: Mapping[str, Any]) -> str:
    """Write fields as a call of the Python API: `run(threads=0)`."""
    return f"run({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _refuse(why: str, *options: str) -> NoReturn:
    raise PydanticCustomError("options", "{why}", {"why": why, "options": options})
