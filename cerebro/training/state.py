"""The state of a model: everything that hops, in one flat buffer.

A state is `magic | lengths | layout (JSON) | scalars (JSON) | payload`. The layout lists each tensor (name, dtype,
shape, strides, offset); the scalars are what is not a tensor: the optimizer's settings and the schedule's counters.
The payload is one buffer in which every tensor starts at a multiple of 64 bytes, so that a hop is one copy, a
checkpoint one file, and a digest one pass. Nothing is pickled.

`LiveState` binds a module, its optimizer and its schedule to such a buffer: their tensors become views into it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch

from cerebro.errors import ModelError
from cerebro.training.adoption import (
    adopt_frozen,
    adopt_module,
    adopt_optimizer,
    check_module,
    fast_forward,
    parameters_of,
)
from cerebro.training.frozen import Frozen
from cerebro.training.layout import Entry, Layout, dtype_name, head_of, payload_of, scalars_of, split


class LiveState:
    """A module, its optimizer and its schedule, bound to one flat buffer."""

    def __init__(self, module: Any, optimizer: Any, schedule: Any | None, frozen: Frozen | None = None) -> None:
        self.module, self.optimizer, self.schedule = module, optimizer, schedule
        self._frozen = frozen
        self._layout = Layout((), 0, b"[]")
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._bound: list[tuple[torch.Tensor, int]] = []

    @property
    def bytes_held(self) -> int:
        """Bytes of the buffer as it was last bound."""
        return self._flat.numel()

    def bound(self) -> torch.Tensor:
        """The buffer, with every tensor in it."""
        self._bind()
        return self._flat

    def buffer(self) -> torch.Tensor | None:
        """The buffer; None where a tensor is not in it."""
        return self._flat if self._is_bound(list(self.tensors())) else None

    def layout(self) -> Layout:
        """How the tensors would lie in a buffer, as they are now."""
        return Layout.of(list(self.tensors()))

    def move(self, layout: Layout, flat: torch.Tensor) -> None:
        """Bring every tensor into the buffer `flat`, as `layout` says, which is the state's own."""
        self._bound = []
        for (_, tensor), entry, view in zip(self.tensors(), layout.entries, layout.views(flat), strict=True):
            view.copy_(tensor.detach())
            if tensor.device.type == "cpu":
                tensor.data = view
            self._bound.append((tensor, entry.offset))
        self._layout, self._flat = layout, flat

    def write(self, room_for: Callable[[int], memoryview]) -> int:
        """Write the state where `room_for(size)` says; gives its size in bytes.

        Raises:
            ModelError: the optimizer or the schedule holds something that a state cannot.
        """
        self._bind()
        head, payload = head_of(self._layout, self._scalars()), self._flat
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
        parts = split(state)
        if parts.layout != self._layout.text:
            self._lay_out(Layout.parse(parts.layout, parts.payload_bytes))
        source = torch.frombuffer(state, dtype=torch.uint8, count=parts.payload_bytes, offset=parts.start)
        self._flat.copy_(source)
        for (tensor, _), entry in zip(self._bound, self._layout.entries, strict=True):
            if tensor.device.type != "cpu":
                tensor.data.copy_(entry.view(self._flat))
        self._restore_scalars(scalars_of(parts))

    def adopt(self, state: memoryview, optimizer: Literal["keep", "reset"]) -> None:
        """Start from the state of an ancestor: for a learner that was just built, of another config than that one's.

        The weights are the ancestor's. With `keep` so is what its optimizer remembers, and the schedule is stepped as
        often as the ancestor's was; with `reset` both start anew. All settings are those of the learner's own build.

        Raises:
            InternalError: not a state.
            ModelError: the architectures differ, or an optimizer that is to be kept does.
        """
        parts, found = split(state), read_tensors(state)
        own, weights = self.module_tensors(), {name: t for name, t in found.items() if name.startswith("module/")}
        scalars = scalars_of(parts)
        if (frozen := scalars.get("frozen")) is not None:
            own = adopt_frozen(self.module, own, frozen)
        check_module(own, weights)
        if optimizer == "keep":
            adopt_optimizer(self.optimizer, found, scalars)
            if self.schedule is not None:
                fast_forward(self.schedule, scalars["schedule"])
        adopt_module(own, weights)  # last, as an optimizer that makes its tensors takes a step

    def channels_last(self) -> None:
        """Let every tensor of four dimensions lie with its channels last; does nothing where they do.

        That goes for parameters, buffers, and what the optimizer remembers of them: fused kernels walk through all of
        these as they lie in memory.
        """
        for _, tensor in self.tensors():
            if tensor.dim() == 4 and not tensor.is_contiguous(memory_format=torch.channels_last):
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of the state by name: parameters, buffers, then the optimizer's."""
        left_out = self._frozen.ids if self._frozen is not None else ()
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            if id(tensor) not in left_out:
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
        if self.buffer() is None:
            layout = self.layout()
            self.move(layout, torch.zeros(layout.size, dtype=torch.uint8))

    def _is_bound(self, named: list[tuple[str, torch.Tensor]]) -> bool:
        if len(named) != len(self._bound):
            return False
        base = self._flat.data_ptr()
        return all(
            tensor is bound and (tensor.device.type != "cpu" or tensor.data_ptr() == base + offset)
            for (_, tensor), (bound, offset) in zip(named, self._bound, strict=True)
        )

    def _lay_out(self, layout: Layout) -> None:
        """Lay the tensors out as another `LiveState` did, making the optimizer's where it has none yet."""
        flat = torch.zeros(layout.size, dtype=torch.uint8)
        own = self.module_tensors()
        _check_module(own, layout.entries)
        device = next((tensor.device for tensor in own.values()), torch.device("cpu"))
        self.optimizer.state.clear()
        parameters = parameters_of(self.optimizer)
        self._bound = []
        for entry, view in zip(layout.entries, layout.views(flat), strict=True):
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

    def module_tensors(self) -> dict[str, torch.Tensor]:
        """The parameters and buffers by name."""
        return {name: tensor for name, tensor in self.tensors() if name.startswith("module/")}

    def _optimizer_items(self) -> Iterator[tuple[int, str, Any]]:
        for index, parameter in enumerate(parameters_of(self.optimizer)):
            for key, value in sorted(self.optimizer.state.get(parameter, {}).items()):
                yield index, key, value

    def _scalars(self) -> dict[str, Any]:
        items = [[i, key, value] for i, key, value in self._optimizer_items() if not isinstance(value, torch.Tensor)]
        groups = [
            {k: v for k, v in sorted(group.items()) if k != "params" and not isinstance(v, torch.Tensor)}
            for group in self.optimizer.param_groups
        ]
        schedule = self.schedule.state_dict() if self.schedule is not None else None
        scalars = {"optimizer": items, "groups": groups, "schedule": schedule}
        return scalars if self._frozen is None else {**scalars, "frozen": self._frozen.description}

    def _restore_scalars(self, scalars: Mapping[str, Any]) -> None:
        check_frozen(scalars, self._frozen)
        parameters = parameters_of(self.optimizer)
        for index, key, value in scalars["optimizer"]:
            self.optimizer.state[parameters[index]][key] = value
        for group, values in zip(self.optimizer.param_groups, scalars["groups"], strict=True):
            group.update(values)
        if self.schedule is not None:
            self.schedule.load_state_dict(scalars["schedule"])


