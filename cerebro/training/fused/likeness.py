"""Which learners can be trained in one pass: those whose modules and loops are alike in all that a pass shares."""

import enum
import functools
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cerebro.training.fused.joint import DROPOUTS
from cerebro.training.learners import LastOutput, LiveLearner

_SAME_SETTINGS = ("batch_size", "eval_batch_size", "drop_last", "shuffle")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OWN = {"_parameters", "_buffers", "_modules", *_HOOKS, "_flat_weights", "_flat_weight_refs", "training"}
"""Attributes of a module that are compared by themselves, or follow from the others."""
_IDENTICAL = (types.BuiltinFunctionType, types.ModuleType, type, types.MethodDescriptorType)
_EQUAL = (bool, int, str, bytes, complex, enum.Enum, torch.dtype, torch.device, torch.Size, range, slice, type(None),
          type(...), types.CodeType)  # fmt: skip


Alike = set[tuple[int, int]]
"""Pairs of objects that need not be compared any more, by their ids."""


@dataclass(frozen=True)
class _Parts:
    """A learner, with the parts and the tensors of its module by name."""

    live: LiveLearner
    modules: list[tuple[str, nn.Module]]
    tensors: list[tuple[str, torch.Tensor]]
    ties: tuple[list[int], list[int]]

    @classmethod
    def of(cls, live: LiveLearner) -> "_Parts":
        modules = list(live.module.named_modules(remove_duplicate=False))
        tensors = list(_tensors(live.module))
        return cls(live, modules, tensors, (_ties(part for _, part in modules), _ties(value for _, value in tensors)))


def why_not_fused(lives: Sequence[LiveLearner]) -> str | None:
    """Why these learners cannot be trained in one pass, in words; None where they can."""
    first = _Parts.of(lives[0])
    return next(_reasons_alone(first), None) or next(
        (reason for live in lives[1:] for reason in _reasons(first, _Parts.of(live))), None
    )


def difference(one: Any, other: Any, path: str = "it") -> str | None:
    """Where two values differ in what could change a computation, as a path into them; None where they are equal.

    What cannot be compared is different.
    """
    return _difference(one, other, path, set())


def _reasons_alone(parts: _Parts) -> Iterator[str]:
    """What of one learner cannot be fused with any."""
    yield from _hook_reasons(parts)
    registered = {id(tensor) for _, tensor in parts.tensors}
    for name, part in parts.modules:
        if hasattr(part, "parametrizations"):
            yield f"{_where(name, part)} is parametrized"
        for attribute, value in vars(part).items():
            if attribute not in _OWN and _holds_tensor(value, registered):
                yield f"{_where(name, part)}.{attribute} holds a tensor that is no buffer"


def _hook_reasons(parts: _Parts) -> Iterator[str]:
    for name, part in parts.modules:
        for hooks in _HOOKS:
            if any(not isinstance(hook, LastOutput) for hook in vars(part)[hooks].values()):
                yield f"{_where(name, part)} has hooks"


def _where(name: str, part: nn.Module) -> str:
    return f"{name} ({type(part).__name__})" if name else type(part).__name__


def _reasons(one: _Parts, other: _Parts) -> Iterator[str]:
    for name in _SAME_SETTINGS:
        ours, theirs = getattr(one.live.learner, name), getattr(other.live.learner, name)
        if ours != theirs:
            yield f"{name} is {ours} and {theirs}"
    if one.live.device != other.live.device:
        yield f"the models are on {one.live.device} and {other.live.device}"
    if bool(one.live.metrics) != bool(other.live.metrics):
        yield "one has metrics and the other has none"
    yield from _module_reasons(one, other)


def _module_reasons(one: _Parts, other: _Parts) -> Iterator[str]:
    if [name for name, _ in one.modules] != [name for name, _ in other.modules]:
        yield "the modules are not made of the same parts"
        return
    if one.ties[0] != other.ties[0]:
        yield "the modules do not share the same parts"
    if one.ties[1] != other.ties[1]:
        yield "the modules do not share the same parameters"
    pairs = [*zip(one.modules, other.modules, strict=True), *zip(one.tensors, other.tensors, strict=False)]
    alike = {(id(part), id(counterpart)) for (_, part), (_, counterpart) in pairs}
    for (name, part), (_, counterpart) in zip(one.modules, other.modules, strict=True):
        where = _where(name, part)
        if type(part) is not type(counterpart):
            yield f"{where} is a {type(counterpart).__name__} in another model"
            return
        if one.live.modes.get(part, part.training) != other.live.modes.get(counterpart, counterpart.training):
            yield f"{where} is trained in one model and not in the other"
        yield from _part_reasons(where, part, counterpart, alike)
    yield from _hook_reasons(other)  # what else is said of one alone would make a difference


