"""Plug-ins: models, metrics, data sets, objectives and solvers that a user's file or package adds.

    @ablate.model("unet")
    class UNet:
        channels: int = 32

        def build(self, shape: tuple[int, int, int]) -> nn.Module: ...

A plug-in is loaded by name only: `--plugin FILE.py`, `ABLATE_PLUGIN`, or a package's entry point of the
group `ablate.plugins`. Its digest is part of the configuration of each run that uses it. The package's
own model, `kpn`, comes through the same door.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel

from ablate.base.errors import PluginError, did_you_mean
from ablate.base.text import one_line
from ablate.study.model_settings import ModelSettings, settings_of
from ablate.study.plugin_code import digest_of, digest_of_files, file_of, line_of, quiet, registering, source_of

BUILT_IN = ("ablate.models.kpn.settings",)  # modules that register what the package ships
ENTRY_POINTS = "ablate.plugins"
METRIC_INPUTS = {  # `of` -> the arguments of the function
    "sets": ("samples", "real"),
    "pairs": ("denoised", "true"),
    "samples": ("samples",),
    "run": ("row",),
}

Registered = TypeVar("Registered")


@dataclass(frozen=True)
class Plugin:
    """What is registered by a name.

    Attributes:
        target: The settings class of a model; else the function or class itself.
        file: The plug-in's file; None: it ships with the package.
        digest: SHA-256 of the plug-in's code, its first 16 digits; empty: it ships with the package.
        options: What the decorator was told, as `unit` of a metric.
    """

    target: Any
    file: str | None = None
    digest: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_registered: dict[str, dict[str, Plugin]] = {k: {} for k in ("model", "metric", "dataset", "objective", "solver")}
_files: dict[str, tuple[str, dict[str, bytes]]] = {}  # digest -> name of the file, its code by relative path


def model(name: str) -> Callable[[type[Registered]], type[Registered]]:
    """Register a model: a class of its settings, with `build(shape) -> nn.Module`.

    Args:
        name: The `kind` that a variant's `[model]` names. The class is a dataclass, a pydantic model,
            or plain annotated fields; these are the other keys of `[model]`.

    Raises:
        PluginError: The name is taken, or the class has no such method.
    """

    def register(cls: type[Registered]) -> type[Registered]:
        build = getattr(cls, "build", None)
        if not inspect.isclass(cls) or not callable(build):
            raise PluginError(
                f"{source_of(cls)}: model {name}: it must be a class with build(self, shape) -> nn.Module"
            )
        _check_arguments(cls, f"model {name}: build", build, ("self", "shape"))
        if not issubclass(cls, ModelSettings | BaseModel) and not dataclasses.is_dataclass(cls):
            cls = dataclass(frozen=True)(cls)
        _register("model", name, cls)
        return cls

    return register


def metric(
    name: str, *, of: str = "samples", better: str = "lower", unit: str = ""
) -> Callable[[Registered], Registered]:
    """Register a metric that every run records in the table `metrics`.

    Args:
        name: Its name in the tables.
        of: What the function gets: `samples`: (samples); `sets`: (samples, real); `pairs`: (denoised,
            true), images in the same order; all float32 tensors (N, 3, S, S) in [0, 1] on the CPU.
            `run`: (row), the run's row as a dictionary. It returns a number.
        better: `lower` or `higher`.
        unit: As in `ms`.

    Raises:
        PluginError: The name is taken, or a value is not allowed.
    """

    def register(function: Registered) -> Registered:
        at = source_of(function)
        if of not in METRIC_INPUTS:
            raise PluginError(f"{at}: metric {name}: of is {of!r}; allowed: {', '.join(METRIC_INPUTS)}")
        if better not in ("lower", "higher"):
            raise PluginError(f"{at}: metric {name}: better is {better!r}; allowed: lower, higher")
        options = {"of": of, "better": better, "unit": unit}
        return _function("metric", name, f"metric {name}", METRIC_INPUTS[of], options)(function)

    return register


def dataset(name: str) -> Callable[[Registered], Registered]:
    """Register a data set for `--data NAME`: a function (size) -> images.

    The images are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1 or 3; others are resized.

    Raises:
        PluginError: The name is taken.
    """
    return _function("dataset", name, f"data set {name}", ("size",))


def objective(name: str) -> Callable[[Registered], Registered]:
    """Register an objective for `diffusion.objective`: a class with three methods.

    draw(x, eps, u) -> (z, t): the noisy sample and its time, of clean x, noise eps and uniform u (B,).
    loss(output, x, eps, z, t) -> scalar.
    denoise(output, z, t) -> x_hat.

    Raises:
        PluginError: The name is taken, or a method is missing.
    """

    def register(cls: Registered) -> Registered:
        methods = {"draw": ("x", "eps", "u"), "loss": ("output", "x", "eps", "z", "t"), "denoise": ("output", "z", "t")}
        for method, arguments in methods.items():
            function = getattr(cls, method, None)
            if not callable(function):
                needed = ", ".join(f"{m}({', '.join(names)})" for m, names in methods.items())
                raise PluginError(f"{source_of(cls)}: objective {name} has no {method}; it needs {needed}")
            _check_arguments(cls, f"objective {name}: {method}", function, ("self", *arguments))
        _register("objective", name, cls)
        return cls

    return register


def solver(name: str) -> Callable[[Registered], Registered]:
    """Register a solver for `sample.solver`: a function (denoise, z, num_steps) -> sample.

    Args:
        name: Its name. `denoise` maps z (B, C, S, S) and t (B,) to x_hat; z is standard normal noise.

    Raises:
        PluginError: The name is taken.
    """
    return _function("solver", name, f"solver {name}", ("denoise", "z", "num_steps"))


def find(group: str, name: str) -> Plugin:
    """Return what is registered by a name.

    Args:
        group: `model`, `metric`, `dataset`, `objective` or `solver`.
        name: The name.

    Raises:
        PluginError: There is none.
    """
    if name not in _registered[group]:
        _load_built_in()
    if name not in _registered[group]:
        _load_all()
    if name not in _registered[group]:
        known = _registered[group]
        near = did_you_mean(name, known)
        raise PluginError(
            f"no {group} {name!r}{near} Known: {', '.join(known)}; one of your own needs --plugin FILE.py"
        )
    return _registered[group][name]


def digest(group: str, name: str) -> str:
    """Return the digest of the code that is registered by a name; empty: the package's own, or none."""
    plugin = _registered[group].get(name)
    return "" if plugin is None else plugin.digest


