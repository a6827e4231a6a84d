"""How a state lies in memory: the list of its tensors, its parts, and the JSON of what is not a tensor."""

import functools
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import torch

from cerebro.errors import InternalError, ModelError

_MAGIC = b"CRBSTAT1"
_PREFIX = struct.Struct("<8sQQQ")
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies in the payload."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """The tensor itself, in the payload `flat`."""
        dtype = getattr(torch, self.dtype)
        span = _span(self.shape, self.strides) * dtype.itemsize
        return flat[self.offset : self.offset + span].view(dtype).as_strided(self.shape, self.strides)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where all tensors lie, and the same as JSON."""

    entries: tuple[Entry, ...]
    size: int
    text: bytes

    @classmethod
    def of(cls, named: list[tuple[str, torch.Tensor]]) -> "Layout":
        """The layout of these tensors, one after another."""
        return _laid_out(tuple([(name, t.dtype, t.shape, t.stride()) for name, t in named]))

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """All tensors, in the payload `flat`."""
        typed, views = dict[str, torch.Tensor](), list[torch.Tensor]()
        for entry in self.entries:
            if entry.dtype not in typed:
                typed[entry.dtype] = flat.view(getattr(torch, entry.dtype))
            numbers = typed[entry.dtype]
            start = numbers.storage_offset() + entry.offset // numbers.element_size()
            views.append(numbers.as_strided(entry.shape, entry.strides, start))
        return views

    @classmethod
    @functools.lru_cache
    def parse(cls, text: bytes, size: int) -> "Layout":
        """The layout that was written as `text`, of a payload of `size` bytes."""
        rows = json.loads(text)
        return cls(tuple(Entry(n, d, tuple(s), tuple(t), o) for n, d, s, t, o in rows), size, text)


@functools.lru_cache
def _laid_out(kinds: tuple[tuple[str, torch.dtype, tuple[int, ...], tuple[int, ...]], ...]) -> Layout:
    """The layout of tensors of such names, types, shapes and strides: models of one architecture have one."""
    entries, offset = list[Entry](), 0
    for name, dtype, shape, strides in kinds:
        strides = tuple(strides) if _is_dense(shape, strides) else torch.empty(shape, device="meta").stride()
        entries.append(Entry(name, dtype_name(dtype), tuple(shape), strides, offset))
        offset += -(-_span(shape, strides) * dtype.itemsize // _ALIGN) * _ALIGN
    rows = [[e.name, e.dtype, e.shape, e.strides, e.offset] for e in entries]
    return Layout(tuple(entries), offset, json.dumps(rows, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Parts:
    """A state taken apart, its payload by place."""

    layout: bytes
    scalars: bytes
    start: int
    payload_bytes: int


def split(state: memoryview) -> Parts:
    """The parts of a state.

    Raises:
        InternalError: not a state.
    """
    if len(state) < _PREFIX.size:
        raise InternalError(f"a state of {len(state)} bytes is too short")
    magic, layout_bytes, scalar_bytes, payload_bytes = _PREFIX.unpack_from(state)
    if magic != _MAGIC:
        raise InternalError(f"not a state: it starts with {magic!r}")
    middle = _PREFIX.size + layout_bytes
    start = middle + scalar_bytes
    return Parts(bytes(state[_PREFIX.size : middle]), bytes(state[middle:start]), start, payload_bytes)


def head_of(layout: Layout, scalars: Any) -> bytes:
    """All of a state that comes before its payload.

    Raises:
        ModelError: the scalars hold something that a state cannot.
    """
    text = json.dumps(_tag(scalars, "optimizer or schedule"), separators=(",", ":")).encode()
    padding = -(_PREFIX.size + len(layout.text) + len(text)) % _ALIGN
    lengths = (len(layout.text), len(text) + padding, layout.size)
    return _PREFIX.pack(_MAGIC, *lengths) + layout.text + text + b" " * padding


def scalars_of(parts: Parts) -> Any:
    """What a state holds beside its tensors, as `head_of` was given it."""
    return _untag(json.loads(parts.scalars))


def payload_of(state: memoryview, parts: Parts) -> torch.Tensor:
    """A copy of the payload of a state."""
    return torch.frombuffer(bytearray(state[parts.start : parts.start + parts.payload_bytes]), dtype=torch.uint8)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a type of numbers, such as `float32`."""
    return str(dtype).removeprefix("torch.")


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last one of a strided tensor."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return _span(shape, strides) == math.prod(shape)


def _tag(value: Any, where: str) -> Any:
    """`value` as JSON that `_untag` turns back into the same Python value."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case tuple():
            return {"tuple": [_tag(item, where) for item in value]}
        case list():
            return [_tag(item, where) for item in value]
        case dict():
            ordered = sorted(value.items(), key=lambda pair: repr(pair[0]))
            return {"dict": [[_tag(key, where), _tag(item, where)] for key, item in ordered]}
        case _:
            raise ModelError(
                f"the {where} holds {value!r} ({type(value).__name__}), which a state cannot: "
                "only tensors, numbers, strings, lists, tuples and dicts can hop"
            )


def _untag(value: Any) -> Any:
    match value:
        case list():
            return [_untag(item) for item in value]
        case {"tuple": items}:
            return tuple(_untag(item) for item in items)
        case {"dict": items}:
            return {_untag(key): _untag(item) for key, item in items}
        case _:
            return value
