"""Stacked rules for functions that compute each element on its own.

Two kinds. *Exact* ones round once, or not at all, so that it cannot matter whether an element meets the vector loop of
a kernel or the scalar loop behind it. *Rounded* ones (exp, tanh, gelu, ...) are computed by other formulas in the two
loops: they are stacked only where every member fills whole vectors, so that none of its elements changes loops.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from cerebro.training.fused.many import Group, Many, Rule

_WHOLE_VECTORS = 64
"""Elements that fill the vectors of every loop: two of 512 bits of the smallest type that rounds (16 bits)."""

_EXACT_METHODS = """
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __div__ __rdiv__ __neg__ __abs__
    __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__ __or__ __xor__ __invert__ __iadd__ __isub__ __imul__
    __itruediv__ add sub subtract mul multiply div divide true_divide neg negative abs absolute
    eq ne lt le gt ge not_equal less less_equal greater greater_equal logical_and logical_or logical_not logical_xor
    maximum minimum clamp clip clamp_min clamp_max where relu sign sgn square floor ceil round trunc sqrt
    masked_fill isnan isinf isfinite float double half bfloat16 int long bool to type
    relu_ neg_ abs_ clamp_ clamp_min_ clamp_max_ masked_fill_ add_ sub_ mul_ div_
"""
_EXACT_FUNCTIONS = (F.relu, F.relu6, F.leaky_relu, F.hardtanh, F.threshold, F.relu_)
_ROUNDED_METHODS = "exp log log1p expm1 tanh sigmoid erf sin cos softplus rsqrt"
_ROUNDED_FUNCTIONS = (F.gelu, F.silu, F.elu, F.selu, F.celu, F.softplus, F.mish, F.tanh, F.sigmoid, F.hardswish,
                      F.hardsigmoid, F.logsigmoid, F.softsign, F.tanhshrink)  # fmt: skip


def exact(group: Group, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An exact function of stacked values; others stay as they are, as stacking would copy them."""
    if not _can_stack(args, kwargs):
        return NotImplemented
    value = args[0]
    if not isinstance(value, Many) or any(map(_is_tensor, args[1:])):
        return _aligned(group, function, args, kwargs)
    stacked = value.stacked()
    result = function(stacked, *args[1:], **kwargs)
    return Many(group, result, is_copy=value.is_copy and result is stacked)


def rounded(group: Group, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A rounded function of one stacked value."""
    value = args[0] if args else None
    if not isinstance(value, Many) or not _can_stack(args, kwargs) or any(map(_is_tensor, args[1:])):
        return NotImplemented
    stacked = value.stacked()
    if not stacked.is_contiguous() or (stacked.numel() // group.size) % _WHOLE_VECTORS:
        return NotImplemented
    return Many(group, function(stacked, *args[1:], **kwargs))


def _can_stack(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    for argument in args:
        if isinstance(argument, Many):
            if argument.is_tuple:
                return False
        elif isinstance(argument, torch.Tensor):
            if argument.requires_grad:
                return False
        elif isinstance(argument, list | tuple) and any(map(_is_tensor, argument)):
            return False
    return not any(map(_is_tensor, kwargs.values()))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _aligned(group: Group, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The members' dimensions aligned at the right, as broadcasting would alone."""
    tensors = [argument for argument in args if isinstance(argument, torch.Tensor)]
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
    if not _promote_alike(tensors) or any(
        isinstance(tensor, Many) and tensor.requires_grad and tensor.shape != shape for tensor in tensors
    ):
        return NotImplemented  # the gradient of what is broadcast is a sum, whose order would be another
    stacked = [_padded(argument, len(shape)) if isinstance(argument, Many) else argument for argument in args]
    return Many(group, function(*stacked, **kwargs))


def _promote_alike(tensors: list[Any]) -> bool:
    """Whether types are promoted alike: a member without dimensions counts less in it, a stacked one does not."""
    return len({tensor.dtype for tensor in tensors}) == 1 or all(tensor.ndim for tensor in tensors)


def _padded(value: Many, dimensions: int) -> torch.Tensor:
    stacked = value.stacked()
    missing = dimensions - (stacked.dim() - 1)
    if not missing:
        return stacked
    return stacked.reshape(stacked.shape[0], *(1,) * missing, *stacked.shape[1:])


def rules() -> Iterator[tuple[Any, Rule]]:
    """The functions that are computed so."""
    for names, functions, rule in (
        (_EXACT_METHODS, _EXACT_FUNCTIONS, exact),
        (_ROUNDED_METHODS, _ROUNDED_FUNCTIONS, rounded),
    ):
        for function in functions:
            yield function, rule
        for name in names.split():
            for home in (torch.Tensor, torch):
                if hasattr(home, name):
                    yield getattr(home, name), rule
