"""What a pilot says of a group: whether one pass gives each model the bits that it has alone, and what it gains."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from cerebro.streams import Key
from cerebro.training.fused import NotFusedError, fused_train_visit, fused_valid_visit, why_not_fused
from cerebro.training.learners import LiveLearner
from cerebro.training.randomness import set_generators
from cerebro.training.train import Columns, DivergedError, Visit, train_visit, valid_visit

_ROUNDS = 3
"""The batches are visited so often, one visit going on from the other; the quickest counts."""

Visits = Sequence[Visit | DivergedError]


def why_not_together(lives: Sequence[LiveLearner]) -> str | None:
    """Why these learners cannot be trained in one pass; None where they can, as far as it can be seen."""
    for live in lives:
        if live.frozen is not None or live.learner.view is not None:
            return "what they derive of the data is shared, and what is left is trained alone"
    return why_not_fused(lives)


def compared(lives: Sequence[LiveLearner], columns: Columns, key: Key) -> dict[str, Any]:
    """The fields of `cerebro.plan.cost.Together` but for the number of models; the learners are used up."""
    starts = [memoryview(live.state.to_bytes()) for live in lives]

    def alone() -> Visits:
        return [_trained(live, columns, key) for live in lives]

    def together() -> Visits:
        set_generators(key)
        return fused_train_visit(lives, columns, None)

    def measured_alone() -> Visits:
        return [valid_visit(live, columns) for live in lives]

    try:
        expected, alone_seconds, _ = _timed(alone)
        measured, measured_seconds, _ = _timed(measured_alone)
        states = [live.state.to_bytes() for live in lives]
        for live, start in zip(lives, starts, strict=True):
            live.state.load(start)
        found, together_seconds, first_seconds = _timed(together)
        found_measured, fused_seconds, first_measured_seconds = _timed(lambda: fused_valid_visit(lives, columns))
    except NotFusedError as error:
        return {"why_not": str(error)}
    except DivergedError as error:
        return {"why_not": f"one diverges in the pilot: {error}"}
    if (found, found_measured) != (expected, measured) or states != [live.state.to_bytes() for live in lives]:
        return {"why_not": "together they have other bits than alone, on this machine"}
    return {
        "train_gain": alone_seconds / together_seconds,
        "valid_gain": measured_seconds / fused_seconds,
        "first_seconds": first_seconds + first_measured_seconds,
    }


def _trained(live: LiveLearner, columns: Columns, key: Key) -> Visit:
    set_generators(key)
    return train_visit(live, columns, None)


def _timed(visits: Callable[[], Visits]) -> tuple[list[Visits], float, float]:
    """What some rounds of visits gave, the seconds of the quickest of them, and by how much the first was slower."""
    given, seconds = list[Visits](), list[float]()
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        given.append(list(visits()))
        seconds.append(time.perf_counter() - begun)
    return given, min(seconds), seconds[0] - min(seconds)