def _part_reasons(where: str, one: nn.Module, other: nn.Module, alike: Alike) -> Iterator[str]:
    for table in ("_parameters", "_buffers"):
        ours, theirs = vars(one)[table], vars(other)[table]
        if list(ours) != list(theirs):
            yield f"{where} has not the same parameters and buffers"
            return
        for name, tensor in ours.items():
            if _kind(tensor) != _kind(theirs[name]):
                yield f"{where}.{name} is {_kind(tensor)} and {_kind(theirs[name])}"
    skipped = {*_OWN, "p"} if isinstance(one, DROPOUTS) else _OWN
    ours, theirs = ({k: v for k, v in vars(part).items() if k not in skipped} for part in (one, other))
    found = _difference(ours, theirs, where, alike)
    if found is not None:
        yield f"{found} differs"


def _kind(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "absent"
    frozen = "" if tensor.requires_grad else ", frozen"
    return f"{tensor.dtype} {tuple(tensor.shape)} {tuple(tensor.stride())}{frozen}".removeprefix("torch.")


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _ties(values: Iterable[Any]) -> list[int]:
    """For each value the place where it is met first."""
    met: dict[int, int] = {}
    return [met.setdefault(id(value), place) for place, value in enumerate(values)]


def _holds_tensor(value: Any, registered: set[int]) -> bool:
    """Whether a tensor lies in an attribute alone, where it is that of one member only."""
    if isinstance(value, torch.Tensor):
        return id(value) not in registered
    if isinstance(value, Mapping):
        return any(_holds_tensor(item, registered) for item in value.values())
    return isinstance(value, list | tuple | set) and any(_holds_tensor(item, registered) for item in value)


def _difference(one: Any, other: Any, path: str, met: Alike) -> str | None:
    if one is other:
        return None
    if type(one) is not type(other):
        return path
    if isinstance(one, _IDENTICAL):
        return path
    if isinstance(one, float):
        return None if repr(one) == repr(other) else path
    if isinstance(one, _EQUAL):
        return None if one == other else path
    if (id(one), id(other)) in met:
        return None
    met.add((id(one), id(other)))
    return _difference_inside(one, other, path, met)


def _difference_inside(one: Any, other: Any, path: str, met: Alike) -> str | None:
    if isinstance(one, torch.Tensor):
        is_constant = not one.requires_grad and not other.requires_grad and _kind(one) == _kind(other)
        return None if is_constant and torch.equal(one, other) else path
    if isinstance(one, np.ndarray):
        return None if one.dtype == other.dtype and np.array_equal(one, other) else path
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return path
        return _first((_difference(a, b, f"{path}[{i}]", met) for i, (a, b) in enumerate(zip(one, other, strict=True))))
    if isinstance(one, dict):
        if list(one) != list(other):
            return path
        return _first(_difference(value, other[key], f"{path}.{key}", met) for key, value in one.items())
    if isinstance(one, set | frozenset):
        return None if one == other else path
    if isinstance(one, types.FunctionType):
        return _difference(_parts_of_function(one), _parts_of_function(other), path, met)
    if isinstance(one, functools.partial):
        ours, theirs = ((p.func, p.args, p.keywords) for p in (one, other))
        return _difference(ours, theirs, path, met)
    if isinstance(one, types.MethodType):
        return _difference((one.__func__, one.__self__), (other.__func__, other.__self__), path, met)
    state = getattr(one, "__dict__", None)
    if state is None or any(vars(kind).get("__slots__") for kind in type(one).__mro__):
        return path
    return _difference(state, vars(other), path, met)


def _parts_of_function(function: Any) -> tuple[Any, ...]:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # still empty
            cells.append(None)
    return function.__code__, function.__defaults__, function.__kwdefaults__, cells, vars(function)


def _first(found: Iterable[str | None]) -> str | None:
    return next((path for path in found if path is not None), None)
