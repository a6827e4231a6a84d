"""Running a function member by member, exactly as each model would alone."""

import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F

from cerebro.training.fused.noise import noise_state, same_noise_state, set_noise_state
from cerebro.training.fused.strides import NotFusedError

_SAFE = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d, F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm,
                   F.relu, F.max_pool1d, F.max_pool2d, F.embedding, F.cross_entropy, F.mse_loss,
                   F.binary_cross_entropy_with_logits, F.nll_loss, F.l1_loss, F.smooth_l1_loss, F.log_softmax,
                   F.softmax, F.gelu, F.silu, F.leaky_relu, F.elu})  # fmt: skip
"""Functions of Python that draw no random numbers; of the others that is not known."""


class Members:
    """What has one tensor for each member of a group."""

    __slots__ = ()

    def members(self) -> Sequence[torch.Tensor]:
        """The tensor of each member."""
        raise NotImplementedError


def each(
    size: int, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], random: bool | None = None
) -> list[Any]:
    """What `function` gives for each member, every one of which sees the random numbers that it would alone.

    Raises:
        NotFusedError: the members do not draw equally many random numbers.
    """
    parts: dict[int, Sequence[torch.Tensor]] = {}  # one parting for each value, however often it is an argument
    rows = zip(*(_column(size, argument, parts) for argument in args), strict=True) if args else repeat((), size)
    named = [dict(zip(kwargs, row, strict=True)) for row in _rows(size, kwargs.values(), parts)] if kwargs else None
    calls = zip(rows, named or repeat(_NOTHING), strict=False)
    if is_random(function) if random is None else random:
        return _from_the_same_noise(size, function, calls)
    return [function(*row, **words) for row, words in calls]


def is_in_place(function: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a function changes its first argument."""
    return _is_in_place(function) or kwargs.get("inplace") is True or kwargs.get("out") is not None


def is_shared_write(kwargs: Mapping[str, Any]) -> bool:
    """Whether a function writes to something else than its first argument."""
    return kwargs.get("out") is not None


@functools.cache
def is_random(function: Any) -> bool:
    """Whether a function may draw random numbers: as torch's own tags say, or unknown."""
    if isinstance(function, types.FunctionType):
        return function not in _SAFE
    name = getattr(function, "__name__", "")
    packet = None if name.startswith("__") else getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    overloads = (getattr(packet, name) for name in packet.overloads())
    return any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads)


@functools.cache
def _is_in_place(function: Any) -> bool:
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name in _IN_PLACE
    return name.endswith("_") and not name.startswith("_")


_IN_PLACE = {"__setitem__", "__set__", "__delitem__"} | {
    name for name in dir(torch.Tensor) if name.startswith("__i") and hasattr(torch.Tensor, f"__{name[3:]}")
}
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


def _rows(size: int, values: Any, parts: dict[int, Any]) -> Iterator[tuple[Any, ...]]:
    return zip(*(_column(size, value, parts) for value in values), strict=True)


def _column(size: int, argument: Any, parts: dict[int, Any]) -> Any:
    """What each member has for an argument."""
    if isinstance(argument, Members):
        found = parts.get(id(argument))
        if found is None:
            found = parts[id(argument)] = argument.members()
        return found
    if isinstance(argument, list | tuple) and any(map(holds_many, argument)):
        if type(argument) not in (list, tuple):
            raise NotFusedError(f"a {type(argument).__name__} of values is not known")
        columns = [_column(size, item, parts) for item in argument]
        return [type(argument)(row) for row in zip(*columns, strict=True)]
    return [argument] * size


def holds_many(value: Any) -> bool:
    """Whether a value, or one in a list or tuple, is of all members."""
    return isinstance(value, Members) or (isinstance(value, list | tuple) and any(map(holds_many, value)))


def _from_the_same_noise(size: int, function: Any, calls: Any) -> list[Any]:
    results: list[Any] = []
    start = end = noise_state()
    for number, (row, words) in enumerate(calls):
        if number:
            set_noise_state(start)
        results.append(function(*row, **words))
        now = noise_state()
        if number and not same_noise_state(now, end):
            raise NotFusedError("the models do not draw equally many random numbers")
        end = now
    return results
