"""The state of a model: everything that hops, in one flat buffer.

A state is `magic | lengths | layout (JSON) | scalars (JSON) | payload`. The layout lists each tensor (name, dtype,
shape, strides, offset); the scalars are what is not a tensor: the optimizer's settings and the schedule's counters.
The payload is one buffer in which every tensor starts at a multiple of 64 bytes, so that a hop is one copy, a
checkpoint one file, and a digest one pass. Nothing is pickled.

`LiveState` binds a module, its optimizer and its schedule to such a buffer: their tensors become views into it.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cerebro.errors import InternalError, ModelError

_MAGIC = b"CRBSTAT1"
_PREFIX = struct.Struct("<8sQQQ")
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where one tensor lies in the payload."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        dtype = getattr(torch, self.dtype)
        span = _span(self.shape, self.strides) * dtype.itemsize
        return flat[self.offset : self.offset + span].view(dtype).as_strided(self.shape, self.strides)


class LiveState:
    """A module, its optimizer and its schedule, bound to one flat buffer."""

    def __init__(self, module: Any, optimizer: Any, schedule: Any | None) -> None:
        self.module, self.optimizer, self.schedule = module, optimizer, schedule
        self._layout = _Layout((), 0, b"[]")
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._bound: list[tuple[torch.Tensor, int]] = []

    @property
    def bytes_held(self) -> int:
        """Bytes of the buffer as it was last bound."""
        return self._flat.numel()

    def write(self, room_for: Callable[[int], memoryview]) -> int:
        """Write the state where `room_for(size)` says; gives its size in bytes.

        Raises:
            ModelError: the optimizer or the schedule holds something that a state cannot.
        """
        self._bind()
        head, payload = self._head(), self._flat
        into = room_for(len(head) + payload.numel())
        into[: len(head)] = head
        for tensor, offset in self._bound:
            if tensor.device.type != "cpu":
                _strided_bytes(tensor, payload, offset)
        target = torch.frombuffer(into, dtype=torch.uint8, count=payload.numel(), offset=len(head))
        target.copy_(payload)
        return len(head) + payload.numel()

    def to_bytes(self) -> bytes:
        """The state as bytes of their own."""
        buffer = bytearray()

        def room_for(size: int) -> memoryview:
            buffer.extend(bytes(size))
            return memoryview(buffer)

        self.write(room_for)
        return bytes(buffer)

    def load(self, state: memoryview) -> None:
        """Take over a state written by another `LiveState` of the same config.

        Raises:
            InternalError: not a state.
            ModelError: the tensors do not fit the module, so `build` does not give the same module again.
        """
        if state.readonly:
            state = memoryview(bytearray(state))  # torch reads writable buffers only
        parts = _split(state)
        if parts.layout != self._layout.text:
            self._adopt(_Layout.parse(parts.layout, parts.payload_bytes))
        source = torch.frombuffer(state, dtype=torch.uint8, count=parts.payload_bytes, offset=parts.start)
        self._flat.copy_(source)
        for (tensor, _), entry in zip(self._bound, self._layout.entries, strict=True):
            if tensor.device.type != "cpu":
                tensor.data.copy_(entry.view(self._flat))
        self._restore_scalars(_untag(json.loads(parts.scalars)))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of the state by name: parameters, buffers, then the optimizer's."""
        for name, tensor in self.module.named_parameters():
            yield f"module/{name}", tensor
        for name, tensor in self.module.named_buffers():
            yield f"module/{name}", tensor
        for index, key, value in self._optimizer_items():
            if isinstance(value, torch.Tensor):
                yield f"optimizer/{index}/{key}", value
        for index, group in enumerate(self.optimizer.param_groups):
            for key, value in sorted(group.items()):
                if isinstance(value, torch.Tensor):
                    yield f"group/{index}/{key}", value

    def _bind(self) -> None:
        """Make every tensor a view into the flat buffer, unless all are already where they belong."""
        named = list(self.tensors())
        if self._is_bound(named):
            return
        layout = _Layout.of(named)
        flat = torch.zeros(layout.size, dtype=torch.uint8)
        for (_, tensor), entry in zip(named, layout.entries, strict=True):
            view = entry.view(flat)
            view.copy_(tensor.detach())
            if tensor.device.type == "cpu":
                tensor.data = view
        self._layout, self._flat = layout, flat
        self._bound = [(tensor, entry.offset) for (_, tensor), entry in zip(named, layout.entries, strict=True)]

    def _is_bound(self, named: list[tuple[str, torch.Tensor]]) -> bool:
        if len(named) != len(self._bound):
            return False
        base = self._flat.data_ptr()
        return all(
            tensor is bound and (tensor.device.type != "cpu" or tensor.data_ptr() == base + offset)
            for (_, tensor), (bound, offset) in zip(named, self._bound, strict=True)
        )

    def _adopt(self, layout: "_Layout") -> None:
        """Lay the tensors out as another `LiveState` did, making the optimizer's where it has none yet."""
        flat = torch.zeros(layout.size, dtype=torch.uint8)
        own = {name: tensor for name, tensor in self.tensors() if name.startswith("module/")}
        _check_module(own, layout.entries)
        device = next((tensor.device for tensor in own.values()), torch.device("cpu"))
        self.optimizer.state.clear()
        parameters = self._parameters()
        self._bound = []
        for entry in layout.entries:
            view = entry.view(flat)
            kind, _, rest = entry.name.partition("/")
            if kind == "module":
                tensor = own[entry.name]
                if tensor.device.type == "cpu":
                    tensor.data = view
            else:
                # A scalar tensor such as Adam's step count lives where the optimizer would have made it.
                tensor = view if device.type == "cpu" else _placed(view, device, self.optimizer)
                index, _, key = rest.partition("/")
                owner = self.optimizer.state[parameters[int(index)]] if kind == "optimizer" else None
                (self.optimizer.param_groups[int(index)] if owner is None else owner)[key] = tensor
            self._bound.append((tensor, entry.offset))
        self._layout, self._flat = layout, flat

    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _optimizer_items(self) -> Iterator[tuple[int, str, Any]]:
        for index, parameter in enumerate(self._parameters()):
            for key, value in sorted(self.optimizer.state.get(parameter, {}).items()):
                yield index, key, value

    def _scalars(self) -> dict[str, Any]:
        items = [[i, key, value] for i, key, value in self._optimizer_items() if not isinstance(value, torch.Tensor)]
        groups = [
            {k: v for k, v in sorted(group.items()) if k != "params" and not isinstance(v, torch.Tensor)}
            for group in self.optimizer.param_groups
        ]
        schedule = self.schedule.state_dict() if self.schedule is not None else None
        return {"optimizer": items, "groups": groups, "schedule": schedule}

    def _restore_scalars(self, scalars: Mapping[str, Any]) -> None:
        parameters = self._parameters()
        for index, key, value in scalars["optimizer"]:
            self.optimizer.state[parameters[index]][key] = value
        for group, values in zip(self.optimizer.param_groups, scalars["groups"], strict=True):
            group.update(values)
        if self.schedule is not None:
            self.schedule.load_state_dict(scalars["schedule"])

    def _head(self) -> bytes:
        scalars = json.dumps(_tag(self._scalars(), "optimizer or schedule"), separators=(",", ":")).encode()
        layout = self._layout.text
        padding = -(_PREFIX.size + len(layout) + len(scalars)) % _ALIGN
        lengths = (len(layout), len(scalars) + padding, self._flat.numel())
        return _PREFIX.pack(_MAGIC, *lengths) + layout + scalars + b" " * padding


