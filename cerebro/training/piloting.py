"""What a pilot says of one model: what its batches take, what beginning takes, and whether its bits can be repeated."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from cerebro.streams import Key
from cerebro.training.learners import LiveLearner
from cerebro.training.player import Tapes, call_seconds, tapes_of
from cerebro.training.randomness import set_generators
from cerebro.training.state import read_tensors
from cerebro.training.train import Columns, DivergedError, train_visit, valid_visit

TIMED_SECONDS = 0.06
"""Visits are timed for so long, or once: a few batches are up to a third slower than those of a whole visit."""
_SETTLING_VISITS = 8
"""After so many visits batches are played, or never."""


@dataclass(frozen=True)
class Sample:
    """What a pilot is run on: rows of the first shard, with what is derived of them."""

    columns: Columns
    row_order: np.ndarray | None
    """In which order a train visit takes the rows."""
    valid_rows: int
    """The rows of a validation visit."""


def probe(live: LiveLearner, sample: Sample, key: Key, batches: int, has_tapes: bool) -> dict[str, Any]:
    """Times visits, and runs a few batches twice from the same state to see whether the bits agree."""
    start = memoryview(live.state.to_bytes())
    states, seconds = list[bytes](), list[float]()
    few = head(sample.columns, live.learner.batch_size * batches)
    for _ in range(2):
        live.state.load(start)
        set_generators(key)
        seconds.append(timed(lambda: train_visit(live, few, None)))
        states.append(live.state.to_bytes())
    once = seconds[1] / _steps(few, live.learner.batch_size)
    train = _train_seconds(live, sample, start, once, tapes_of(1, True) if has_tapes else None)
    valid = _valid_seconds(live, sample, tapes_of(1, False) if has_tapes else None)
    return {
        "train_batch_seconds": train.batch_seconds,
        "valid_batch_seconds": valid.batch_seconds,
        "first_seconds": max(0.0, seconds[0] - seconds[1]),
        "noting_seconds": train.noting_seconds + valid.noting_seconds,
        "call_seconds": call_seconds(),
        "state_bytes": len(states[1]),
        "impure_tensor": first_difference(*states),
    }


@dataclass(frozen=True)
class _Found:
    """What the visits of one kind take."""

    batch_seconds: float
    """Of a batch, once batches are played."""
    noting_seconds: float = 0.0
    """What the visits before that took beside theirs."""


def _train_seconds(live: LiveLearner, sample: Sample, start: memoryview, once: float, tapes: Tapes | None) -> _Found:
    """What visits of the first shard take, or of as much of it as takes a while; `once` a batch took so long.

    The sample is visited more often than an epoch does, so that a model may diverge that does not on all the data.
    """
    size = live.learner.batch_size
    rows = size * max(1, round(TIMED_SECONDS / max(1e-6, once)))
    columns = head(sample.columns, rows)
    order = None if sample.row_order is None else sample.row_order[sample.row_order < rows]

    def visit() -> None:
        live.state.load(start)
        train_visit(live, columns, order, tapes)

    try:
        if live.device.type != "cpu":
            visit()  # a GPU loads its kernels when they are first called, which takes long
        return _found(visit, tapes, _steps(columns, size))
    except DivergedError:
        return _Found(once)


def _valid_seconds(live: LiveLearner, sample: Sample, tapes: Tapes | None) -> _Found:
    size = live.learner.eval_batch_size or live.learner.batch_size
    batch = head(sample.columns, size)
    valid_visit(live, batch)
    once = timed(lambda: valid_visit(live, batch))
    rows = min(sample.valid_rows, size * max(1, round(TIMED_SECONDS / max(1e-6, once))))
    columns = head(sample.columns, rows)
    return _found(lambda: valid_visit(live, columns, tapes), tapes, _steps(columns, size))


def _found(visit: Callable[[], object], tapes: Tapes | None, steps: int) -> _Found:
    """What visits of so many `steps` take; the first ones note what is played in the others."""
    noting = list[float]()
    while tapes is not None and not tapes.are_settled and len(noting) < _SETTLING_VISITS:
        noting.append(timed(visit))
    typical = _typical(visit)
    return _Found(typical / steps, max(0.0, sum(noting) - len(noting) * typical))


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _typical(work: Callable[[], object]) -> float:
    """The median over as many times as take a while."""
    seconds = [timed(work)]
    while sum(seconds) < TIMED_SECONDS:
        seconds.append(timed(work))
    return median(seconds)


def head(columns: Columns, rows: int) -> Columns:
    """The first rows."""
    return {name: column[:rows] for name, column in columns.items()}


def repeated(columns: Columns, rows: int) -> Columns:
    """So many rows: the columns over and over."""
    order = np.arange(rows) % len(next(iter(columns.values())))
    return {name: column[order] for name, column in columns.items()}


def _steps(columns: Columns, batch_size: int) -> int:
    return max(1, -(-len(next(iter(columns.values()))) // batch_size))


def first_difference(one: bytes, other: bytes) -> str | None:
    """The first tensor in which two states differ, or None where they are equal."""
    if one == other:
        return None
    ours, theirs = read_tensors(memoryview(one)), read_tensors(memoryview(other))
    for name, tensor in ours.items():
        if name not in theirs or not _same_bits(tensor, theirs[name]):
            return name
    return "the optimizer's or the schedule's settings"


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    ours, theirs = (tensor.reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(ours, theirs)
