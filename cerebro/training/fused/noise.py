"""Random numbers: each member sees those that it would see alone."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from cerebro.training.fused.strides import NotFusedError


def with_the_same_noise(size: int, run: Callable[[], Any]) -> list[Any]:
    """What `run` gives for each member, with all global generators as they were before the first.

    Raises:
        NotFusedError: the members do not draw equally many random numbers.
    """
    start = _all_states()
    results, end = [run()], _all_states()
    is_drawn = not _are_same(start, end)
    for _ in range(1, size):
        if is_drawn:
            _set_all(start)
        results.append(run())
        if is_drawn and not _are_same(_all_states(), end):
            raise UNEQUAL
    if not is_drawn and not _are_same(_all_states(), end):
        raise UNEQUAL
    return results


UNEQUAL = NotFusedError("the models do not draw equally many random numbers")


def noise_state() -> list[torch.Tensor]:
    """The states of torch's generators."""
    return [generator.get_state() for generator in _generators()]


def set_noise_state(states: Sequence[torch.Tensor]) -> None:
    """Put torch's generators into these states."""
    for generator, state in zip(_generators(), states, strict=True):
        generator.set_state(state)


def same_noise_state(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    """Whether the same numbers follow in two states."""
    with torch._C.DisableTorchFunction():  # not the user's code that looks at tensors (`cerebro.training.tape`)
        return all(np.array_equal(ours.numpy(), theirs.numpy()) for ours, theirs in zip(one, other, strict=True))


def _generators() -> list[torch.Generator]:
    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return [torch.default_generator, *cuda]


def _all_states() -> tuple[Any, ...]:
    return noise_state(), np.random.get_state(), random.getstate()


def _set_all(states: tuple[Any, ...]) -> None:
    set_noise_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _are_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    ours, theirs = one[1], other[1]
    return (
        same_noise_state(one[0], other[0])
        and one[2] == other[2]
        and np.array_equal(ours[1], theirs[1])
        and ours[2:] == theirs[2:]
    )
