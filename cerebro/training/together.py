"""What a pilot says of a group: whether one pass gives each model the bits that it has alone, and what it gains."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cerebro.streams import Key
from cerebro.training.features import part_reason
from cerebro.training.fused import NotFusedError, fused_train_visit, fused_valid_visit, why_not_fused
from cerebro.training.learners import LiveLearner
from cerebro.training.randomness import set_generators
from cerebro.training.rewrites import ROUNDS, deviation, parameters
from cerebro.training.train import Columns, DivergedError, Visit, train_visit, valid_visit

Visits = Sequence[Visit | DivergedError]


def why_not_together(lives: Sequence[LiveLearner]) -> str | None:
    """Why these learners cannot be trained in one pass; None where they can, as far as it can be seen."""
    for live in lives[1:]:
        if _derivations(live) != _derivations(lives[0]):
            return "they derive other columns of the data, or in other ways"
        if lives[0].frozen and live.frozen and not live.frozen.is_used_like(lives[0].frozen):
            return f"they use what {live.frozen.name} gives in different ways"
    return why_not_fused(lives)


def compared(lives: Sequence[LiveLearner], columns: Columns, key: Key, exact: bool = True) -> dict[str, Any]:
    """The fields of `cerebro.plan.cost.Together` but for the number of models; the learners are used up.

    Unless `exact`, a pass whose kernels take all models at once is tried, too.
    """
    starts = [memoryview(live.state.to_bytes()) for live in lives]

    def begin() -> None:
        for live, start in zip(lives, starts, strict=True):
            live.state.load(start)

    try:
        alone, states, reference = _alone(lives, columns, key), _states(lives), [parameters(live) for live in lives]
        begin()
        together = _together(lives, columns, key, exact=True)
        same = together.given == alone.given and states == _states(lives)
        found = {
            "train_gain": alone.train / together.train,
            "valid_gain": alone.valid / together.valid,
            "first_seconds": together.first,
        }
        if not same:
            found = {"why_not": "together they have other bits than alone, on this machine"}
        if exact:
            return found
        begin()
        stacked = _together(lives, columns, key, exact=False)
    except NotFusedError as error:
        return {"why_not": str(error)}
    except DivergedError as error:
        return {"why_not": f"one diverges in the pilot: {error}"}
    pairs = zip(map(parameters, lives), reference, strict=True)
    return {
        **found,
        "stacked_train_gain": alone.train / stacked.train,
        "stacked_valid_gain": alone.valid / stacked.valid,
        "stacked_first_seconds": stacked.first,
        "deviation": max(deviation(*pair) for pair in pairs),
    }


@dataclass(frozen=True, slots=True)
class _Timed:
    """What visits of all gave, and the seconds of the quickest round."""

    given: tuple[Any, ...]
    train: float
    valid: float
    first: float = 0.0
    """By how much the first rounds were slower."""


def _alone(lives: Sequence[LiveLearner], columns: Columns, key: Key) -> _Timed:
    trained, train, _ = _timed(lambda: [_trained(live, columns, key) for live in lives])
    measured, valid, _ = _timed(lambda: [valid_visit(live, columns) for live in lives])
    return _Timed((trained, measured), train, valid)


def _together(lives: Sequence[LiveLearner], columns: Columns, key: Key, exact: bool) -> _Timed:
    def train() -> Visits:
        set_generators(key)
        return fused_train_visit(lives, columns, None, exact)

    trained, train_seconds, first = _timed(train)
    measured, valid_seconds, first_valid = _timed(lambda: fused_valid_visit(lives, columns, exact))
    return _Timed((trained, measured), train_seconds, valid_seconds, first + first_valid)


def _states(lives: Sequence[LiveLearner]) -> list[bytes]:
    return [live.state.to_bytes() for live in lives]


def _derivations(live: LiveLearner) -> list[tuple[str, str]]:
    """What a learner derives of the data, and why it does so in each batch, if it does."""
    return [(part.identity, part_reason(part)) for part in (live.view, live.frozen) if part is not None]


def _trained(live: LiveLearner, columns: Columns, key: Key) -> Visit:
    set_generators(key)
    return train_visit(live, columns, None)


def _timed(visits: Callable[[], Visits]) -> tuple[list[Visits], float, float]:
    """What some rounds of visits gave, the seconds of the quickest of them, and by how much the first was slower."""
    given, seconds = list[Visits](), list[float]()
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        given.append(list(visits()))
        seconds.append(time.perf_counter() - begun)
    return given, min(seconds), seconds[0] - min(seconds)
