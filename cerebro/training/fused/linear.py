"""The stacked rule for linear layers: one batched product for all members where its bits are theirs.

Whether they are depends on the shapes, for a library of products chooses its kernel by them: a layer with one output
or a batch of one row is known to differ. So the first time that a shape is seen, the output and each gradient are
computed both ways from random numbers and compared. What differs is computed member by member, in the same place.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from cerebro.training.fused.many import Group, Many
from cerebro.training.fused.strides import part, stack
from cerebro.training.tape import equal_bits

Tensors = Sequence[torch.Tensor]
_ALONE = 4
"""So many members go through autograd in a trial; the products of the others have the same shapes."""
_NUMBERS, _ZEROS, _MOST_TRIALS = 2500, 60, 60
"""Numbers to compare: kernels that add in different orders agree in most of them by chance, and may differ in the last
columns only. Of zeros fewer do, since they are made such that their signs differ where the kernels do."""
_SIGNS = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
"""Of weights and of gradients, member by member, where zeros are looked at: a sum of products that are all -0.0 is one
of 0.0 for kernels that start from zero."""
_SHARE = 0.1
"""Of numbers that are not zero there."""


class Case(NamedTuple):
    """All that decides which kernels a linear layer of each member runs."""

    members: int
    input: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    weight: tuple[int, ...]
    is_shared: bool
    has_bias: bool
    dtype: torch.dtype
    device: torch.device
    threads: int
    precision: str


@dataclass(frozen=True, slots=True)
class Batched:
    """Which products give the members' bits when they are computed at once."""

    output: bool
    to_input: bool
    to_weight: bool
    to_bias: bool


