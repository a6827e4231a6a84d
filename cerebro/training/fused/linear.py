"""The stacked rule for linear layers: one batched product for all members where its bits are theirs.

Whether they are depends on the shapes, for a library of products chooses its kernel by them: a layer with one output
or a batch of one row is known to differ. So when a shape is met again, the output and each gradient are
computed both ways from random numbers and compared. What differs is computed member by member, in the same place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from cerebro.training.fused.many import Group, Many
from cerebro.training.fused.strides import in_rows, part, stack
from cerebro.training.fused.trials import NUMBERS, Draws, Findings, are_same, count, draws, laid_out, offset_of
from cerebro.training.tape import equal_bits

Tensors = Sequence[torch.Tensor]
_ALONE = 4
"""So many members go through autograd in a trial; the products of the others have the same shapes."""


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
    strides, offset = (value.stride(), offset_of(value)) if is_shared else (value.strides(), offset_of(value.first()))
    case = Case(
        members=group.size, input=value.shape, strides=strides, offset=offset, weight=weight.shape,
        is_shared=is_shared, has_bias=bias is not None, dtype=value.dtype, device=value.device,
        threads=torch.get_num_threads(), precision=torch.get_float32_matmul_precision(),
    )  # fmt: skip
    if value.dtype != weight.dtype or torch.is_autocast_enabled(value.device.type):
        return NotImplemented
    stacked = weight.stacked(), None if bias is None else bias.stacked()  # from the first batch on, for all that come
    batched = FINDINGS.of(group, case)
    if batched is None:
        return NotImplemented
    rows = (value if is_shared else value.stacked()).flatten(0 if is_shared else 1, -2)
    output = _Linear.apply(rows, *stacked, batched)
    return Many(group, output.unflatten(1, value.shape[:-1]) if len(value.shape) > 2 else output)


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


def _batched(case: Case) -> Batched | None:
    """What may be computed at once; None if not even the products member by member are those of autograd."""
    outputs, inputs, rows = *case.weight, math.prod(case.input[:-1])
    fewest = case.members * min(outputs * inputs, rows * outputs, rows * inputs)
    drawn = list(draws(case.members, case.dtype, case.device, fewest))
    trials = [_trial(case, draw) for draw in drawn]
    looped, batched = ([all(trial[way][part] for trial in trials) for part in range(4)] for way in (False, True))
    if not all(looped):
        return None
    if case.has_bias and batched[3]:  # a member has few of its numbers
        more = count(NUMBERS, case.members * outputs) - len(trials)
        gradients = (drawn[-1].gradient(rows, outputs) for _ in range(more))
        batched[3] = all(equal_bits(_to_bias(gradient, True), _to_bias(gradient, False)) for gradient in gradients)
    return Batched(*batched)


FINDINGS = Findings(_batched, Batched)


def _trial(case: Case, draw: Draws) -> dict[bool, list[bool]]:
    """For each of output, gradient to input, to weight and to bias whether it has the bits of each member alone: member
    by member (`False`), as far as autograd shows for a few of them, and at once (`True`), if it does member by member.
    """
    with torch.enable_grad():
        outputs = case.weight[0]
        weight = in_rows(draw.weight(*case.weight))
        bias = in_rows(draw.weight(outputs)) if case.has_bias else None
        values = [laid_out(value, case.strides, case.offset) for value in draw.input(case.is_shared, *case.input)]
        gradient = draw.gradient(*case.input[:-1], outputs)
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
    return {False: are_same(firsts, expected), True: are_same(batched, looped)}


def _alone(value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gradient: torch.Tensor) -> Any:
    wanted = [None if t is None else t.detach().requires_grad_() for t in (value, weight, bias)]
    output = F.linear(wanted[0], wanted[1], wanted[2])  # type: ignore[arg-type]
    found = torch.autograd.grad(output, [t for t in wanted if t is not None], gradient)
    return [output.detach(), *found, *[None] * (3 - len(found))]
