"""What a frozen sub-module or a view is, as a digest: its code, its tensors, and the values that it holds."""

import hashlib
import types
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from cerebro.ids import digest
from cerebro.spec.code import Parts, code_parts, is_own, referred
from cerebro.training.layout import dtype_name

_OWN_FIELDS = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}
"""Fields of a module that are looked at otherwise, or are not to be."""


class OpaqueError(Exception):
    """A value whose content cannot be told."""


def identity_of(value: Any) -> str | None:
    """A digest that equal functions, modules and values share; None for one whose content cannot be told."""
    try:
        return digest(_described(value, ()))
    except (OpaqueError, RecursionError):
        return None


def tensor_digest(tensor: torch.Tensor) -> str:
    """The digest of a tensor: type, shape, strides and content."""
    head = f"{dtype_name(tensor.dtype)} {tuple(tensor.shape)} {tensor.stride()}".encode()
    found = hashlib.sha256(head)
    found.update(tensor_bytes(tensor))
    return found.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The content of a tensor, row after row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content: Any = flat.view(torch.uint8).numpy()
    return memoryview(content) if flat.numel() else memoryview(b"")


def _described(value: Any, inside: tuple[int, ...]) -> Any:
    if id(value) in inside:
        return "again"
    within = (*inside, id(value))
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes():
            return repr(value)
        case set() | frozenset():
            return sorted(repr(_described(item, within)) for item in value)
        case tuple() | list():
            return [_described(item, within) for item in value]
        case Mapping():
            return [[_described(key, within), _described(item, within)] for key, item in value.items()]
        case torch.Tensor() | np.ndarray():
            return _array(value)
        case type() | partial() | types.MethodType() | types.FunctionType() | types.BuiltinFunctionType():
            return _callable(value, within)
        case nn.Module():
            return _module(value, within)
        case _:
            return _instance(value, within)


def _array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tensor_digest(value)
    if value.dtype == object:
        raise OpaqueError("an array of objects")
    return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]


def _callable(value: Any, inside: tuple[int, ...]) -> Any:
    match value:
        case type():
            return [_named(value), _class_parts(value)]
        case partial():
            return [_described(item, inside) for item in (value.func, value.args, value.keywords)]
        case types.MethodType():
            return [_described(item, inside) for item in (value.__func__, value.__self__)]
        case types.FunctionType():
            return _function(value, inside)
        case _:
            return _named(value)


def _function(function: types.FunctionType, inside: tuple[int, ...]) -> Any:
    """The code, and the content of what it names: the digest of code alone sees of an array only that it is one."""
    if not is_own(function):
        return [_named(function), code_parts(function)]
    return [code_parts(function), *([name, _described(item, inside)] for name, item in referred(function))]


@cache
def _class_parts(kind: type) -> Parts:
    return code_parts(kind)


def _module(module: nn.Module, inside: tuple[int, ...]) -> Any:
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    fields = {name: item for name, item in vars(module).items() if name not in _OWN_FIELDS and not _is_empty_hook(item)}
    return [
        _described(type(module), inside),
        [[name, tensor_digest(tensor)] for name, tensor in tensors],
        _described(fields, inside),
        [[name, _described(child, inside)] for name, child in module.named_children()],
    ]


def _instance(value: Any, inside: tuple[int, ...]) -> Any:
    """An object that is no more than its class and its fields."""
    kind = type(value)
    if isinstance(value, torch.dtype | torch.device | types.ModuleType):
        return str(value)
    fields = getattr(value, "__dict__", None)
    if fields is None or kind.__module__ == "builtins":
        raise OpaqueError(_named(kind))
    return [_described(kind, inside), _described(fields, inside)]


def _is_empty_hook(item: Any) -> bool:
    return isinstance(item, Mapping) and not item


def _named(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