def linear(group: Group, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """`F.linear` of weights that differ between the members, and an input that may be shared."""
    value, weight, bias = _arguments(*args, **kwargs)
    if not isinstance(weight, Many) or weight.is_tuple or not (bias is None or isinstance(bias, Many)):
        return NotImplemented
    is_shared = not isinstance(value, Many)
    if len(weight.shape) != 2 or len(value.shape) < 2 or 0 in value.shape or (is_shared and value.requires_grad):
        return NotImplemented
    strides = value.stride() if is_shared else value.strides()
    case = Case(
        members=group.size, input=value.shape, strides=strides, offset=_offset(value, is_shared), weight=weight.shape,
        is_shared=is_shared, has_bias=bias is not None, dtype=value.dtype, device=value.device,
        threads=torch.get_num_threads(), precision=torch.get_float32_matmul_precision(),
    )  # fmt: skip
    batched = _batched(case)
    if batched is None or value.dtype != weight.dtype or torch.is_autocast_enabled(value.device.type):
        return NotImplemented
    rows = (value if is_shared else value.stacked()).flatten(0 if is_shared else 1, -2)
    output = _Linear.apply(rows, weight.stacked(), None if bias is None else bias.stacked(), batched)
    return Many(group, output.unflatten(1, value.shape[:-1]) if len(value.shape) > 2 else output)


def _offset(value: Any, is_shared: bool) -> int:
    """Bytes by which the first member lies behind a multiple of 64; the members of a tuple lie alike."""
    return (value if is_shared else value.first()).data_ptr() % 64


def _arguments(input: Any, weight: Any, bias: Any = None) -> tuple[Any, Any, Any]:
    return input, weight, bias


class _Linear(torch.autograd.Function):
    """`input: [K, rows, in]` or `[rows, in]`, `weight: [K, out, in]`, `bias: [K, out]` to `[K, rows, out]`."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, batched: Batched) -> Any:
        ctx.save_for_backward(rows, weight)
        ctx.batched, ctx.has_bias = batched, bias is not None
        return _output(rows, weight, bias, batched.output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,), (rows, weight), batched = gradients, ctx.saved_tensors, ctx.batched
        needs = ctx.needs_input_grad
        plain = gradient.is_contiguous() and gradient.data_ptr() % 64 == 0
        to_input = _to_input(gradient, weight, plain and batched.to_input) if needs[0] else None
        to_weight = _to_weight(gradient, rows, plain and batched.to_weight) if needs[1] else None
        to_bias = _to_bias(gradient, plain and batched.to_bias) if ctx.has_bias and needs[2] else None
        return to_input, to_weight, to_bias, None


def _output(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, batched: bool) -> torch.Tensor:
    if not batched:
        biases = [None] * len(weight) if bias is None else part(bias)
        return torch.stack(list(map(F.linear, _rows_of_each(rows, len(weight)), part(weight), biases)))
    if rows.dim() == 2:
        rows = rows.expand(len(weight), *rows.shape)
    columns = weight.transpose(1, 2)
    return torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, columns)


def _to_input(gradient: torch.Tensor, weight: torch.Tensor, batched: bool) -> torch.Tensor:
    if batched:
        return torch.bmm(gradient, weight)
    return torch.stack(list(map(torch.mm, part(gradient), part(weight))))


def _to_weight(gradient: torch.Tensor, rows: torch.Tensor, batched: bool) -> torch.Tensor:
    """Contiguous: torch's fused optimizers do not look at the strides of a gradient."""
    if batched:
        rows = rows.expand(len(gradient), *rows.shape) if rows.dim() == 2 else rows
        return torch.bmm(gradient.transpose(1, 2), rows)
    columns = [member.t() for member in part(gradient)]
    return torch.stack(list(map(torch.mm, columns, _rows_of_each(rows, len(gradient)))))


def _to_bias(gradient: torch.Tensor, batched: bool) -> torch.Tensor:
    return gradient.sum(1) if batched else torch.stack([member.sum(0) for member in part(gradient)])


def _rows_of_each(rows: torch.Tensor, members: int) -> Tensors:
    return part(rows) if rows.dim() == 3 else [rows] * members


@functools.cache
def _batched(case: Case) -> Batched | None:
    """What may be computed at once; None if not even the products member by member are those of autograd."""
    generator = torch.Generator(case.device).manual_seed(len(case.input))
    outputs, inputs, rows = *case.weight, math.prod(case.input[:-1])
    fewest = case.members * min(outputs * inputs, rows * outputs, rows * inputs)
    trials = [_trial(case, _Draws(case, generator, True)) for _ in range(_count(_ZEROS, fewest))]
    trials += [_trial(case, _Draws(case, generator, False)) for _ in range(_count(_NUMBERS, fewest))]
    looped, batched = ([all(trial[way][part] for trial in trials) for part in range(4)] for way in (False, True))
    if not all(looped):
        return None
    if case.has_bias and batched[3]:  # a member has few of its numbers
        more = _count(_NUMBERS, case.members * outputs) - len(trials)
        gradients = (_Draws(case, generator, False).gradient(rows, outputs) for _ in range(more))
        batched[3] = all(equal_bits(_to_bias(gradient, True), _to_bias(gradient, False)) for gradient in gradients)
    return Batched(*batched)


def _count(numbers: int, of_a_trial: int) -> int:
    """How many trials it takes to have enough to compare."""
    return min(-(-numbers // of_a_trial), _MOST_TRIALS)


@dataclass(frozen=True, slots=True)
class _Draws:
    """Random numbers for a trial; or mostly zeros, whose signs tell kernels apart."""

    case: Case
    generator: torch.Generator
    are_zeros: bool

    def weight(self, *shape: int) -> torch.Tensor:
        """`[K, *shape]`."""
        return self._drawn((self.case.members, *shape), 0)

    def gradient(self, *shape: int) -> torch.Tensor:
        """`[K, *shape]`."""
        return self._drawn((self.case.members, *shape), 1)

    def input(self) -> torch.Tensor:
        """One value for each member, or one for all: `[K or 1, *input]`."""
        return self._drawn((1 if self.case.is_shared else self.case.members, *self.case.input), None)

    def _drawn(self, shape: tuple[int, ...], kind: int | None) -> torch.Tensor:
        device = self.case.device
        numbers = torch.randn(shape, generator=self.generator, device=device)
        if self.are_zeros:
            numbers = numbers.abs_() * (torch.rand(shape, generator=self.generator, device=device) < _SHARE)
            if kind is not None:
                signs = _SIGNS[:, kind].to(device).repeat(-(-shape[0] // len(_SIGNS)))[: shape[0]]
                numbers *= signs.view(-1, *[1] * (len(shape) - 1))
        return numbers.to(self.case.dtype)


def _trial(case: Case, draws: _Draws) -> dict[bool, list[bool]]:
    """For each of output, gradient to input, to weight and to bias whether it has the bits of each member alone: member
    by member (`False`), as far as autograd shows for a few of them, and at once (`True`), if it does member by member.
    """
    with torch.enable_grad():
        outputs = case.weight[0]
        weight = _in_rows(draws.weight(*case.weight))
        bias = _in_rows(draws.weight(outputs)) if case.has_bias else None
        values = [_laid_out(value, case) for value in draws.input()]
        gradient = draws.gradient(*case.input[:-1], outputs)
        alone = [
            _alone(values[0 if case.is_shared else k], weight[k], None if bias is None else bias[k], gradient[k])
            for k in range(min(case.members, _ALONE))
        ]
    rows = values[0].flatten(0, -2) if case.is_shared else stack(values).flatten(1, -2)
    gradient = gradient.flatten(1, -2)
    expected = [None if column[0] is None else torch.stack(column) for column in map(list, zip(*alone, strict=True))]
    with torch.no_grad():
        looped, batched = (
            (
                _output(rows, weight, bias, is_batched),
                _to_input(gradient, weight, is_batched),
                _to_weight(gradient, rows, is_batched),
                None if bias is None else _to_bias(gradient, is_batched),
            )
            for is_batched in (False, True)
        )
    firsts = [None if found is None else found[: len(alone)] for found in looped]
    return {False: _are_same(firsts, expected), True: _are_same(batched, looped)}


def _are_same(ones: Sequence[torch.Tensor | None], others: Sequence[torch.Tensor | None]) -> list[bool]:
    pairs = zip(ones, others, strict=True)
    return [one is None or other is None or equal_bits(one, other) for one, other in pairs]


def _alone(value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gradient: torch.Tensor) -> Any:
    wanted = [None if t is None else t.detach().requires_grad_() for t in (value, weight, bias)]
    output = F.linear(wanted[0], wanted[1], wanted[2])  # type: ignore[arg-type]
    found = torch.autograd.grad(output, [t for t in wanted if t is not None], gradient)
    return [output.detach(), *found, *[None] * (3 - len(found))]


def _laid_out(value: torch.Tensor, case: Case) -> torch.Tensor:
    """The same numbers where an input of this case lies."""
    strides, offset = case.strides, case.offset // value.element_size()
    span = 1 + sum((length - 1) * stride for length, stride in zip(value.shape, strides, strict=True))
    place = value.new_empty(offset + span).as_strided(value.shape, strides, offset)
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    place[once] = value[once]
    return place


def _in_rows(value: torch.Tensor) -> torch.Tensor:
    """The same numbers with each member at a multiple of 64 bytes, as parameters lie in a state."""
    length = -(-value[0].numel() // 64) * 64
    rows = value.new_empty(len(value), length)
    place = rows.as_strided(value.shape, (length, *value.stride()[1:]))
    return place.copy_(value)
