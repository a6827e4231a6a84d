"""One module that stands for those of all members: the user's own `forward` runs once, on values of all."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from cerebro.training.fused.dropout import dropout_of_each
from cerebro.training.fused.loops import each, holds_many
from cerebro.training.fused.many import Group
from cerebro.training.fused.strides import NotFusedError
from cerebro.training.fused.weights import ManyBuffer, ManyParameter
from cerebro.training.learners import LastOutput

LOOPED = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""Modules that compute by other formulas for what is not quite a tensor: each member's own is run."""
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""Modules that may differ in their rate."""


class JointModule:
    """The members' modules as one, made anew for each visit.

    It is a copy of the first member's tree of modules, in which every parameter and buffer is that of all members.
    Frozen ones, which lie in one memory, stay as they are: what they make of the batch alone is computed once.
    """

    def __init__(self, group: Group, modules: Sequence[nn.Module]) -> None:
        self._group = group
        self._values: dict[int, ManyParameter | ManyBuffer] = {}
        self._copies: dict[int, nn.Module] = {}
        for member in zip(*(module.parameters() for module in modules), strict=True):
            if not _is_one(member):
                self._values[id(member[0])] = ManyParameter(group, member)
        for member in zip(*(module.buffers() for module in modules), strict=True):
            if not _is_one(member):
                self._values[id(member[0])] = ManyBuffer(group, member)
        parts = list(zip(*(module.modules() for module in modules), strict=True))
        for part in parts:
            self._copies[id(part[0])] = object.__new__(type(part[0]))
        for part in parts:
            self._fill(self._copies[id(part[0])], part)
        self.module = self._copies[id(modules[0])]
        self._hook_output()
        self._before = {id(copy): _attributes(copy) for copy in self._copies.values()}

    @property
    def parameters(self) -> list[ManyParameter]:
        """The parameters, in order."""
        return [value for value in self._values.values() if isinstance(value, ManyParameter)]

    @property
    def places(self) -> list[int]:
        """Where the members' tensors lie."""
        return [tensor.data_ptr() for value in self._values.values() for tensor in value.own]

    def rebind(self) -> None:
        """Look for the members' tensors where they lie now."""
        for value in self._values.values():
            value.rebind()

    def check_unchanged(self) -> None:
        """Check that `forward` left no mark on the module, which would not reach those of the members.

        Raises:
            NotFusedError: it set an attribute.
        """
        for copy in self._copies.values():
            before, now = self._before[id(copy)], _attributes(copy)
            for name in before.keys() | now.keys():
                if name not in before or name not in now or before[name] is not now[name]:
                    raise NotFusedError(f"forward sets {type(copy).__name__}.{name[-1]}")

    def _hook_output(self) -> None:
        self.output = LastOutput()
        self.module.__dict__["_forward_hooks"] = OrderedDict()
        self.module.register_forward_hook(self.output)

    def _fill(self, copy: nn.Module, part: tuple[nn.Module, ...]) -> None:
        first = part[0]
        copy.__dict__.update({name: self._translated(value) for name, value in vars(first).items()})
        if isinstance(first, nn.RNNBase):
            values = copy.__dict__["_flat_weights"]
            copy.__dict__["_flat_weight_refs"] = [None if value is None else weakref.ref(value) for value in values]
        forward = self._forward_of_each(part)
        if forward is not None:
            copy.__dict__["forward"] = forward

    def _forward_of_each(self, part: tuple[nn.Module, ...]) -> Callable[..., Any] | None:
        """What to call instead of the module's own `forward`, if anything."""
        first = part[0]
        if isinstance(first, DROPOUTS) and len({module.p for module in part}) > 1:  # type: ignore[attr-defined]
            if type(first) is nn.Dropout and first.training:
                return partial(dropout_of_each, self._group, rates=[module.p for module in part])  # type: ignore[attr-defined]
        elif not isinstance(first, LOOPED):
            return None
        is_one = isinstance(first, LOOPED) and not any(id(tensor) in self._values for tensor in _tensors(first))
        return partial(_run_each, self._group, part, is_one)

    def _translated(self, value: Any) -> Any:
        """An attribute with every parameter, buffer and module in it replaced; containers are new."""
        for known in (self._values, self._copies):
            if id(value) in known:
                return known[id(value)]
        if type(value) in (dict, OrderedDict):
            return type(value)((key, self._translated(item)) for key, item in value.items())
        if type(value) in (list, tuple):
            return type(value)(self._translated(item) for item in value)
        return value


class HandedOut:
    """Passes for the module while the loss of one member is computed: what it gives is that member's output."""

    def __init__(self, joint: JointModule) -> None:
        self._joint = joint
        self._calls: list[tuple[Any, Any, list[Any]]] = []
        self._member, self._next = 0, 0

    def begin(self, member: int) -> None:
        """The loss of `member` comes next."""
        self._member, self._next = member, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._member == 0:
            output = self._joint.module(*args, **kwargs)
            self._calls.append((args, kwargs, each(self._joint._group.size, _itself, (output,), {}, random=False)))
        elif self._next >= len(self._calls) or not _equal(self._calls[self._next][:2], (args, kwargs)):
            raise NotFusedError("the losses of the models call the module in different ways")
        self._next += 1
        return self._calls[self._next - 1][2][self._member]

    def __getattr__(self, name: str) -> Any:
        if name == "training":
            return self._joint.module.training
        raise NotFusedError(f"the losses of the models differ, and read the module's {name}")


def _is_one(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether the tensors of all members are one memory, which nobody trains."""
    first = tensors[0]
    return len({t.data_ptr() for t in tensors}) == 1 and not any(t.requires_grad for t in tensors) and first.numel() > 0


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _itself(value: Any) -> Any:
    return value


def _run_each(group: Group, part: Sequence[nn.Module], is_one: bool, /, *args: Any, **kwargs: Any) -> Any:
    """The members' own modules, one after another; once for all where they are one, and so is what they get."""
    if is_one and not holds_many((args, tuple(kwargs.values()))):
        return part[0](*args, **kwargs)
    number = iter(part)

    def run(*args: Any, **kwargs: Any) -> Any:
        return next(number)(*args, **kwargs)

    return group.gather(each(group.size, run, args, kwargs, random=True))


def _attributes(module: nn.Module) -> Mapping[tuple[str, ...], Any]:
    """All that an assignment to `self` could change."""
    plain = {(name,): value for name, value in vars(module).items() if name not in _TABLES}
    return plain | {(table, name): value for table in _TABLES for name, value in vars(module)[table].items()}


_TABLES = ("_parameters", "_buffers", "_modules")


def _equal(one: Any, other: Any) -> bool:
    """Whether two values that losses gave to the module are the same."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and isinstance(one, bool | int | float | str) and one == other
