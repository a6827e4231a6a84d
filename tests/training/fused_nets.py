"""Groups of learners that are trained alone and in one pass, to be compared bit by bit."""

import itertools
import math
from collections import Counter
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import cerebro
from cerebro.training.fused import fused_train_visit, fused_valid_visit, why_not_fused
from cerebro.training.learners import LiveLearner, build_learner
from cerebro.training.player import Tapes
from cerebro.training.randomness import set_generators
from cerebro.training.train import DivergedError, train_visit, valid_visit

CLASSES = 4


def cross_entropy(module, batch):
    return F.cross_entropy(module(batch["x"]), batch["y"])


def learner(module, lr=1e-2, optimizer=torch.optim.AdamW, loss=cross_entropy, batch_size=16, **more):
    more.setdefault("metrics", {"accuracy": cerebro.metrics.accuracy("y")})
    return cerebro.Learner(module=module, loss=loss, optimizer=partial(optimizer, lr=lr), batch_size=batch_size, **more)


def mlp(*sizes, activation=nn.ReLU, rate=0.0):
    parts = []
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after), activation(), nn.Dropout(rate)]
    return nn.Sequential(*parts[:-2])


def rows(count, *shape, seed=0):
    random = np.random.RandomState(seed)
    return {
        "x": random.randn(count, *shape).astype(np.float32),
        "y": random.randint(0, CLASSES, count),
    }


DEVICE = torch.device("cpu")
"""Where learners are built; the fixture `device` changes it."""


def lives(build, members: int) -> list[LiveLearner]:
    """One learner for each k: `build(k)`, each with initial weights of its own."""
    return [build_learner(lambda _, k=k: build(k), {}, ("init", k), "y", DEVICE) for k in range(members)]


def train_alone(group, columns, visit: int):
    return [_try(train_visit, live, columns, order(columns, visit), visit) for live in group]


def train_fused(group, columns, visit: int, tapes=None):
    set_generators(("noise", visit))
    return fused_train_visit(group, columns, order(columns, visit), tapes=tapes)


class Trusted(Counter):
    """All that there is was proven."""

    def __missing__(self, shapes):
        return math.inf


class Quicker(Tapes):
    """Tapes that are played whether that is quicker or not."""

    are_quicker = property(lambda self: True, lambda self, value: None)


class AlwaysPlayed(Quicker):
    """Tapes that are played from the first batch on of which there is one."""

    unchecked = property(lambda self: 0, lambda self, value: None)
    proven = property(lambda self: Trusted(), lambda self, value: None)


def check_same(build, members: int, columns, visits: int = 2) -> None:
    """Assert that a group trained in one pass ends with the bits of its members trained alone."""
    alone, group, played = lives(build, members), lives(build, members), lives(build, members)
    assert why_not_fused(group) is None
    tapes = AlwaysPlayed(float("inf"))
    for visit in range(visits):
        expected, found = train_alone(alone, columns, visit), train_fused(group, columns, visit)
        assert list(map(repr, found)) == list(map(repr, expected))
        check_same_states(group, alone)
        if DEVICE.type != "cpu":  # where nothing is played
            continue
        assert list(map(repr, train_fused(played, columns, visit, tapes))) == list(map(repr, expected))
        check_same_states(played, alone)
    expected = [_try(valid_visit, live, columns, visit=visits) for live in alone]
    set_generators(("noise", visits))
    assert list(map(repr, fused_valid_visit(group, columns))) == list(map(repr, expected))
    check_same_states(group, alone)


def check_same_states(group, alone) -> None:
    same = [one.state.to_bytes() == other.state.to_bytes() for one, other in zip(group, alone, strict=True)]
    assert same == [True] * len(alone)


def order(columns, visit: int):
    return np.random.RandomState(visit).permutation(len(columns["x"]))


def _try(kernel, *args, visit=None):
    *args, visit = args if visit is None else (*args, visit)
    set_generators(("noise", visit))
    try:
        return kernel(*args)
    except DivergedError as error:
        return error
