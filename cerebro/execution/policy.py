"""What a scheduling policy is: it picks what runs next among all that may run."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from cerebro.execution.progress import Progress


class Choice(NamedTuple):
    """A model, by its index, that is to visit a shard on a worker."""

    model: int
    worker: int
    shard: int


class Policy(ABC):
    """Picks what runs next. Which one is used never changes a bit of any model, only when it is ready.

    Duties of an implementation:

    - It is deterministic: a function of the workload, the events so far, and its own seed.
    - `begin` forgets everything and starts over; every model with `progress.needs` is ready.
    - `ready` takes in a model that may run again, or is new; until then a chosen model is not offered. One that was
      ready may be held meanwhile: `progress.needs` says so.
    - `choose` picks an idle worker and a ready model that needs it, or None. A policy that gives None while nothing
      runs at all stops the whole run.
    """

    @abstractmethod
    def begin(self, progress: Progress) -> None:
        """Start over with what `progress`, which stays up to date, says is left."""

    @abstractmethod
    def ready(self, model: int) -> None:
        """Take in that a model may run its next unit."""

    @abstractmethod
    def choose(self) -> Choice | None:
        """The next launch, or None to wait for the next event."""
