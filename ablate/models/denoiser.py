"""Denoisers: networks (z, t) -> output, built from any registered model's settings.

A network may have more than its `forward`; what it lacks has a default:

    initialise(seed)      draws a seed's weights        else each layer's own initialisation is drawn again,
                                                        keyed by its name (`draw_weights`)
    groups                names of its module groups    else its children that have parameters
    uncounted_macs()      group -> MACs that torch's    else none
                          counter does not see
    parts(z, t)           filtered sample and drift     else the strips show the prediction alone
    compile_parts()       compiles what pays            else the whole network, if asked for
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.base import rng
from ablate.base.errors import PluginError
from ablate.base.text import one_line
from ablate.study import plugins
from ablate.study.config import Config

# What a user's network raises if it does not fit.
FAILURES = (AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# In-place operations that fill a tensor with random numbers, and functions that return such a tensor.
FILLS = ("normal_", "uniform_", "bernoulli_", "exponential_", "cauchy_", "log_normal_")
RANDOM = {"randn": "normal_", "rand": "uniform_", "randn_like": "normal_", "rand_like": "uniform_"}


def build(config: Config, seed: int, device: torch.device) -> nn.Module:
    """Return a denoiser with a seed's initial weights, on a device, convolutions channels last.

    Raises:
        PluginError: The model's code fails.
    """
    with torch.random.fork_rng(devices=[]), _Fills() as fills:
        network = construct(config, rng.derive(seed, "init"))
        initialise = getattr(network, "initialise", None)
        if callable(initialise):
            initialise(seed)
        else:
            fills.draw_again(network, seed)
    return network.to(device).to(memory_format=torch.channels_last)


def construct(config: Config, seed: int = 0) -> nn.Module:
    """Return an untrained denoiser on the CPU.

    Args:
        config: The run's configuration.
        seed: Of torch's own generator while the model's code runs.

    Raises:
        PluginError: The model's code fails, returns no module, or sets torch's seed.
    """
    what = name_of(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            network = config.model.build(config.shape)
        except FAILURES as error:
            if config.model.kind == "kpn":
                raise
            raise PluginError(f"{what}: build fails: {type(error).__name__}: {one_line(error)}") from error
        if torch.default_generator.initial_seed() != seed:
            raise PluginError(f"{what}: build sets torch's seed; remove torch.manual_seed: each run has its own seed")
    if not isinstance(network, nn.Module):
        raise PluginError(f"{what}: build returns {type(network).__name__}; it must return an nn.Module")
    if not any(True for _ in network.parameters()):
        raise PluginError(f"{what}: the network has no parameters, so there is nothing to train")
    return network


def check_output(config: Config, output: Any, z: Tensor) -> Tensor:
    """Return the output of a network as float32.

    Raises:
        PluginError: It is not a tensor of the shape of z.
    """
    if not isinstance(output, Tensor):
        fix = "return its tensor, as in self.net(z, t).sample" if hasattr(output, "sample") else "return a tensor"
        raise PluginError(f"{name_of(config)}: the network returns {type(output).__name__}; {fix}")
    if output.shape != z.shape:
        shapes = f"{tuple(output.shape)}; it must have that of the input, {tuple(z.shape)}"
        raise PluginError(f"{name_of(config)}: the output has shape {shapes}")
    if output.device != z.device:
        raise PluginError(f"{name_of(config)}: the output is on {output.device}, the input on {z.device}")
    if not output.is_floating_point():
        raise PluginError(f"{name_of(config)}: the output is {output.dtype}; it must be a floating-point tensor")
    return output.float()


def probe(config: Config, device: torch.device) -> None:
    """Run an untrained network once on two images, so that what is wrong with it is said at once.

    Raises:
        PluginError: It fails, or its output is not what it must be.
    """
    if config.model.kind == "kpn":
        return
    network = build(config, 0, device).eval()
    z, t = torch.zeros(2, *config.shape, device=device), torch.tensor([0.25, 0.75], device=device)
    with torch.no_grad():
        output = run_once(config, network, z, t)
    if not output.isfinite().all():
        raise PluginError(f"{name_of(config)}: the untrained network returns NaN or infinity")


def run_once(config: Config, network: nn.Module, z: Tensor, t: Tensor) -> Tensor:
    """Return the output (B, C, S, S) float32 of an untrained network for z (B, C, S, S) and t (B,).

    Raises:
        PluginError: It fails, prints to stdout, sets torch's seed, or its output is not what it must be.
    """
    what, printed = name_of(config), io.StringIO()
    seed = torch.default_generator.initial_seed()
    try:
        with contextlib.redirect_stdout(printed):
            output = network(z, t)
    except FAILURES as error:
        if config.model.kind == "kpn":
            raise
        given = f"z {tuple(z.shape)}, t {tuple(t.shape)}, float32 on {z.device}"
        raise PluginError(f"{what}: forward({given}) fails: {type(error).__name__}: {one_line(error)}") from error
    if torch.default_generator.initial_seed() != seed:
        raise PluginError(f"{what}: forward sets torch's seed; remove torch.manual_seed: each step has its own seed")
    if printed.getvalue().strip():
        first = one_line(printed.getvalue())[:60]
        raise PluginError(f"{what}: forward prints to stdout ({first!r}); remove the print")
    return check_output(config, output, z)


def name_of(config: Config) -> str:
    """Return the model's name for a message, with its file."""
    plugin = plugins.find("model", config.model.kind)
    return f"model {config.model.kind}" + (f" ({plugin.file})" if plugin.file else "")


