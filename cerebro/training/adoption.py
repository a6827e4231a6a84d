"""What a clone takes over from its ancestor: weights, and the optimizer's memory if it is kept; settings are its own.

All functions change a learner that was just built and has trained nothing.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from cerebro.errors import ModelError
from cerebro.training.frozen import weights_digest
from cerebro.training.layout import dtype_name

Tensors = Mapping[str, torch.Tensor]
Memory = dict[int, dict[str, Any]]
"""What an optimizer remembers of each of its parameters, by the parameter's index and the name."""

COLD = "clone it cold, or change only what does not change shapes"
RESET = "give optimizer='reset'"


def check_module(own: Tensors, found: Tensors) -> None:
    """Check that a module has the parameters and buffers of its ancestor.

    Raises:
        ModelError: the architectures differ, with the first tensor that does.
    """
    for name in [*own, *(name for name in found if name not in own)]:
        ours, theirs = shape_of(own.get(name)), shape_of(found.get(name))
        if ours != theirs:
            raise ModelError(
                f"{name.partition('/')[2]}: the state of the ancestor holds {theirs}, the clone's module has {ours}: "
                f"{COLD}"
            )


def adopt_module(own: Tensors, found: Tensors) -> None:
    """Copy the parameters and buffers of the ancestor; how they lie in memory is the clone's own."""
    with torch.no_grad():
        for name, tensor in own.items():
            if 0 in tensor.stride():  # an expanded one, whose elements are one place in memory
                tensor.data = tensor.data.contiguous()
            tensor.copy_(found[name])


def adopt_frozen(module: Any, own: Tensors, frozen: Mapping[str, Any]) -> Tensors:
    """Of its own tensors those that the ancestor trained: what that one had frozen the clone has from its build.

    Raises:
        ModelError: `build` gives the clone other weights than those.
    """
    parts = {f"module/{name}.": module.get_submodule(name) for name in frozen["parts"]}
    if weights_digest(parts.values()) != frozen["weights"]:
        raise ModelError(
            f"Learner.freeze: build gives the clone other weights of {', '.join(frozen['parts'])} than the ancestor "
            f"had frozen: {COLD}"
        )
    return {name: tensor for name, tensor in own.items() if not name.startswith(tuple(parts))}


def adopt_optimizer(optimizer: Any, found: Tensors, scalars: Mapping[str, Any]) -> None:
    """Take over what the ancestor's optimizer remembers: moments and step counts, but no settings.

    The state names a parameter by its place alone: that the same ones are trained is for `check_clone` to see.

    Raises:
        ModelError: the optimizers do not remember the same things.
    """
    _check_settings(optimizer, found, scalars["groups"])
    theirs = _memory_in(found, scalars["optimizer"])
    if not theirs:
        return
    fill_memory(optimizer)
    parameters = parameters_of(optimizer)
    ours = memory_of(optimizer)
    for index in sorted(theirs.keys() | ours.keys()):
        if index not in theirs:  # the ancestor's loss never touched it
            optimizer.state.pop(parameters[index])
            continue
        _check_memory(index, theirs[index], ours.get(index, {}))
        for key, value in theirs[index].items():
            if isinstance(value, torch.Tensor):
                ours[index][key].copy_(value)
            else:
                optimizer.state[parameters[index]][key] = value


def fast_forward(schedule: Any, found: Any) -> None:
    """Step a new schedule as often as the one that gave `found` was; an ancestor without one counts as not begun.

    Raises:
        ModelError: a schedule does not say how often it was stepped.
    """
    steps = _steps_taken(found) - _steps_taken(schedule.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came before is known
        for _ in range(steps):
            schedule.step()


def fill_memory(optimizer: Any) -> None:
    """Let an optimizer make the tensors that it makes in its first step; its settings stay, the parameters may change.

    Only the optimizer itself knows their names, shapes and places, and it makes them no earlier.
    """
    with _unchanged_settings(optimizer):
        for parameter in parameters_of(optimizer):
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def parameters_of(optimizer: Any) -> list[torch.Tensor]:
    """The parameters that an optimizer trains, in the order in which a state counts them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def memory_of(optimizer: Any) -> Memory:
    """What an optimizer remembers; parameters that it has nothing of are left out."""
    states = (optimizer.state.get(parameter, {}) for parameter in parameters_of(optimizer))
    return {index: dict(state) for index, state in enumerate(states) if state}


def shape_of(value: Any) -> str:
    """The type and shape of a tensor in words."""
    if value is None:
        return "nothing"
    return f"{dtype_name(value.dtype)} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else "a number"


@contextmanager
def _unchanged_settings(optimizer: Any) -> Iterator[None]:
    """Puts the settings back as they were: some optimizers count their steps among them."""
    before = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    yield
    for group, settings in zip(optimizer.param_groups, before, strict=True):
        parameters = group["params"]
        group.clear()
        group.update(settings, params=parameters)


def _memory_in(found: Tensors, scalars: list[list[Any]]) -> Memory:
    memory: Memory = {}
    for name, tensor in found.items():
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            index, _, key = rest.partition("/")
            memory.setdefault(int(index), {})[key] = tensor
    for index, key, value in scalars:
        memory.setdefault(index, {})[key] = value
    return memory


def _check_settings(optimizer: Any, found: Tensors, groups: list[dict[str, Any]]) -> None:
    """Optimizers of one class have the same settings, whatever their values."""
    own, name = optimizer.param_groups, type(optimizer).__name__
    if len(own) != len(groups):
        raise ModelError(
            f"optimizer: the ancestor's had {len(groups)} parameter groups, the clone's has {len(own)}: {RESET}"
        )
    for index, settings in enumerate(groups):
        known = settings.keys() | {key.rpartition("/")[2] for key in found if key.startswith(f"group/{index}/")}
        missing = sorted(optimizer.defaults.keys() - known)
        if missing:
            raise ModelError(
                f"optimizer: the ancestor's was of another class, without {', '.join(missing)}, which the clone's "
                f"{name} has: {RESET}"
            )


def _check_memory(index: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key in sorted(theirs.keys() | ours.keys()):
        one, other = shape_of(theirs.get(key)), shape_of(ours.get(key))
        if one != other:
            raise ModelError(
                f"optimizer: of parameter {index} the ancestor's remembers {one} as {key}, the clone's {other}: {RESET}"
            )


def _steps_taken(state: Any) -> int:
    match state:
        case None:
            return 0
        case {"last_epoch": int(steps)}:
            return steps
        case {"_schedulers": [first, *_]}:  # chained ones step together
            return _steps_taken(first)
        case _:
            raise ModelError(f"schedule: it does not say in 'last_epoch' how often it was stepped: {RESET}")
