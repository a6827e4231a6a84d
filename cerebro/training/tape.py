"""A tape: the kernels that a computation ran, noted once, and played again without the Python that called them.

A small net's batch is mostly Python: modules that call modules, functions looked up, a graph built and walked back.
What remains of it is a straight list of kernels, the same for every batch of one shape. `record` notes that list below
torch's autograd, so that the backward pass is on it too; `Tape.play` runs it on another batch.

What no tape can tell is refused: a number read from a tensor (the code may branch on it), a draw from the generators of
Python or NumPy. Whether a tape is right is for its user to check: see `cerebro.training.player`.
"""

import functools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Tensors = Sequence[torch.Tensor | None]
Place = tuple[Any, ...]
"""Where a tensor lies in memory, and how: two tensors with one place are the same numbers."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a tape holds for a moment: an input, or what a kernel gave."""

    number: int

    def __str__(self) -> str:
        return f"t{self.number}"


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel, what it is called with, and where what it gives is kept: a slot, a list of some, or none.

    A few kernels keep more where gradients are on, so it is noted whether they were.
    """

    kernel: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    has_grad: bool
    written: tuple[torch.Tensor, ...]
    """What it writes to of what lasts."""
    changed: tuple[Slot, ...]
    """What it writes to of what the tape holds."""

    @property
    def has_effects(self) -> bool:
        """Whether it does more than to give a value: it writes to what lasts, or draws random numbers."""
        return bool(self.written) or torch.Tag.nondeterministic_seeded in self.kernel.tags


@dataclass(frozen=True)
class Tape:
    """A list of kernels, from the tensors of a batch to those that a computation gave."""

    inputs: tuple[Slot, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Any, ...]
    """A slot, a tensor that is the same for every batch, or None."""

    @functools.cached_property
    def _play(self) -> Callable[..., list[torch.Tensor | None]]:
        text, values = _program(self)
        space: dict[str, Any] = {**values, "set_grad_enabled": torch._C._set_grad_enabled}
        exec(compile(text, "<tape>", "exec"), space)
        return space["play"]

    def __str__(self) -> str:
        return _program(self)[0]

    def prepare(self) -> None:
        """Let the next `play` take no longer than those after it."""
        assert self._play is not None

    def play(self, inputs: Iterable[torch.Tensor]) -> Tensors:
        """The outputs for other inputs of the same shapes, strides and types."""
        has_grad, play = torch.is_grad_enabled(), self._play
        try:
            with torch._C._AutoDispatchBelowAutograd():
                return play(*inputs)
        finally:
            torch._C._set_grad_enabled(has_grad)

    @property
    def written(self) -> list[torch.Tensor]:
        """Lasting memory that is written to, such as the running means of a layer; as a whole where many parts are."""
        found = {place_of(tensor): tensor for call in self.calls for tensor in call.written}
        parts = Counter(map(_memory, found.values()))
        whole = {_memory(tensor): tensor for tensor in found.values() if parts[_memory(tensor)] > _FEW_PARTS}
        few = [tensor for tensor in found.values() if parts[_memory(tensor)] <= _FEW_PARTS]
        return [*few, *map(_bytes, whole.values())]

    def is_like(self, other: "Tape") -> bool:
        """Whether another tape has the same kernels with the same numbers, so that nothing depended on the batch."""
        return (
            len(self.calls) == len(other.calls)
            and all(map(_are_alike, self.calls, other.calls))
            and same_values(self.outputs, other.outputs)
        )


def record(compute: Callable[[], Tensors], inputs: Sequence[torch.Tensor]) -> Tape | str:
    """The tape of `compute` from `inputs`; a line that says why there is none, where there is none.

    Code may see that it is looked at and run other kernels, so what it gives here is not to be used. It leaves nothing
    behind: what it writes to lasting tensors is taken back, and so are its draws of random numbers.
    """
    recording, watch, before = _Recording(inputs), _Watch(), _generators()
    try:
        with recording, watch:
            outputs = compute()
        is_drawn = not _same_generators(before, _generators())
    except _MISHAPS as error:
        return f"it fails when it is looked at: {type(error).__name__}"
    finally:
        recording.take_back()
        _set_generators(before)
    if is_drawn:
        return "it draws random numbers of Python or NumPy"
    return recording.why_not or watch.why_not or recording.tape(outputs)


_MISHAPS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""What code may raise because it is looked at; if that is not why, it raises it again."""


