"""Stacked rules for reductions and losses.

A sum of floats depends on the order, so floats are summed member by member; whole numbers are not, nor are extremes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from cerebro.training.fused.many import Group, Many, Rule

Kwargs = Mapping[str, Any]


def extreme(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """`argmax` and `argmin` along one dimension."""
    value, dim = args[0], args[1] if len(args) == 2 else kwargs.get("dim")
    if not isinstance(value, Many) or value.is_tuple or len(args) + len(kwargs) != 2 or type(dim) is not int:
        return NotImplemented
    return Many(group, function(value.stacked(), dim=_after_members(dim, value.ndim)))


def whole_sum(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """The sum of all of a member's whole numbers."""
    if kwargs or len(args) != 1 or args[0].is_tuple or args[0].dtype.is_floating_point or args[0].dtype.is_complex:
        return NotImplemented
    return Many(group, args[0].stacked().reshape(group.size, -1).sum(1))


def normalised(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Softmax and its logarithm along the last dimension, whose kernel takes row after row."""
    dim, value = args[1] if len(args) == 2 else kwargs.get("dim"), args[0]
    if not isinstance(value, Many) or value.is_tuple or type(dim) is not int or kwargs.get("dtype") is not None:
        return NotImplemented
    if len(args) > 2 or value.ndim < 2 or _after_members(dim, value.ndim) != value.ndim:
        return NotImplemented
    stacked = value.stacked()
    return Many(group, getattr(torch, function.__name__)(stacked, -1)) if stacked.is_contiguous() else NotImplemented


def cross_entropy(group: Group, function: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """The mean cross entropy of scores `[rows, classes]` against labels that all members share."""
    named: dict[str, Any] = {**dict(zip(("input", "target"), args, strict=False)), **kwargs}
    value, target = named.pop("input"), named.pop("target")
    if any(named[name] != default for name, default in _PLAIN.items() if name in named) or named.keys() - _PLAIN.keys():
        return NotImplemented
    if not isinstance(value, Many) or isinstance(target, Many) or value.ndim != 2 or target.dim() != 1:
        return NotImplemented
    if target.dtype != torch.int64 or not value.dtype.is_floating_point or 0 in value.shape:
        return NotImplemented
    if torch.is_autocast_enabled(value.device.type) or not _is_row_major(value):
        return NotImplemented
    return Many(group, _CrossEntropy.apply(value.stacked(), target))


_PLAIN = {"weight": None, "size_average": None, "ignore_index": -100, "reduce": None, "reduction": "mean",
          "label_smoothing": 0.0}  # fmt: skip


class _CrossEntropy(torch.autograd.Function):
    """`scores: [K, rows, classes]`, `target: [rows]` to `[K]`: what each row gives is added up member by member."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logs = torch.log_softmax(scores, -1)
        weightless, mean, ignored = None, 1, -100
        found = [torch.ops.aten.nll_loss_forward(one, target, weightless, mean, ignored) for one in logs.unbind(0)]
        ctx.save_for_backward(logs, target, found[0][1])  # how many rows count, which the target says
        return torch.stack([loss for loss, _ in found])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,), (logs, target, weight) = gradients, ctx.saved_tensors
        members, rows, classes = logs.shape
        flat, targets = logs.view(-1, classes), target.expand(members, rows).reshape(-1)
        of_each_row = (gradient / weight).repeat_interleave(rows)
        none, ignored = 0, -100
        to_logs = torch.ops.aten.nll_loss_backward(of_each_row, flat, targets, None, none, ignored, weight)
        return torch._log_softmax_backward_data(to_logs.view_as(logs), logs, -1, logs.dtype), None


def _is_row_major(value: Many) -> bool:
    return (not value.is_tuple and value.stacked().is_contiguous()) or value.strides() == (value.shape[1], 1)


def _after_members(dim: int, rank: int) -> int:
    return dim + rank + 1 if dim < 0 else dim + 1


def rules() -> Iterator[tuple[Any, Rule]]:
    """The functions that are computed so."""
    for home in (torch.Tensor, torch):
        yield home.argmax, extreme
        yield home.argmin, extreme
        yield home.sum, whole_sum
        yield home.softmax, normalised
        yield home.log_softmax, normalised
    yield F.softmax, normalised
    yield F.log_softmax, normalised
    yield F.cross_entropy, cross_entropy
