"""What a pilot says of a group: whether one pass gives each model the bits that it has alone, and what it gains."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cerebro.streams import Key
from cerebro.training.features import part_reason
from cerebro.training.fused import NotFusedError, fused_train_visit, fused_valid_visit, why_not_fused
from cerebro.training.learners import LiveLearner
from cerebro.training.player import Tapes, tapes_of
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


def compared(
    lives: Sequence[LiveLearner], columns: Columns, key: Key, exact: bool = True, has_tapes: bool = False
) -> dict[str, Any]:
    """The fields of `cerebro.plan.cost.Together` but for the number of models; the learners are used up.

    Unless `exact`, a pass whose kernels take all models at once is tried, too. With `has_tapes` batches are played,
    alone and together. Where so little is gained or lost that noise may decide, all is measured again.
    """
    starts = [memoryview(live.state.to_bytes()) for live in lives]
    alone_way, pass_way = _Alone(lives, columns, key, has_tapes), _Pass(lives, columns, key, has_tapes, True)
    rounds = ROUNDS + (_UNTIL_PLAYED if has_tapes and _batches(lives[0], columns) < _MANY else 0)

    def begin() -> None:
        for live, start in zip(lives, starts, strict=True):
            live.state.load(start)

    try:
        alone, states, reference = alone_way.timed(rounds), _states(lives), [parameters(live) for live in lives]
        begin()
        together = pass_way.timed(rounds)
        same = together.given == alone.given and states == _states(lives)
        if same and _NEAR[0] < alone.train / together.train < _NEAR[1]:
            begin()
            alone = alone.quicker(alone_way.timed(rounds + ROUNDS))
            begin()
            together = together.quicker(pass_way.timed(rounds + ROUNDS))
        found: dict[str, Any] = {
            "train_gain": alone.train / together.train,
            "valid_gain": alone.valid / together.valid,
            "first_seconds": together.first,
        }
        if not same:
            found = {"why_not": "together they have other bits than alone, on this machine"}
        if exact:
            return found
        begin()
        stacked = _Pass(lives, columns, key, has_tapes, False).timed(rounds)
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


_UNTIL_PLAYED, _MANY = 6, 20
"""Visits before a batch is played of whose shape each has one; where a visit has many batches, the others are soon."""
_NEAR = (0.95, 1.4)
"""Gains between these are measured again: the noise of a few rounds is a fifth, and 1.1 decides."""


@dataclass(frozen=True, slots=True)
class _Timed:
    """What visits of all gave, and the seconds of the quickest round."""

    given: tuple[Any, ...]
    train: float
    valid: float
    first: float = 0.0
    """By how much the first rounds were slower."""

    def quicker(self, again: "_Timed") -> "_Timed":
        """The same with the quickest rounds of both."""
        return replace(self, train=min(self.train, again.train), valid=min(self.valid, again.valid))


@dataclass(frozen=True)
class _Alone:
    """Visits of one model after another."""

    lives: Sequence[LiveLearner]
    columns: Columns
    key: Key
    has_tapes: bool

    def timed(self, rounds: int) -> _Timed:
        """Some rounds of visits."""
        tapes = [(live, self._tapes(1, True), self._tapes(1, False)) for live in self.lives]

        def train() -> Visits:
            return [self._trained(live, taped) for live, taped, _ in tapes]

        def measure() -> Visits:
            return [valid_visit(live, self.columns, taped) for live, _, taped in tapes]

        trained, seconds, _ = _timed(self.lives, train, rounds)
        measured, valid, _ = _timed(self.lives, measure, rounds)
        return _Timed((trained, measured), seconds, valid)

    def _tapes(self, models: int, trains: bool) -> Tapes | None:
        return tapes_of(models, trains) if self.has_tapes else None

    def _trained(self, live: LiveLearner, tapes: Tapes | None) -> Visit:
        set_generators(self.key)
        return train_visit(live, self.columns, None, tapes)


@dataclass(frozen=True)
class _Pass(_Alone):
    """Visits of all models at once."""

    exact: bool

    def timed(self, rounds: int) -> _Timed:
        """Some rounds of visits."""
        tapes, valid_tapes = self._tapes(len(self.lives), True), self._tapes(len(self.lives), False)

        def train() -> Visits:
            set_generators(self.key)
            return fused_train_visit(self.lives, self.columns, None, self.exact, tapes)

        def measure() -> Visits:
            return fused_valid_visit(self.lives, self.columns, self.exact, valid_tapes)

        trained, seconds, first = _timed(self.lives, train, rounds)
        measured, valid, first_valid = _timed(self.lives, measure, rounds)
        return _Timed((trained, measured), seconds, valid, first + first_valid)


def _batches(live: LiveLearner, columns: Columns) -> int:
    return -(-len(next(iter(columns.values()))) // live.learner.batch_size)


def _states(lives: Sequence[LiveLearner]) -> list[bytes]:
    return [live.state.to_bytes() for live in lives]


def _derivations(live: LiveLearner) -> list[tuple[str, str]]:
    """What a learner derives of the data, and why it does so in each batch, if it does."""
    return [(part.identity, part_reason(part)) for part in (live.view, live.frozen) if part is not None]


def _timed(
    lives: Sequence[LiveLearner], visits: Callable[[], Visits], rounds: int
) -> tuple[list[Visits], float, float]:
    """What some rounds of visits gave, the seconds of the quickest of them, and by how much the first was slower.

    All but the first begin where the first has ended: a pilot is not to train for longer than it has to.
    """
    given, seconds, ends = list[Visits](), list[float](), list[memoryview]()
    for _ in range(rounds):
        for live, end in zip(lives, ends, strict=False):
            live.state.load(end)
        begun = time.perf_counter()
        given.append(list(visits()))
        seconds.append(time.perf_counter() - begun)
        ends = ends or [memoryview(bytearray(live.state.to_bytes())) for live in lives]
    return given, min(seconds), seconds[0] - min(seconds)