def groups_of(network: nn.Module) -> list[str]:
    """Return the names of a network's module groups."""
    own = getattr(network, "groups", None)
    if isinstance(own, list | tuple):
        return [str(name) for name in own]
    return [name for name, child in network.named_children() if any(True for _ in child.parameters())]


def persistent_buffers(network: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that belong to a network's weights, as the means of a batch normalisation."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return {name: value for name, value in network.state_dict().items() if name not in parameters}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load what `weights_of` returned.

    Raises:
        RuntimeError: The weights are of another network.
    """
    missing, unexpected = network.load_state_dict(dict(weights), strict=False)
    # A parameter that several layers share is stored once.
    shared = network.state_dict().keys() - weights_of(network).keys()
    if set(missing) - shared or unexpected:
        raise RuntimeError(f"missing: {', '.join(missing)}; unexpected: {', '.join(unexpected)}")


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters, each once, and the buffers that belong to its weights; on the CPU."""
    own = dict(network.named_parameters()) | persistent_buffers(network)
    return {name: value.detach().cpu() for name, value in own.items()}


class _Fills(TorchDispatchMode):
    """Notes which tensors are filled with random numbers, and how, while a network is built.

    So each parameter can be drawn again from a generator keyed by its name, by its own initialisation:
    the parameters that two variants have in common then start with the same weights.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._last: dict[int, list[tuple[Any, tuple[Any, ...], dict[str, Any]]] | None] = {}
        self._kept: list[Tensor] = []  # so that no address is used twice
        self._off = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._off:
            self._note(func, args, kwargs or {}, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        name = func._schema.name.split("::")[-1]
        if name in RANDOM and isinstance(result, Tensor):
            self._kept.append(result)
            self._last[result.data_ptr()] = [(getattr(torch.ops.aten, RANDOM[name]), (), {})]
        elif name.endswith("_") and not name.startswith("_") and args and isinstance(args[0], Tensor):
            address, rest = args[0].data_ptr(), args[1:]
            plain = not any(isinstance(value, Tensor) for value in (*rest, *kwargs.values()))
            call = (func.overloadpacket, rest, {k: v for k, v in kwargs.items() if k != "generator"})
            if name in FILLS:
                self._kept.append(args[0])
                self._last[address] = [call]
            elif self._last.get(address) is not None:
                # A truncated normal is a uniform fill that is then transformed in place.
                self._last[address] = [*self._last[address], call] if plain else None  # type: ignore[misc]

    def draw_again(self, network: nn.Module, seed: int) -> None:
        """Draw each parameter whose random fill is known, keyed by (seed, `init`, the parameter's name)."""
        self._off = True
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                calls = self._last.get(parameter.data_ptr())
                if calls:
                    torch.default_generator.manual_seed(rng.derive(seed, "init", name))
                    for call, args, kwargs in calls:
                        call(parameter, *args, **kwargs)
