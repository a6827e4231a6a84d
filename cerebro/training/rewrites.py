"""What another way to compute a model's steps gains, and how far it deviates from the reference."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from cerebro.streams import Key
from cerebro.training.learners import LiveLearner
from cerebro.training.randomness import set_generators
from cerebro.training.train import Columns, train_visit

ROUNDS = 3
"""The batches are visited so often, one visit going on from the other; the quickest counts."""


def compared_alone(reference: LiveLearner, other: LiveLearner, columns: Columns, key: Key) -> dict[str, Any]:
    """The gain of `other` and its deviation from `reference`, which starts from the same state; both are used up.

    Raises:
        ModelError: the user's code failed.
    """
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(ROUNDS):
        for number, live in enumerate((reference, other)):
            set_generators(key)
            begun = time.perf_counter()
            train_visit(live, columns, None)
            seconds[number].append(time.perf_counter() - begun)
    return {"gain": min(seconds[0]) / min(seconds[1]), "deviation": deviation(parameters(other), parameters(reference))}


def may_be_channels_last(live: LiveLearner) -> bool:
    """Whether a learner has what lies in another way then, and all of it is in its state."""
    if live.frozen is not None or live.learner.view is not None:
        return False
    return any(isinstance(part, torch.nn.Conv2d) and part.in_channels > 1 for part in live.module.modules())


def parameters(live: LiveLearner) -> dict[str, torch.Tensor]:
    """The parameters that are trained, copied."""
    return {n: p.detach().clone() for n, p in live.module.named_parameters() if p.requires_grad}


def deviation(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of a parameter's elements, relative to the largest element of that parameter."""
    return max((_relative(found[name], tensor) for name, tensor in expected.items()), default=0.0)


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    if not expected.numel():
        return 0.0
    difference, scale = (found.double() - expected.double()).abs().max().item(), expected.double().abs().max().item()
    return difference / scale if scale else difference
