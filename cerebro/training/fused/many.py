"""A value that stands for one tensor of each model of a group.

`Many` holds K tensors, as one stacked tensor `[K, ...]` or as K tensors, and passes for a tensor in the user's code.
A torch function of it is looked up in the group's rules, which compute all members at once with the bits that each
would get alone; where there is none, the function runs member by member, which is exact by construction.

What makes a stacked rule exact is that the slices of a stacked tensor have the very strides that the member's tensor
has alone, values and gradients alike: see `strides`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, ValuesView
from typing import Any

import torch

from cerebro.training.fused.loops import Members, each, is_in_place, is_shared_write
from cerebro.training.fused.strides import NotFusedError, are_aligned, part, stack, unbind

Rule = Callable[["Group", Any, tuple[Any, ...], Mapping[str, Any]], Any]
"""Computes a torch function for all members at once, or gives NotImplemented: `rule(group, function, args, kwargs)`."""


class Group:
    """The models that are trained in one pass: how many, and the rules for computing them at once."""

    def __init__(self, size: int, rules: Mapping[Any, Rule]) -> None:
        self.size, self._rules = size, rules
        self.batch = 0
        """The number of the batch, in this visit."""
        self.met = dict[Any, int]()
        """What rules have met in this visit, and the batch in which it was first."""
        self._left: list[tuple[torch.Tensor, int]] = []

    def call(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What `function` gives for all members.

        Raises:
            NotFusedError: it cannot be computed for all in one pass.
        """
        if is_in_place(function, kwargs):
            return self._write(function, args, kwargs)
        rule = self._rules.get(function)
        if rule is not None:
            result = rule(self, function, args, kwargs)
            if result is not NotImplemented:
                return result
        return self.gather(each(self.size, function, args, kwargs))

    def gather(self, results: Sequence[Any]) -> Any:
        """One value from what each member gave: tensors become `Many`, other values must agree."""
        first = results[0]
        if isinstance(first, torch.Tensor):
            return Many(self, None, tuple(results))
        if isinstance(first, _PLAIN) and all(result == first for result in results):
            return first
        if isinstance(first, list | tuple) and not isinstance(first, torch.Size):
            parts = [self.gather(column) for column in zip(*results, strict=True)]
            if type(first) in (list, tuple) or type(first).__module__ == "torch.return_types":
                return type(first)(parts)
            return type(first)(*parts)
        raise NotFusedError(f"the models need not agree on a {type(first).__name__} that the code computes with")

    def leave(self, tensors: Sequence[torch.Tensor]) -> None:
        """Note that a value goes on as a copy of `tensors`, which must not be written to any more in this batch."""
        self._left.extend((tensor, tensor._version) for tensor in tensors)

    def next_batch(self) -> None:
        """Forget what was noted in the last batch."""
        self.batch += 1
        self._left.clear()

    def _write(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A function that changes its first argument in place."""
        target = args[0] if args else None
        if not isinstance(target, Many) or is_shared_write(kwargs):
            raise NotFusedError("a tensor that all models share is written to")
        rule = self._rules.get(function)
        is_joined = not target.is_tuple and not target.is_copy
        if is_joined and rule is not None and rule(self, function, args, kwargs) is not NotImplemented:
            return target
        if not target.aliases_members:
            raise NotFusedError(f"{getattr(function, '__name__', function)} writes to a value that was joined")
        each(self.size, function, (target.for_writing(), *args[1:]), kwargs)
        if any(tensor._version != version for tensor, version in self._left):
            raise NotFusedError("a value is written to after it was joined with those of the other models")
        return target


class Many(Members):
    """One tensor of each member, stacked or not; passes for a tensor."""

    __slots__ = ("__weakref__", "_members", "_stacked", "group", "is_copy")

    def __init__(
        self,
        group: Group,
        stacked: torch.Tensor | None,
        members: tuple[torch.Tensor, ...] | None = None,
        is_copy: bool = False,
    ) -> None:
        self.group, self._stacked, self._members, self.is_copy = group, stacked, members, is_copy

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        many = _first_many((args, kwargs.values()))
        assert many is not None
        return many.group.call(function, args, kwargs)

    @property
    def is_tuple(self) -> bool:
        """Whether the members are held one by one."""
        return self._stacked is None

    @property
    def aliases_members(self) -> bool:
        """Whether writing to the members writes to this value."""
        stacked = self._stacked
        return stacked is None or not (self.is_copy or stacked.requires_grad or not are_aligned(stacked))

    def stacked(self) -> torch.Tensor:
        """All members as one tensor `[K, ...]`, in which each has the strides that it has alone.

        From here on the value is held so: what uses it later adds its gradient in the order in which it would alone.
        """
        if self._stacked is not None:
            return self._stacked
        assert self._members is not None
        joined = stack(self._members)
        if joined.requires_grad == any(member.requires_grad for member in self._members):  # not under no_grad
            self.group.leave(self._members)
            self._stacked, self._members, self.is_copy = joined, None, True
        return joined

    def members(self) -> tuple[torch.Tensor, ...]:
        """The tensor of each member."""
        if self._members is not None:
            return self._members
        assert self._stacked is not None
        if self._stacked.requires_grad:  # anew for each use, so that their gradients add up in the order of use
            return unbind(self._stacked)
        if not are_aligned(self._stacked):
            return part(self._stacked)
        self._members = self._stacked.unbind(0)
        return self._members

    def for_writing(self) -> "Many":
        """The members, to be changed in place."""
        return self

    @property
    def shape(self) -> torch.Size:
        """The shape of each member."""
        if self._stacked is not None:
            return self._stacked.shape[1:]
        return self._common("shape")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers."""
        return self._common("dtype") if self._stacked is None else self._stacked.dtype

    @property
    def device(self) -> torch.device:
        """Where the members lie."""
        return self._some().device

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is wanted."""
        return self._some().requires_grad

    @property
    def is_leaf(self) -> bool:
        """Whether no operation made it."""
        return self._some().is_leaf

    @property
    def ndim(self) -> int:
        """The number of dimensions of each member."""
        return len(self.shape)

    def dim(self) -> int:
        """The same."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """The shape of each member, or its length along a dimension."""
        return self.shape if dim is None else self.shape[dim]

    def strides(self) -> tuple[int, ...]:
        """How each member lies in memory."""
        return self._stacked.stride()[1:] if self._stacked is not None else self._common_strides()

    # For the user's `isinstance(value, torch.Tensor)`.
    __class__ = property(lambda self: torch.Tensor)  # type: ignore[assignment]

    def __iter__(self) -> Any:
        return iter(self.unbind(0))  # type: ignore[attr-defined]

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Many({self.group.size} × {tuple(self.shape)})"

    def first(self) -> torch.Tensor:
        """A tensor that begins where the first member does."""
        return self._some()

    def _some(self) -> torch.Tensor:
        if self._stacked is not None:
            return self._stacked
        assert self._members is not None
        return self._members[0]

    def _common(self, name: str) -> Any:
        assert self._members is not None
        return self.group.gather([getattr(member, name) for member in self._members])

    def _common_strides(self) -> tuple[int, ...]:
        assert self._members is not None
        strides = {member.stride() for member in self._members}
        if len(strides) > 1:
            raise NotFusedError("the tensors of the models do not lie alike in memory")
        return strides.pop()


_PLAIN = (bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format)


def _first_many(values: Iterable[Any]) -> Many | None:
    for value in values:
        if isinstance(value, Many):
            return value
        if isinstance(value, list | tuple | ValuesView):
            found = _first_many(value)
            if found is not None:
                return found
    return None


def _method(name: str) -> Any:
    function = getattr(torch.Tensor, name)

    def method(self: Many, *args: Any, **kwargs: Any) -> Any:
        return self.group.call(function, (self, *args), kwargs)

    method.__name__ = name
    return method


def _property(name: str) -> Any:
    getter = getattr(torch.Tensor, name).__get__
    return property(lambda self: self.group.call(getter, (self,), {}))


def _pass_for_a_tensor() -> None:
    """Give `Many` whatever a tensor has and it has not of its own."""
    own = {*vars(Many), *vars(object)} - {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"}
    for name in dir(torch.Tensor):
        attribute = getattr(torch.Tensor, name)
        if name in own:
            continue
        if inspect.isgetsetdescriptor(attribute) or isinstance(attribute, property):
            setattr(Many, name, _property(name))
        elif callable(attribute):
            setattr(Many, name, _method(name))


_pass_for_a_tensor()
