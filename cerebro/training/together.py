"""What a pilot says of a group: whether one pass gives each model the bits that it has alone, and what it gains."""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

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
    alone and together. All ways take turns, so that they see the same machine; where so little is gained or lost that
    noise may decide, there are more rounds.
    """
    alone, together = _Alone(lives, columns, key, has_tapes), _Pass(lives, columns, key, has_tapes, True)
    stacked = None if exact else _Pass(lives, columns, key, has_tapes, False)
    ways = [way for way in (alone, together, stacked) if way is not None]
    rounds = 1 + ROUNDS + (_UNTIL_PLAYED if has_tapes and _batches(lives[0], columns) < _MANY else 0)
    try:
        _take_turns([way.train for way in ways], rounds)
        if alone.has_given_what(together) and any(_is_near(*pair) for pair in itertools.pairwise(ways)):
            _take_turns([way.train for way in ways], rounds + ROUNDS)
        _take_turns([way.measure for way in ways], rounds)
    except NotFusedError as error:
        return {"why_not": str(error)}
    except DivergedError as error:
        return {"why_not": f"one diverges in the pilot: {error}"}
    found: dict[str, Any] = {
        "train_gain": together.train_gain(alone),
        "valid_gain": together.valid_gain(alone),
        "first_seconds": together.first_seconds,
    }
    if not alone.has_given_what(together):
        found = {"why_not": "together they have other bits than alone, on this machine"}
    if stacked is None:
        return found
    pairs = zip(stacked.parameters(), alone.parameters(), strict=True)
    return {
        **found,
        "stacked_train_gain": stacked.train_gain(alone),
        "stacked_valid_gain": stacked.valid_gain(alone),
        "stacked_first_seconds": stacked.first_seconds,
        "deviation": max(deviation(*pair) for pair in pairs),
    }


_UNTIL_PLAYED, _MANY = 6, 20
"""Visits before a batch is played of whose shape each has one; where a visit has many batches, the others are soon."""
_NEAR = (0.95, 1.4)
"""Gains between these are measured again: the noise of a few rounds is a fifth, and 1.05 or 1.1 decides."""


def _is_near(one: "_Way", other: "_Way") -> bool:
    return _NEAR[0] < other.train_gain(one) < _NEAR[1]


def _take_turns(visits: Sequence[Callable[[], None]], rounds: int) -> None:
    for number in range(rounds):
        for visit in visits if number % 2 == 0 else visits[::-1]:
            visit()


@dataclass
class _Seen:
    """What the visits of all gave, round by round, and the seconds that each round took."""

    given: list[Visits] = field(default_factory=list[Visits])
    seconds: list[float] = field(default_factory=list[float])

    def note(self, visits: Callable[[], Visits]) -> None:
        begun = time.perf_counter()
        self.given.append(list(visits()))
        self.seconds.append(time.perf_counter() - begun)

    def played(self, tapes: Tapes | None) -> Tapes | None:
        """The tapes for the round that is made now; the first is made without."""
        return tapes if self.given else None

    @property
    def noting(self) -> float:
        """By how much the rounds after the first were slower than is usual."""
        later = self.seconds[1:]
        return max(0.0, sum(later) - len(later) * median(later))


class _Way(ABC):
    """Visits of all models in one of several ways.

    All rounds but the first begin where the first has ended: a pilot is not to train for longer than it has to. In the
    first one ways of computing for all at once are tried out, of which the workers of a run are told; in those that
    come then batches are noted.
    """

    def __init__(self, lives: Sequence[LiveLearner], columns: Columns, key: Key, has_tapes: bool) -> None:
        self.lives, self.columns, self.key, self.has_tapes = lives, columns, key, has_tapes
        self._begin_at, self._ended_at = _states(lives), list[memoryview]()
        self._trained, self._measured = _Seen(), _Seen()

    def train(self) -> None:
        """A round of training."""
        self._load(self._begin_at)
        self._trained.note(self._train)
        self._ended_at = _states(self.lives)
        if len(self._trained.given) == 1:
            self._begin_at = self._ended_at

    def measure(self) -> None:
        """A round of validation."""
        self._load(self._begin_at)
        self._measured.note(self._measure)

    def has_given_what(self, other: "_Way") -> bool:
        """Whether both gave the same, and left the same bits behind."""
        ours, theirs = (
            (way._trained.given, way._measured.given, way._begin_at, way._ended_at) for way in (self, other)
        )
        return ours == theirs

    def train_gain(self, other: "_Way") -> float:
        """How many times as fast this way is, going by the quickest rounds."""
        return min(other._trained.seconds) / min(self._trained.seconds)

    def valid_gain(self, other: "_Way") -> float:
        """The same for validation."""
        return min(other._measured.seconds) / min(self._measured.seconds)

    @property
    def first_seconds(self) -> float:
        """By how much the rounds were slower until batches were played."""
        return self._trained.noting + self._measured.noting

    def parameters(self) -> list[dict[str, torch.Tensor]]:
        """The parameters of each model after the last round of training."""
        self._load(self._ended_at)
        return [parameters(live) for live in self.lives]

    def _load(self, states: Sequence[memoryview]) -> None:
        for live, state in zip(self.lives, states, strict=True):
            live.state.load(state)

    def _tapes(self, models: int, trains: bool) -> Tapes | None:
        return tapes_of(models, trains) if self.has_tapes else None

    @abstractmethod
    def _train(self) -> Visits:
        """Every model makes a train visit."""

    @abstractmethod
    def _measure(self) -> Visits:
        """Every model is measured."""


class _Alone(_Way):
    """One model after another."""

    def __init__(self, lives: Sequence[LiveLearner], columns: Columns, key: Key, has_tapes: bool) -> None:
        super().__init__(lives, columns, key, has_tapes)
        self._each = [(live, self._tapes(1, True), self._tapes(1, False)) for live in lives]

    def _train(self) -> Visits:
        return [
            self._drawn_alike(train_visit, live, None, self._trained.played(tapes)) for live, tapes, _ in self._each
        ]

    def _measure(self) -> Visits:
        return [self._drawn_alike(valid_visit, live, self._measured.played(tapes)) for live, _, tapes in self._each]

    def _drawn_alike(self, visit: Callable[..., Visit], live: LiveLearner, *more: Any) -> Visit:
        set_generators(self.key)
        return visit(live, self.columns, *more)


class _Pass(_Way):
    """All models at once."""

    def __init__(self, lives: Sequence[LiveLearner], columns: Columns, key: Key, has_tapes: bool, exact: bool) -> None:
        super().__init__(lives, columns, key, has_tapes)
        self._exact = exact
        self._train_tapes, self._valid_tapes = self._tapes(len(lives), True), self._tapes(len(lives), False)

    def _train(self) -> Visits:
        set_generators(self.key)
        return fused_train_visit(self.lives, self.columns, None, self._exact, self._trained.played(self._train_tapes))

    def _measure(self) -> Visits:
        set_generators(self.key)
        return fused_valid_visit(self.lives, self.columns, self._exact, self._measured.played(self._valid_tapes))


def _batches(live: LiveLearner, columns: Columns) -> int:
    return -(-len(next(iter(columns.values()))) // live.learner.batch_size)


def _states(lives: Sequence[LiveLearner]) -> list[memoryview]:
    return [memoryview(bytearray(live.state.to_bytes())) for live in lives]


def _derivations(live: LiveLearner) -> list[tuple[str, str]]:
    """What a learner derives of the data, and why it does so in each batch, if it does."""
    return [(part.identity, part_reason(part)) for part in (live.view, live.frozen) if part is not None]