def place_of(tensor: torch.Tensor) -> Place:
    """The place of a tensor."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


class _Recording(TorchDispatchMode):
    """Writes down every kernel while it is active."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.why_not = ""
        self._inputs = tuple(Slot(number) for number in range(len(inputs)))
        self._slots = {place_of(tensor): slot for tensor, slot in zip(inputs, self._inputs, strict=True)}
        self._memory_of = {slot: _memory(tensor) for tensor, slot in zip(inputs, self._inputs, strict=True)}
        self._made = set(self._memory_of.values())
        """Memory that was taken since the recording began; what lies elsewhere lasts."""
        self._alive = [tensor.untyped_storage() for tensor in inputs]
        """Nothing is freed while this is recorded, so that no place is used twice. The memory alone is held: autograd
        copies a gradient that somebody else holds."""
        self._calls: list[Call] = []
        self._count = len(inputs)
        self._before: dict[Place, tuple[torch.Tensor, torch.Tensor]] = {}
        """Lasting tensors that were written to, and what they were before."""
        if len(self._made) < len(inputs):
            self.why_not = "two columns of the batch are one memory"

    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kernel.namespace == "profiler":
            return kernel(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            taken = self._written_down(args), self._written_down(kwargs)
            noted, targets = _leaves(taken), _targets(kernel, *taken)
            may_be_written = targets if kernel in _QUICK else noted  # not every kernel's schema tells
            before = [(value, value.detach().clone()) for value in may_be_written if _is_tensor(value)]
            result = kernel(*args, **kwargs)
            written = self._remember(before, targets)
            given, made = _leaves((args, kwargs)), _leaves(result)
            if not self.why_not and any(not isinstance(value, torch.Tensor | None) for value in made):
                self.why_not = f"{kernel} reads a number from a tensor"
            lasts = kernel.is_view and not any(isinstance(value, Slot) for value in noted)
            count = self._count
            kept = None if lasts else self._kept(result, given)
            is_there = kernel.is_view and self._count == count  # the same view of the same memory
            self._alive += [value.untyped_storage() for value in (*given, *made) if _is_tensor(value)]
            if not lasts and not is_there:
                changed = tuple(_slots(targets))
                self._calls.append(Call(kernel, *taken, kept, torch.is_grad_enabled(), written, changed))
        return result

    def take_back(self) -> None:
        """Let lasting tensors be what they were before; the last that was written to first, as they may overlap."""
        with torch.no_grad():
            for tensor, numbers in reversed(self._before.values()):
                tensor.copy_(numbers)

    def _remember(
        self, before: Sequence[tuple[torch.Tensor, torch.Tensor]], targets: Sequence[Any]
    ) -> tuple[torch.Tensor, ...]:
        """Those of them, given with their earlier numbers, that a kernel is to write to, or has changed anyway."""
        written = [
            (tensor.detach(), numbers)
            for tensor, numbers in before
            if any(tensor is target for target in targets) or not equal_bits(tensor, numbers)
        ]
        for tensor, numbers in written:
            self._before.setdefault(place_of(tensor), (tensor, numbers))
        return tuple(tensor for tensor, _ in written)

    def tape(self, outputs: Tensors) -> Tape | str:
        """The tape, without the kernels whose results nobody needs."""
        wanted = self._written_down(tuple(outputs))
        needed = set(_slots(wanted))
        read = {self._memory_of[slot] for slot in (*needed, *self._inputs)}
        calls: list[Call] = []
        for call in reversed(self._calls):
            is_read = any(self._memory_of[slot] in read for slot in call.changed)
            if call.has_effects or is_read or needed.intersection(_slots(call.result)):
                taken = list(_slots((call.args, call.kwargs)))
                needed.update(taken)
                read.update(self._memory_of[slot] for slot in taken)
                calls.append(call)
        return self.why_not or Tape(self._inputs, tuple(reversed(calls)), wanted)

    def _written_down(self, value: Any) -> Any:
        """An argument with a slot for each tensor that was made since the recording began."""
        if isinstance(value, torch.Tensor):
            if not self._is_plain(value):
                return value
            slot = self._slots.get(place_of(value))
            if slot is None and _memory(value) in self._made:
                self.why_not = "a part of a tensor was taken unseen"
            return value if slot is None else slot
        if isinstance(value, list | tuple):
            return (
                tuple(map(self._written_down, value)) if isinstance(value, tuple) else [*map(self._written_down, value)]
            )
        return {k: self._written_down(item) for k, item in value.items()} if isinstance(value, dict) else value

    def _kept(self, result: Any, given: Sequence[Any]) -> Any:
        """A slot for each tensor of a result of what was given; None where nothing is to be kept of it."""
        if isinstance(result, torch.Tensor):
            place = place_of(result) if self._is_plain(result) else None
            if place is None or place in self._slots:
                return None if place is None else self._slots[place]
            if _memory(result) not in self._made and any(
                isinstance(value, torch.Tensor) and _memory(value) == _memory(result) for value in given
            ):
                return None  # lasting memory that was written to
            slot = self._slots[place] = Slot(self._count)
            self._count += 1
            self._memory_of[slot] = _memory(result)
            self._made.add(_memory(result))
            return slot
        if isinstance(result, list | tuple):
            return tuple(self._kept(item, given) for item in result)
        return None

    def _is_plain(self, tensor: torch.Tensor) -> bool:
        is_plain = type(tensor) in _KINDS and tensor.layout == torch.strided and not tensor.is_quantized
        if not is_plain:
            self.why_not = f"it computes with a {type(tensor).__name__} of layout {tensor.layout}"
        return is_plain


class _Watch(TorchFunctionMode):
    """Looks for code that reads the numbers of a tensor past torch."""

    def __init__(self) -> None:
        super().__init__()
        self.why_not = ""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _READS:
            self.why_not = f"it reads numbers by {function.__name__}"
        return function(*args, **(kwargs or {}))


def _targets(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that a kernel writes to, as far as its schema tells."""
    if not kernel._schema.is_mutable:
        return []
    arguments = kernel._schema.arguments
    given = {**dict(zip((argument.name for argument in arguments), args, strict=False)), **kwargs}
    return _leaves([given.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write])


_KINDS = (torch.Tensor, torch.nn.Parameter)
_READS = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.__dlpack__}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def _memory(tensor: torch.Tensor) -> int:
    """What tensors have in common that are views of one memory; an empty one has it with nobody in common."""
    return tensor.untyped_storage().data_ptr() or -id(tensor)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """All the memory that a tensor is a part of."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


_FEW_PARTS = 8
"""More parts of one memory are kept and compared as the whole of it."""


def _generators() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_generators(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _same_generators(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether those of Python and NumPy are the same; torch's is drawn from by kernels, which a tape has."""
    (ours, (kind, numbers, *rest), _), (theirs, (other_kind, other_numbers, *other_rest), _) = one, other
    return ours == theirs and (kind, rest) == (other_kind, other_rest) and np.array_equal(numbers, other_numbers)


def _leaves(value: Any) -> list[Any]:
    """What is in lists, tuples and dicts, however deep."""
    found, waiting = list[Any](), [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (list, tuple)):
            waiting.extend(reversed(item))
        elif isinstance(item, dict):
            waiting.extend(reversed(item.values()))
        else:
            found.append(item)
    return found


def _are_alike(one: Call, other: Call) -> bool:
    ours, theirs = ((call.kernel, call.result, call.has_grad) for call in (one, other))
    return ours == theirs and same_values((one.args, one.kwargs), (other.args, other.kwargs))


def same_values(one: Any, other: Any) -> bool:
    """Whether two values are equal, also in lists and dicts: tensors that are one memory, or of equal bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return place_of(one) == place_of(other) or same_bits(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_values, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_values(item, other[key]) for key, item in one.items())
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return repr(one) == repr(other) if isinstance(one, float) else one is other or one == other


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are of one kind, lie alike, and have the same bits."""
    if (one.dtype, one.shape, one.stride(), one.device) != (other.dtype, other.shape, other.stride(), other.device):
        return False
    return equal_bits(one, other)


def equal_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one type have the same bits, however they lie."""
    ours, theirs = (tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(ours, theirs)


_aten, _Tensor = torch.ops.aten, torch.Tensor
_QUICK: dict[Any, Any] = {
    _aten.view.default: _Tensor.view, _aten.expand.default: _Tensor.expand, _aten.transpose.int: torch.transpose,
    _aten.t.default: torch.t, _aten.unsqueeze.default: torch.unsqueeze, _aten.select.int: torch.select,
    _aten.unbind.int: torch.unbind, _aten.bmm.default: torch.bmm, _aten.baddbmm.default: torch.baddbmm,
    _aten.mm.default: torch.mm, _aten.addmm.default: torch.addmm, _aten.relu.default: torch.relu,
    _aten.sum.dim_IntList: torch.sum, _aten.eq.Tensor: torch.eq, _aten.mul.Tensor: torch.mul,
    _aten.add.Tensor: torch.add, _aten.div.Tensor: torch.div, _aten.argmax.default: torch.argmax,
    _aten.clamp_min.default: torch.clamp_min, _aten.copy_.default: _Tensor.copy_, _aten.cat.default: torch.cat,
    _aten.stack.default: torch.stack, _aten.baddbmm_.default: _Tensor.baddbmm_, _aten.bmm.out: torch.bmm,
    _aten.addcmul_.default: _Tensor.addcmul_, _aten.addcmul.out: torch.addcmul, _aten.mul_.Tensor: _Tensor.mul_,
    _aten.mul.out: torch.mul, _aten.tanh_.default: _Tensor.tanh_, _aten.tanh.out: torch.tanh,
    _aten.sigmoid_.default: _Tensor.sigmoid_, _aten.clone.default: torch.clone, _aten.permute.default: torch.permute,
    _aten._log_softmax.default: torch._log_softmax, _aten.ones_like.default: torch.ones_like,
    _aten._log_softmax_backward_data.default: torch._log_softmax_backward_data, _aten.tanh.default: torch.tanh,
    _aten.sigmoid.default: torch.sigmoid,
}  # fmt: skip
"""Other names of kernels, by which Python gets to them in half of the time. What these write to, their schema tells."""


def _program(tape: Tape) -> tuple[str, dict[str, Any]]:
    """A tape as a Python function, and the values that its names stand for."""
    values, names = dict[str, Any](), dict[Any, str]()

    def named(value: Any, kind: str) -> str:
        name = names.setdefault((kind, id(value)), f"{kind}{len(values)}")
        values[name] = value
        return name

    def told(value: Any) -> str:
        if isinstance(value, Slot) or value is None or type(value) in (bool, int, str):
            return str(value) if isinstance(value, Slot) else repr(value)
        if isinstance(value, list | tuple):
            inside = ", ".join(map(told, value))
            return f"[{inside}]" if isinstance(value, list) else f"({inside},)"
        return named(value, "lasting" if isinstance(value, torch.Tensor) else "value")

    def kept(result: Any) -> str:
        return f"({', '.join(map(kept, result))},)" if isinstance(result, tuple) else str(result or "_")

    last = {
        slot: number for number, call in enumerate(tape.calls) for slot in _slots((call.args, call.kwargs, call.result))
    }
    lasting, unneeded = {*_slots(tape.outputs), *tape.inputs}, defaultdict[int, list[Slot]](list)
    for slot, end in last.items():
        if slot not in lasting:
            unneeded[end].append(slot)
    lines = [f"def play({', '.join(map(str, tape.inputs))}):"]
    has_grad = None
    for number, call in enumerate(tape.calls):
        if call.has_grad != has_grad:
            has_grad = call.has_grad
            lines.append(f"    set_grad_enabled({has_grad})")
        arguments = [*map(told, call.args), *(f"{name}={told(value)}" for name, value in call.kwargs.items())]
        kernel = named(_QUICK.get(call.kernel, call.kernel._op), call.kernel._schema.name.replace("::", "_") + "_")
        lines.append(f"    {kept(call.result)} = {kernel}({', '.join(arguments)})")
        if number in unneeded:
            lines.append(f"    del {', '.join(map(str, unneeded[number]))}")
    lines.append(f"    return {told(list(tape.outputs))}")
    return "\n".join(lines) + "\n", values


def _slots(value: Any) -> Iterator[Slot]:
    return (leaf for leaf in _leaves(value) if isinstance(leaf, Slot))