def check_frozen(scalars: Mapping[str, Any], frozen: Frozen | None) -> None:
    """Check that the frozen sub-modules are those that a state was trained with: their weights are not in it.

    Raises:
        ModelError: they are not.
    """
    expected, found = scalars.get("frozen"), None if frozen is None else frozen.description
    if expected == found:
        return
    before, now = (
        "none" if told is None else f"{', '.join(told['parts'])} (weights {told['weights'][:12]})"
        for told in (expected, found)
    )
    raise ModelError(
        f"Learner.freeze: the state was trained with these sub-modules frozen: {before}; build gave now: {now}; "
        "it must give the same frozen weights whenever it is called"
    )


def read_tensors(state: memoryview) -> dict[str, torch.Tensor]:
    """Every tensor of a state by name, copied.

    Raises:
        InternalError: not a state.
    """
    parts = split(state)
    flat, layout = payload_of(state, parts), Layout.parse(parts.layout, parts.payload_bytes)
    return {entry.name: entry.view(flat).clone() for entry in layout.entries}


def _check_module(own: Mapping[str, torch.Tensor], entries: tuple[Entry, ...]) -> None:
    theirs = {e.name: (e.dtype, e.shape) for e in entries if e.name.startswith("module/")}
    ours = {name: (dtype_name(t.dtype), tuple(t.shape)) for name, t in own.items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ModelError(
                f"{name.partition('/')[2]}: the state holds {theirs.get(name)}, the module that build gave now has "
                f"{ours.get(name)}; build must give the same module for the same config"
            )


def _strided_bytes(tensor: torch.Tensor, payload: torch.Tensor, offset: int) -> None:
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    Entry("", dtype_name(tensor.dtype), shape, strides, offset).view(payload).copy_(tensor.detach())


def _placed(view: torch.Tensor, device: torch.device, optimizer: Any) -> torch.Tensor:
    on_device = view.dim() > 0 or any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return view.to(device) if on_device else view
