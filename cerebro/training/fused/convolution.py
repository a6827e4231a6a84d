"""The stacked rule for convolutions: one of as many groups as members, where its bits are theirs and it is quicker.

The members' channels lie side by side, as in horizontal fusion (HFTA, MLSys 2021); a value that all members share is
convolved once, with the filters of all. A library chooses its kernels by the shapes: where the channels of each fill
its vectors, those of all are computed as those of one are. So when a shape is met again, the output and the gradients
are computed both ways from random numbers, compared, and timed.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from cerebro.training.fused.many import Group, Many, Rule
from cerebro.training.fused.strides import beside, in_rows, part, stack
from cerebro.training.fused.trials import Draws, Findings, draws, laid_out, offset_of
from cerebro.training.tape import same_bits

_CPU = torch.device("cpu")
_ENOUGH, _TIMED = 500, 2
"""Numbers to compare, which are sums of so many products that kernels hardly agree by chance; and trials, at least."""
_LARGEST = 20_000_000
"""Products of one member: what a call costs beside them does not count where there are more."""

Tensors = Sequence[torch.Tensor | None]
Mask = tuple[bool, bool, bool]
"""Whether gradients to the input, the weight and the bias are wanted."""


class Settings(NamedTuple):
    """Of a convolution, one number for each dimension, and its groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Case(NamedTuple):
    """All that decides which kernels a convolution of each member runs."""

    members: int
    input: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    weight: tuple[int, ...]
    settings: Settings
    is_shared: bool
    has_bias: bool
    mask: Mask
    dtype: torch.dtype
    threads: int
    precision: str
    has_mkldnn: bool


@dataclass(frozen=True, slots=True)
class Batched:
    """What is computed for all at once: it has the members' bits, and takes less time."""

    output: bool
    gradients: bool


def convolution(dimensions: int) -> Rule:
    """The rule for `F.conv1d`, `F.conv2d` or `F.conv3d` of filters that differ between the members."""

    def rule(group: Group, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        value, weight, bias, settings = _arguments(dimensions, *args, **kwargs)
        if not isinstance(weight, Many) or weight.is_tuple or not (bias is None or isinstance(bias, Many)):
            return NotImplemented
        is_shared = not isinstance(value, Many)
        is_plain = value.device.type == "cpu" and value.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
        if settings is None or not is_plain or len(value.shape) != dimensions + 2 or 0 in value.shape:
            return NotImplemented
        if is_shared and (value.requires_grad or settings.groups > 1):
            return NotImplemented
        strides, start = (value.stride(), value) if is_shared else (value.strides(), value.first())
        needs = (not is_shared and value.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad)
        mask = needs if torch.is_grad_enabled() else (False, False, False)
        case = Case(
            group.size, tuple(value.shape), strides, offset_of(start), tuple(weight.shape), settings, is_shared,
            bias is not None, mask, value.dtype, torch.get_num_threads(), torch.get_float32_matmul_precision(),
            bool(torch.backends.mkldnn.enabled),
        )  # fmt: skip
        if _products(case) > _LARGEST:
            return NotImplemented
        stacked = weight.stacked(), None if bias is None else bias.stacked()  # from the first batch on, for all others
        batched = FINDINGS.of(group, case)
        if batched is None:
            return NotImplemented
        return Many(group, _Convolution.apply(value if is_shared else value.stacked(), *stacked, settings, batched))

    return rule


def _arguments(
    dimensions: int,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, Any, Any, Settings | None]:
    if isinstance(padding, str):
        return input, weight, bias, None
    strides, paddings, dilations = (
        (item,) * dimensions if isinstance(item, int) else tuple(item) for item in (stride, padding, dilation)
    )
    return input, weight, bias, Settings(strides, paddings, dilations, groups)


def _products(case: Case) -> int:
    """Multiplications of one member, as if nothing were left out at the edges."""
    rows, _, *lengths = case.input
    positions = math.prod(-(-length // stride) for length, stride in zip(lengths, case.settings.stride, strict=True))
    return rows * positions * math.prod(case.weight)


class _Convolution(torch.autograd.Function):
    """`value: [K, rows, in, ...]` or `[rows, in, ...]` and `weight: [K, out, ...]` to `[K, rows, out, ...]`."""

    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        settings: Settings,
        batched: Batched,
    ) -> torch.Tensor:
        ctx.save_for_backward(value, weight)
        ctx.settings, ctx.batched, ctx.has_bias = settings, batched, bias is not None
        return _output(value, weight, bias, settings, batched.output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,), (value, weight) = gradients, ctx.saved_tensors
        mask = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2])
        is_plain = gradient.is_contiguous() and gradient.data_ptr() % 64 == 0
        found = _gradients(gradient, value, weight, ctx.settings, mask, is_plain and ctx.batched.gradients)
        return (*found, None, None)


def _output(
    value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, settings: Settings, at_once: bool
) -> torch.Tensor:
    members, is_shared = len(weight), value.dim() < weight.dim()
    if at_once:
        values, groups = (value, 1) if is_shared else (beside(value), members)
        biases = None if bias is None else bias.flatten()
        return _apart(_convolved(values, weight.flatten(0, 1), biases, settings, groups), members)
    biases = [None] * members if bias is None else part(bias)
    values = [value] * members if is_shared else part(value)
    return stack([_convolved(*each, settings) for each in zip(values, part(weight), biases, strict=True)])