def read_tensors(state: memoryview) -> dict[str, torch.Tensor]:
    """Every tensor of a state by name, copied.

    Raises:
        InternalError: not a state.
    """
    parts = _split(state)
    payload = bytearray(state[parts.start : parts.start + parts.payload_bytes])
    flat = torch.frombuffer(payload, dtype=torch.uint8)
    layout = _Layout.parse(parts.layout, parts.payload_bytes)
    return {entry.name: entry.view(flat).clone() for entry in layout.entries}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where all tensors lie, and the same as JSON."""

    entries: tuple[_Entry, ...]
    size: int
    text: bytes

    @classmethod
    def of(cls, named: list[tuple[str, torch.Tensor]]) -> "_Layout":
        entries, offset = list[_Entry](), 0
        for name, tensor in named:
            strides = tuple(tensor.stride()) if _is_dense(tensor) else tuple(tensor.contiguous().stride())
            shape = tuple(tensor.shape)
            entries.append(_Entry(name, _dtype_name(tensor.dtype), shape, strides, offset))
            offset += -(-_span(shape, strides) * tensor.dtype.itemsize // _ALIGN) * _ALIGN
        rows = [[e.name, e.dtype, e.shape, e.strides, e.offset] for e in entries]
        return cls(tuple(entries), offset, json.dumps(rows, separators=(",", ":")).encode())

    @classmethod
    def parse(cls, text: bytes, size: int) -> "_Layout":
        rows = json.loads(text)
        return cls(tuple(_Entry(n, d, tuple(s), tuple(t), o) for n, d, s, t, o in rows), size, text)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A state taken apart, its payload by place."""

    layout: bytes
    scalars: bytes
    start: int
    payload_bytes: int


def _split(state: memoryview) -> _Parts:
    if len(state) < _PREFIX.size:
        raise InternalError(f"a state of {len(state)} bytes is too short")
    magic, layout_bytes, scalar_bytes, payload_bytes = _PREFIX.unpack_from(state)
    if magic != _MAGIC:
        raise InternalError(f"not a state: it starts with {magic!r}")
    middle = _PREFIX.size + layout_bytes
    start = middle + scalar_bytes
    return _Parts(bytes(state[_PREFIX.size : middle]), bytes(state[middle:start]), start, payload_bytes)


def _check_module(own: Mapping[str, torch.Tensor], entries: tuple[_Entry, ...]) -> None:
    theirs = {e.name: (e.dtype, e.shape) for e in entries if e.name.startswith("module/")}
    ours = {name: (_dtype_name(t.dtype), tuple(t.shape)) for name, t in own.items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ModelError(
                f"{name.partition('/')[2]}: the state holds {theirs.get(name)}, the module that build gave now has "
                f"{ours.get(name)}; build must give the same module for the same config"
            )


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last one of a strided tensor."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))


def _is_dense(tensor: torch.Tensor) -> bool:
    return _span(tuple(tensor.shape), tuple(tensor.stride())) == tensor.numel()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _strided_bytes(tensor: torch.Tensor, payload: torch.Tensor, offset: int) -> None:
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    _Entry("", _dtype_name(tensor.dtype), shape, strides, offset).view(payload).copy_(tensor.detach())


def _placed(view: torch.Tensor, device: torch.device, optimizer: Any) -> torch.Tensor:
    on_device = view.dim() > 0 or any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return view.to(device) if on_device else view


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
