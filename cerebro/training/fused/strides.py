"""Joining and parting the tensors of several models without a change in how each lies in memory.

The bits of a kernel may depend on strides (which of several kernels runs, where a vector loop ends), so a slice of a
stacked tensor keeps the strides that the tensor has alone, gaps and repeated elements included. And they depend on
where a tensor begins: the products of a library differ between one at a multiple of 64 bytes, as torch allocates it,
and one that is not. The first slice of a stacked tensor begins as it would alone; the others are moved where they do
not, before a kernel sees them one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch

_LINE = 64
"""Bytes at whose multiples torch allocates."""


class NotFusedError(Exception):
    """These models cannot be trained in one pass: their states may have changed, and each must be trained alone."""


def stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tensors as one `[K, ...]`, differentiably.

    Raises:
        NotFusedError: they do not have one shape, type and way of lying in memory.
    """
    return _Stack.apply(*tensors)  # type: ignore[no-any-return]


def in_rows(value: torch.Tensor) -> torch.Tensor:
    """The same numbers with each member at a multiple of 64 bytes, as parameters lie in a state."""
    length = -(-value[0].numel() // _LINE) * _LINE
    rows = value.new_empty(len(value), length)
    place = rows.as_strided(value.shape, (length, *value.stride()[1:]))
    return place.copy_(value)


def are_aligned(stacked: torch.Tensor) -> bool:
    """Whether all members lie as far behind a multiple of 64 bytes as the first, which lies as it would alone."""
    return stacked.stride(0) * stacked.element_size() % _LINE == 0


def part(stacked: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The members, each where it would lie alone; copies where the slices do not. Outside of any graph."""
    if are_aligned(stacked):
        return stacked.unbind(0)
    room, once = _room(len(stacked), stacked.detach()[0]), (slice(None), *_once(stacked.stride()[1:]))
    room[once].copy_(stacked.detach()[once])
    return room.unbind(0)


def unbind(stacked: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The slices along the first dimension, differentiably."""
    return _Unbind.apply(stacked)  # type: ignore[no-any-return]


def beside(stacked: torch.Tensor) -> torch.Tensor:
    """`[K, rows, channels, ...]` as `[rows, K * channels, ...]`."""
    return stacked.transpose(0, 1).flatten(1, 2)


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.stack(tensors) if _are_plain(tensors) else _joined(tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return part(gradients[0])


class _Unbind(torch.autograd.Function):
    """As `torch.unbind`, whose backward would give contiguous gradients where the members' own are not."""

    @staticmethod
    def forward(ctx: Any, stacked: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        return part(stacked)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> torch.Tensor | None:
        given = [gradient for gradient in gradients if gradient is not None]
        if not given:
            return None
        if len(given) != len(gradients):
            raise NotFusedError("a value has a gradient in some of the models only")
        return torch.stack(given) if _are_plain(given) else _joined(given)


def _are_plain(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether all are contiguous and begin at a multiple of 64 bytes, so that `torch.stack` lays them out alike."""
    shape, dtype = tensors[0].shape, tensors[0].dtype
    for tensor in tensors:
        if tensor.shape != shape or tensor.dtype != dtype:
            raise NotFusedError("the tensors of the models do not have one shape and type")
        if not tensor.is_contiguous():
            return False
    return tensors[0].data_ptr() % _LINE == 0


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    first = tensors[0]
    shape, strides = first.shape, first.stride()
    if any(tensor.stride() != strides or tensor.shape != shape for tensor in tensors):
        raise NotFusedError("the tensors of the models do not lie alike in memory")
    stacked = _room(len(tensors), first)
    once = _once(strides)
    for place, tensor in zip(stacked.unbind(0), tensors, strict=True):
        place[once].copy_(tensor[once])
    return stacked


def _room(members: int, like: torch.Tensor) -> torch.Tensor:
    """Memory in which each member lies as `like` does: with its strides, and as far behind a multiple of 64 bytes."""
    offset, length = like.data_ptr() % _LINE // like.element_size(), _LINE // like.element_size()
    span = offset + 1 + sum((n - 1) * stride for n, stride in zip(like.shape, like.stride(), strict=True))
    row = -(-span // length) * length
    flat = torch.empty(members * row, dtype=like.dtype, device=like.device)
    return flat.as_strided((members, *like.shape), (row, *like.stride()), offset)


def _once(strides: Sequence[int]) -> tuple[slice, ...]:
    """An index that names repeated elements once."""
    return tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
