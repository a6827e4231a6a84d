"""Joining and parting the tensors of several models without a change in how each lies in memory.

The bits of a kernel may depend on strides (which of several kernels runs, where a vector loop ends), so a slice of a
stacked tensor keeps the strides that the tensor has alone, gaps and repeated elements included.
"""

from collections.abc import Sequence
from typing import Any

import torch


class NotFusedError(Exception):
    """These models cannot be trained in one pass: their states may have changed, and each must be trained alone."""


def stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tensors as one `[K, ...]`, differentiably.

    Raises:
        NotFusedError: they do not have one shape, type and way of lying in memory.
    """
    if _all_contiguous(tensors):
        return torch.stack(tuple(tensors))
    return _Stack.apply(*tensors)  # type: ignore[no-any-return]


def unbind(stacked: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The slices along the first dimension, differentiably."""
    return _Unbind.apply(stacked)  # type: ignore[no-any-return]


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
        return _joined(tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0].unbind(0)


class _Unbind(torch.autograd.Function):
    """As `torch.unbind`, whose backward would give contiguous gradients where the members' own are not."""

    @staticmethod
    def forward(ctx: Any, stacked: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        return stacked.unbind(0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> torch.Tensor | None:
        given = [gradient for gradient in gradients if gradient is not None]
        if not given:
            return None
        if len(given) != len(gradients):
            raise NotFusedError("a value has a gradient in some of the models only")
        return torch.stack(given) if _all_contiguous(given) else _joined(given)


def _all_contiguous(tensors: Sequence[torch.Tensor]) -> bool:
    shape, dtype = tensors[0].shape, tensors[0].dtype
    for tensor in tensors:
        if tensor.shape != shape or tensor.dtype != dtype:
            raise NotFusedError("the tensors of the models do not have one shape and type")
        if not tensor.is_contiguous():
            return False
    return True


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    first = tensors[0]
    shape, strides = first.shape, first.stride()
    if any(tensor.stride() != strides or tensor.shape != shape for tensor in tensors):
        raise NotFusedError("the tensors of the models do not lie alike in memory")
    span = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    flat = torch.empty((len(tensors), span), dtype=first.dtype, device=first.device)
    stacked = flat.as_strided((len(tensors), *shape), (span, *strides))
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    for place, tensor in zip(stacked.unbind(0), tensors, strict=True):
        place[once].copy_(tensor[once])
    return stacked
