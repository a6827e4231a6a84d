"""Stacked rules for functions that only change shapes: the members' dimensions come after that of the group."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from cerebro.training.fused.many import Group, Many, Rule

Kwargs = Mapping[str, Any]


def _is_stacked(value: Any) -> bool:
    return isinstance(value, Many) and not value.is_tuple


def _dims(function: Any, group: Group, args: tuple[Any, ...], kwargs: Kwargs, arguments: int, more: int = 0) -> Any:
    """A function whose first `arguments` arguments after the tensor are dimensions."""
    value, dims = args[0], args[1 : 1 + arguments]
    if kwargs or not _is_stacked(value) or not all(type(dim) is int for dim in dims):
        return NotImplemented
    rank = value.ndim + more
    shifted = [dim + rank + 1 if dim < 0 else dim + 1 for dim in dims]
    result = function(value.stacked(), *shifted, *args[1 + arguments :])
    if isinstance(result, torch.Tensor):
        return Many(group, result, is_copy=value.is_copy)
    return type(result)(Many(group, part, is_copy=value.is_copy) for part in result)


def _of_dims(arguments: int, more: int = 0) -> Rule:
    def rule(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        if len(args) < 1 + arguments:
            return NotImplemented
        return _dims(function, group, args, kwargs, arguments, more)

    return rule


def flatten(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Flatten, whose dimensions may be left out."""
    value = args[0]
    if not _is_stacked(value) or not value.ndim:
        return NotImplemented
    shift = [dim if dim < 0 else dim + 1 for dim in _ends(*args[1:], **kwargs)]
    if shift[0] < -value.ndim or shift[1] < -value.ndim:
        return NotImplemented
    return Many(group, torch.flatten(value.stacked(), *shift), is_copy=value.is_copy)


def _ends(start_dim: int = 0, end_dim: int = -1) -> tuple[int, int]:
    return start_dim, end_dim


def reshape(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Reshape and view to sizes."""
    value, sizes = args[0], args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        sizes = tuple(sizes[0])
    if kwargs or not _is_stacked(value) or not all(type(size) is int for size in sizes):
        return NotImplemented
    if 0 in value.shape:
        return NotImplemented
    return Many(group, value.stacked().reshape(group.size, *sizes), is_copy=value.is_copy)


def permute(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Permute the members' dimensions."""
    value, dims = args[0], args[1:]
    if len(dims) == 1 and isinstance(dims[0], list | tuple):
        dims = tuple(dims[0])
    if kwargs or not _is_stacked(value):
        return NotImplemented
    rank = value.ndim
    shifted = [0, *(dim + rank + 1 if dim < 0 else dim + 1 for dim in dims)]
    return Many(group, value.stacked().permute(shifted), is_copy=value.is_copy)


def index(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Basic indexing: numbers, slices, `...` and None."""
    value, key = args
    keys = key if isinstance(key, tuple) else (key,)
    if not _is_stacked(value) or not all(type(one) in (int, slice, type(...), type(None)) for one in keys):
        return NotImplemented
    return Many(group, value.stacked()[(slice(None), *keys)], is_copy=value.is_copy)


def same(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Functions that give the same values in the same shape."""
    if kwargs or len(args) != 1 or not _is_stacked(args[0]):
        return NotImplemented
    return Many(group, function(args[0].stacked()), is_copy=args[0].is_copy)


def contiguous(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Gives the value itself where each member is contiguous, as it would alone."""
    value = args[0]
    if kwargs or len(args) != 1 or not _is_stacked(value):
        return NotImplemented
    first = value.stacked().detach()[0]
    return value if first.is_contiguous() else Many(group, value.stacked().contiguous())


def rules() -> Iterator[tuple[Any, Rule]]:
    """The functions that are computed so."""
    by_name: dict[str, Rule] = {
        "flatten": flatten, "reshape": reshape, "view": reshape, "permute": permute, "detach": same, "clone": same,
        "contiguous": contiguous, "transpose": _of_dims(2), "swapaxes": _of_dims(2), "select": _of_dims(1),
        "narrow": _of_dims(1), "squeeze": _of_dims(1), "unsqueeze": _of_dims(1, more=1),
    }  # fmt: skip
    for name, rule in by_name.items():
        for home in (torch.Tensor, torch):
            if hasattr(home, name):
                yield getattr(home, name), rule
    yield torch.Tensor.__getitem__, index
