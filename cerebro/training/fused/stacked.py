"""Kernels that take all members at once and give each nearly what it would have alone: for `exact=False`.

Horizontal fusion as in HFTA (MLSys 2021): the members' channels lie side by side, so that a convolution of each is one
grouped convolution, and batch normalisation and pooling are those of so many more channels. Sums are added up in other
orders than alone, which is all that differs. Of recurrent layers only small LSTMs go
at once (`cerebro.training.fused.lstm`): for others a batched product for each step is slower than torch's own kernels
for a whole sequence (`benches/fused_kernels.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from cerebro.training.fused import elementwise, lstm
from cerebro.training.fused.many import Group, Many, Rule
from cerebro.training.fused.strides import beside

Arguments = Mapping[str, Any]


def _arguments(args: tuple[Any, ...], kwargs: Arguments) -> tuple[Any, Any, Any]:
    """Input, weight and bias."""
    return args[0], args[1], args[2] if len(args) > 2 else kwargs.get("bias")


def _apart(group: Group, value: torch.Tensor) -> Many:
    """`[rows, K * channels, ...]` as the values of K members."""
    return Many(group, value.unflatten(1, (group.size, -1)).transpose(0, 1))


def convolution(dimensions: int) -> Rule:
    """The rule for `F.conv1d` or `F.conv2d`: as many groups as members; one that all share is seen by each."""

    def rule(group: Group, function: Any, args: tuple[Any, ...], kwargs: Arguments) -> Any:
        value, weight, bias = _arguments(args, kwargs)
        rest, settings = args[3:], {k: v for k, v in kwargs.items() if k != "bias"}
        groups = settings.pop("groups", rest[3] if len(rest) > 3 else 1)
        if not isinstance(weight, Many) or weight.is_tuple or not (bias is None or isinstance(bias, Many)):
            return NotImplemented
        if len(value.shape) != dimensions + 2 or settings.keys() & {"input", "weight"}:
            return NotImplemented
        biases = None if bias is None else bias.stacked().flatten()
        weights = weight.stacked().flatten(0, 1)
        if isinstance(value, Many):
            found = function(
                beside(value.stacked()), weights, biases, *rest[:3], groups=groups * group.size, **settings
            )
        elif groups == 1:
            found = function(value, weights, biases, *rest[:3], **settings)
        else:
            return NotImplemented
        return _apart(group, found)

    return rule


def by_channel(dimensions: int) -> Rule:
    """The rule for functions that compute each channel of `[rows, channels, ...]` on its own, such as pooling."""

    def rule(group: Group, function: Any, args: tuple[Any, ...], kwargs: Arguments) -> Any:
        value = args[0] if args else None
        if not isinstance(value, Many) or len(value.shape) != dimensions + 2 or kwargs.get("return_indices"):
            return NotImplemented
        found = function(beside(value.stacked()), *args[1:], **kwargs)
        return _apart(group, found) if isinstance(found, torch.Tensor) else NotImplemented

    return rule


def batch_norm(group: Group, function: Any, args: tuple[Any, ...], kwargs: Arguments) -> Any:
    """`F.batch_norm`: a channel is normalised, and its running statistics are kept, by itself."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    value, rest = named.pop("input"), named
    tensors = {name: rest.get(name) for name in names[1:5]}
    if not isinstance(value, Many) or any(not isinstance(t, Many) for t in tensors.values() if t is not None):
        return NotImplemented
    flat = {name: None if t is None else t.stacked().reshape(-1) for name, t in tensors.items()}
    found = function(beside(value.stacked()), **{**rest, **flat})
    for name in ("running_mean", "running_var"):
        own, new = tensors[name], flat[name]
        if own is not None and new is not None and rest.get("training"):
            own.stacked().copy_(new.view(group.size, -1))  # where they do not lie close, what was changed is a copy
    return _apart(group, found)


def linear(group: Group, function: Any, args: tuple[Any, ...], kwargs: Arguments) -> Any:
    """`F.linear` as one batched product."""
    value, weight, bias = _arguments(args, kwargs)
    if not isinstance(weight, Many) or weight.is_tuple or not (bias is None or isinstance(bias, Many)):
        return NotImplemented
    if kwargs.keys() - {"bias"} or len(value.shape) < 2 or torch.is_autocast_enabled(value.device.type):
        return NotImplemented
    is_shared = not isinstance(value, Many)
    rows = (value if is_shared else value.stacked()).flatten(0 if is_shared else 1, -2)
    rows = rows.expand(group.size, *rows.shape) if is_shared else rows
    columns = weight.stacked().transpose(1, 2)
    found = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias.stacked().unsqueeze(1), rows, columns)
    return Many(group, found.unflatten(1, value.shape[:-1]) if len(value.shape) > 2 else found)


def layer_norm(group: Group, function: Any, args: tuple[Any, ...], kwargs: Arguments) -> Any:
    """`F.layer_norm`: normalised for all at once, then scaled by each member's own weights."""
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    value, weight, bias = named["input"], named.get("weight"), named.get("bias")
    if not isinstance(value, Many) or any(t is not None and not isinstance(t, Many) for t in (weight, bias)):
        return NotImplemented
    found = function(value.stacked(), named["normalized_shape"], None, None, named.get("eps", 1e-5))
    found = found if weight is None else found * _spread(weight, found)
    return Many(group, found if bias is None else found + _spread(bias, found))


def _spread(value: Many, like: torch.Tensor) -> torch.Tensor:
    stacked = value.stacked()
    return stacked.reshape(len(stacked), *[1] * (like.dim() - stacked.dim()), *stacked.shape[1:])


def rounded(group: Group, function: Any, args: tuple[Any, ...], kwargs: Arguments) -> Any:
    """A function of each element on its own, in whichever loop of its kernel the element is met."""
    value = args[0] if args else None
    if not isinstance(value, Many) or value.is_tuple or any(isinstance(other, torch.Tensor) for other in args[1:]):
        return NotImplemented
    return Many(group, function(value.stacked(), *args[1:], **kwargs))


RULES: dict[Any, Rule] = {
    **{function: rounded for function, rule in elementwise.rules() if rule is elementwise.rounded},
    F.conv1d: convolution(1),
    F.conv2d: convolution(2),
    F.batch_norm: batch_norm,
    F.layer_norm: layer_norm,
    F.linear: linear,
    torch.lstm: lstm.lstm,
    **dict.fromkeys((F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d), by_channel(1)),
    **dict.fromkeys((F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d), by_channel(2)),
}
"""What is computed so in place of the exact rules."""
