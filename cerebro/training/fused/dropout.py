"""The stacked rule for dropout: one mask for all members, since each alone would draw the same.

On GPUs torch draws it in the kernel that uses it: there dropout goes member by member.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from cerebro.training.fused.many import Group, Many
from cerebro.training.fused.noise import noise_state, same_noise_state, set_noise_state, with_the_same_noise
from cerebro.training.fused.strides import NotFusedError, stack


def dropout(group: Group, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """`F.dropout` with one rate for all."""
    named: dict[str, Any] = {**dict(zip(("input", "p", "training", "inplace"), args, strict=False)), **kwargs}
    value, rate = named["input"], named.get("p", 0.5)
    if not isinstance(value, Many) or value.device.type != "cpu":
        return NotImplemented
    if not named.get("training", True) or not rate:
        return value
    if not 0 < rate < 1 or named.get("inplace") or value.is_tuple:
        return NotImplemented
    return Many(group, value.stacked() * _mask(value.stacked(), rate))


def dropout_of_each(group: Group, value: Any, rates: Sequence[float]) -> Any:
    """Dropout in training, with a rate of its own for each member.

    Raises:
        NotFusedError: a rate at which no random numbers are drawn, beside one at which they are.
    """
    if not all(0 < rate < 1 for rate in rates):
        raise NotFusedError("a rate of dropout is 0 or 1, where no random numbers are drawn")
    if not isinstance(value, Many):
        value = Many(group, None, (value,) * group.size)
    if value.device.type != "cpu":
        calls = iter(zip(value.members(), rates, strict=True))
        return Many(group, None, tuple(with_the_same_noise(group.size, lambda: F.dropout(*next(calls)))))
    stacked = value.stacked()
    masks: dict[float, torch.Tensor] = {}
    start = end = noise_state()
    for rate in dict.fromkeys(rates):
        if masks:
            set_noise_state(start)
        masks[rate] = _mask(stacked, rate)
        now = noise_state()
        if len(masks) > 1 and not same_noise_state(now, end):
            raise NotFusedError("the models do not draw equally many random numbers")
        end = now
    return Many(group, stacked * stack([masks[rate] for rate in rates]))


def _mask(stacked: torch.Tensor, rate: float) -> torch.Tensor:
    """What one member is multiplied with, drawn as torch draws it."""
    with torch.no_grad():
        return torch.empty_like(stacked[0]).bernoulli_(1 - rate).div_(1 - rate)