def used_by(in_configuration: Mapping[str, str]) -> str | None:
    """Return the column `plugins` of a run: what took part in it, with its digest, as JSON.

    Args:
        in_configuration: What the run's configuration names. Metrics take part in every run.
    """
    metrics = {f"metric {name}": plugin.digest for name, plugin in _registered["metric"].items()}
    used = {**in_configuration, **metrics}
    return json.dumps(used, sort_keys=True) if used else None


def names(group: str) -> list[str]:
    """Return all names of a group: the package's, those of loaded files and of entry points."""
    _load_all()
    return list(_registered[group])


def load_file(path: Path) -> None:
    """Load a plug-in's file. A file that is loaded already is not loaded again.

    Raises:
        PluginError: It cannot be read, fails, or registers nothing.
    """
    if not path.is_file():
        raise PluginError(f"--plugin {one_line(path)}: no such file")
    path = path.resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise PluginError(f"--plugin {one_line(path)}: cannot be read: {error.strerror}") from error
    name = f"ablate_plugin_{path.stem}_{hashlib.sha256(source).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or path.suffix != ".py":
        raise PluginError(f"--plugin {one_line(path)}: a plug-in is a Python file, NAME.py")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it may import its neighbours, as a script does
    sys.modules[name] = module
    _forget(path)  # an earlier version of the file
    try:
        with registering(path), quiet(path):
            # Not from a .pyc: within a second of an edit it may be that of the earlier file.
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        if not any(plugin.file == str(path) for entries in _registered.values() for plugin in entries.values()):
            raise PluginError(f'{path}: it registers nothing; decorate a class with @ablate.model("NAME")')
    except BaseException as error:
        _forget(path)
        sys.modules.pop(name, None)
        if isinstance(error, PluginError) or not isinstance(error, Exception):
            raise
        raise PluginError(f"{line_of(error, path)}: {type(error).__name__}: {one_line(error)}") from error
    _seal(path, {name, *sys.modules.keys() - before})


