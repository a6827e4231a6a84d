"""What a procedure is: it decides which configs live and how far they train.

New ones pass `cerebro.testing.procedure_conformance` and `cerebro.testing.search_conformance`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cerebro.commands import Add, Clone, Resume, Stop


@dataclass(frozen=True, slots=True)
class Terms:
    """What an experiment tells its procedure before anything is asked."""

    seed: int
    mode: Literal["max", "min"]
    epochs: int
    """The experiment's last epoch, from 1: no model is asked to train further."""


@dataclass(frozen=True, slots=True)
class Result:
    """A model has come to the epoch that it was asked for, or has failed on the way there."""

    model: str
    config: Mapping[str, Any]
    epoch: int
    """The epoch that was asked for."""
    value: float | None
    """The deciding metric at the end of that epoch, the mean over its repeats; None: it failed or diverged."""
    stderr: float | None = None
    """The standard error of `value` over the repeats; None with fewer than two."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A command of a procedure, and all that led to it: rank, rung, threshold, what had been seen by then."""

    command: Add | Resume | Clone | Stop
    why: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Procedure(ABC):
    """Decides which configs live and how far they train; a fold over results, without clock or global randomness.

    Duties of an implementation:

    - It is deterministic: a function of its own declared values, the terms, and the calls so far. All draws come from
      keyed streams (`cerebro.streams`), which start with the seed and `"search"`.
    - Its declared values never change; `begin` forgets everything else and starts over.
    - `mode` is respected everywhere: a higher value is better only where it is `max`.
    - It pauses and never kills: a model that is not asked for again stays as it is, and can be resumed.
    - It asks for models only up to `terms.epochs`, and for no model that it is already waiting for.
    - It comes to an end: after finitely many answers `ask` gives None while it waits for nothing.
    """

    @property
    def lanes(self) -> int | None:
        """How many models it wants under way at once; None where results do not matter to what is asked for.

        The number is logical: it decides what is known when a decision falls, and thereby the answer. More lanes than
        workers keep every worker busy while results are waited for.
        """
        return None

    @property
    def forks(self) -> bool:
        """Whether it clones models at epochs that they were asked for: such states are kept for it."""
        return False

    @abstractmethod
    def begin(self, terms: Terms) -> None:
        """Start over.

        Raises:
            SpecError: its values do not fit the terms, such as more epochs than the experiment has.
        """

    @abstractmethod
    def ask(self, fresh: str) -> Decision | None:
        """What a free lane does next: an `Add`, a `Resume` or a `Clone`; None: nothing for now.

        A new model will be called `fresh`. None while nothing is under way means that the procedure has ended.
        """

    @abstractmethod
    def tell(self, result: Result) -> Sequence[Decision]:
        """Take in what a lane has come to; gives what is known only now, such as a `Stop`, to be logged.

        Results of models that a person added or resumed are told too; whoever cannot learn from them ignores them.
        """

    def censor(self, model: str, epoch: int) -> None:  # noqa: B027 - to forget nothing is a choice
        """A person stopped `model` after so many finished epochs: no result will come, and that is not a bad score."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Its declared values as JSON: part of the experiment's identity."""