def _convolved(
    value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, settings: Settings, groups: int = 1
) -> torch.Tensor:
    function = (F.conv1d, F.conv2d, F.conv3d)[value.dim() - 3]
    return function(value, weight, bias, *settings[:3], groups * settings.groups)


def _gradients(
    gradient: torch.Tensor, value: torch.Tensor, weight: torch.Tensor, settings: Settings, mask: Mask, at_once: bool
) -> Tensors:
    """Those to the input, to the weight, and to the bias; contiguous, as fused optimizers do not look at strides."""
    members, is_shared = len(weight), value.dim() < weight.dim()
    if at_once:
        values, groups = (value, 1) if is_shared else (beside(value), members)
        found = _backward(beside(gradient), values, weight.flatten(0, 1), settings, mask, groups)
        to_input, *to_parameters = found
        apart = [None if found is None else found.unflatten(0, (members, -1)) for found in to_parameters]
        return None if to_input is None or not mask[0] else _apart(to_input, members), *apart
    values = [value] * members if is_shared else part(value)
    each = [_backward(*tensors, settings, mask) for tensors in zip(part(gradient), values, part(weight), strict=True)]
    return [None if column[0] is None else stack(column) for column in zip(*each, strict=True)]


def _backward(
    gradient: torch.Tensor,
    value: torch.Tensor,
    weight: torch.Tensor,
    settings: Settings,
    mask: Mask,
    groups: int = 1,
) -> Any:
    return torch.ops.aten.convolution_backward(
        gradient, value, weight, [len(weight)], *settings[:3], False, [0] * len(settings.stride),
        groups * settings.groups, mask,
    )  # fmt: skip


def _apart(value: torch.Tensor, members: int) -> torch.Tensor:
    """`[rows, K * channels, ...]` as `[K, rows, channels, ...]`, each member as it would lie alone."""
    return value.unflatten(1, (members, -1)).transpose(0, 1).contiguous()


_WAYS = (False, True)


@dataclass(frozen=True, slots=True)
class _Timed:
    """What a way to compute gave, and took."""

    found: Any
    seconds: float


@dataclass(frozen=True, slots=True)
class _Both:
    """What was seen of two ways to compute the same."""

    are_equal: bool
    each_seconds: float
    at_once_seconds: float

    @classmethod
    def of(cls, each: _Timed, at_once: _Timed) -> "_Both":
        return cls(_are_same(each.found, at_once.found), each.seconds, at_once.seconds)


def _batched(case: Case) -> Batched | None:
    """What may be computed at once; None if it is nothing, or if member by member is not what autograd does."""
    fewest = case.members * min(case.input[0] * case.weight[0], math.prod(case.input), math.prod(case.weight))
    trials = [_trial(case, draw) for draw in draws(case.members, case.dtype, _CPU, fewest, _ENOUGH, _TIMED)]
    if None in trials:
        return None
    output, gradients = (_is_better([trial[kind] for trial in trials if trial is not None]) for kind in (0, 1))
    return Batched(output, gradients) if output or gradients else None


FINDINGS = Findings(_batched, Batched)


def _is_better(trials: Sequence[_Both]) -> bool:
    quickest = min(trial.at_once_seconds for trial in trials), min(trial.each_seconds for trial in trials)
    return all(trial.are_equal for trial in trials) and quickest[0] < quickest[1]


def _trial(case: Case, draw: Draws) -> tuple[_Both, _Both] | None:
    """Of the output and of the gradients; None where those that are computed member by member are not autograd's."""
    weight = in_rows(draw.weight(*case.weight))
    bias = in_rows(draw.weight(case.weight[0])) if case.has_bias else None
    values = [laid_out(value, case.strides, case.offset) for value in draw.input(case.is_shared, *case.input)]
    value = values[0] if case.is_shared else stack(values)
    with torch.no_grad():
        each, at_once = (_timed(lambda way=way: (_output(value, weight, bias, case.settings, way),)) for way in _WAYS)
        gradient = draw.gradient(*each.found[0].shape[1:])
        each_back, at_once_back = (
            _timed(lambda way=way: _gradients(gradient, value, weight, case.settings, case.mask, way)) for way in _WAYS
        )
    alone = _alone(values[0], weight[0], None if bias is None else bias[0], gradient[0], case)
    firsts = [None if found is None else found[0] for found in (*each.found, *each_back.found)]
    return (_Both.of(each, at_once), _Both.of(each_back, at_once_back)) if _are_same(alone, firsts) else None


def _timed(compute: Callable[[], Tensors]) -> _Timed:
    begun = time.perf_counter()
    found = compute()
    return _Timed(found, time.perf_counter() - begun)


def _are_same(ones: Tensors, others: Tensors) -> bool:
    """Whether all tensors lie alike and have the same bits."""
    pairs = zip(ones, others, strict=True)
    return all(one is other if one is None or other is None else same_bits(one, other) for one, other in pairs)


def _alone(
    value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gradient: torch.Tensor, case: Case
) -> Tensors:
    """What autograd gives one member: the output, and the gradients that are wanted."""
    with torch.enable_grad():
        tensors = [None if t is None else t.detach() for t in (value, weight, bias)]
        wanted = [t.requires_grad_() for t, needed in zip(tensors, case.mask, strict=True) if t is not None and needed]
        output = _convolved(*tensors, case.settings)  # type: ignore[arg-type]
        found = iter(torch.autograd.grad(output, wanted, gradient) if wanted else ())
    return [output.detach(), *(next(found) if needed else None for needed in case.mask)]