def load_code(files: Mapping[str, tuple[str, Mapping[str, bytes]]]) -> None:
    """Load plug-ins that another machine has loaded, as `loaded_code` returned them there.

    Raises:
        PluginError: As for `load_file`.
    """
    for digest, (name, code) in files.items():
        if digest in _files:
            continue
        folder = Path(tempfile.mkdtemp(prefix="ablate-plugin-"))
        for relative, content in code.items():
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            (folder / relative).write_bytes(content)
        load_file(folder / name)


def loaded_code() -> dict[str, tuple[str, dict[str, bytes]]]:
    """Return the loaded plug-ins: digest -> the file's name, and its code by relative path."""
    return dict(_files)


@cache
def _load_built_in() -> None:
    for name in BUILT_IN:
        importlib.import_module(name)


@cache
def _load_all() -> None:
    """Load the package's own models, and the entry points of installed packages."""
    _load_built_in()
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            raise PluginError(f"the plug-in {point.name} of {package}: {type(error).__name__}: {error}") from error
        if isinstance(loaded, ModuleType) and loaded.__file__:
            _seal(Path(loaded.__file__).resolve(), {loaded.__name__})


def _function(
    group: str, name: str, subject: str, wanted: Sequence[str], options: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Registered], Registered]:
    """Return a decorator that registers a function of these arguments."""

    def register(function: Registered) -> Registered:
        _check_arguments(function, subject, function, wanted)
        _register(group, name, function, options)
        return function

    return register


def _register(group: str, name: str, what: Any, options: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Add an entry; a second one of the same file replaces the first, as in a notebook."""
    at = source_of(what)
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum() or not name[0].isalpha():
        raise PluginError(f"{at}: {group} {name!r}: a name has letters, digits, _ and -, a letter first")
    builtin = getattr(what, "__module__", "") in BUILT_IN
    if not builtin:
        _load_built_in()  # its names are taken
    known = _registered[group].get(name)
    file = None if builtin else str(file_of(what) or what.__module__)
    if known is not None and known.file != file:
        raise PluginError(f"{at}: {group} {name}: the name is taken by {known.file or 'the package'}; rename it")
    digest = "" if builtin else digest_of(what)
    target = what
    if group == "model" and not issubclass(what, ModelSettings):
        target = settings_of(at, name, what)
    _registered[group][name] = Plugin(target, file, digest, options)


def _check_arguments(what: Any, subject: str, function: Any, wanted: Sequence[str]) -> None:
    """Refuse a function that cannot be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*wanted)
    except TypeError:
        own = f"{subject}{inspect.signature(function)}"
        shown = ", ".join(wanted)
        raise PluginError(f"{source_of(what)}: {own}: it must take ({shown})") from None
    except ValueError:  # a builtin without a signature
        return


def _seal(path: Path, modules: set[str]) -> None:
    """Give what a file registered the digest of the file and of the neighbours that it imported."""
    code = {path.name: path.read_bytes()}
    for name in modules:
        file = getattr(sys.modules.get(name), "__file__", None)
        neighbour = Path(file).resolve() if file else path
        if neighbour.suffix == ".py" and path.parent in neighbour.parents and neighbour.is_file():
            code[neighbour.relative_to(path.parent).as_posix()] = neighbour.read_bytes()
    digest = digest_of_files(code)
    _files[digest] = (path.name, code)
    for entries in _registered.values():
        for name, plugin in entries.items():
            if plugin.file == str(path):
                entries[name] = dataclasses.replace(plugin, digest=digest)


def _forget(path: Path) -> None:
    for entries in _registered.values():
        for name in [name for name, plugin in entries.items() if plugin.file == str(path)]:
            del entries[name]
